//! What a masked view shows: a fixed shape, which tells nothing of the length of what it hides.
//!
//! A part too short to hide anything behind its first letter or last digits is hidden as a whole. Of a sensitive value
//! nothing is shown that depends on its length, not even whether it is short: only shapes that are the same for all.

use std::net::IpAddr;

use zeroize::Zeroizing;

use super::{FieldKind, Sensitivity, json, phone, plain, url};

const DOTS: &str = "•••";
/// Before the last digits of a number.
const DIGITS: &str = "•••••";
/// A word shorter than this is not given away by its first letter.
const WORD_MIN: usize = 3;
/// A national number shorter than this does not show its last two digits.
const TWO_OF: usize = 7;
/// A number shorter than this does not show its last four.
const FOUR_OF: usize = 8;

/// The mask that shows nothing, as JSON text.
pub(super) fn hidden() -> Zeroizing<String> {
    json::quote(DOTS)
}

/// The mask of a value in normal form; both are JSON text.
pub(super) fn masked(kind: &FieldKind, care: Sensitivity, normal: &str) -> Zeroizing<String> {
    if let FieldKind::Location { precision } = kind {
        return location(normal, usize::from(*precision));
    }
    let shown = json::text(normal).and_then(|text| match care {
        Sensitivity::Personal => personal(kind, &text),
        Sensitivity::Sensitive => sensitive(kind, &text),
    });
    match shown.map(Zeroizing::new) {
        Some(shown) => json::quote(&shown),
        None => hidden(),
    }
}

fn personal(kind: &FieldKind, text: &str) -> Option<String> {
    match kind {
        FieldKind::Text { multiline: false, .. } => Some(word(text)),
        FieldKind::Name => Some(name(text)),
        FieldKind::Phone => phone_number(text),
        FieldKind::Card => last_digits(text, 4, FOUR_OF),
        FieldKind::Email => email(text),
        FieldKind::Url => web(text),
        FieldKind::Date => date(text),
        FieldKind::Ip => ip(text),
        _ => None,
    }
}

fn sensitive(kind: &FieldKind, text: &str) -> Option<String> {
    match kind {
        FieldKind::Phone => phone::split(text).map(|(code, _)| format!("+{code}{DIGITS}")),
        FieldKind::Date => date(text),
        FieldKind::Ip => ip(text),
        _ => None,
    }
}

/// The last four digits of a phone number, without its country, or of a card; the mask of anything else.
pub(super) fn last4(kind: &FieldKind, care: Sensitivity, normal: &str) -> Zeroizing<String> {
    match last4_digits(kind, normal) {
        Some(four) => json::quote(&Zeroizing::new([DIGITS, four.as_str()].concat())),
        None => masked(kind, care, normal),
    }
}

/// The last four digits as they are; `None` for a kind without them, and for a number that they would give away.
pub(super) fn last4_digits(kind: &FieldKind, normal: &str) -> Option<Zeroizing<String>> {
    if !kind.has_last4() {
        return None;
    }
    let text = json::text(normal)?;
    let number = if *kind == FieldKind::Phone { phone::split(&text)?.1 } else { text.as_str() };
    let start = number.len().checked_sub(4).filter(|_| number.len() >= FOUR_OF)?;
    let four = number.get(start..).filter(|four| four.bytes().all(|b| b.is_ascii_digit()));
    four.map(|four| Zeroizing::new(four.to_owned()))
}

fn phone_number(e164: &str) -> Option<String> {
    let (code, national) = phone::split(e164)?;
    let end = last_digits(national, 2, TWO_OF).unwrap_or_else(|| DIGITS.to_owned());
    Some(format!("+{code}{end}"))
}

fn last_digits(number: &str, count: usize, at_least: usize) -> Option<String> {
    let start = number.len().checked_sub(count).filter(|_| number.len() >= at_least)?;
    number.get(start..).map(|end| format!("{DIGITS}{end}"))
}

/// The first letter of a word, unless it is nearly all there is.
fn word(text: &str) -> String {
    // Neither an accent of its own nor an invisible character makes a word longer, or stands for it.
    let mut letters = text.chars().filter(|c| c.is_alphanumeric());
    match letters.next() {
        Some(first) if letters.count() + 1 >= WORD_MIN => format!("{first}{DOTS}"),
        _ => DOTS.to_owned(),
    }
}

/// The first two words, each masked.
fn name(text: &str) -> String {
    let mut words = text.split_whitespace();
    let first = word(words.next().unwrap_or_default());
    match words.next() {
        Some(second) => format!("{first} {}", word(second)),
        None => first,
    }
}

fn email(address: &str) -> Option<String> {
    let (local, domain) = address.rsplit_once('@')?;
    let (host, top) = domain.rsplit_once('.')?;
    Some(format!("{}@{}.{top}", word(local), word(host)))
}

/// Like an e-mail address's: the scheme, the first letter of the host and its end.
fn web(address: &str) -> Option<String> {
    let (scheme, host) = url::parts(address)?;
    let is_address = host.starts_with('[') || host.ends_with(|c: char| c.is_ascii_digit());
    let shown = match host.rsplit_once('.') {
        Some((host, top)) if !is_address => format!("{}.{top}", word(host)),
        _ => DOTS.to_owned(),
    };
    Some(format!("{scheme}://{shown}/{DOTS}"))
}

/// The decade.
fn date(text: &str) -> Option<String> {
    Some(format!("{}•-••-••", text.get(..3)?))
}

/// The network: /24 of IPv4, /48 of IPv6.
fn ip(text: &str) -> Option<String> {
    Some(match text.parse().ok()? {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        IpAddr::V6(address) => {
            let [a, b, c, ..] = address.segments();
            if a == 0x2002 {
                // 6to4 (RFC 3056): what follows is a whole IPv4 address.
                return Some("2002::/16".to_owned());
            }
            let network = std::net::Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0);
            format!("{network}/48")
        }
    })
}

/// Rounded to so many decimals of a degree: one is some eleven kilometres.
fn location(normal: &str, precision: usize) -> Zeroizing<String> {
    let Some((lat, lon)) = plain::coordinates(normal) else { return hidden() };
    let scale = 10_f64.powi(i32::try_from(precision).unwrap_or_default());
    let round = |degrees: f64| (degrees * scale).round() / scale + 0.0;
    let (lat, lon) = (round(lat), round(lon));
    Zeroizing::new(format!("{{\"lat\":{lat:.precision$},\"lon\":{lon:.precision$}}}"))
}

#[cfg(test)]
mod tests;
