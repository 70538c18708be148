//! Arguments of the commands about value tokens.

use clap::{Args, Subcommand, ValueEnum};

/// `vault-cli token …`
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Create a value token: a random stand-in for one field of a subject
    #[command(after_help = "\
It stands for the field and resolves to what the field holds then. It says nothing of the value, and resolves no
more once the field is forgotten or the subject shredded.
Shapes: random (for any field), or one that fits where such values go and is never a valid one: phone, card, email.

Examples:
  vault-cli token create cust-1 phone
  vault-cli token create cust-1 phone --ttl 30d --single-use --shape phone --purpose delivery")]
    Create(CreateToken),
    /// Show what a value token stands for
    #[command(after_help = "\
It is a read like any other: in full it needs a purpose that allows it. A value token for single use is used up by it.

Examples:
  vault-cli token resolve udt_0123456789abcdef0123456789abcdef --purpose delivery
  vault-cli token resolve - --purpose delivery < stand-in.txt
  vault-cli token resolve udt_0123456789abcdef0123456789abcdef --view masked")]
    Resolve(ResolveToken),
    /// Take a value token back: it resolves no more
    #[command(after_help = "Example:\n  vault-cli token revoke udt_0123456789abcdef0123456789abcdef")]
    Revoke {
        /// The value token; - reads it from standard input
        #[arg(value_name = "TOKEN")]
        stand_in: String,
    },
}

/// Flags of `token create`.
#[derive(Debug, Args)]
pub(crate) struct CreateToken {
    /// The subject's id
    pub(crate) id: String,
    /// A field that it holds
    pub(crate) field: String,
    /// How long it resolves, such as 90s, 15m, 12h or 30d
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub(crate) ttl: Option<u64>,
    /// It resolves once
    #[arg(long)]
    pub(crate) single_use: bool,
    /// How it looks
    #[arg(long, value_enum, default_value_t = ShapeChoice::Random)]
    pub(crate) shape: ShapeChoice,
    /// The only purpose it resolves for
    #[arg(long, value_name = "P")]
    pub(crate) purpose: Option<String>,
    /// It resolves for the caller that creates it, and no other
    #[arg(long)]
    pub(crate) bind_caller: bool,
}

/// Flags of `token resolve`.
#[derive(Debug, Args)]
pub(crate) struct ResolveToken {
    /// The value token; - reads it from standard input
    #[arg(value_name = "TOKEN")]
    pub(crate) stand_in: String,
    /// Why it is read; the server's policy decides what a purpose may see
    #[arg(long, value_name = "P")]
    pub(crate) purpose: Option<String>,
    /// How much of the value to show; the server's default is all of it
    #[arg(long, value_enum)]
    pub(crate) view: Option<TokenView>,
}

/// How a value token looks.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ShapeChoice {
    /// udt_ and 32 hexadecimal digits
    Random,
    /// A number under a country code that nobody has
    Phone,
    /// 16 digits that fail the check of card numbers
    Card,
    /// An address where no mail goes
    Email,
}

/// How much of a value is shown.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum TokenView {
    /// All of it
    Full,
    /// Enough to recognise, not to use
    Masked,
    /// The last four characters
    Last4,
}

/// A length of time in seconds: a number and its unit.
fn seconds(text: &str) -> Result<u64, String> {
    let told = || "a number and s, m, h or d, such as 30d".to_owned();
    let unit = match text.chars().last().ok_or_else(told)? {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return Err(told()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| told())?;
    number.checked_mul(unit).filter(|&seconds| seconds > 0).ok_or_else(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time() {
        for (text, expected) in [("90s", 90), ("15m", 900), ("12h", 43_200), ("30d", 2_592_000)] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for bad in ["", "d", "30", "0s", "-1d", "1.5h", "1w", "30é", "18446744073709551615d"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
