//! The decoders of this room, for `crate::fuzzing`.

use std::io::Read;

use super::age::{Identities, Recipients};
use super::{Index, read};
use crate::fuzzing::Target;

pub(crate) const TARGETS: [Target; 4] = [
    Target::new("archive", read::decode_again),
    Target::new("archive_index", index),
    Target::new("age_file", age_file),
    Target::new("age_keys", age_keys),
];

fn index(bytes: &[u8]) -> bool {
    let Some(index) = Index::decode(bytes) else { return false };
    assert_eq!(index.encode(), bytes);
    true
}

const IDENTITY: &str = "AGE-SECRET-KEY-1CFUMK54QNFP5NE03LCA42M7FW4CKHKV3RHXJ3L2UHGU25V6D3QQQ4UD367";

/// The encryption around an archive, to an identity for tests alone.
fn age_file(bytes: &[u8]) -> bool {
    let identities = Identities::parse(IDENTITY).expect("an identity");
    let Ok(mut opened) = identities.open(bytes, "an archive") else { return false };
    let mut out = Vec::new();
    opened.read_to_end(&mut out).is_ok()
}

fn age_keys(bytes: &[u8]) -> bool {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    Identities::parse(text).is_some() | Recipients::parse(&text.lines().collect::<Vec<_>>()).is_ok()
}

#[cfg(test)]
pub(crate) use read::archives;
