//! Web addresses of `http` and `https` (RFC 3986), without user and password.

use std::net::{Ipv4Addr, Ipv6Addr};

use zeroize::Zeroizing;

use super::json;

/// The longest address, in bytes.
const URL_MAX: usize = 2048;
const HOST_MAX: usize = 253;
const LABEL_MAX: usize = 63;
const EXPECTED: &str =
    "a web address of http or https of at most 2048 bytes, without user and password, such as https://example.org/a";

/// Scheme and host of the normal form are in lower case, escapes in capitals, the default port and an empty path are
/// dropped or filled in (RFC 3986 §6.2.2.1, §6.2.3).
///
/// Paths are the server's own: `/a/../b` is not `/b` to every one. International hosts stay in the form they were given.
pub(super) fn normalise(raw: &str) -> Result<Zeroizing<String>, &'static str> {
    let given = json::text(raw).filter(|text| text.len() <= URL_MAX && text.chars().all(is_allowed)).ok_or(EXPECTED)?;
    normal(&given).filter(|normal| normal.len() <= URL_MAX).map(|normal| json::quote(&normal)).ok_or(EXPECTED)
}

/// Scheme and host of an address in normal form.
pub(super) fn parts(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let (host, _) = split_port(&rest[..authority_end(rest)])?;
    Some((scheme, host))
}

fn normal(url: &str) -> Option<Zeroizing<String>> {
    let (scheme, rest) = url.split_once("://")?;
    let default_port = match scheme.to_ascii_lowercase().as_str() {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let (authority, rest) = rest.split_at(authority_end(rest));
    let (host, port) = split_port(authority)?;
    let mut out = Zeroizing::new(String::with_capacity(2 * url.len() + 64));
    out.push_str(&scheme.to_ascii_lowercase());
    out.push_str("://");
    out.push_str(&normal_host(host)?);
    if let Some(port) = port.map(parse_port) {
        let port = port?;
        if port != default_port {
            out.push_str(&format!(":{port}"));
        }
    }
    if !rest.starts_with('/') {
        out.push('/');
    }
    push_escaped(rest, &mut out)?;
    Some(out)
}

fn authority_end(rest: &str) -> usize {
    rest.find(['/', '?', '#']).unwrap_or(rest.len())
}

/// Host and port; `None` for what has a user part.
fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    if authority.contains('@') {
        return None;
    }
    let after_bracket = authority.find(']').unwrap_or(0);
    match authority[after_bracket..].find(':') {
        Some(colon) => {
            let (host, port) = authority.split_at(after_bracket + colon);
            Some((host, Some(&port[1..])))
        }
        None => Some((authority, None)),
    }
}

fn parse_port(port: &str) -> Option<u16> {
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| port.parse().ok()).flatten().filter(|port| *port > 0)
}

fn normal_host(host: &str) -> Option<Zeroizing<String>> {
    if let Some(inner) = host.strip_prefix('[') {
        let address: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
        return Some(Zeroizing::new(format!("[{address}]")));
    }
    let host = Zeroizing::new(host.to_lowercase());
    let fits = host.len() <= HOST_MAX && host.split('.').all(is_label);
    // Browsers read a host that ends in a number as an IPv4 address, in many spellings; one is enough.
    let numeric = host.rsplit('.').next().is_some_and(|last| last.starts_with(|c: char| c.is_ascii_digit()));
    let sound = fits && (!numeric || host.parse::<Ipv4Addr>().is_ok());
    sound.then_some(host)
}

fn is_label(label: &str) -> bool {
    let inner = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    (1..=LABEL_MAX).contains(&label.len())
        && label.chars().all(inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Copies with escapes in capitals; `None` for a `%` that starts none.
fn push_escaped(rest: &str, out: &mut String) -> Option<()> {
    let mut parts = rest.split('%');
    out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let (escape, behind) = part.split_at_checked(2)?;
        if !escape.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        out.push('%');
        out.extend(escape.chars().map(|c| c.to_ascii_uppercase()));
        out.push_str(behind);
    }
    Some(())
}

/// No white space, no controls, nothing invisible that turns the direction of text, nothing that RFC 3986 leaves out.
fn is_allowed(c: char) -> bool {
    let hidden = matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    let outside = matches!(c, '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}');
    !(c.is_control() || c.is_whitespace() || hidden || outside)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_of_one_page_are_one_text() {
        for (raw, normal) in [
            ("\"https://example.org\"", "\"https://example.org/\""),
            ("\"HTTPS://Example.ORG:443/A?b=%c3%a9#C\"", "\"https://example.org/A?b=%C3%A9#C\""),
            ("\"http://example.org:080?q\"", "\"http://example.org/?q\""),
            ("\"http://example.org:8080\"", "\"http://example.org:8080/\""),
            ("\"https:\\/\\/a.b\\/c\"", "\"https://a.b/c\""),
            ("\"https://münchen.de/ä\"", "\"https://münchen.de/ä\""),
            ("\"https://例子.中国/\"", "\"https://例子.中国/\""),
            ("\"http://[2001:DB8:0::1]:80/\"", "\"http://[2001:db8::1]/\""),
            ("\"http://192.0.2.7/a\"", "\"http://192.0.2.7/a\""),
            ("\"http://localhost/@me\"", "\"http://localhost/@me\""),
        ] {
            assert_eq!(*normalise(raw).unwrap(), normal);
        }
    }

    #[test]
    fn refuses_what_is_no_web_address() {
        let long = format!("\"https://example.org/{}\"", "a".repeat(2048));
        for bad in [
            "\"\"",
            "\"example.org\"",
            "\"//example.org\"",
            "\"ftp://example.org\"",
            "\"javascript:alert(1)\"",
            "\"https://\"",
            "\"https:///a\"",
            "\"https://user:pw@example.org/\"",
            "\"https://example.org@evil.org/\"",
            "\"https://exa mple.org\"",
            "\"https://example..org\"",
            "\"https://example.org.\"",
            "\"https://-a.org\"",
            "\"https://example.org:0\"",
            "\"https://example.org:\"",
            "\"https://example.org:99999\"",
            "\"https://example.org:+80\"",
            "\"https://1.2.3\"",
            "\"https://256.1.1.1\"",
            "\"https://0x7f.1\"",
            "\"https://[::1\"",
            "\"https://[::g]\"",
            "\"https://[::1]x/\"",
            "\"https://example.org/%zz\"",
            "\"https://example.org/%a\"",
            "\"https://example.org/a\\nb\"",
            "\"https://example.org/\\u0000\"",
            "\"https://example.org\\\\@evil.org\"",
            "\"https://example.org/\\u202egpj\"",
            "\" https://example.org\"",
            "\"https://a/\\ud800\"",
            "1",
            "null",
            "{}",
            "[]",
            "",
            &long,
        ] {
            assert_eq!(normalise(bad), Err(EXPECTED), "{bad}");
        }
    }

    #[test]
    fn parts_of_the_normal_form() {
        assert_eq!(parts("https://example.org:8080/a:b"), Some(("https", "example.org")));
        assert_eq!(parts("http://[::1]:8080/"), Some(("http", "[::1]")));
    }
}
