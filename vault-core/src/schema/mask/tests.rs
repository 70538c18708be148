//! Masks, kind by kind.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::schema::kind::Pattern;
use Sensitivity::{Personal, Sensitive};

const TEXT: FieldKind = FieldKind::Text { max_length: 8192, multiline: false };
const NOTE: FieldKind = FieldKind::Text { max_length: 8192, multiline: true };
const LOCATION: FieldKind = FieldKind::Location { precision: 1 };

fn national_id() -> FieldKind {
    FieldKind::NationalId { pattern: Pattern::compile(".*").unwrap() }
}

#[test]
fn masks() {
    use FieldKind::{Address, Card, Date, Email, Ip, Location, Name, Object, Phone, Url};
    for (kind, raw, mask) in [
        (TEXT, "\"nicholsonclinton\"", "\"n•••\""),
        (TEXT, "\"ab\"", "\"•••\""),
        (TEXT, "\"李\"", "\"•••\""),
        (NOTE, "\"first\\nsecond\"", "\"•••\""),
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
        (LOCATION, "{\"lat\":-47.76309,\"lon\":29.80368}", "{\"lat\":-47.8,\"lon\":29.8}"),
        (LOCATION, "{\"lat\":-0.04,\"lon\":180}", "{\"lat\":0.0,\"lon\":180.0}"),
        (Location { precision: 0 }, "{\"lat\":-0.4,\"lon\":29.80368}", "{\"lat\":0,\"lon\":30}"),
        (Location { precision: 3 }, "{\"lat\":-47.76309,\"lon\":29.8}", "{\"lat\":-47.763,\"lon\":29.800}"),
        (Url, "\"https://example.org/a/b?c\"", "\"https://e•••.org/•••\""),
        (Url, "\"http://mail.example.co:8080/\"", "\"http://m•••.co/•••\""),
        (Url, "\"https://x.de/\"", "\"https://•••.de/•••\""),
        (Url, "\"http://localhost/\"", "\"http://•••/•••\""),
        (Url, "\"http://192.0.2.7/\"", "\"http://•••/•••\""),
        (Url, "\"http://[2001:db8::1]/\"", "\"http://•••/•••\""),
        (Card, "\"4111111111111111\"", "\"•••••1111\""),
        (Card, "\"501800000009\"", "\"•••••0009\""),
        (national_id(), "\"12345678Z\"", "\"•••\""),
        (FieldKind::Integer { min: 0, max: 9 }, "7", "\"•••\""),
        (FieldKind::Decimal(Default::default()), "\"7.5\"", "\"•••\""),
        (FieldKind::Enum { values: vec!["yes".to_owned()] }, "\"yes\"", "\"•••\""),
        (FieldKind::Json { max_bytes: 99 }, "\"text in JSON\"", "\"•••\""),
        (FieldKind::Json { max_bytes: 99 }, "[1]", "\"•••\""),
        (FieldKind::Bytes { max_bytes: 99 }, "\"Zm9v\"", "\"•••\""),
    ] {
        assert_eq!(*masked(&kind, Personal, raw), mask, "{raw}");
    }
}

#[test]
fn last_four_digits() {
    use FieldKind::{Card, Phone};
    let shown = |kind: &FieldKind, raw| last4(kind, Personal, raw).to_string();
    assert_eq!(shown(&Phone, "\"+971501238301\""), "\"•••••8301\"");
    assert_eq!(shown(&Phone, "\"+6834012\""), "\"+683•••••\"");
    assert_eq!(shown(&Card, "\"4111111111111234\""), "\"•••••1234\"");
    assert_eq!(shown(&TEXT, "\"nickname\""), "\"n•••\"");
    assert_eq!(*last4(&Phone, Sensitive, "\"+971501238301\""), "\"•••••8301\"");

    let digits = |kind: &FieldKind, raw| last4_digits(kind, raw).map(|four| four.to_string());
    assert_eq!(digits(&Phone, "\"+971501238301\"").as_deref(), Some("8301"));
    assert_eq!(digits(&Phone, "\"+6834012\""), None, "too short a number");
    assert_eq!(digits(&Card, "\"4111111111111234\"").as_deref(), Some("1234"));
    assert_eq!(digits(&TEXT, "\"12345678\""), None);
    assert_eq!(digits(&Card, "\"é§é§é§é\""), None, "stored bytes that are no number");
}

#[test]
fn a_mask_does_not_tell_the_length() {
    for (kind, short, long) in [
        (FieldKind::Name, "\"Ann Lee\"", "\"Annemarie Leeuwenhoek van Dijk\""),
        (TEXT, "\"abc\"", "\"abcdefghijklmnopq\""),
        (FieldKind::Email, "\"abc@def.org\"", "\"abcdefgh.ij@d.e.f.g.org\""),
        (FieldKind::Phone, "\"+390236618301\"", "\"+3903123401\""),
        (FieldKind::Url, "\"https://abc.org/\"", "\"https://a.b.example.org/a/long/path?and=query\""),
        (FieldKind::Card, "\"501800000009\"", "\"6304000000000000009\""),
    ] {
        assert_eq!(masked(&kind, Personal, short), masked(&kind, Personal, long));
    }
}

#[test]
fn a_sensitive_mask_does_not_even_tell_whether_it_is_short() {
    // The control: of a personal value, the mask of the first differs from that of the second.
    for (kind, short, long) in [
        (FieldKind::Name, "\"Al\"", "\"Anna Maria\""),
        (TEXT, "\"a\"", "\"abcdef\""),
        (FieldKind::Email, "\"a@b.org\"", "\"abcd@bcd.org\""),
        (FieldKind::Phone, "\"+6834012\"", "\"+6838884012\""),
        (FieldKind::Url, "\"https://a.org/\"", "\"https://abc.org/\""),
        (FieldKind::Card, "\"501800000009\"", "\"4111111111111111\""),
    ] {
        assert_ne!(masked(&kind, Personal, short), masked(&kind, Personal, long), "{short}");
        assert_eq!(masked(&kind, Sensitive, short), masked(&kind, Sensitive, long), "{short}");
    }
    for (kind, raw, mask) in [
        (FieldKind::Phone, "\"+971501238301\"", "\"+971•••••\""),
        (FieldKind::Date, "\"1937-12-20\"", "\"193•-••-••\""),
        (FieldKind::Ip, "\"214.3.10.24\"", "\"214.3.10.0/24\""),
        (LOCATION, "{\"lat\":1.26,\"lon\":2}", "{\"lat\":1.3,\"lon\":2.0}"),
        (national_id(), "\"12345678Z\"", "\"•••\""),
    ] {
        assert_eq!(*masked(&kind, Sensitive, raw), mask);
    }
}

#[test]
fn what_is_no_letter_makes_no_word_longer_and_stands_for_none() {
    use FieldKind::{Ip, Name};
    for (kind, raw, mask) in [
        (&Name, "\"Jo\u{308} Li\u{301}\"", "\"••• •••\""),
        (&Name, "\"\u{202e}evil\"", "\"e•••\""),
        (&Name, "\"\u{200b}Ann\"", "\"A•••\""),
        (&Name, "\"--- ...\"", "\"••• •••\""),
        // The network of 6to4 would be the whole IPv4 address.
        (&Ip, "\"2002:c0a8:105::1\"", "\"2002::/16\""),
        (&Ip, "\"2003:c0a8:105::1\"", "\"2003:c0a8:105::/48\""),
    ] {
        assert_eq!(*masked(kind, Personal, raw), mask, "{raw}");
    }
}
