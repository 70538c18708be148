//! Rows into the store: the key plane first, for it says whose data rows are of any use.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::check::{Checked, begun};
use super::{MARKER, RestoreAsk, RestoreProgress, RestoreStep, commit};
use crate::backup::{Identities, Piece, Pieces, Plane};
use crate::error::Error;
use crate::ids::SubjectUuid;
use crate::store::{Batch, Row as StoredRow, Store};
use crate::trie::{EntryKey, Header};
use crate::vault::records::{CompartmentKeys, DirectoryEntry, SubjectRecord};
use crate::vault::rotate::deks;
use crate::vault::row::{self, Row, RowPlace, RowWriter, Written};
use crate::vault::{Inner, meta, subject};

/// Rows that share a commit.
const TOGETHER: usize = 512;
/// Directory entries that are read at a time.
const PAGE: usize = 512;

/// What was written, and what was not.
#[derive(Default)]
pub(super) struct Counted {
    pub(super) rows: u64,
    pub(super) left_out: u64,
    pub(super) left_out_subjects: u64,
    pub(super) missing: u64,
    pub(super) unreadable: u64,
}

/// The compartments that have keys, by subject.
type Living = HashMap<[u8; 16], Vec<u16>>;

/// Writes both planes, and an empty row where a living subject has none.
pub(super) async fn write(
    inner: &Inner,
    ask: &RestoreAsk,
    checked: &Checked,
    progress: RestoreProgress<'_>,
) -> Result<Counted, Error> {
    let mut done = 0;
    let mut pieces = Pieces::of(&ask.keys, &ask.identities);
    let info = begun(&mut pieces, &ask.keys, Plane::Keys).await?;
    debug_assert_eq!(info, checked.keys, "it was checked a moment ago");
    while let Some(piece) = pieces.next().await? {
        if let Piece::Rows(rows) = piece {
            done += rows.len() as u64;
            // The META record is written anew, once the rows are counted.
            put(&*inner.store, rows.into_iter().filter(|(key, _)| key != meta::KEY).collect()).await?;
            progress(RestoreStep::Writing, done);
        }
    }
    let living = living(inner, &checked.header).await?;
    let mut counted = Counted::default();
    let mut dead = HashSet::new();
    for (number, path) in ask.data.iter().enumerate() {
        let mut pieces = Pieces::of(path, &ask.identities);
        begun(&mut pieces, path, Plane::Data).await?;
        while let Some(piece) = pieces.next().await? {
            match piece {
                Piece::Rows(rows) => {
                    done += rows.len() as u64;
                    let (known, unknown): (Vec<_>, Vec<_>) =
                        rows.into_iter().partition(|(key, _)| is_living(&living, key));
                    counted.left_out += unknown.len() as u64;
                    dead.extend(unknown.iter().filter_map(|(key, _)| key.get(1..17).map(<[u8]>::to_vec)));
                    if number > 0 {
                        set_aside(&*inner.store, known.iter().map(|(key, _)| key)).await?;
                    }
                    put(&*inner.store, known).await?;
                    progress(RestoreStep::Writing, done);
                }
                Piece::Gone(keys) => {
                    set_aside(&*inner.store, keys.iter()).await?;
                    delete(&*inner.store, keys).await?;
                }
                Piece::Info(_) | Piece::Whole => {}
            }
        }
    }
    counted.left_out_subjects = dead.iter().filter(|uuid| !living.contains_key(uuid.as_slice())).count() as u64;
    mend(inner, checked, &mut counted).await?;
    counted.rows = count(&*inner.store).await?;
    Ok(counted)
}

/// Removes what a restore that was cut short has left.
pub(super) async fn clear(store: &dyn Store) -> Result<(), Error> {
    loop {
        let rows = store.scan(&[], None, TOGETHER).await?;
        // The mark goes last, with the others gone.
        let keys: Vec<_> = rows.iter().map(|(key, _)| key).filter(|key| *key != MARKER).cloned().collect();
        if keys.is_empty() && rows.len() < TOGETHER {
            return Ok(());
        }
        delete(store, keys).await?;
    }
}

/// Puts rows, in commits of some hundred.
pub(super) async fn put(store: &dyn Store, rows: Vec<StoredRow>) -> Result<(), Error> {
    let mut rows = rows.into_iter().peekable();
    while rows.peek().is_some() {
        let mut seen = HashSet::new();
        // A batch names each key once: a page that was copied again waits for the next.
        let mut part = Vec::with_capacity(TOGETHER);
        while part.len() < TOGETHER && rows.peek().is_some_and(|(key, _)| seen.insert(key.clone())) {
            part.extend(rows.next());
        }
        commit(store, Batch { put: part, ..Batch::default() }).await?;
    }
    Ok(())
}

async fn delete(store: &dyn Store, keys: Vec<Vec<u8>>) -> Result<(), Error> {
    for part in keys.chunks(TOGETHER) {
        commit(store, Batch { delete: part.to_vec(), reclaim: true, ..Batch::default() }).await?;
    }
    Ok(())
}

async fn living(inner: &Inner, header: &Header) -> Result<Living, Error> {
    let mut living = Living::new();
    each_subject(inner, header, async |_, record| {
        let ordinals = record.compartments.iter().map(|keys| keys.ordinal).collect();
        living.insert(record.uuid.0, ordinals);
        Ok(())
    })
    .await?;
    Ok(living)
}

fn is_living(living: &Living, key: &[u8]) -> bool {
    let (Some(uuid), Some(&[high, low])) = (key.get(1..17), key.get(17..19)) else { return false };
    living.get(uuid).is_some_and(|ordinals| ordinals.contains(&u16::from_be_bytes([high, low])))
}

/// Every living or refused subject of the directory, one after the other.
pub(super) async fn each_subject(
    inner: &Inner,
    header: &Header,
    mut work: impl AsyncFnMut(EntryKey, SubjectRecord) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut after = None;
    loop {
        let page = subject::page(inner, header, after, PAGE).await?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(*last);
        for (key, entry) in page {
            if let DirectoryEntry::Subject(record) = entry {
                work(key, record).await?;
            }
        }
    }
}

/// Every compartment has a row that opens, if only an empty one.
async fn mend(inner: &Inner, checked: &Checked, counted: &mut Counted) -> Result<(), Error> {
    let version = checked.keys.schema_version.unwrap_or(1);
    let mut batch = Batch::default();
    each_subject(inner, &checked.header, async |directory, record| {
        for keys in &record.compartments {
            if batch.put.len() + batch.delete.len() >= TOGETHER {
                commit(&*inner.store, std::mem::take(&mut batch)).await?;
            }
            let place = record.row_place(keys);
            let stored = inner.store.get(&place.key()).await?;
            let whole = match &stored {
                Some(value) => is_whole(inner, value, &place).await?,
                None => false,
            };
            if whole {
                continue;
            }
            // Sealed under another key since the key plane was made: then what was there before opens.
            let before = inner.store.get(&aside(&place.key())).await?;
            if let Some(before) = &before
                && let Some(spills) = spills_before(inner, before, &place).await?
            {
                for (key, value) in inner.store.scan(&place.key(), Some(&end_of(&place)), TOGETHER).await? {
                    if key != place.key() && !spills.contains(&(key.clone(), value)) {
                        batch.delete.push(key);
                    }
                }
                batch.put.push((place.key(), before.clone()));
                batch.put.extend(spills);
                continue;
            }
            let old = Old { inner, header: &checked.header, directory: &directory, record: &record, keys, version };
            if let Some((written, gone)) = old.renewed([&stored, &before].into_iter().flatten()).await? {
                batch.put.extend(written.put);
                batch.delete.extend(gone);
                continue;
            }
            match stored {
                Some(_) => counted.unreadable += 1,
                None => counted.missing += 1,
            }
            for (key, _) in inner.store.scan(&place.key(), Some(&end_of(&place)), TOGETHER).await? {
                if key != place.key() {
                    batch.delete.push(key);
                }
            }
            batch.put.extend(RowWriter::new(Row::empty(), place, version, 0).finish()?.put);
        }
        Ok(())
    })
    .await?;
    commit(&*inner.store, batch).await?;
    loop {
        let rows = inner.store.scan(&aside(&[]), Some(&aside(&[0xff])), TOGETHER).await?;
        let keys: Vec<_> = rows.into_iter().map(|(key, _)| key).filter(|key| key != MARKER).collect();
        if keys.is_empty() {
            return Ok(());
        }
        delete(&*inner.store, keys).await?;
    }
}

/// A compartment whose row may be sealed under an older DEK that is kept under its successors.
struct Old<'a> {
    inner: &'a Inner,
    header: &'a Header,
    directory: &'a EntryKey,
    record: &'a SubjectRecord,
    keys: &'a CompartmentKeys,
    /// Of the schema.
    version: u16,
}

impl Old<'_> {
    /// The first of these rows that an older DEK opens, sealed under the present one; and which rows go with the old one.
    async fn renewed(&self, rows: impl Iterator<Item = &Vec<u8>>) -> Result<Option<(Written, Vec<Vec<u8>>)>, Error> {
        let Self { inner, header, directory, record, keys, version } = *self;
        let kept = deks::kept_versions(inner, header, directory, keys.ordinal).await?;
        for value in rows {
            for &dek_version in kept.iter().rev() {
                let old = deks::open_old(inner, header, directory, record, keys, dek_version).await?;
                let Some(dek) = old else { continue };
                let place = RowPlace { dek: &dek, dek_version, ..record.row_place(keys) };
                if !is_whole(inner, value, &place).await? {
                    continue;
                }
                let row = Row::open(value, &place)?;
                let written = deks::resealed(inner, &row, &place, record.row_place(keys), version).await?;
                return Ok(Some((written, row.spill_keys(&place))));
            }
        }
        Ok(None)
    }
}

/// Keeps what rows of an increment are about to replace, until it is known which of the two opens.
async fn set_aside(store: &dyn Store, keys: impl Iterator<Item = &Vec<u8>>) -> Result<(), Error> {
    let mut before = Vec::new();
    for key in keys {
        before.extend(store.get(key).await?.map(|value| (aside(key), value)));
    }
    put(store, before).await
}

fn aside(key: &[u8]) -> Vec<u8> {
    [MARKER, key].concat()
}

/// Behind everything that a compartment has in the store.
fn end_of(place: &RowPlace<'_>) -> Vec<u8> {
    [&place.key()[..], &[0xff; 9]].concat()
}

/// The spilled fields of a row that was replaced, wherever they are; none if it does not open or one is missing.
async fn spills_before(inner: &Inner, before: &[u8], place: &RowPlace<'_>) -> Result<Option<Vec<StoredRow>>, Error> {
    let Ok(opened) = Row::open(before, place) else { return Ok(None) };
    let mut spills = Vec::new();
    for key in opened.spill_keys(place) {
        let there = match inner.store.get(&key).await? {
            Some(value) => Some(value),
            None => inner.store.get(&aside(&key)).await?,
        };
        let Some(value) = there else { return Ok(None) };
        spills.push((key, value));
    }
    Ok(Some(spills))
}

/// Whether a row opens and has its spilled fields beside it.
async fn is_whole(inner: &Inner, value: &[u8], place: &row::RowPlace<'_>) -> Result<bool, Error> {
    let Ok(opened) = Row::open(value, place) else { return Ok(false) };
    for key in opened.spill_keys(place) {
        if inner.store.get(&key).await?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn count(store: &dyn Store) -> Result<u64, Error> {
    let (mut start, end, mut rows) = (vec![row::PREFIX], vec![row::PREFIX + 1], 0);
    loop {
        let part = store.scan(&start, Some(&end), TOGETHER).await?;
        rows += part.len() as u64;
        let Some((last, _)) = part.last() else { return Ok(rows) };
        start = [&last[..], &[0]].concat();
    }
}

/// Rows of a data plane that no key leads to, up to `limit`: for a drill that tries them.
pub(super) async fn of_nobody(
    inner: &Inner,
    header: &Header,
    path: &std::path::Path,
    identities: &Arc<Identities>,
    limit: usize,
) -> Result<Vec<(SubjectUuid, Vec<u8>)>, Error> {
    let living = living(inner, header).await?;
    let mut found = Vec::new();
    let mut pieces = Pieces::of(path, identities);
    while let Some(piece) = pieces.next().await? {
        if let Piece::Rows(rows) = piece {
            for (key, value) in rows {
                let uuid = key.get(1..17).and_then(|uuid| uuid.try_into().ok()).map(SubjectUuid);
                if let Some(uuid) = uuid.filter(|uuid| key.len() == 19 && !living.contains_key(&uuid.0)) {
                    found.push((uuid, value));
                }
                if found.len() == limit {
                    return Ok(found);
                }
            }
        }
    }
    Ok(found)
}
