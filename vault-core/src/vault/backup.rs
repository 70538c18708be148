//! Backups of a vault that runs: the data plane by a scan, the key plane as it stands at one commit.

use std::time::Duration;

use super::evidence;
use super::session::Session;
use super::{Inner, Vault, meta, row};
use crate::backup::{Archive, BackupError, Index, Info, Manifest, Plane, Recipients};
use crate::crypto::Random;
use crate::error::Error;
use crate::ids::BackupId;
use crate::store::Row;
use crate::time::Timestamp;
use crate::trie::{Copying, Header};

/// Rows or pages that are copied at a time.
const STEP: usize = 512;
/// More than a row has fields in rows of their own.
const MOST_SPILLED: usize = 4096;
/// So few changed pages are copied while commits wait.
const FEW: usize = 64;
/// How often changed pages are copied before commits wait for the rest of them.
const PASSES: usize = 8;
/// How long a backup waits for a root batch that is under way.
const WAIT: Duration = Duration::from_secs(30);

/// What a backup is asked for.
pub struct BackupAsk {
    /// Names the archive; see [`BackupAsk::new`].
    pub id: BackupId,
    /// What it is to hold.
    pub plane: Plane,
    /// Whom it is encrypted to.
    pub recipients: Recipients,
    /// A data plane to hold only the changes since.
    pub base: Option<Index>,
    /// Whether the root is to be retained, once [`Vault::keep_backup`] confirms a key plane.
    pub retain: bool,
}

/// What was backed up.
#[derive(Debug)]
pub struct BackedUp {
    /// What the archive says of itself.
    pub info: Info,
    /// What it holds.
    pub manifest: Manifest,
    /// Of a data plane: what the next one may be the increment of.
    pub index: Option<Index>,
}

/// Takes the bytes of an archive as they come.
#[async_trait::async_trait]
pub trait BackupSink: Send {
    /// Takes the next bytes.
    async fn take(&mut self, bytes: Vec<u8>) -> std::io::Result<()>;
}

#[async_trait::async_trait]
impl BackupSink for Vec<u8> {
    async fn take(&mut self, mut bytes: Vec<u8>) -> std::io::Result<()> {
        self.append(&mut bytes);
        Ok(())
    }
}

impl BackupAsk {
    /// A whole backup of one plane.
    pub fn new(plane: Plane, recipients: Recipients) -> Self {
        let id = uuid::Builder::from_unix_timestamp_millis(Timestamp::now().0, &Random::new(10).array()).into_uuid();
        Self { id: BackupId(*id.as_bytes()), plane, recipients, base: None, retain: false }
    }
}

impl Vault {
    /// Backs up one plane without stopping anybody. `progress` is told how many of about how many rows are done.
    ///
    /// A data plane needs no key: it works on a locked vault. It is each row as some commit left it. A key plane is the
    /// vault at one commit, its last; root batches wait meanwhile, and with them shreds on their way to be final.
    ///
    /// # Errors
    /// [`Error::Locked`] for a key plane; [`Error::Backup`] if `sink` fails; [`Error::Damaged`] if the vault is.
    pub async fn back_up(
        &self,
        ask: &BackupAsk,
        sink: &mut dyn BackupSink,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<BackedUp, Error> {
        match ask.plane {
            Plane::Data => self.back_up_data(ask, sink, progress).await,
            Plane::Keys => {
                let session = self.session()?;
                let outcome = self.inner.back_up_keys(&session, ask, sink, progress).await;
                if outcome.is_err() && ask.retain {
                    // It may not have begun to be retained at all.
                    let _ = self.drop_backup(ask.id).await;
                }
                outcome
            }
        }
    }

    async fn back_up_data(
        &self,
        ask: &BackupAsk,
        sink: &mut dyn BackupSink,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<BackedUp, Error> {
        let inner = &self.inner;
        let expected = self.status().counts.map_or(0, |counts| counts.rows);
        let head = meta::MetaHead::decode(&inner.meta_row().await?)?;
        let info = Info { base: ask.base.as_ref().map(|base| base.of.0), ..info(inner, ask, head.epoch) };
        let mut archive = Archive::new(&ask.recipients, &info)?;
        let mut index = Index::new(ask.id);
        let mut start = vec![row::PREFIX];
        loop {
            let part = inner.data_rows(&start).await?;
            for (key, value) in &part {
                if !index.note(key, value, ask.base.as_ref()) {
                    archive.row(key, value)?;
                }
            }
            give(sink, archive.take()).await?;
            let Some((last, _)) = part.last() else { break };
            start = [&last[..], &[0]].concat();
            progress(index.len() as u64, expected.max(index.len() as u64));
        }
        if let Some(base) = &ask.base {
            index.gone_since(base).try_for_each(|key| archive.gone(key))?;
        }
        let (rest, manifest) = archive.finish()?;
        give(sink, rest).await?;
        Ok(BackedUp { info, manifest, index: Some(index) })
    }
}

impl Inner {
    /// Data rows from `start` on, those of one compartment together and as one commit left them: a row and the fields that
    /// were too large for it.
    async fn data_rows(&self, start: &[u8]) -> Result<Vec<Row>, Error> {
        let session = self.session.load_full();
        let _no_commit = match &session {
            Some(session) => Some(session.publication.read().await),
            None => None,
        };
        let mut rows = self.store.scan(start, Some(&[row::PREFIX + 1]), STEP).await?;
        if let Some((last, _)) = rows.last().filter(|_| rows.len() == STEP) {
            let behind = [&last[..], &[0]].concat();
            let end = [&last[..last.len().min(row::KEY_LEN)], &[0xff; 9]].concat();
            let rest = self.store.scan(&behind, Some(&end), MOST_SPILLED).await?;
            rows.extend(rest);
        }
        Ok(rows)
    }

    async fn back_up_keys(
        &self,
        session: &Session,
        ask: &BackupAsk,
        sink: &mut dyn BackupSink,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<BackedUp, Error> {
        let rounds = tokio::time::timeout(WAIT, self.rounds.lock()).await;
        let _no_root_batch =
            rounds.map_err(|_| Error::Conflict("a root batch does not come to its end: see the status"))?;
        let watch = session.watch_pages();
        let snapshot = session.settled().await;
        if ask.retain {
            self.begin_retaining(session, &session.root.load_full(), ask.id).await?;
        }
        let info = Info {
            sequence: Some(snapshot.sequence),
            schema_version: Some(snapshot.schema.version),
            ..info(self, ask, snapshot.header.epoch())
        };
        let mut archive = Archive::new(&ask.recipients, &info)?;
        let (mut copying, mut done, total) = (Copying::of(&snapshot.header), 0, snapshot.counts.pages);
        loop {
            let rows = copying.next(&self.pages, STEP).await?;
            if rows.is_empty() {
                break;
            }
            done += rows.len() as u64;
            rows.iter().try_for_each(|(key, value)| archive.row(key, value))?;
            give(sink, archive.take()).await?;
            progress(done, total.max(done));
        }
        let mut changed = watch.changed();
        for _ in 0..PASSES {
            if changed.len() <= FEW {
                break;
            }
            self.copy(&mut archive, &changed).await?;
            give(sink, archive.take()).await?;
            changed = watch.changed();
        }
        {
            // No commit from here on: with the last changed pages the archive is the vault at this commit.
            let _no_commit = session.publication.read().await;
            changed.extend(watch.changed());
            self.copy(&mut archive, &changed).await?;
            self.copy_rest(&mut archive, &session.snapshot().header).await?;
        }
        let (rest, manifest) = archive.finish()?;
        give(sink, rest).await?;
        Ok(BackedUp { info, manifest, index: None })
    }

    /// Pages that a batch wrote since they were copied. None is gone: only a root batch removes some.
    async fn copy(&self, archive: &mut Archive, keys: &[Vec<u8>]) -> Result<(), Error> {
        for key in keys {
            let value = self.store.get(key).await?.ok_or(Error::Damaged("a page of the trie is missing"))?;
            archive.row(key, &value)?;
        }
        Ok(())
    }

    /// The header, the evidence of shreds that is not told yet, and last the META record.
    async fn copy_rest(&self, archive: &mut Archive, header: &Header) -> Result<(), Error> {
        let header = header.current_row().ok_or(Error::Damaged("the vault header is missing"))?.to_vec();
        self.copy(archive, &[header]).await?;
        let evidence: Vec<Row> = evidence::rows(&*self.store).await?;
        evidence.iter().try_for_each(|(key, value)| archive.row(key, value))?;
        let meta = self.meta_row().await?;
        Ok(archive.row(meta::KEY, &meta)?)
    }
}

fn info(inner: &Inner, ask: &BackupAsk, epoch: u64) -> Info {
    Info {
        format: 1,
        id: ask.id.0,
        vault: inner.vault.0,
        plane: ask.plane,
        epoch,
        sequence: None,
        schema_version: None,
        created_at: Timestamp::now(),
        base: None,
    }
}

async fn give(sink: &mut dyn BackupSink, bytes: Vec<u8>) -> Result<(), Error> {
    if bytes.is_empty() {
        return Ok(());
    }
    Ok(sink.take(bytes).await.map_err(BackupError::Sink)?)
}
