//! The outbox: entries of the audit log that ride in the commit that they tell of, so that no crash parts the two.
//!
//! ```text
//! row 'o' ‖ u64 commit sequence ‖ u16 part
//! sealed box under the header's META key, label "uv1/outbox", AAD = vault id ‖ the row's key:
//!         entries, each u32 length ‖ its bytes as they are logged
//! ```
//! After the commit the writer appends them to the log; once the log has them durably a later commit removes the row. At
//! unlock, what the log does not have yet is appended before anything is served. While the log takes nothing, committed
//! entries wait here in their order, and nobody is answered. A row names subjects by their pseudonyms, as the log does.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use zeroize::Zeroizing;

use super::Inner;
use super::types::LogStatus;
use crate::audit::{Entry, Log, LogError, WIDTH};
use crate::error::Error;
use crate::store::Row;
use crate::trie::Header;

/// First byte of the rows' keys.
pub(super) const PREFIX: u8 = b'o';
/// Bytes of entries in one row, unless a single one is larger.
const ROW_MAX: usize = 32 * 1024;
/// Rows that are read at once.
const SCAN: usize = 64;
const DAMAGED: Error = Error::Damaged("a row with entries for the audit log does not open");

/// What of the outbox is in memory.
pub(crate) struct Outbox {
    log: Option<Log>,
    state: Mutex<State>,
    /// Whether something waits in `state`, without looking.
    waits: AtomicBool,
    /// Entries of requests that end at the same time, to be appended with one write.
    gathered: Mutex<Gathered>,
    failures: AtomicU64,
    /// Lets appending fail, for tests.
    #[cfg(test)]
    pub(crate) broken: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Committed and not in the log, oldest first.
    waiting: VecDeque<Committed>,
    /// In the log; their rows go once it is durable that far.
    logged: VecDeque<Logged>,
}

/// Entries that are appended together, and how far the log must be durable to hold them once that is done.
#[derive(Default)]
struct Gathered {
    entries: Vec<Entry>,
    end: Arc<OnceLock<Result<u64, LogError>>>,
}

struct Committed {
    keys: Vec<Vec<u8>>,
    entries: Vec<Entry>,
}

struct Logged {
    keys: Vec<Vec<u8>>,
    end: u64,
}

impl Outbox {
    pub(super) fn new(log: Option<Log>) -> Self {
        Self {
            log,
            state: Mutex::default(),
            waits: AtomicBool::new(false),
            gathered: Mutex::default(),
            failures: AtomicU64::new(0),
            #[cfg(test)]
            broken: AtomicBool::new(false),
        }
    }

    /// The log, if there is one.
    pub(super) fn log(&self) -> Option<&Log> {
        self.log.as_ref()
    }

    /// Takes the entries of a commit that is durable, with the keys of their rows, and appends them if the log lets it.
    pub(super) fn committed(&self, keys: Vec<Vec<u8>>, entries: Vec<Entry>) {
        if self.log.is_none() || entries.is_empty() {
            return;
        }
        self.state().waiting.push_back(Committed { keys, entries });
        self.waits.store(true, Ordering::Release);
        if let Err(error) = self.flush() {
            tracing::error!(%error, "what was committed is not in the audit log yet, and nothing is answered before it is");
        }
    }

    /// Appends what waits. Costs nothing if nothing does.
    ///
    /// # Errors
    /// The log's; everything that was not appended waits on.
    pub(super) fn flush(&self) -> Result<(), LogError> {
        if !self.waits.load(Ordering::Acquire) {
            return Ok(());
        }
        let Some(log) = &self.log else { return Ok(()) };
        let mut state = self.state();
        while let Some(first) = state.waiting.front() {
            let end = self.append_to(log, &first.entries)?;
            let Some(Committed { keys, .. }) = state.waiting.pop_front() else { break };
            state.logged.push_back(Logged { keys, end });
        }
        self.waits.store(false, Ordering::Release);
        Ok(())
    }

    /// Appends entries of no commit, behind all of those and behind what is gathered; answers how far the log must be durable to
    /// hold them.
    ///
    /// # Errors
    /// The log's.
    pub(super) fn append(&self, entries: &[Entry]) -> Result<u64, LogError> {
        let mut gathered = self.gathered();
        let Gathered { entries: mut all, end } = std::mem::take(&mut *gathered);
        all.extend_from_slice(entries);
        let appended = self.append_all(&all);
        let _ = end.set(appended.clone());
        appended
    }

    fn append_all(&self, entries: &[Entry]) -> Result<u64, LogError> {
        let Some(log) = &self.log else { return Ok(0) };
        self.flush()?;
        if entries.is_empty() { Ok(log.size()) } else { self.append_to(log, entries) }
    }

    /// The same together with others that ask for it at the same time. The first of them whose turn comes again appends all.
    ///
    /// # Errors
    /// The log's.
    pub(super) async fn append_together(&self, entries: Vec<Entry>) -> Result<u64, LogError> {
        let end = {
            let mut gathered = self.gathered();
            gathered.entries.extend(entries);
            gathered.end.clone()
        };
        // Whoever else is ready to run runs first.
        tokio::task::yield_now().await;
        if end.get().is_none() {
            // Unless another thread is faster: then there is nothing left to append.
            let _ = self.append(&[]);
        }
        end.get().cloned().unwrap_or(Err(LogError::None("write to it was made")))
    }

    fn append_to(&self, log: &Log, entries: &[Entry]) -> Result<u64, LogError> {
        #[cfg(test)]
        if self.broken.load(Ordering::Relaxed) {
            self.failures.fetch_add(1, Ordering::Relaxed);
            return Err(LogError::Unavailable { place: "audit".to_owned(), why: "a test".to_owned() });
        }
        let appended = log.append(entries).inspect_err(|_| {
            self.failures.fetch_add(1, Ordering::Relaxed);
        })?;
        Ok(appended.end)
    }

    /// Takes the keys of at most about `limit` rows that are needed no more. [`Outbox::keep`] gives them back.
    pub(super) fn spent(&self, limit: usize) -> Vec<Vec<u8>> {
        let Some(log) = &self.log else { return Vec::new() };
        let durable = log.durable_size();
        let mut state = self.state();
        let mut keys = Vec::new();
        while keys.len() < limit && state.logged.front().is_some_and(|logged| logged.end <= durable) {
            keys.extend(state.logged.pop_front().into_iter().flat_map(|logged| logged.keys));
        }
        keys
    }

    /// Whether there are rows that are needed no more.
    pub(super) fn has_spent(&self) -> bool {
        let durable = self.log.as_ref().map_or(0, Log::durable_size);
        self.state().logged.front().is_some_and(|logged| logged.end <= durable)
    }

    /// The removal of these rows was not committed.
    pub(super) fn keep(&self, keys: Vec<Vec<u8>>) {
        if !keys.is_empty() {
            self.state().logged.push_front(Logged { keys, end: 0 });
        }
    }

    /// Forgets what is in memory; the rows tell it again at the next unlock.
    pub(super) fn clear(&self) {
        *self.state() = State::default();
        self.waits.store(false, Ordering::Release);
    }

    /// How the log is; none if there is none.
    pub(super) fn status(&self) -> Option<LogStatus> {
        let log = self.log.as_ref()?;
        let waiting = match self.waits.load(Ordering::Acquire) {
            true => self.state().waiting.iter().map(|committed| committed.entries.len() as u64).sum(),
            false => 0,
        };
        let (durable, size) = (log.durable_size(), log.size());
        Some(LogStatus { size, durable: durable.min(size), waiting, failures: self.failures.load(Ordering::Relaxed) })
    }

    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Appends what a crash, or a log that took nothing, left in the outbox. Before anything is served. `other`: the log is not the
    /// one that had earlier commits, and what it tells is of others.
    pub(super) async fn recover_outbox(&self, header: &Header, other: bool) -> Result<(), Error> {
        self.outbox.clear();
        let Some(log) = self.outbox.log() else { return Ok(()) };
        let mut newest = None;
        let mut start = vec![PREFIX];
        loop {
            let rows = self.store.scan(&start, Some(&[PREFIX + 1]), SCAN).await?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            start = [&last[..], &[0]].concat();
            let mut logged = match newest {
                Some(logged) => logged,
                None if other => Newest { commit: 0, entries: 0 },
                None => Newest::since(log, 0)?,
            };
            for (key, sealed) in rows {
                let entries = logged.missing(open(header, &key, &sealed)?);
                if !entries.is_empty() {
                    self.outbox.append(&entries)?;
                }
                // How far the log held those that it had is not known; all of it is far enough.
                self.outbox.state().logged.push_back(Logged { keys: vec![key], end: log.size() });
            }
            newest = Some(logged);
        }
    }
}

/// Every entry that is in the outbox, told or not.
///
/// # Errors
/// The store's, or [`Error::Damaged`].
pub(super) async fn all(inner: &Inner, header: &Header) -> Result<Vec<Entry>, Error> {
    let (mut entries, mut start) = (Vec::new(), vec![PREFIX]);
    loop {
        let rows = inner.store.scan(&start, Some(&[PREFIX + 1]), SCAN).await?;
        let Some((last, _)) = rows.last() else { return Ok(entries) };
        start = [&last[..], &[0]].concat();
        for (key, sealed) in &rows {
            entries.extend(open(header, key, sealed)?);
        }
    }
}

/// The newest commit that the log tells of in its entries from `begin` on; 0 if they tell of none.
///
/// # Errors
/// The log's.
pub(super) fn newest_commit(log: &Log, begin: u64) -> Result<u64, LogError> {
    Ok(Newest::since(log, begin)?.commit)
}

/// The newest commit that the log tells of, and how many of its entries it has.
struct Newest {
    commit: u64,
    entries: usize,
}

impl Newest {
    /// Looks from the end of the log: behind the last entry of a commit there are but entries of requests. The entries of
    /// one commit are appended together, and a crash may leave the first of them only.
    fn since(log: &Log, begin: u64) -> Result<Self, LogError> {
        let mut newest = Self { commit: 0, entries: 0 };
        let mut end = log.size();
        while end > begin {
            // One bundle at a time: those before it may have been moved away.
            let from = ((end - 1) / WIDTH * WIDTH).max(begin);
            let lines = match log.read(from, usize::try_from(end - from).expect("at most a bundle")) {
                Err(LogError::MovedAway { .. }) if newest.entries > 0 => return Ok(newest),
                read => read?,
            };
            for entry in lines.iter().rev() {
                match Entry::decode(entry).and_then(|entry| entry.commit) {
                    Some(commit) if newest.entries == 0 || commit == newest.commit => {
                        newest = Self { commit, entries: newest.entries + 1 };
                    }
                    None if newest.entries == 0 => {}
                    _ => return Ok(newest),
                }
            }
            end = from;
        }
        Ok(newest)
    }

    /// Of the entries of a row, those that the log has not. Rows come in the order in which they were appended.
    fn missing(&mut self, mut entries: Vec<Entry>) -> Vec<Entry> {
        entries.retain(|entry| match entry.commit {
            Some(commit) if commit == self.commit && self.entries > 0 => {
                self.entries -= 1;
                false
            }
            commit => commit >= Some(self.commit),
        });
        entries
    }
}

/// The rows of one commit's entries.
pub(super) fn rows(header: &Header, sequence: u64, entries: &[Entry]) -> Vec<Row> {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for entry in entries {
        let bytes = entry.encode();
        if parts.last().is_none_or(|part| part.len() + bytes.len() > ROW_MAX) {
            parts.push(Vec::new());
        }
        let part = parts.last_mut().expect("one was pushed if there was none");
        part.extend_from_slice(&u32::try_from(bytes.len()).expect("an entry is far smaller").to_be_bytes());
        part.extend_from_slice(&bytes);
    }
    let sealed = |(number, part): (u16, Vec<u8>)| {
        let key = [&[PREFIX][..], &sequence.to_be_bytes(), &number.to_be_bytes()].concat();
        let value = seal(header, &key, &part);
        (key, value)
    };
    (0..).zip(parts).map(sealed).collect()
}

/// The entries of a row.
pub(super) fn open(header: &Header, key: &[u8], sealed: &[u8]) -> Result<Vec<Entry>, Error> {
    decode(&unseal(header, key, sealed)?).ok_or(DAMAGED)
}

/// The same row under the META key of the header that follows.
pub(super) fn seal_anew((before, after): (&Header, &Header), key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Error> {
    Ok(seal(after, key, &unseal(before, key, sealed)?))
}

fn seal(header: &Header, key: &[u8], part: &[u8]) -> Vec<u8> {
    header.meta_key().seal_outbox(&aad(header, key), part)
}

fn unseal(header: &Header, key: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    header.meta_key().open_outbox(&aad(header, key), sealed).map_err(|_| DAMAGED)
}

fn decode(mut rest: &[u8]) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let (bytes, tail) = tail.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        entries.push(Entry::decode(bytes)?);
        rest = tail;
    }
    rest.is_empty().then_some(entries)
}

/// What lies sealed in a row.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn decode_entries_again(bytes: &[u8]) -> bool {
    let Some(entries) = decode(bytes) else { return false };
    let mut again = Vec::new();
    for entry in &entries {
        let bytes = entry.encode();
        again.extend_from_slice(&u32::try_from(bytes.len()).expect("an entry is far smaller").to_be_bytes());
        again.extend_from_slice(&bytes);
    }
    assert_eq!(decode(&again), Some(entries));
    true
}

fn aad(header: &Header, key: &[u8]) -> Vec<u8> {
    [&header.vault().0[..], key].concat()
}
