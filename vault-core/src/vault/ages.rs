//! How old keys are, and what is done about those that get too old.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Vault;
use super::records::{RotationRecord, WhichDeks, Work};
use super::rotate::{self, ended};
use super::session::Session;
use super::types::{Layer, RotationState};
use crate::error::Error;
use crate::ids::RotationId;
use crate::memory;
use crate::root::Method;
use crate::time::Timestamp;
use crate::trie::{Duty, Header, Kind, SubtreeInfo};

/// How often ages are held against the policy, and the first time after an unlock.
const EVERY: Duration = Duration::from_secs(60);
const FIRST_AFTER: Duration = Duration::from_secs(1);
/// How long a layer is left alone after a person cancelled a rotation of it, and after one failed, in seconds: damage does
/// not go away by itself, and each try gives what is whole another key.
const CANCELLED_SECONDS: u64 = 24 * 3600;
const FAILED_SECONDS: u64 = 7 * 24 * 3600;
/// How often the log is told of the same layer, in seconds.
const WARN_SECONDS: u64 = 24 * 3600;

/// How old the keys of each layer may get, in seconds; any age where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyPolicy {
    /// What opens the root slots. Only a person can replace that.
    pub unlock: Option<u64>,
    /// The root key.
    pub root: Option<u64>,
    /// The page keys.
    pub keks: Option<u64>,
    /// The data keys.
    pub deks: Option<u64>,
    /// The tag key of lookups.
    pub lookups: Option<u64>,
    /// Shreds that the tag key of lookups may see: with it, values of the shredded can be tried against an old page whose key
    /// has leaked.
    pub lookups_shreds: Option<u64>,
    /// Whether a layer that is due is rotated by itself; else it is only told.
    pub rotates: bool,
    /// How fast such a rotation is, in pages or subjects a second.
    pub rate: Option<u32>,
}

/// The layers of keys and their ages.
#[derive(Clone, Debug)]
pub struct KeyStatus {
    /// From the outside inwards.
    pub layers: Vec<LayerStatus>,
    /// What opens the root slots.
    pub methods: Vec<Method>,
    /// Pages, each under a key of its own.
    pub pages: u64,
    /// Shreds since the tag key of lookups was drawn.
    pub shreds: u64,
    /// So many are the most, by the policy.
    pub shreds_max: Option<u64>,
}

/// A layer of keys and its age.
#[derive(Clone, Copy, Debug)]
pub struct LayerStatus {
    /// Which.
    pub layer: Layer,
    /// Counts root keys, or generations of lookups; the others have a key for each page or subject.
    pub version: Option<u64>,
    /// None of its keys is older.
    pub since: Timestamp,
    /// What the last rotation did not bring to new keys, or not yet: pages or subjects.
    pub older: u64,
    /// The last rotation of all its keys.
    pub last: Option<LastRotation>,
    /// When its keys are older than the policy allows, or since when they are; none if that sets no bound.
    pub due: Option<Timestamp>,
}

/// The last rotation of a layer that was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastRotation {
    /// Its id.
    pub id: RotationId,
    /// When it ended.
    pub finished_at: Timestamp,
}

impl KeyStatus {
    /// One layer.
    pub fn of(&self, layer: Layer) -> Option<&LayerStatus> {
        self.layers.iter().find(|status| status.layer == layer)
    }
}

impl LayerStatus {
    /// Whether its keys are older than the policy allows.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.due.is_some_and(|at| at <= now)
    }
}

impl KeyPolicy {
    fn bound(&self, layer: Layer) -> Option<u64> {
        match layer {
            Layer::Unlock => self.unlock,
            Layer::Root => self.root,
            Layer::Keks => self.keks,
            Layer::Deks => self.deks,
            Layer::Lookups => self.lookups,
        }
    }
}

impl Vault {
    /// The layers of keys and their ages.
    ///
    /// # Errors
    /// [`Error::Locked`].
    pub async fn keys(&self) -> Result<KeyStatus, Error> {
        let session = self.session()?;
        let records = rotate::all(&self.inner, &session).await?;
        let snapshot = session.snapshot();
        let header = &snapshot.header;
        let lookups = serving_lookups(header)?;
        let shreds = snapshot.counts.shreds.saturating_sub(shreds_before(&records));
        let (created_at, now) = (header.created_at(), Timestamp::now());
        // Dated by a clock that was wrong then, or is wrong now, nothing says that they are young.
        let past = |at| if at <= now { at } else { created_at };
        let layer = |layer: Layer, version: Option<u64>, since| LayerStatus {
            layer,
            version,
            since,
            older: older(&records, layer),
            last: last(&records, layer),
            due: None,
        };
        let since_last = |of| oldest(&records, of, created_at, now);
        let mut layers = vec![
            layer(Layer::Unlock, None, since_last(Layer::Unlock)),
            layer(Layer::Root, Some(header.epoch()), past(header.root_created_at())),
            layer(Layer::Keks, None, since_last(Layer::Keks)),
            layer(Layer::Deks, None, since_last(Layer::Deks)),
            layer(Layer::Lookups, Some(lookups.generation.into()), past(lookups.created_at)),
        ];
        let policy = &self.inner.options.keys;
        for status in &mut layers {
            let by_age = policy.bound(status.layer).map(|seconds| status.since.plus_seconds(seconds));
            let of_lookups = status.layer == Layer::Lookups;
            let spent = of_lookups && policy.lookups_shreds.is_some_and(|most| shreds >= most);
            let by_shreds = spent.then(Timestamp::now);
            status.due = [by_age, by_shreds].into_iter().flatten().min();
        }
        let (methods, pages) = (self.unlock_methods(), snapshot.counts.pages);
        Ok(KeyStatus { layers, methods, pages, shreds, shreds_max: policy.lookups_shreds })
    }

    /// Begins the rotation that the policy asks for first, if it is to begin by itself. One at a time, from the root
    /// downwards: who has the keys of a layer can follow what is drawn below it.
    pub(super) async fn rotate_what_is_due(&self, status: &KeyStatus, now: Timestamp) -> Result<Option<Layer>, Error> {
        let policy = &self.inner.options.keys;
        if !policy.rotates {
            return Ok(None);
        }
        let records = rotate::all(&self.inner, &*self.session()?).await?;
        if records.iter().any(|record| matches!(record.state, RotationState::Queued | RotationState::Running)) {
            return Ok(None);
        }
        for due in status.layers.iter().filter(|layer| layer.is_due(now) && layer.layer != Layer::Unlock) {
            let layer = due.layer;
            if records.iter().rfind(|record| record.layer() == layer).is_some_and(|last| rests(last, now)) {
                continue;
            }
            tracing::info!(
                layer = layer.as_str(),
                "keys are older than the policy allows, or saw too many shreds: their rotation begins"
            );
            self.rotate_by_itself(layer.into(), policy.rate).await?;
            return Ok(Some(layer));
        }
        Ok(None)
    }
}

/// Holds ages against the policy until it is aborted, which it may be at any point.
pub(super) async fn run(vault: Vault, session: std::sync::Arc<Session>) {
    let mut warned: Vec<(Layer, Timestamp)> = Vec::new();
    let mut wait = FIRST_AFTER;
    loop {
        tokio::time::sleep(wait).await;
        wait = EVERY;
        let outcome = memory::apart(|| async {
            let status = vault.keys().await?;
            let now = Timestamp::now();
            session.set_key_ages(status.layers.clone());
            warn(&status, now, &mut warned);
            vault.rotate_what_is_due(&status, now).await
        });
        match outcome.await {
            Ok(_) => {}
            // It is on the way to be unlocked.
            Err(Error::Locked | Error::LockedMeanwhile) => wait = FIRST_AFTER,
            Err(error) => tracing::warn!(%error, "the ages of keys could not be held against the policy"),
        }
    }
}

fn warn(status: &KeyStatus, now: Timestamp, warned: &mut Vec<(Layer, Timestamp)>) {
    warned.retain(|(_, at)| *at <= now && at.plus_seconds(WARN_SECONDS) > now);
    for due in status.layers.iter().filter(|layer| layer.is_due(now)) {
        if warned.iter().any(|(layer, _)| *layer == due.layer) {
            continue;
        }
        warned.push((due.layer, now));
        let (layer, since) = (due.layer.as_str(), due.since);
        tracing::warn!(layer, %since, "keys are older than the policy allows, or saw too many shreds: rotate them with `vault-cli key rotate {layer}`");
    }
}

/// Whether a layer is left alone after this rotation, its last: it rests, a person wanted none, or it failed, and would most
/// likely do so again.
fn rests(last: &RotationRecord, now: Timestamp) -> bool {
    let rest = match last.state {
        RotationState::Paused => return true,
        RotationState::Cancelled => CANCELLED_SECONDS,
        RotationState::Failed => FAILED_SECONDS,
        _ => return false,
    };
    let ended = last.finished_at.unwrap_or(last.started_at);
    ended <= now && ended.plus_seconds(rest) > now
}

/// None of the layer's keys is older: those that a rotation leaves alone were drawn since it began.
fn oldest(records: &[RotationRecord], layer: Layer, created_at: Timestamp, now: Timestamp) -> Timestamp {
    done(records, layer).filter_map(bound).filter(|at| *at <= now).fold(created_at, Ord::max)
}

fn done(records: &[RotationRecord], layer: Layer) -> impl DoubleEndedIterator<Item = &RotationRecord> {
    records.iter().filter(move |record| record.layer() == layer && record.state == RotationState::Done)
}

/// None of its layer's keys is older once it is done.
fn bound(record: &RotationRecord) -> Option<Timestamp> {
    match &record.work {
        Work::Deks(work) => match work.which {
            WhichDeks::All => Some(record.started_at),
            WhichDeks::Before(at) => Some(at.min(record.started_at)),
            WhichDeks::Of(_) => None,
        },
        _ => Some(record.started_at),
    }
}

/// The last done rotation of all keys of the layer. With other unlock keys comes another root.
fn last(records: &[RotationRecord], layer: Layer) -> Option<LastRotation> {
    let along = (layer == Layer::Root).then_some(Layer::Unlock);
    let of_all = |layer| done(records, layer).rfind(|record| !is_of_chosen(record));
    let record =
        [Some(layer), along].into_iter().flatten().filter_map(of_all).max_by_key(|record| record.finished_at)?;
    Some(LastRotation { id: record.id, finished_at: record.finished_at? })
}

/// The rotations that anything is told from, which therefore stay: all others may be forgotten.
pub(super) fn telling(records: &[RotationRecord]) -> BTreeSet<RotationId> {
    let of_layer = |layer| {
        let mut own = records.iter().filter(move |record| record.layer() == layer);
        let (newest, of_all) = (own.clone().next_back(), own.rfind(|record| is_of_all(record)));
        let bounding =
            done(records, layer).filter_map(|record| Some((bound(record)?, record))).max_by_key(|(at, _)| *at);
        let done_of_all = done(records, layer).rfind(|record| !is_of_chosen(record));
        [newest, of_all, done_of_all, bounding.map(|(_, record)| record)]
    };
    let serving = records.iter().filter_map(|record| Some((serving_shreds(record)?, record))).max_by_key(|(of, _)| *of);
    let told = Layer::ALL.iter().copied().flat_map(of_layer).chain([serving.map(|(_, record)| record)]);
    told.flatten().map(|record| record.id).collect()
}

/// Whether it gives other keys to chosen subjects only.
fn is_of_chosen(record: &RotationRecord) -> bool {
    matches!(&record.work, Work::Deks(work) if matches!(work.which, WhichDeks::Of(_)))
}

/// Whether it leaves none of the layer's keys as it was.
fn is_of_all(record: &RotationRecord) -> bool {
    !matches!(&record.work, Work::Deks(work) if !matches!(work.which, WhichDeks::All))
}

/// What is still on older keys than the last rotation of a layer was to bring. A rotation of lookups that is taken back leaves
/// all under the serving key.
fn older(records: &[RotationRecord], layer: Layer) -> u64 {
    let mut of_layer = records.iter().filter(|record| record.layer() == layer);
    match of_layer.rfind(|record| !ended(record.state) || is_of_all(record)) {
        None => 0,
        Some(r) if r.state == RotationState::Done => 0,
        Some(r) if r.state == RotationState::Cancelled && layer == Layer::Lookups => 0,
        Some(r) => match &r.work {
            Work::Deks(work) => r.total - r.done.min(r.total) + work.damaged,
            // It goes through all subjects three times, and the new key serves after the first.
            Work::Lookups(work) if work.serves() => 0,
            Work::Lookups(_) => r.total.div_ceil(3),
            _ => r.total - r.done.min(r.total),
        },
    }
}

/// Shreds that there had been when the serving tag key of lookups was drawn.
fn shreds_before(records: &[RotationRecord]) -> u64 {
    records.iter().filter_map(serving_shreds).max().unwrap_or(0)
}

fn serving_shreds(record: &RotationRecord) -> Option<u64> {
    match &record.work {
        Work::Lookups(work) if work.serves() => Some(work.shreds),
        _ => None,
    }
}

fn serving_lookups(header: &Header) -> Result<SubtreeInfo, Error> {
    let serves = |s: &SubtreeInfo| s.kind == Kind::Lookups && s.duty == Duty::Serving;
    header.subtree_info().into_iter().find(serves).ok_or(Error::Damaged("the header has no lookups"))
}
