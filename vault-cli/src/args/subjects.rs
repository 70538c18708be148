//! Arguments of the commands about subjects and their erasure.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::audit::SubjectAccesses;

/// `vault-cli subject …`
#[derive(Debug, Subcommand)]
pub(crate) enum SubjectCommand {
    /// Create a subject or merge fields into it
    #[command(after_help = "\
What stands on a command line can be seen in the shell's history and in the process list: for real people
rather use --json -, which reads the values from standard input.

Examples:
  vault-cli subject put cust-1 name='Ada Example' email=ada@example.org
  vault-cli subject put cust-1 'phone={\"national\":\"050 123 8301\",\"region\":\"AE\"}'
  vault-cli subject put cust-1 --null nickname
  vault-cli subject put cust-1 --json - < fields.json        {\"name\": \"Ada Example\", …}")]
    Put(PutArgs),
    /// Show the fields of a subject
    #[command(after_help = "\
Values are masked unless another view is asked for; seeing them in full needs a purpose that allows it.

Examples:
  vault-cli subject show cust-1
  vault-cli subject show cust-1 --names phone,email --view full --purpose account
  vault-cli subject show cust-1 --output json      values exactly as they were given")]
    Show(ShowArgs),
    /// Find subjects by an exact value; prints their ids, one a line
    #[command(after_help = "\
Phone numbers and e-mail addresses are compared in their normal form, so spelling does not matter.
Lookups are counted: who makes too many in a minute is refused until some time has passed.

Examples:
  vault-cli subject lookup email ada@example.org
  vault-cli subject lookup phone '050 123 8301' --region AE
  vault-cli subject lookup phone +971501238301
  printf %s +971501238301 | vault-cli subject lookup phone -
  vault-cli subject lookup phone --last4 8301 --and email=jane@example.org")]
    Lookup(LookupArgs),
    /// Store many subjects from an NDJSON file, one a line
    #[command(after_help = "\
Each line is an object with `subject` and any of the fields nickname, name, phone, email, home_address,
birth_date, ip_address, device and location. `phone_national` with `region` becomes the phone; other keys
are left out. A bad line is reported with its number, never its values; the others go in, and the exit
code is 9.

Examples:
  vault-cli subject import customers.ndjson
  zcat customers.ndjson.gz | vault-cli subject import -")]
    Import(ImportArgs),
    /// Export everything held of a subject, as one JSON document
    #[command(after_help = "\
The document has every value as it was given, what is known of it and what it may be used for. It is for the
person it is about: --out makes a file that only its owner can read, and overwrites nothing.

Examples:
  vault-cli subject export cust-1 --out cust-1.json
  vault-cli subject export cust-1 > /media/safe/cust-1.json")]
    Export(ExportArgs),
    /// Show who did what with a subject's data, when and what for
    #[command(after_help = "\
The newest stands last. After a shred there is nothing: no entry can be told to be of the subject any more.

Examples:
  vault-cli subject accesses cust-1
  vault-cli subject accesses cust-1 --from 2026-05-01T00:00:00Z --output json")]
    Accesses(SubjectAccesses),
    /// Forget one field of a subject, for good
    #[command(after_help = "\
Forgetting is final: no old copy of the store brings the value back. Asks first; scripts give --yes.

Example:
  vault-cli subject forget cust-1 location --yes")]
    Forget(ForgetArgs),
}

/// Flags of `subject put`.
#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// The subject's id, as your systems know it
    pub(crate) id: String,
    /// Fields to set, as text; a value that starts with { or [, and that of NAME:=VALUE, is sent as JSON
    #[arg(value_name = "NAME=VALUE")]
    pub(crate) assignments: Vec<String>,
    /// Read all fields as one JSON object from FILE (- is standard input)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["assignments", "null"])]
    pub(crate) json: Option<PathBuf>,
    /// Remove a field; with --final in a way that no old copy brings back
    #[arg(long, value_name = "NAME")]
    pub(crate) null: Vec<String>,
    /// Where the id was shredded: start a new subject with new keys
    #[arg(long)]
    pub(crate) enrol_again: bool,
    /// Make every removal and overwriting of an old value final before answering, or tell which backup that waits for
    #[arg(long = "final")]
    pub(crate) make_final: bool,
}

/// Flags of `subject show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The subject's id
    pub(crate) id: String,
    /// Only these fields, separated by commas
    #[arg(long, value_name = "a,b", value_delimiter = ',')]
    pub(crate) names: Vec<String>,
    /// How much of each value to show; the server's default is masked
    #[arg(long, value_enum)]
    pub(crate) view: Option<ViewChoice>,
    /// Why it is read; the server's policy decides what a purpose may see
    #[arg(long)]
    pub(crate) purpose: Option<String>,
    /// Values as they were given, or in their normal form
    #[arg(long, value_enum)]
    pub(crate) form: Option<FormChoice>,
}

/// How much of a value is shown.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ViewChoice {
    /// Enough to recognise, not to use
    Masked,
    /// All of it
    Full,
    /// The last four characters
    Last4,
    /// Nothing
    None,
}

/// Which spelling of a value is shown.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum FormChoice {
    /// As it was given, byte for byte
    Given,
    /// The form lookups compare
    Normal,
}

/// Flags of `subject lookup`.
#[derive(Debug, Args)]
pub(crate) struct LookupArgs {
    /// A field that is declared for lookups, such as phone or email
    pub(crate) field: String,
    /// The value to look for; - reads it from standard input
    #[arg(required_unless_present = "last4", conflicts_with = "last4")]
    pub(crate) value: Option<String>,
    /// Region of a national phone number, two letters
    #[arg(long, value_name = "R")]
    pub(crate) region: Option<String>,
    /// The last four digits, where the whole value is not known; only together with --and
    #[arg(long, value_name = "DIGITS", requires = "and")]
    pub(crate) last4: Option<String>,
    /// Another field and its exact value, which is known; FIELD=- reads the value from standard input
    #[arg(long, value_name = "FIELD=VALUE", requires = "last4")]
    pub(crate) and: Option<String>,
    /// What it is for; needed where the schema says so
    #[arg(long, value_name = "P")]
    pub(crate) purpose: Option<String>,
}

/// Flags of `subject import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// NDJSON file; - is standard input
    #[arg(value_name = "FILE.ndjson")]
    pub(crate) file: PathBuf,
}

/// Flags of `subject export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The subject's id
    pub(crate) id: String,
    /// Write to a new file instead of standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// Flags of `subject forget`.
#[derive(Debug, Args)]
pub(crate) struct ForgetArgs {
    /// The subject's id
    pub(crate) id: String,
    /// The field to forget
    pub(crate) field: String,
}

/// Flags of `erase`, and its subcommands.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Shredding destroys the only keys to a subject's data. It is refused to readers at once, and final when the
old root key is gone; this command waits for that. Asks first; scripts give --yes.
An id that is also a subcommand follows --: vault-cli erase -- list

Examples:
  vault-cli erase cust-1 cust-2 --reason 'requests of 3 May' --reference DSR-118
  vault-cli erase --file ids.txt --dry-run
  vault-cli erase --file ids.txt --yes
  vault-cli erase list
  vault-cli erase show 0197a1de7c1f700080003c54f1f3b1aa

What a legal hold keeps is left alone and told.

Exits 0 when all are final, 9 when some ids were unknown or held, 3 when all were unknown, 5 when all are held,
7 when all had been shredded before."
)]
pub(crate) struct EraseArgs {
    #[command(subcommand)]
    pub(crate) command: Option<EraseCommand>,
    /// Subjects to shred
    #[arg(value_name = "ID")]
    pub(crate) ids: Vec<String>,
    /// File with one id a line (- is standard input); blank lines and repeated ids are skipped
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Why; kept with the erasure request, so no personal data here
    #[arg(long, default_value = "erasure request", value_name = "TEXT")]
    pub(crate) reason: String,
    /// Your own number for the request
    #[arg(long, value_name = "TEXT")]
    pub(crate) reference: Option<String>,
    /// Shred only this compartment of the subjects; the rest of them stays
    #[arg(long, value_name = "NAME")]
    pub(crate) compartment: Option<String>,
    /// Leave the subjects alone until then (RFC 3339, or a time from now such as 30d); until then it can be cancelled
    #[arg(long, value_name = "TIME", value_parser = crate::age::point)]
    pub(crate) not_before: Option<String>,
    /// With --not-before: refuse reads until then already
    #[arg(long, requires = "not_before")]
    pub(crate) refuse_now: bool,
    /// By when it should be done (as for --not-before); in 30 days, unless the server is configured otherwise
    #[arg(long, value_name = "TIME", value_parser = crate::age::point)]
    pub(crate) deadline: Option<String>,
    /// Only count what would be shredded; changes nothing and does not ask
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Return once reads are refused, without waiting for final
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) no_wait: bool,
    /// Once final, write the certificates of the request and of each subject into DIR, which then holds nothing else
    #[arg(long, value_name = "DIR", conflicts_with_all = ["dry_run", "no_wait"])]
    pub(crate) certificates: Option<PathBuf>,
}

/// `vault-cli erase list|show|cancel|approve|certificate|check`
#[derive(Debug, Subcommand)]
pub(crate) enum EraseCommand {
    /// List erasure requests, newest first: what is due, late, held
    #[command(after_help = "Examples:\n  vault-cli erase list --state late\n  vault-cli erase list --output json")]
    List {
        /// Only those in this state: late, awaiting_approval, pending, held, refused, final or cancelled
        #[arg(long, value_name = "STATE")]
        state: Option<String>,
    },
    /// Take back what of an erasure is not due yet, or held
    #[command(after_help = "Example:\n  vault-cli erase cancel 0197a1de7c1f700080003c54f1f3b1aa")]
    Cancel {
        /// Id of the erasure request
        erasure: String,
    },
    /// Agree to an erasure that waits for a second person: somebody else than who asked
    #[command(after_help = "Example:\n  vault-cli erase approve 0197a1de7c1f700080003c54f1f3b1aa")]
    Approve {
        /// Id of the erasure request
        erasure: String,
    },
    /// Show one erasure request and what it still waits for
    #[command(after_help = "Example:\n  vault-cli erase show 0197a1de7c1f700080003c54f1f3b1aa")]
    Show {
        /// Id of the erasure request
        erasure: String,
    },
    /// Print the certificate of an erasure, or of subjects in it
    #[command(after_help = "\
Examples:
  vault-cli erase certificate 0197a1de7c1f700080003c54f1f3b1aa > erasure.json
  vault-cli erase certificate 0197a1de7c1f700080003c54f1f3b1aa --subject cust-1 > cust-1.json
  vault-cli erase certificate 0197a1de7c1f700080003c54f1f3b1aa --file ids.txt --out certificates/")]
    Certificate {
        /// Id of the erasure request
        erasure: String,
        /// The certificate of this subject; may be repeated
        #[arg(long, value_name = "ID")]
        subject: Vec<String>,
        /// File with one id a line (- is standard input): the certificates of these subjects
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Write them, and that of the whole request, into this directory, a file each
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Check certificates offline; exits 8 if one does not hold
    #[command(after_help = "\
Works without a server. Without --log-key a certificate only shows that one key signed all of it.

Example:
  vault-cli erase check certificates/*.json --log-key 'udv/0123456789abcdef0123456789abcdef+2fa81e66+AUx...'")]
    Check {
        /// Certificates (- is standard input)
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// The log's key, from a place that you trust (`vault-cli audit verify` prints it)
        #[arg(long, value_name = "KEY")]
        log_key: Option<String>,
    },
}
