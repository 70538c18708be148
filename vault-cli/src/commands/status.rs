//! `status`: whether the vault is unlocked and well, on one screen.

use jiff::Timestamp;
use serde::Deserialize;

use super::Context;
use crate::age;
use crate::exit::{Exit, Failure};

#[derive(Deserialize)]
struct Status {
    version: String,
    vault_id: String,
    state: String,
    epoch: Option<u64>,
    started_at: String,
    counts: Option<Counts>,
    #[serde(default)]
    slots: Vec<Slot>,
    store: Store,
    cache: Option<Cache>,
    retention: Option<Retention>,
    erasures: Option<Erasures>,
    waits_for_backup: Option<String>,
}

#[derive(Deserialize)]
struct Counts {
    subjects: u64,
    tombstones: u64,
    callers: u64,
    refused: u64,
}

#[derive(Deserialize)]
struct Slot {
    name: String,
    state: String,
    detail: Option<String>,
    rotation_waits_for: Option<String>,
}

#[derive(Deserialize)]
struct Store {
    engine: String,
    state: String,
}

#[derive(Deserialize)]
struct Cache {
    pages: u64,
    bytes: u64,
    limit_bytes: u64,
}

#[derive(Deserialize)]
struct Erasures {
    awaiting_approval: u64,
    pending: u64,
    held: u64,
    late: u64,
    next_deadline: Option<String>,
}

#[derive(Deserialize)]
struct Retention {
    finished_at: Option<String>,
    forgotten: u64,
    held: u64,
}

/// Asks and shows; a locked vault answers too.
pub(crate) fn run(context: &Context) -> Result<Exit, Failure> {
    let client = context.client()?;
    let answer = client.get("/v1/status")?;
    if context.ui.wants_json() {
        context.ui.line(answer.text()?)?;
        return Ok(Exit::Done);
    }
    let status: Status = answer.json()?;
    let mut rows = rows(&status, Timestamp::now());
    rows.insert(0, ("address".into(), client.base().to_owned()));
    let rows: Vec<_> = rows.into_iter().map(|(k, v)| vec![k, v]).collect();
    context.ui.table(&["WHAT", "HOW IT IS"], &rows)?;
    Ok(Exit::Done)
}

fn rows(status: &Status, now: Timestamp) -> Vec<(String, String)> {
    let mut rows = vec![
        ("state".to_owned(), status.state.clone()),
        ("vault".into(), status.vault_id.clone()),
        ("server".into(), format!("version {}, up for {}", status.version, age::since(&status.started_at, now))),
    ];
    if let Some(epoch) = status.epoch {
        rows.push(("root key".into(), format!("epoch {epoch}")));
    }
    if let Some(counts) = &status.counts {
        rows.push(("subjects".into(), counts.subjects.to_string()));
        rows.push(("shredded".into(), format!("{} remembered", counts.tombstones)));
        rows.push(("refused".into(), format!("{} shreds not final yet", counts.refused)));
        rows.push(("callers".into(), counts.callers.to_string()));
    }
    for slot in &status.slots {
        let detail = slot.detail.as_deref().map(|d| format!(": {d}"));
        let waits = slot.rotation_waits_for.as_deref().map(|why| format!("; its rotation waits: {why}"));
        let told = [detail, waits].into_iter().flatten().collect::<String>();
        rows.push(("root slot".into(), format!("{} {}{told}", slot.name, slot.state)));
    }
    if let Some(open) = &status.erasures {
        let next = open.next_deadline.as_ref().map(|at| format!("; the next deadline is {at}")).unwrap_or_default();
        let told = format!(
            "{} to be approved, {} not due yet, {} held, {} LATE{next}",
            open.awaiting_approval, open.pending, open.held, open.late
        );
        rows.push(("erasures".into(), told));
    }
    if let Some(why) = &status.waits_for_backup {
        rows.push(("backup".into(), format!("{why}; shreds since then are refused, and final once that is done")));
    }
    rows.push(("store".into(), format!("{} {}", status.store.engine, status.store.state)));
    if let Some(Retention { finished_at: Some(at), forgotten, held }) = &status.retention {
        let told = format!("last {} ago: {forgotten} expired values forgotten, {held} held", age::since(at, now));
        rows.push(("retention".into(), told));
    }
    if let Some(cache) = &status.cache {
        rows.push((
            "page cache".into(),
            format!(
                "{} pages, {} of {}",
                cache.pages,
                indicatif::HumanBytes(cache.bytes),
                indicatif::HumanBytes(cache.limit_bytes)
            ),
        ));
    }
    rows
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_locked_vault_has_no_counts_but_its_slots() {
        let status: Status = serde_json::from_str(
            r#"{"version":"0.1.0","vault_id":"ab12","state":"locked","epoch":null,
                "started_at":"2026-03-10T10:00:00Z","counts":null,
                "slots":[{"name":"/v/root.slot","state":"unreachable","detail":"no such disk"}],
                "store":{"engine":"sled","state":"ok"},
                "cache":{"pages":0,"bytes":0,"limit_bytes":67108864},
                "retention":{"started_at":"2026-03-10T12:00:00Z","finished_at":"2026-03-10T12:00:00Z",
                "subjects":9,"forgotten":3,"held":1,"failed":0}}"#,
        )
        .unwrap();
        let rows = rows(&status, "2026-03-10T12:30:00Z".parse().unwrap());
        assert!(rows.contains(&("state".into(), "locked".into())));
        assert!(rows.contains(&("server".into(), "version 0.1.0, up for 2 hours".into())));
        assert!(rows.contains(&("root slot".into(), "/v/root.slot unreachable: no such disk".into())));
        let swept = "last 30 minutes ago: 3 expired values forgotten, 1 held";
        assert!(rows.contains(&("retention".into(), swept.into())), "{rows:?}");
        assert!(!rows.iter().any(|(what, _)| what == "subjects"));
    }
}
