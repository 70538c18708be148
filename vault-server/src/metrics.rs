//! What `/metrics` shows: counts, sizes and times, by route template; never an id or a value.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use vault_core::policy::Rule;
use vault_core::root::SlotState;
use vault_core::time::Timestamp;
use vault_core::vault::{LayerStatus, RotationProgress, State, Status, Vault};

/// What an answered request is counted under.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: &'static str,
    route: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedUnder {
    rule: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLayer {
    layer: &'static str,
}

/// What came of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LookedUp {
    /// A subject at least.
    Found,
    /// No subject.
    Nothing,
    /// It was not made: the budget was spent, or it was not one that the schema takes.
    Refused,
}

/// The server's own counters.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    answered: Family<Answered, Counter<u64, AtomicU64>>,
    seconds: Family<Route, Histogram, fn() -> Histogram>,
    lookups: Family<Outcome, Counter<u64, AtomicU64>>,
    refusals: Family<RefusedUnder, Counter<u64, AtomicU64>>,
    /// Requests that a caller's budget of lookups did not cover.
    pub(crate) budget_exhausted: Counter<u64, AtomicU64>,
    /// Requests being answered.
    pub(crate) in_flight: Gauge,
}

/// Upper bounds in seconds: 0.25 ms to 8 s, each twice the one before.
fn latencies() -> Histogram {
    Histogram::new((0..16).map(|power| 0.000_25 * f64::from(1 << power)))
}

impl Metrics {
    /// Counters of a server for `vault`, which is asked for its own numbers at each scrape.
    pub(crate) fn new(vault: Vault) -> Self {
        let mut registry = Registry::with_prefix("udv");
        let answered = Family::default();
        let seconds = Family::new_with_constructor(latencies as fn() -> Histogram);
        let in_flight = Gauge::default();
        let (lookups, refusals, budget_exhausted) = (Family::default(), Family::default(), Counter::default());
        registry.register("http_requests", "Answered requests", answered.clone());
        registry.register("http_request_seconds", "Time to answer", seconds.clone());
        registry.register("http_in_flight", "Requests being answered", in_flight.clone());
        registry.register("lookups", "Lookups by what came of them", lookups.clone());
        registry.register("refusals", "Requests refused by policy, by the rule", refusals.clone());
        let told = "Requests refused because the caller's lookups were spent";
        registry.register("lookup_budget_exhausted", told, budget_exhausted.clone());
        registry.register_collector(Box::new(OfVault(vault)));
        Self { registry, answered, seconds, lookups, refusals, budget_exhausted, in_flight }
    }

    /// Counts one answer.
    pub(crate) fn answered(&self, method: &'static str, route: &'static str, status: u16, took: Duration) {
        self.answered.get_or_create(&Answered { method, route, status }).inc();
        self.seconds.get_or_create(&Route { route }).observe(took.as_secs_f64());
    }

    /// Counts one lookup.
    pub(crate) fn looked_up(&self, outcome: LookedUp) {
        let outcome = match outcome {
            LookedUp::Found => "found",
            LookedUp::Nothing => "none",
            LookedUp::Refused => "refused",
        };
        self.lookups.get_or_create(&Outcome { outcome }).inc();
    }

    /// Counts one request that the policy refused.
    pub(crate) fn refused(&self, rule: Rule) {
        self.refusals.get_or_create(&RefusedUnder { rule: rule.as_str() }).inc();
    }

    /// The text that a scraper reads.
    pub(crate) fn text(&self) -> String {
        let mut out = String::with_capacity(8 * 1024);
        if text::encode(&mut out, &self.registry).is_err() {
            tracing::error!("the metrics could not be written");
        }
        out
    }
}

/// The vault's numbers, read when they are asked for.
struct OfVault(Vault);

impl std::fmt::Debug for OfVault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OfVault(..)")
    }
}

impl Collector for OfVault {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let status = self.0.status();
        for (name, help, value) in gauges(&status) {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)?;
        }
        if !status.rotations.is_empty() {
            rotations(&status, &mut encoder)?;
        }
        if !status.key_ages.is_empty() {
            key_ages(&status, &mut encoder)?;
        }
        for (name, help, value) in counters(&status) {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }
}

/// How far each rotation under way is.
fn rotations(status: &Status, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
    type Count = fn(&RotationProgress) -> Option<u64>;
    let counts: [(_, _, Count); 4] = [
        ("rotation_done", "Pages or subjects that a rotation under way is done with", |rotation| Some(rotation.done)),
        ("rotation_total", "Pages or subjects that it has in all", |rotation| Some(rotation.total)),
        ("rotation_per_second", "Pages or subjects a second so far", |rotation| Some(rotation.per_second)),
        ("rotation_remaining_seconds", "Until it ends if it stays as fast", |rotation| rotation.remaining_seconds),
    ];
    for (name, help, count) in counts {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (rotation, count) in status.rotations.iter().filter_map(|rotation| Some((rotation, count(rotation)?))) {
            let labels = OfLayer { layer: rotation.layer.as_str() };
            ConstGauge::new(count).encode(metric.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// How old keys are, by layer.
fn key_ages(status: &Status, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
    type Number = fn(&LayerStatus) -> u64;
    let numbers: [(_, _, Number); 2] = [
        ("key_age_seconds", "Age of the oldest key that a layer can have", |of| {
            Timestamp::now().0.saturating_sub(of.since.0) / 1000
        }),
        ("key_overdue", "1 if keys of a layer are older than the policy allows", |of| {
            u64::from(of.is_due(Timestamp::now()))
        }),
    ];
    for (name, help, number) in numbers {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for layer in &status.key_ages {
            let labels = OfLayer { layer: layer.layer.as_str() };
            ConstGauge::new(number(layer)).encode(metric.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn gauges(status: &Status) -> Vec<(&'static str, &'static str, u64)> {
    let mut all = vec![
        ("locked", "1 while the root key is not loaded", u64::from(status.state == State::Locked)),
        (
            "failed",
            "1 once the engine failed and the process must be restarted",
            u64::from(status.state == State::Failed),
        ),
        ("slots", "Root slots", status.slots.len() as u64),
        ("slots_not_ok", "Root slots that are behind or cannot be reached", not_ok(status)),
        ("cache_pages", "Opened pages kept in memory", status.cache.pages as u64),
        ("cache_bytes", "Bytes they take", status.cache.bytes as u64),
        ("cache_limit_bytes", "Bytes they may take", status.cache.limit_bytes as u64),
        ("retention_subjects", "Subjects that the last sweep of expired values looked at", status.retention.subjects),
        ("retention_held", "Expired values that it left, for a legal hold keeps them", status.retention.held),
        ("retention_failed", "Subjects that it could not deal with", status.retention.failed),
    ];
    if let Some(open) = &status.erasures {
        all.extend([
            ("erasures_awaiting_approval", "Erasures that wait for a second person", open.awaiting_approval),
            ("erasures_pending", "Erasures that are not due yet", open.pending),
            ("erasures_refused", "Erasures with subjects that are refused and not final yet", open.refused),
            ("erasures_held", "Erasures of which only held subjects are left", open.held),
            ("erasures_late", "Open erasures that are past their deadline", open.late),
        ]);
        let next = open.next_deadline.map(|at| at.0 / 1000);
        all.extend(next.map(|at| ("erasure_next_deadline_seconds", "The next deadline of an erasure, since 1970", at)));
    }
    for (name, help, at) in [
        ("retention_started_seconds", "When the last sweep was begun, since 1970", status.retention.started_at),
        ("retention_finished_seconds", "When a sweep was last completed, since 1970", status.retention.finished_at),
    ] {
        all.extend(at.map(|at| (name, help, at.0 / 1000)));
    }
    if let Some(bytes) = status.store.disk_bytes {
        all.push(("store_disk_bytes", "Bytes the store takes on disk", bytes));
    }
    if let Some(epoch) = status.epoch {
        all.push(("epoch", "Counts root keys", epoch));
    }
    if let Some(log) = status.log {
        all.push(("audit_unsynced", "Entries of the audit log that are not durable yet", log.size - log.durable));
        all.push((
            "audit_waiting",
            "Committed entries that the audit log does not take; nothing is answered",
            log.waiting,
        ));
    }
    if let Some(counts) = status.counts {
        all.extend([
            ("subjects", "Living subjects", counts.subjects),
            ("tombstones", "Shredded ids that are remembered", counts.tombstones),
            ("refused", "Subjects whose shred is durable and not final yet", counts.refused),
            ("callers", "Callers that were not revoked", counts.callers),
            ("pages", "Pages of keys in the store", counts.pages),
            ("rows", "Rows of sealed fields in the store", counts.rows),
        ]);
    }
    all
}

fn counters(status: &Status) -> [(&'static str, &'static str, u64); 5] {
    let log = status.log.unwrap_or_default();
    [
        ("cache_hits", "Pages found in the cache", status.cache.hits),
        ("cache_misses", "Pages read from the store", status.cache.misses),
        ("audit_entries", "Entries of the audit log", log.size),
        ("audit_errors", "How often the audit log took no entry", log.failures),
        ("retention_forgotten", "Expired values that were forgotten for good", status.retention.forgotten_in_all),
    ]
}

fn not_ok(status: &Status) -> u64 {
    status.slots.iter().filter(|slot| slot.state != SlotState::Ok).count() as u64
}
