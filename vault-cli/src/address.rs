//! Addresses: the base URL of a vault, and ids made safe to stand in a path.

use std::net::IpAddr;

use crate::exit::Failure;
use crate::output::printable;

/// Checks a base URL: encrypted, unless it stays on this machine.
pub(crate) fn checked_base(url: &str) -> Result<String, Failure> {
    let base = url.trim_end_matches('/');
    let Some(plain) = base.strip_prefix("http://") else {
        if base.len() > "https://".len() && base.starts_with("https://") {
            return Ok(base.to_owned());
        }
        return Err(Failure::usage(format!("{} is not a URL of a vault", printable(url)))
            .hint("it looks like https://vault.example:8250"));
    };
    let authority = plain.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(ipv6) => ipv6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if loopback {
        return Ok(base.to_owned());
    }
    Err(Failure::usage("http:// would send the API token in the clear over the network")
        .hint("use https://, or a tunnel that ends on 127.0.0.1"))
}

/// Percent-encodes one path segment or query value: everything but RFC 3986 unreserved characters.
/// `.` and `..` alone would be taken for steps between directories, so their dots are encoded too.
pub(crate) fn segment(text: &str) -> String {
    let dots = matches!(text, "." | "..");
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let unreserved = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~' | b'.');
        if unreserved && !dots {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ids_are_percent_encoded_whole() {
        let table = [
            ("cust-00001", "cust-00001"),
            ("a/b", "a%2Fb"),
            ("50% off?#", "50%25%20off%3F%23"),
            ("Zoë~", "Zo%C3%AB~"),
            ("أب", "%D8%A3%D8%A8"),
            (".", "%2E"),
            ("..", "%2E%2E"),
            ("a..b", "a..b"),
            ("a+b&c=d", "a%2Bb%26c%3Dd"),
        ];
        for (id, encoded) in table {
            assert_eq!(segment(id), encoded);
        }
    }

    #[test]
    fn plain_http_is_for_this_machine_only() {
        for good in ["http://127.0.0.1:8250", "http://[::1]:8250/", "http://localhost", "https://vault.example/"] {
            assert!(checked_base(good).is_ok(), "{good}");
        }
        for bad in [
            "http://vault.example:8250",
            "http://127.0.0.1.example",
            "http://10.0.0.1",
            "vault.example",
            "https://",
            "ftp://127.0.0.1",
        ] {
            assert_eq!(checked_base(bad).unwrap_err().exit as u8, 2, "{bad}");
        }
    }
}
