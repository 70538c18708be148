//! `verify --salvage`: what of a damaged vault still opens, written out in plain text.
//!
//! What is written is told in the audit log first, as far as that takes entries.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use indicatif::ProgressBar;
use serde::Serialize;
use vault_core::audit::{Action, Entry, Log, Outcome};
use vault_core::ids::FieldName;
use vault_core::time::Timestamp;
use vault_core::vault::{LostPart, Salvage, SalvageReport, Salvaged, SalvagedField};
use zeroize::Zeroizing;

use crate::args::VerifyArgs;
use crate::commands::{Failure, bar, block_on};
use crate::files;
use crate::routes::metadata::MetadataAnswer;
use crate::routes::notes::{ConsentAnswer, HoldAnswer, RestrictionAnswer};
use crate::routes::shapes::{Shown, Value};
use crate::routes::subjects::state;
use crate::serve::say;
use crate::site::Site;

/// The shape of a line; `vault-cli subject import` takes it back.
const FORMAT: &str = "udv-salvage-1";
/// Subjects that are told in one entry of the log, and written then.
const TOGETHER: usize = 250;
/// Bytes of lines that are held until then.
const TOGETHER_BYTES: usize = 4 << 20;

const WARNING: &str = "holds personal data in plain text: keep it on an encrypted disk, give it to nobody who need not have \
                       it, and wipe it once it is imported";

pub(super) fn run(dir: &Path, args: &VerifyArgs, site: &Site) -> Result<(), Failure> {
    block_on(async {
        make_dir(dir)?;
        let store = site.existing_store()?;
        site.hold_slots()?;
        let log = log_of(site);
        let unlock = site.unlock_key(args.passphrase_file.as_deref())?;
        let pages = bar("reading pages", args.no_progress);
        let salvage = Salvage::open(store, &site.slots, unlock, site.unlogged(), &|done, total| {
            pages.set_length(total);
            pages.set_position(done);
        })
        .await;
        pages.finish_and_clear();
        let mut salvage = salvage.map_err(|error| {
            // It goes only if nothing is in it.
            let _ = fs::remove_dir(dir);
            let told =
                "nothing can be salvaged without the vault header and its root key, which lead to every other key";
            let failure = Failure::from(error);
            match failure.is_damage() {
                true => Failure::damage(format!("{failure}; {told}")),
                false => failure,
            }
        })?;
        note!("warning: {} {WARNING}", dir.display());
        let subjects = bar("salvaging", args.no_progress);
        let written = write_all(&mut salvage, dir, log.as_ref(), &subjects).await;
        subjects.finish_and_clear();
        let unprotected = written?;
        write(&dir.join("schema.toml"), salvage.schema().document().to_toml().as_bytes())?;
        let report = salvage.finish().await?;
        if let Some(log) = &log {
            log.close();
        }
        tell(dir, &report, unprotected)
    })
    .map_err(|failure| failure.of_verification().if_in_use(". Only a stopped vault can be salvaged"))
}

/// A directory for the owner alone, with nothing in it.
fn make_dir(dir: &Path) -> Result<(), Failure> {
    let told = |why: io::Error| Failure::failed(format!("{} cannot be written to ({why})", dir.display()));
    match fs::read_dir(dir).map(|mut entries| entries.next().is_none()) {
        Ok(true) => fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(told),
        Ok(false) => {
            Err(Failure::failed(format!("{} is not empty: name a directory that is new or empty", dir.display())))
        }
        Err(why) if why.kind() == io::ErrorKind::NotFound => files::make_private_dir(dir).map_err(told),
        Err(why) => Err(told(why)),
    }
}

fn create(path: &Path) -> Result<File, Failure> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.map_err(|why| Failure::failed(format!("{} cannot be made ({why})", path.display())))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let mut file = create(path)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written.map_err(|why| Failure::failed(format!("{} cannot be written ({why})", path.display())))
}

/// The audit log, if it takes entries.
fn log_of(site: &Site) -> Option<Log> {
    let opened = match site.audit.is_dir() {
        true => site.logged().map(|options| options.log).map_err(|failure| failure.to_string()),
        false => Err(format!("the audit log {} is missing", site.audit.display())),
    };
    opened.unwrap_or_else(|why| {
        note!("warning: {why}: what is written here is not told in the audit log. Note it elsewhere");
        None
    })
}

/// What an import does not bring back.
#[derive(Clone, Copy, Default, Serialize)]
struct Unprotected {
    restricted: u64,
    held: u64,
    with_consents: u64,
}

/// Lines that wait to be told in the log.
#[derive(Default)]
struct Waiting {
    lines: Zeroizing<Vec<u8>>,
    subjects: Vec<vault_core::audit::Pseudonym>,
    fields: std::collections::BTreeSet<FieldName>,
}

async fn write_all(
    salvage: &mut Salvage,
    dir: &Path,
    log: Option<&Log>,
    bar: &ProgressBar,
) -> Result<Unprotected, Failure> {
    let path = dir.join("subjects.ndjson");
    let mut file = create(&path)?;
    let (mut waiting, mut unprotected) = (Waiting::default(), Unprotected::default());
    bar.set_length(salvage.left());
    while let Some(found) = salvage.next().await? {
        unprotected.restricted += u64::from(found.restriction.is_some());
        unprotected.held += u64::from(!found.holds.is_empty());
        unprotected.with_consents += u64::from(!found.consents.is_empty());
        waiting.take(&found)?;
        if waiting.subjects.len() >= TOGETHER || waiting.lines.len() >= TOGETHER_BYTES {
            std::mem::take(&mut waiting).write(&path, &mut file, log).await?;
        }
        bar.inc(1);
    }
    waiting.write(&path, &mut file, log).await?;
    file.sync_all().map_err(|why| Failure::failed(format!("{} cannot be written ({why})", path.display())))?;
    Ok(unprotected)
}

impl Waiting {
    fn take(&mut self, found: &Salvaged) -> Result<(), Failure> {
        let line = Zeroizing::new(serde_json::to_vec(&Line::of(found)).map_err(|_| {
            Failure::failed("a value that opened is no JSON: this is a defect of the vault, please report it")
        })?);
        self.lines.extend_from_slice(&line);
        self.lines.push(b'\n');
        self.subjects.push(found.pseudonym);
        self.fields.extend(found.fields.iter().map(|field| field.id.clone()));
        Ok(())
    }

    /// Tells the log, then writes.
    async fn write(mut self, path: &Path, file: &mut File, log: Option<&Log>) -> Result<(), Failure> {
        if self.subjects.is_empty() {
            return Ok(());
        }
        if let Some(log) = log {
            self.subjects.sort_unstable();
            let fields: Vec<FieldName> = self.fields.into_iter().collect();
            let entries: Vec<Entry> = parts(&fields)
                .map(|fields| Entry {
                    subjects: self.subjects.clone(),
                    fields: fields.to_vec(),
                    ..Entry::new(Action::Export, Outcome::Done)
                })
                .collect();
            let told = |error: vault_core::audit::LogError| {
                Failure::failed(format!("{error}. Nothing more is written, for it could not be told in the audit log"))
            };
            let end = log.append(&entries).map_err(told)?.end;
            log.durable(end).await.map_err(told)?;
        }
        file.write_all(&self.lines)
            .map_err(|why| Failure::failed(format!("{} cannot be written ({why})", path.display())))
    }
}

/// Fields in parts that an entry has room for; no fields are one part.
fn parts(fields: &[FieldName]) -> impl Iterator<Item = &[FieldName]> {
    const MOST: usize = 250;
    let none = fields.is_empty().then_some(fields);
    none.into_iter().chain(fields.chunks(MOST))
}

/// A subject, with the names that an export has.
#[derive(Serialize)]
struct Line<'a> {
    format: &'static str,
    subject: &'a str,
    state: &'static str,
    enrolled_at: Shown<Timestamp>,
    fields: Vec<FieldLine<'a>>,
    consents: Vec<ConsentAnswer<'a>>,
    restriction: Option<RestrictionAnswer<'a>>,
    holds: Vec<HoldAnswer<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lost: Vec<LostLine<'a>>,
}

#[derive(Serialize)]
struct FieldLine<'a> {
    name: &'a str,
    compartment: &'a str,
    value: Value<'a>,
    version: u32,
    updated_at: Shown<Timestamp>,
    metadata: MetadataAnswer<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "what")]
enum LostLine<'a> {
    Compartment { compartment: &'a str },
    Field { compartment: &'a str, field: &'a str },
    Metadata { compartment: &'a str },
    Note { topic: &'a str },
}

impl<'a> Line<'a> {
    fn of(found: &'a Salvaged) -> Self {
        Self {
            format: FORMAT,
            subject: found.subject.as_str(),
            state: state(found.standing),
            enrolled_at: Shown(found.enrolled_at),
            fields: found.fields.iter().map(FieldLine::of).collect(),
            consents: found.consents.iter().map(ConsentAnswer::of).collect(),
            restriction: found.restriction.as_ref().map(RestrictionAnswer::of),
            holds: found.holds.iter().map(HoldAnswer::of).collect(),
            lost: found.lost.iter().map(LostLine::of).collect(),
        }
    }
}

impl<'a> FieldLine<'a> {
    fn of(field: &'a SalvagedField) -> Self {
        Self {
            name: field.stamp.name.as_str(),
            compartment: field.compartment.as_str(),
            value: Value(field.value.given()),
            version: field.stamp.version,
            updated_at: Shown(field.stamp.updated_at),
            metadata: MetadataAnswer::of(&field.metadata),
        }
    }
}

impl<'a> LostLine<'a> {
    fn of(lost: &'a LostPart) -> Self {
        match lost {
            LostPart::Compartment { compartment } => Self::Compartment { compartment: compartment.as_str() },
            LostPart::Field { compartment, field } => {
                Self::Field { compartment: compartment.as_str(), field: field.as_str() }
            }
            LostPart::Metadata { compartment } => Self::Metadata { compartment: compartment.as_str() },
            LostPart::Note { topic } => Self::Note { topic },
        }
    }
}

/// What came of it, without personal data.
#[derive(Serialize)]
struct ReportFile<'a> {
    format: &'static str,
    whole: u64,
    partly: u64,
    lost: u64,
    without_trace: Option<u64>,
    expected: Option<u64>,
    refused: u64,
    tombstones: u64,
    fields: u64,
    fields_lost: u64,
    compartments_lost: u64,
    expired: u64,
    not_imported: Unprotected,
    lost_uuids: Vec<String>,
    problems: &'a [String],
}

fn tell(dir: &Path, report: &SalvageReport, unprotected: Unprotected) -> Result<(), Failure> {
    let file = ReportFile {
        format: "udv-salvage-report-1",
        whole: report.whole,
        partly: report.partly,
        lost: report.lost,
        without_trace: report.without_trace(),
        expected: report.expected,
        refused: report.refused,
        tombstones: report.tombstones,
        fields: report.fields,
        fields_lost: report.fields_lost,
        compartments_lost: report.compartments_lost,
        expired: report.expired,
        not_imported: unprotected,
        lost_uuids: report.lost_uuids.iter().map(ToString::to_string).collect(),
        problems: &report.problems,
    };
    let text = serde_json::to_vec_pretty(&file).map_err(|_| Failure::failed("the report could not be put together"))?;
    write(&dir.join("report.json"), &text)?;
    files::sync_dir(dir).map_err(|why| Failure::failed(format!("{} cannot be written to ({why})", dir.display())))?;

    let SalvageReport { whole, partly, lost, fields, .. } = report;
    say(&format!(
        "{} subjects are written to {}: {whole} whole, {partly} in part; {fields} values",
        whole + partly,
        dir.display()
    ));
    if report.fields_lost + report.compartments_lost > 0 {
        say(&format!(
            "lost of those: {} values, and {} compartments with all they held; `lost` in their lines says which",
            report.fields_lost, report.compartments_lost
        ));
    }
    if *lost > 0 {
        say(&format!(
            "{lost} subjects are lost: there are rows of them, and nothing leads to their keys (report.json)"
        ));
    }
    match report.without_trace() {
        Some(0) => {}
        Some(gone) => say(&format!("{gone} subjects more should be there, and nothing of them was found")),
        None => say("how many subjects there should be is not known"),
    }
    if report.refused + report.tombstones > 0 {
        let (refused, gone) = (report.refused, report.tombstones);
        say(&format!(
            "{gone} ids that were shredded and {refused} whose shred is under way stay so: they are not written"
        ));
    }
    let Unprotected { restricted, held, with_consents } = unprotected;
    if restricted + held + with_consents > 0 {
        say(&format!(
            "an import brings back values only: put again the restrictions of {restricted} subjects, the holds of {held} \
             and the consents of {with_consents}, which are in their lines"
        ));
    }
    let missing = *lost + report.without_trace().unwrap_or(0);
    if report.problems.is_empty() && missing == 0 {
        return Ok(());
    }
    if !report.problems.is_empty() {
        say(&report.problems.join("\n"));
    }
    Err(Failure::damage(format!(
        "{} problems, {missing} subjects missing: keep the vault as it is until what is lost is dealt with",
        report.problems.len()
    )))
}
