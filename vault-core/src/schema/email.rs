//! E-mail addresses (RFC 5321 length, RFC 5322 and 6531 syntax), without display name or address literal.

use email_address::{EmailAddress, Options};
use zeroize::Zeroizing;

use super::json;

/// The longest address, in bytes (RFC 5321 §4.5.3.1.3 less the angle brackets).
const EMAIL_MAX: usize = 254;

const EXPECTED: &str = "an e-mail address of at most 254 bytes, such as jane@example.org";

/// The normal form is in lower case as a whole.
///
/// RFC 5321 leaves the case of the local part to the receiving host, yet no host in use tells `Jane@` from `jane@`, and
/// people type both: a lookup has to find either. The address as given stays beside it. International domain names
/// stay in the form they were given, Unicode or `xn--`.
pub(super) fn normalise(raw: &str) -> Result<Zeroizing<String>, &'static str> {
    let given = json::text(raw).ok_or(EXPECTED)?;
    check(&given)?;
    // Lower case is longer than upper case in a few scripts.
    let normal = Zeroizing::new(given.to_lowercase());
    check(&normal)?;
    Ok(json::quote(&normal))
}

fn check(address: &str) -> Result<(), &'static str> {
    let options = Options::default().with_required_tld().without_display_text().without_domain_literal();
    if address.len() > EMAIL_MAX || address.chars().any(char::is_control) {
        return Err(EXPECTED);
    }
    let parsed = EmailAddress::parse_with_options(address, options).map_err(|_| EXPECTED)?;
    drop(Zeroizing::new(String::from(parsed)));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_are_lower_case() {
        for (raw, normal) in [
            ("\"jane@example.org\"", "\"jane@example.org\""),
            ("\"Jane.Doe+x@Example.ORG\"", "\"jane.doe+x@example.org\""),
            ("\"用户@例子.中国\"", "\"用户@例子.中国\""),
            ("\"MÜLLER@MÜNCHEN.de\"", "\"müller@münchen.de\""),
            ("\"a@xn--mnchen-3ya.de\"", "\"a@xn--mnchen-3ya.de\""),
            ("\"o'brien@a.co\"", "\"o'brien@a.co\""),
        ] {
            assert_eq!(*normalise(raw).unwrap(), normal);
        }
    }

    #[test]
    fn refuses_what_is_no_address() {
        let long = format!("\"{}@{}.org\"", "a".repeat(64), "b.".repeat(93) + "b");
        for bad in [
            "",
            "1",
            "null",
            "{}",
            "\"\"",
            "\"jane\"",
            "\"@example.org\"",
            "\"jane@\"",
            "\"jane@localhost\"",
            "\"jane@@example.org\"",
            "\"Jane <jane@example.org>\"",
            "\"jane@[127.0.0.1]\"",
            "\"ja ne@example.org\"",
            "\" jane@example.org\"",
            "\"jane@example.org\\n\"",
            "\"jane@example..org\"",
            "\".jane@example.org\"",
            "\"jane@-example.org\"",
            "\"jane@example.org, joe@example.org\"",
            "\"jane\\u0000@example.org\"",
            &long,
        ] {
            assert_eq!(normalise(bad), Err(EXPECTED), "{bad}");
        }
    }
}
