//! Before anything is written: archives are whole, belong together and to the slots, and a root opens the key plane.

use std::collections::BTreeMap;
use std::path::Path;

use super::{RestoreAsk, RestoreProgress, RestoreStep};
use crate::backup::{BackupError, Info, Piece, Pieces, Plane};
use crate::error::Error;
use crate::ids::VaultId;
use crate::root::RootEntry;
use crate::trie::Header;
use crate::vault::Inner;
use crate::vault::meta::{self, Meta, MetaHead};

/// What is known once everything was checked.
pub(super) struct Checked {
    pub(super) keys: Info,
    /// Of the last of the data planes.
    pub(super) data: Info,
    pub(super) header: Header,
    pub(super) meta: Meta,
    pub(super) root: RootEntry,
    pub(super) retained: bool,
    /// The highest epoch in any slot.
    pub(super) slot_epoch: u64,
}

/// The vault that the key plane says it is of.
pub(super) async fn vault_of(ask: &RestoreAsk) -> Result<VaultId, Error> {
    Ok(begun(&mut Pieces::of(&ask.keys, &ask.identities), &ask.keys, Plane::Keys).await?.vault())
}

/// Reads every archive to its end.
pub(super) async fn archives(inner: &Inner, ask: &RestoreAsk, progress: RestoreProgress<'_>) -> Result<Checked, Error> {
    let entries = inner.roots.read_for_restore().await?;
    let mut pieces = Pieces::of(&ask.keys, &ask.identities);
    let keys = begun(&mut pieces, &ask.keys, Plane::Keys).await?;
    if keys.vault() != inner.vault || keys.base.is_some() {
        return Err(unsound(&ask.keys, "it is not a whole key plane of this vault"));
    }
    let slot_epoch = entries.iter().map(|entry| entry.epoch).max().unwrap_or(0);
    // One that is retained before the same one as the current: somebody may have been refused already whose shred only
    // waits for its root batch, and that is noted for those that are retained.
    let mut roots: Vec<RootEntry> = entries.into_iter().filter(|entry| entry.epoch == keys.epoch).collect();
    roots.sort_by_key(|entry| !entry.retained);
    if roots.is_empty() {
        let (archive_epoch, made) = (keys.epoch, keys.created_at);
        return Err(if archive_epoch < slot_epoch {
            BackupError::Older { archive_epoch, slot_epoch, made }.into()
        } else {
            BackupError::Newer { archive_epoch, slot_epoch }.into()
        });
    }

    let mut wanted: BTreeMap<Vec<u8>, Option<Vec<u8>>> =
        roots.iter().map(|root| (Header::row_key(&root.key), None)).collect();
    wanted.insert(meta::KEY.to_vec(), None);
    let mut rows_seen = 0;
    while let Some(piece) = pieces.next().await? {
        if let Piece::Rows(rows) = piece {
            rows_seen += rows.len() as u64;
            progress(RestoreStep::Checking, rows_seen);
            for (key, value) in rows {
                if let Some(found) = wanted.get_mut(&key) {
                    *found = Some(value);
                }
            }
        }
    }
    let opened = roots.into_iter().find_map(|root| {
        let sealed = wanted.get(&Header::row_key(&root.key))?.as_ref()?;
        Some((Header::open(&root.key, inner.vault, sealed).ok()?, root))
    });
    let (header, root) = opened.ok_or_else(|| unsound(&ask.keys, "no root in the slots opens its header"))?;
    let row = wanted.remove(meta::KEY).flatten().ok_or_else(|| unsound(&ask.keys, "it has no META record"))?;
    let meta = Meta::open(&row, header.meta_key())?;
    if meta.head != (MetaHead { vault: inner.vault, epoch: header.epoch() }) || header.epoch() != keys.epoch {
        return Err(unsound(&ask.keys, "its header and its META record disagree"));
    }
    let data = data_planes(inner, ask, progress, rows_seen).await?;
    let retained = root.retained;
    Ok(Checked { keys, data, header, meta, root, retained, slot_epoch })
}

async fn data_planes(
    inner: &Inner,
    ask: &RestoreAsk,
    progress: RestoreProgress<'_>,
    mut rows_seen: u64,
) -> Result<Info, Error> {
    let mut last: Option<Info> = None;
    for path in &ask.data {
        let mut pieces = Pieces::of(path, &ask.identities);
        let info = begun(&mut pieces, path, Plane::Data).await?;
        if info.vault() != inner.vault {
            return Err(BackupError::OtherVault { path: path.display().to_string() }.into());
        }
        if info.base != last.as_ref().map(|last| last.id) {
            return Err(BackupError::OutOfOrder { path: path.display().to_string() }.into());
        }
        while let Some(piece) = pieces.next().await? {
            if let Piece::Rows(rows) = piece {
                rows_seen += rows.len() as u64;
                progress(RestoreStep::Checking, rows_seen);
                if rows.iter().any(|(key, _)| key.first() != Some(&crate::vault::row::PREFIX)) {
                    return Err(unsound(path, "it has rows that do not belong into a data plane"));
                }
            }
        }
        last = Some(info);
    }
    last.ok_or(Error::Invalid { field: "data plane", expected: "at least one archive" })
}

/// The first piece of an archive of this plane.
pub(super) async fn begun(pieces: &mut Pieces, path: &Path, plane: Plane) -> Result<Info, Error> {
    match pieces.next().await? {
        Some(Piece::Info(info)) if info.plane == plane => Ok(info),
        Some(Piece::Info(info)) => {
            Err(BackupError::WrongPlane { path: path.display().to_string(), is: info.plane.as_str() }.into())
        }
        _ => Err(unsound(path, "it does not say what it is")),
    }
}

pub(super) fn unsound(path: &Path, why: &str) -> Error {
    BackupError::Unsound { path: path.display().to_string(), why: why.to_owned() }.into()
}
