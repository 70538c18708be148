//! Callers in memory: whose API token this is, and when each caller was last seen.

use std::collections::HashMap;
use std::collections::hash_map::Values;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::crypto::{CallerKey, equal};
use crate::ids::CallerId;
use crate::time::Timestamp;
use crate::vault::records::CallerRecord;
use crate::vault::types::Caller;

/// The callers as they stand, for checking an API token without a look at the trie.
///
/// It is kept while the vault is locked, so that who locked it can unlock it again; it opens no data.
pub(crate) struct CallerTable {
    key: CallerKey,
    callers: HashMap<CallerId, Arc<Listed>>,
    /// By the first half of an API token's hash. A caller whose API token was replaced is here twice for a while.
    by_hash: HashMap<[u8; 16], Known>,
}

/// A caller, and when it was last seen.
pub(super) struct Listed {
    pub(super) record: CallerRecord,
    pub(super) used: Arc<LastUsed>,
}

struct Known {
    hash: [u8; 32],
    /// When this API token stops working before its caller does.
    until: Option<Timestamp>,
    caller: Arc<Listed>,
}

/// When a caller was last seen, and what of that is durable: milliseconds since 1970, 0 for never.
#[derive(Default)]
pub(super) struct LastUsed {
    at: AtomicU64,
    noted: AtomicU64,
}

impl CallerTable {
    /// A table of `records`; what `before` knows of their use is kept.
    pub(super) fn new(key: CallerKey, records: Vec<CallerRecord>, before: Option<&Self>) -> Self {
        let mut table = Self { key, callers: HashMap::new(), by_hash: HashMap::new() };
        for record in records {
            let known = before.and_then(|table| table.callers.get(&record.id));
            let used = known.map_or_else(|| Arc::new(LastUsed::noted(record.last_used_at)), |known| known.used.clone());
            table.add(Arc::new(Listed { record, used }));
        }
        table
    }

    fn add(&mut self, caller: Arc<Listed>) {
        let previous = caller.record.previous.map(|previous| (previous.hash, Some(previous.until)));
        for (hash, until) in previous.into_iter().chain([(caller.record.token_hash, None)]) {
            self.by_hash.insert(first_half(&hash), Known { hash, until, caller: caller.clone() });
        }
        self.callers.insert(caller.record.id, caller);
    }

    /// The caller whose API token this is, if it works.
    pub(super) fn authenticate(&self, token: &[u8], now: Timestamp) -> Option<&Listed> {
        let hash = self.key.token_hash(token);
        // The key makes the hash nobody's to choose, so that looking half of it up tells nothing. The whole is compared
        // in constant time.
        let known = self.by_hash.get(&first_half(&hash))?;
        let works =
            equal(&known.hash, &hash) && known.until.is_none_or(|until| until > now) && known.caller.record.works(now);
        works.then_some(&*known.caller)
    }

    /// All callers, the revoked among them.
    pub(super) fn all(&self) -> Values<'_, CallerId, Arc<Listed>> {
        self.callers.values()
    }

    /// The callers as they are told outside, revoked ones among them.
    pub(in crate::vault) fn known(&self) -> impl Iterator<Item = Caller> {
        self.all().map(|listed| listed.shown())
    }
}

fn first_half(hash: &[u8; 32]) -> [u8; 16] {
    *hash.first_chunk().expect("32 bytes hold 16")
}

impl CallerRecord {
    /// Whether its API tokens work.
    pub(super) fn works(&self, now: Timestamp) -> bool {
        !self.revoked && self.expires_at.is_none_or(|at| at > now)
    }
}

impl Listed {
    /// The caller as it is told outside.
    pub(super) fn shown(&self) -> Caller {
        let last_used_at = Some(Timestamp(self.used.at.load(Ordering::Relaxed))).filter(|at| at.0 > 0);
        Caller { last_used_at, ..self.record.shown() }
    }
}

impl LastUsed {
    fn noted(at: Option<Timestamp>) -> Self {
        let at = at.map_or(0, |at| at.0);
        Self { at: at.into(), noted: at.into() }
    }

    /// Remembers that the caller was seen.
    pub(super) fn seen(&self, now: Timestamp) {
        self.at.fetch_max(now.0, Ordering::Relaxed);
    }

    /// The last time, if it is more than `millis` after the one that is durable.
    pub(super) fn moved(&self, millis: u64) -> Option<Timestamp> {
        let (at, noted) = (self.at.load(Ordering::Relaxed), self.noted.load(Ordering::Relaxed));
        (at.saturating_sub(noted) > millis).then_some(Timestamp(at))
    }

    /// Remembers that `at` is durable.
    pub(super) fn note(&self, at: Timestamp) {
        self.noted.fetch_max(at.0, Ordering::Relaxed);
    }
}
