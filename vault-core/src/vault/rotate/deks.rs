//! Rotation of `deks`: a fresh DEK for each compartment, and its row sealed anew under it.
//!
//! A subject is renewed in one guarded write: what was written or shredded since it was read wins, and the rotation reads
//! again. The old DEK stays in the key plane, sealed under its successor, so that an old data plane still serves the
//! living; who shreds the successor shreds what it opens. A rotation that forgets replaces the record in a root batch and
//! drops that chain: nothing leads from the new DEK to an older one.
//!
//! A DEK drawn since the rotation began is left alone, so a step that is repeated after a crash does nothing twice. One that
//! is dated later than now, by a clock that was wrong then or is wrong now, is of an unknown age and is renewed. A subject
//! that is refused is renewed like any other: its erasure may yet be taken back.

use zeroize::Zeroizing;

use super::super::metadata::RowMetadata;
use super::super::records::{
    CompartmentKeys, DekChain, DekLink, DeksWork, DirectoryEntry, SubjectRecord, WhichDeks, decode, encode,
};
use super::super::row::{Row, RowPlace, RowWriter, Written};
use super::super::session::{Session, Snapshot, reading};
use super::super::writer::{Guard, Write};
use super::super::{Inner, subject};
use crate::crypto::field::{NONCE_LEN, Place, SealedField, seal};
use crate::crypto::{Dek, Random};
use crate::error::Error;
use crate::time::Timestamp;
use crate::trie::{self, EntryKey, Header, Kind, Op};

/// Old DEKs that are kept of one compartment; the oldest goes when there is one more.
const CHAIN_MAX: usize = 32;
/// The reserved field that an old DEK is sealed as.
const OLD_DEK: &str = "#old-dek";

/// The write that renews a subject, if there is anything to renew; and how many of its rows do not open.
pub(super) async fn renewed(
    inner: &Inner,
    session: &Session,
    key: EntryKey,
    work: &DeksWork,
    began: Timestamp,
) -> Result<(Option<Write>, u64), Error> {
    match reading!(session, |snapshot| renewed_from(inner, &snapshot, key, work, began, false).await) {
        // A row of it, whatever snapshot it is read from: the others are renewed.
        Err(Error::Damaged(_)) => {
            reading!(session, |snapshot| renewed_from(inner, &snapshot, key, work, began, true).await)
        }
        outcome => outcome,
    }
}

async fn renewed_from(
    inner: &Inner,
    snapshot: &Snapshot,
    key: EntryKey,
    work: &DeksWork,
    began: Timestamp,
    past_damage: bool,
) -> Result<(Option<Write>, u64), Error> {
    let header = &*snapshot.header;
    let mut found = subject::find_by_key(inner, header, key).await?;
    let (guard, entry) = (found.guard(), found.entry.take());
    let Some(DirectoryEntry::Subject(mut record)) = entry else { return Ok((None, 0)) };
    let version = snapshot.schema.version;
    let mut write = Write { guards: vec![guard], under: Some(version), ..Write::default() };
    let (mut renewed, mut damaged) = (false, 0);
    for at in 0..record.compartments.len() {
        let keys = &record.compartments[at];
        if !work.wants(keys, began) {
            continue;
        }
        let next = successor(keys, began);
        match reseal(inner, &record, keys, &next, version, &mut write).await {
            Ok(()) => {}
            Err(Error::Damaged(_)) if past_damage => {
                damaged += 1;
                continue;
            }
            Err(error) => return Err(error),
        }
        write.edits.push(match work.forget {
            true => drop_chain(header, &key, keys.ordinal),
            false => link(inner, header, &key, &record, keys, &next).await?,
        });
        record.compartments[at] = next;
        renewed = true;
    }
    if !renewed {
        return Ok((None, damaged));
    }
    let payload = encode(&DirectoryEntry::Subject(record))?;
    let op = if work.forget { Op::Replace(payload) } else { Op::Insert(payload) };
    write.edits.push((Kind::Directory, key, op));
    Ok((Some(write), damaged))
}

impl DeksWork {
    fn wants(&self, keys: &CompartmentKeys, began: Timestamp) -> bool {
        let before = match &self.which {
            WhichDeks::Before(at) => (*at).min(began),
            WhichDeks::All | WhichDeks::Of(_) => began,
        };
        keys.dek_since < before || keys.dek_since > Timestamp::now().max(began)
    }
}

/// Fresh keys in place of a compartment's. `began`: no earlier than they are to count as drawn.
pub(crate) fn successor(keys: &CompartmentKeys, began: Timestamp) -> CompartmentKeys {
    CompartmentKeys {
        name: keys.name.clone(),
        ordinal: keys.ordinal,
        dek_version: keys.dek_version + 1,
        dek: Dek::draw(&mut Random::for_keys(1)),
        // A clock that was set back must not make it look older than the rotation that drew it.
        dek_since: Timestamp::now().max(began),
        refused: keys.refused,
    }
}

/// Has a write put a compartment's row, sealed under other keys: the same fields with the same versions and times.
async fn reseal(
    inner: &Inner,
    record: &SubjectRecord,
    keys: &CompartmentKeys,
    next: &CompartmentKeys,
    schema_version: u16,
    write: &mut Write,
) -> Result<(), Error> {
    let place = record.row_place(keys);
    let row = subject::open_row(inner, &place).await?;
    let (version, gone) = (row.version, row.spill_keys(&place));
    let rows = resealed(inner, &row, &place, record.row_place(next), schema_version).await?;
    write.guards.push(Guard::Row { key: place.key(), version: Some(version) });
    // The row itself is replaced; every other row that is put is new.
    let count = |rows: usize| i64::try_from(rows).expect("a subject has far fewer rows than that");
    write.delta.rows += count(rows.put.len()) - 1 - count(gone.len());
    write.put.extend(rows.put);
    write.delete.extend(gone);
    Ok(())
}

/// What an opened row puts into the store once all it holds is sealed for another place.
pub(crate) async fn resealed(
    inner: &Inner,
    row: &Row,
    from: &RowPlace<'_>,
    to: RowPlace<'_>,
    schema_version: u16,
) -> Result<Written, Error> {
    let metadata = RowMetadata::open(row, from)?;
    let mut writer = RowWriter::new(Row::empty_at(row.version), to, schema_version, row.fields.len() + 1);
    for (field, entry) in &row.fields {
        let value = subject::open_field(inner, row, field, from).await?;
        writer.set(field, entry.version, entry.updated_at, &value);
    }
    writer.set_metadata(metadata.encode()?.as_ref().map(|bytes| bytes.as_slice()));
    writer.finish()
}

/// The edit that forgets a compartment's older DEKs.
pub(crate) fn drop_chain(header: &Header, directory: &EntryKey, ordinal: u16) -> (Kind, EntryKey, Op) {
    (Kind::System, chain_key(header, directory, ordinal), Op::Remove)
}

/// The edit that keeps a compartment's present DEK under its successor.
async fn link(
    inner: &Inner,
    header: &Header,
    directory: &EntryKey,
    record: &SubjectRecord,
    keys: &CompartmentKeys,
    next: &CompartmentKeys,
) -> Result<(Kind, EntryKey, Op), Error> {
    let mut chain = chain_of(inner, header, directory, keys.ordinal).await?;
    let place = chain_place(record, keys);
    let mut random = Random::new(NONCE_LEN);
    let sealed = seal(&next.dek, next.dek_version, 0, &place, keys.dek.expose(), &mut random);
    chain.links.push(DekLink { version: keys.dek_version, sealed });
    if chain.links.len() > CHAIN_MAX {
        chain.links.remove(0);
    }
    Ok((Kind::System, chain_key(header, directory, keys.ordinal), Op::Insert(encode(&chain)?)))
}

/// The DEK of an older version that a compartment had, for opening rows of an old data plane; none if it was forgotten.
///
/// # Errors
/// [`Error::Damaged`] if the chain does not open.
pub(crate) async fn open_old(
    inner: &Inner,
    header: &Header,
    directory: &EntryKey,
    record: &SubjectRecord,
    keys: &CompartmentKeys,
    version: u32,
) -> Result<Option<Dek>, Error> {
    const DAMAGED: Error = Error::Damaged("an older data key does not open under its successor");
    let place = chain_place(record, keys);
    let (mut dek, mut at) = (keys.dek.duplicate(), keys.dek_version);
    for link in chain_of(inner, header, directory, keys.ordinal).await?.links.iter().rev() {
        let sealed = SealedField::parse(&link.sealed)?;
        if link.version < version || sealed.dek_version() != at {
            break;
        }
        let opened: Zeroizing<Vec<u8>> = sealed.open(&dek, &place).map_err(|_| DAMAGED)?;
        (dek, at) = (Dek::from_slice(&opened).ok_or(DAMAGED)?, link.version);
    }
    Ok((at == version).then_some(dek))
}

/// The versions of the older DEKs that are kept of a compartment, oldest first.
pub(crate) async fn kept_versions(
    inner: &Inner,
    header: &Header,
    directory: &EntryKey,
    ordinal: u16,
) -> Result<Vec<u32>, Error> {
    let chain = chain_of(inner, header, directory, ordinal).await?;
    Ok(chain.links.iter().map(|link| link.version).collect())
}

async fn chain_of(inner: &Inner, header: &Header, directory: &EntryKey, ordinal: u16) -> Result<DekChain, Error> {
    let payload = trie::find(&inner.pages, header, Kind::System, &chain_key(header, directory, ordinal)).await?;
    payload.map_or_else(|| Ok(DekChain::default()), |payload| decode(&payload))
}

fn chain_key(header: &Header, directory: &EntryKey, ordinal: u16) -> EntryKey {
    let subject = subject::tag_of(directory);
    header.entry_key(Kind::System, "dek-chain", "", &ordinal.to_be_bytes(), subject)
}

fn chain_place<'a>(record: &SubjectRecord, keys: &'a CompartmentKeys) -> Place<'a> {
    Place { subject: record.uuid, compartment: keys.name.as_str(), field: OLD_DEK }
}
