//! Archives come back as they were, and are refused when a byte is changed or missing.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use super::*;
use crate::store::Row;

fn info() -> Info {
    Info {
        format: FORMAT,
        id: [1; 16],
        vault: [2; 16],
        plane: Plane::Data,
        epoch: 3,
        sequence: None,
        schema_version: None,
        created_at: Timestamp(1_764_028_800_123),
        base: None,
    }
}

fn archive(recipients: &Recipients, rows: &[(&[u8], &[u8])], gone: &[&[u8]]) -> Vec<u8> {
    let mut archive = Archive::new(recipients, &info()).unwrap();
    rows.iter().for_each(|(key, value)| archive.row(key, value).unwrap());
    gone.iter().for_each(|key| archive.gone(key).unwrap());
    let mut bytes = archive.take();
    bytes.extend(archive.finish().unwrap().0);
    bytes
}

/// What a reader makes of these bytes: rows, gone keys, or why it refuses them.
async fn read(bytes: &[u8], identities: &Arc<Identities>) -> Result<(Vec<Row>, Vec<Vec<u8>>), BackupError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let mut pieces = Pieces::of(file.path(), identities);
    let (mut rows, mut gone, mut whole) = (Vec::new(), Vec::new(), false);
    while let Some(piece) = pieces.next().await? {
        match piece {
            Piece::Info(found) => assert_eq!(found, info()),
            Piece::Rows(part) => rows.extend(part),
            Piece::Gone(part) => gone.extend(part),
            Piece::Whole => whole = true,
        }
    }
    assert!(whole, "an archive that ends without an error is whole");
    Ok((rows, gone))
}

#[tokio::test]
async fn comes_back_as_it_was_also_in_several_chunks() {
    let (identities, recipients) = Identities::draw();
    let identities = Arc::new(identities);
    let large = vec![7; 60_000];
    let keys: Vec<Vec<u8>> = (0..200_u32).map(|n| n.to_be_bytes().to_vec()).collect();
    let rows: Vec<(&[u8], &[u8])> = keys.iter().map(|key| (key.as_slice(), large.as_slice())).collect();
    let bytes = archive(&recipients, &rows, &[b"x"]);
    let (found, gone) = read(&bytes, &identities).await.unwrap();
    assert!(found.iter().map(|(key, value)| (key.as_slice(), value.as_slice())).eq(rows));
    assert_eq!(gone, [b"x"]);
    let empty = archive(&recipients, &[], &[]);
    assert_eq!(read(&empty, &identities).await.unwrap(), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn every_cut_and_every_changed_byte_is_refused() {
    let (identities, recipients) = Identities::draw();
    let identities = Arc::new(identities);
    let bytes = archive(&recipients, &[(b"k", b"v"), (b"l", b"w")], &[]);
    assert!(read(&bytes, &identities).await.is_ok(), "the control: as it is it is taken");
    for len in (0..bytes.len()).step_by(37).chain(bytes.len() - 40..bytes.len()) {
        assert!(read(&bytes[..len], &identities).await.is_err(), "cut to {len}");
    }
    for at in (0..bytes.len()).step_by(13) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x20;
        assert!(read(&changed, &identities).await.is_err(), "byte {at}");
    }
    let more = [&bytes[..], &[0]].concat();
    assert!(read(&more, &identities).await.is_err(), "a byte more");
    let other = Arc::new(Identities::draw().0);
    assert!(matches!(read(&bytes, &other).await, Err(BackupError::NotForUs { .. })));
}

#[test]
fn recipients_and_identities_say_what_is_wrong() {
    assert!(matches!(Recipients::parse::<&str>(&[]), Err(BackupError::NoRecipient)));
    assert!(matches!(Recipients::parse(&["age1nonsense"]), Err(BackupError::Recipient(_))));
    assert!(Identities::parse("# a comment\n").is_none());
    assert!(Identities::parse("not a key\n").is_none());
}

#[test]
fn an_index_tells_what_changed() {
    let mut base = Index::new(BackupId([1; 16]));
    assert!(!base.note(b"a", b"1", None));
    base.note(b"b", b"1", None);
    let base = Index::decode(&base.encode()).unwrap();
    let mut next = Index::new(BackupId([2; 16]));
    assert!(next.note(b"a", b"1", Some(&base)), "unchanged");
    assert!(!next.note(b"c", b"1", Some(&base)), "new");
    assert_eq!(next.gone_since(&base).collect::<Vec<_>>(), [b"b"]);
    assert!(Index::decode(&base.encode()[1..]).is_none());
    let bytes = base.encode();
    assert!(Index::decode(&bytes[..bytes.len() - 1]).is_none());
}
