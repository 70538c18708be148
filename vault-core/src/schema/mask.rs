//! What a masked view shows: a fixed shape, which tells nothing of the length of what it hides.
//!
//! A part too short to hide anything behind its first letter or last digits is hidden as a whole.

use std::net::IpAddr;

use zeroize::Zeroizing;

use super::{FieldKind, json, phone, plain};

const DOTS: &str = "•••";
/// Before the last digits of a phone number.
const DIGITS: &str = "•••••";
/// A word shorter than this is not given away by its first letter.
const WORD_MIN: usize = 3;
/// A national number shorter than this does not show its last two digits.
const TWO_OF: usize = 7;
/// A national number shorter than this does not show its last four.
const FOUR_OF: usize = 8;

/// The mask of a value in normal form; both are JSON text.
pub(super) fn masked(kind: FieldKind, normal: &str) -> Zeroizing<String> {
    let shown = match kind {
        FieldKind::Location => return location(normal),
        FieldKind::Address | FieldKind::Object => None,
        _ => json::text(normal).and_then(|text| match kind {
            FieldKind::Text => Some(word(&text)),
            FieldKind::Name => Some(name(&text)),
            FieldKind::Phone => phone_number(&text),
            FieldKind::Email => email(&text),
            FieldKind::Date => date(&text),
            FieldKind::Ip => ip(&text),
            FieldKind::Address | FieldKind::Object | FieldKind::Location => None,
        }),
    };
    let shown = shown.map(Zeroizing::new);
    json::quote(shown.as_ref().map_or(DOTS, |text| text.as_str()))
}

/// The last four digits of a phone number, without its country; the mask of anything else.
pub(super) fn last4(kind: FieldKind, normal: &str) -> Zeroizing<String> {
    let four = (kind == FieldKind::Phone)
        .then(|| json::text(normal))
        .flatten()
        .and_then(|text| last_digits(phone::split(&text)?.1, 4, FOUR_OF));
    match four {
        Some(shown) => json::quote(&Zeroizing::new(shown)),
        None => masked(kind, normal),
    }
}

fn phone_number(e164: &str) -> Option<String> {
    let (code, national) = phone::split(e164)?;
    let end = last_digits(national, 2, TWO_OF).unwrap_or_else(|| DIGITS.to_owned());
    Some(format!("+{code}{end}"))
}

fn last_digits(national: &str, count: usize, at_least: usize) -> Option<String> {
    let start = national.len().checked_sub(count)?;
    (national.len() >= at_least).then(|| format!("{DIGITS}{}", &national[start..]))
}

/// The first letter of a word, unless it is nearly all there is.
fn word(text: &str) -> String {
    match text.chars().next() {
        Some(first) if text.chars().count() >= WORD_MIN => format!("{first}{DOTS}"),
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
            let network = std::net::Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0);
            format!("{network}/48")
        }
    })
}

/// One decimal of a degree: some eleven kilometres.
fn location(normal: &str) -> Zeroizing<String> {
    let round = |degrees: f64| (degrees * 10.0).round() / 10.0 + 0.0;
    match plain::coordinates(normal) {
        Some((lat, lon)) => Zeroizing::new(format!("{{\"lat\":{:.1},\"lon\":{:.1}}}", round(lat), round(lon))),
        None => json::quote(DOTS),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn masks() {
        use FieldKind::{Address, Date, Email, Ip, Location, Name, Object, Phone, Text};
        for (kind, raw, mask) in [
            (Text, "\"nicholsonclinton\"", "\"n•••\""),
            (Text, "\"ab\"", "\"•••\""),
            (Text, "\"李\"", "\"•••\""),
            (Name, "\"Chris Curtis\"", "\"C••• C•••\""),
            (Name, "\"Anna Maria de la Cruz\"", "\"A••• M•••\""),
            (Name, "\"Jo Li\"", "\"••• •••\""),
            (Name, "\"محمد علي\"", "\"م••• ع•••\""),
            (Phone, "\"+971501238301\"", "\"+971•••••01\""),
            (Phone, "\"+12025550123\"", "\"+1•••••23\""),
            (Phone, "\"+6834012\"", "\"+683•••••\""),
            (Email, "\"jane.doe@example.org\"", "\"j•••@e•••.org\""),
            (Email, "\"jo@mail.example.co\"", "\"•••@m•••.co\""),
            (Email, "\"x@y.de\"", "\"•••@•••.de\""),
            (Address, "\"1 Road\\nTown\"", "\"•••\""),
            (Address, "{\"road\":\"1 Road\"}", "\"•••\""),
            (Date, "\"1937-12-20\"", "\"193•-••-••\""),
            (Ip, "\"214.3.10.24\"", "\"214.3.10.0/24\""),
            (Ip, "\"90c1:92cf:d3ac:94af:f21:ddb7:6cad:4a26\"", "\"90c1:92cf:d3ac::/48\""),
            (Object, "{\"model\":\"Pixel 9\"}", "\"•••\""),
            (Location, "{\"lat\":-47.76309,\"lon\":29.80368}", "{\"lat\":-47.8,\"lon\":29.8}"),
            (Location, "{\"lat\":-0.04,\"lon\":180}", "{\"lat\":0.0,\"lon\":180.0}"),
        ] {
            assert_eq!(*masked(kind, raw), mask, "{raw}");
        }
    }

    #[test]
    fn last_four_digits() {
        assert_eq!(*last4(FieldKind::Phone, "\"+971501238301\""), "\"•••••8301\"");
        assert_eq!(*last4(FieldKind::Phone, "\"+6834012\""), "\"+683•••••\"");
        assert_eq!(*last4(FieldKind::Text, "\"nickname\""), "\"n•••\"");
    }

    #[test]
    fn a_mask_does_not_tell_the_length() {
        for (kind, short, long) in [
            (FieldKind::Name, "\"Ann Lee\"", "\"Annemarie Leeuwenhoek van Dijk\""),
            (FieldKind::Text, "\"abc\"", "\"abcdefghijklmnopq\""),
            (FieldKind::Email, "\"abc@def.org\"", "\"abcdefgh.ij@d.e.f.g.org\""),
            (FieldKind::Phone, "\"+390236618301\"", "\"+3903123401\""),
        ] {
            assert_eq!(masked(kind, short), masked(kind, long));
        }
    }
}
