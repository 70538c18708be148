//! The decoders of this room, for `crate::fuzzing`.

use super::journal::{Bytes, frame, read_bundle, read_frames, write_bundle};
use super::{Entry, follow, tree};
use crate::fuzzing::Target;

pub(crate) const TARGETS: [Target; 5] = [
    Target::new("journal", journal),
    Target::new("bundle", bundle),
    Target::new("entry", entry),
    Target::new("checkpoint", checkpoint),
    Target::new("tile_number", tile_number),
];

fn journal(bytes: &[u8]) -> bool {
    let mut entries = Vec::new();
    let whole = read_frames(bytes, &mut entries);
    let mut again = Vec::new();
    entries.iter().for_each(|entry| frame(&mut again, entry));
    assert_eq!(again, bytes[..whole]);
    // With sums that fit, so that what is behind them is read, too.
    let mut fitting = Vec::new();
    for entry in bytes.split(|byte| *byte == b'\n').filter(|entry| !entry.is_empty()) {
        frame(&mut fitting, &entry[..entry.len().min(1000)]);
    }
    assert_eq!(read_frames(&fitting, &mut Vec::new()), fitting.len());
    !entries.is_empty()
}

fn bundle(bytes: &[u8]) -> bool {
    let Some(entries) = read_bundle(bytes) else { return false };
    let entries: Vec<Bytes> = entries.into_iter().map(Bytes::from).collect();
    assert_eq!(write_bundle(&entries), bytes);
    true
}

fn entry(bytes: &[u8]) -> bool {
    let Some(entry) = Entry::decode(bytes) else { return false };
    assert_eq!(Entry::decode(&entry.encode()), Some(entry));
    true
}

/// Two heads of a log, with an empty line twice between them, as a follower holds them.
fn checkpoint(bytes: &[u8]) -> bool {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let (old, new) = text.split_once("\n\n\n").map_or((text.to_owned(), ""), |(old, new)| (format!("{old}\n"), new));
    let key = "udv/07070707070707070707070707070707+12345678+AWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFh";
    assert_eq!(follow::signed_size(bytes, key), None, "nobody signs with that key");
    drop(follow::next_key(bytes, key));
    follow::is_continued(old.as_bytes(), new.as_bytes(), &[[1; 32], [2; 32]]);
    follow::size_of(old.as_bytes()).is_some()
}

fn tile_number(bytes: &[u8]) -> bool {
    tree::parse_number(std::str::from_utf8(bytes).unwrap_or_default()).is_some()
}
