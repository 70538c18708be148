//! The outbox against crashes at every point between a commit and the removal of its row, and what requests leave.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::tests::{Fixture, changes, full, id, name, slot};
use super::*;
use crate::audit::{Action, Entry, Log, Outcome, Trail};
use crate::ids::CallerId;
use crate::root::Unlock;
use crate::store::MemoryStore;

pub(super) const EMAIL: &[(&str, &str)] = &[("email", r#""jane@example.org""#)];

fn entries(log: &Log) -> Vec<Entry> {
    log.read(0, 10_000).unwrap().iter().map(|line| Entry::decode(line).unwrap()).collect()
}

/// The entries that went with commits, as which commit has how many.
fn commits(log: &Log) -> Vec<u64> {
    entries(log).iter().filter_map(|entry| entry.commit).collect()
}

/// Puts as a request does; answers whether its answer may leave.
pub(super) async fn put(vault: &Vault, subject: &str, fields: &[(&str, &str)]) -> Result<(), Error> {
    let trail = Trail::new(Action::Write);
    trail.follow(vault.put_fields(&id(subject), changes(fields), &PutOptions::default())).await?;
    vault.conclude(&trail, 200, None, false).await
}

async fn read(vault: &Vault, subject: &str, field: &str) -> (Result<ReadOutcome, Error>, Trail) {
    let trail = Trail::new(Action::Read);
    let outcome = trail.follow(vault.read_fields(&id(subject), Some(&[name(field)]), &full())).await;
    (outcome, trail)
}

async fn outbox_rows(store: &MemoryStore) -> usize {
    store.scan(&[outbox::PREFIX], Some(&[outbox::PREFIX + 1]), 10_000).await.unwrap().len()
}

/// Opens the vault on an image of the store, with a log that kept the first entries only.
async fn after_crash(fixture: &Fixture, store: MemoryStore, kept: &[Entry]) -> (Vault, Arc<MemoryStore>, Log) {
    let place = tempfile::tempdir_in(fixture.dir.path()).unwrap().keep();
    let log = Log::open(&place.join("audit")).unwrap();
    if !kept.is_empty() {
        log.append(kept).unwrap();
    }
    let store = Arc::new(store);
    let options = VaultOptions { log: Some(log.clone()), ..VaultOptions::default() };
    let slot_copy = place.join("root.slot");
    std::fs::copy(slot(&fixture.dir), &slot_copy).unwrap();
    let vault = Vault::open(store.clone(), &[slot_copy.into()], options).await.unwrap();
    vault.unlock(Unlock::KeyFile(fixture.key.duplicate())).await.unwrap();
    (vault, store, log)
}

/// A batch whose commit has several entries, for its items change different fields.
async fn batch(vault: &Vault) {
    let items = (0..4).map(|n| {
        let fields = if n % 2 == 0 { EMAIL } else { &[("nickname", r#""jo""#)] };
        (id(&format!("b{n}")), changes(fields), PutOptions::default())
    });
    let trail = Trail::new(Action::Write);
    let written = trail.follow(vault.write_batch(items.collect())).await;
    assert!(written.iter().all(Result::is_ok));
    vault.conclude(&trail, 200, None, false).await.unwrap();
}

/// A crash right behind each commit, with every number of its entries in the log: none (it came before they were appended, or
/// the log lost what was not durable), some, or all (it came before the row was removed).
#[tokio::test]
async fn each_committed_entry_is_in_the_log_once_wherever_a_crash_comes() {
    let fixture = Fixture::new().await;
    let mut logged = 0;
    let mut cuts = 0;
    for step in 0..4 {
        match step {
            1 => batch(&fixture.vault).await,
            _ => put(&fixture.vault, &format!("s{step}"), EMAIL).await.unwrap(),
        }
        let trail = Trail::new(Action::Read);
        let image = fixture.store.fork();
        // Entries of no commit behind those of one.
        (0..step).for_each(|_| assert!(fixture.log.append(&trail.entries(200, None)).is_ok()));
        let (all, told) = (entries(&fixture.log), commits(&fixture.log));
        for kept in logged..=all.len() {
            cuts += 1;
            let (vault, store, log) = after_crash(&fixture, image.fork(), &all[..kept]).await;
            assert_eq!(commits(&log), told, "step {step}, cut after {kept}");
            put(&vault, "later", EMAIL).await.unwrap();
            vault.close().await.unwrap();
            assert_eq!(outbox_rows(&store).await, 0, "nothing is left of the outbox");
        }
        logged = all.len();
    }
    assert!(cuts > 12, "{cuts}");
}

#[tokio::test]
async fn a_log_that_takes_nothing_keeps_every_answer_back_and_gets_all_of_it_later() {
    let fixture = Fixture::new().await;
    put(&fixture.vault, "a", EMAIL).await.unwrap();
    let before = entries(&fixture.log).len();
    fixture.vault.inner.outbox.broken.store(true, Ordering::Relaxed);
    assert!(matches!(put(&fixture.vault, "b", EMAIL).await, Err(Error::Log(_))), "committed, and not answered");
    assert!(matches!(fixture.vault.log_works(), Err(Error::Log(_))));
    let (outcome, trail) = read(&fixture.vault, "a", "email").await;
    outcome.unwrap();
    assert!(
        matches!(fixture.vault.conclude(&trail, 200, None, false).await, Err(Error::Log(_))),
        "no value without its entry"
    );
    assert_eq!(entries(&fixture.log).len(), before);
    let status = fixture.vault.status().log.unwrap();
    assert_eq!((status.waiting, status.size), (1, before as u64));
    assert!(status.failures >= 3);

    // A crash now loses nothing of what was committed.
    let kept = entries(&fixture.log);
    let (crashed, _, log) = after_crash(&fixture, fixture.store.fork(), &kept).await;
    assert_eq!(commits(&log).len(), before + 1);
    crashed.close().await.unwrap();

    fixture.vault.inner.outbox.broken.store(false, Ordering::Relaxed);
    fixture.vault.log_works().unwrap();
    assert_eq!(commits(&fixture.log), commits(&log), "without a crash it is the same");
    put(&fixture.vault, "c", EMAIL).await.unwrap();
    assert_eq!(fixture.vault.status().log.unwrap().waiting, 0);
    fixture.vault.close().await.unwrap();
    assert_eq!(outbox_rows(&fixture.store).await, 0);
}

#[tokio::test]
async fn a_lock_while_the_log_takes_nothing_leaves_it_to_the_next_unlock() {
    let mut fixture = Fixture::new().await;
    fixture.vault.inner.outbox.broken.store(true, Ordering::Relaxed);
    assert!(put(&fixture.vault, "a", EMAIL).await.is_err());
    fixture.restart().await;
    assert_eq!(commits(&fixture.log).len(), 1);
    fixture.restart().await;
    assert_eq!(commits(&fixture.log).len(), 1, "once");
}

#[tokio::test]
async fn forged_and_moved_rows_are_refused() {
    let fixture = Fixture::new().await;
    put(&fixture.vault, "a", EMAIL).await.unwrap();
    let header = fixture.vault.session().unwrap().snapshot().header.clone();
    let rows = outbox::rows(&header, 9, &[Entry::new(Action::Write, Outcome::Done)]);
    let [(key, value)] = &rows[..] else { panic!("one row") };
    assert_eq!(outbox::open(&header, key, value).unwrap().len(), 1);
    let mut elsewhere = key.clone();
    *elsewhere.last_mut().unwrap() ^= 1;
    assert!(outbox::open(&header, &elsewhere, value).is_err());
    let mut changed = value.clone();
    *changed.last_mut().unwrap() ^= 1;
    assert!(outbox::open(&header, key, &changed).is_err());
}

#[tokio::test]
async fn requests_tell_whom_they_were_about_and_background_work_tells_itself() {
    let fixture = Fixture::new().await;
    put(&fixture.vault, "a", EMAIL).await.unwrap();
    let written = entries(&fixture.log);
    let [write] = &written[..] else { panic!("one entry: {written:?}") };
    assert_eq!((write.what, &write.fields, write.subjects.len()), (Action::Write, &vec![name("email")], 1));

    let (outcome, trail) = read(&fixture.vault, "a", "email").await;
    outcome.unwrap();
    let [seen] = &trail.entries(200, None)[..] else { panic!("one entry") };
    assert_eq!((&seen.subjects, &seen.fields), (&write.subjects, &write.fields), "the same subject on the same day");

    let (outcome, trail) = read(&fixture.vault, "nobody", "email").await;
    assert!(outcome.is_err());
    let [unknown] = &trail.entries(404, None)[..] else { panic!("one entry") };
    assert_eq!((unknown.outcome, unknown.subjects.len()), (Outcome::Failed, 0));

    let trail = Trail::new(Action::Lookup);
    let email = name("email");
    let found = trail
        .follow(async {
            crate::audit::trail::caller(CallerId([3; 16]));
            fixture.vault.look_up(&full().reader, &email, r#""jane@example.org""#, None, None, 10).await
        })
        .await;
    assert_eq!(found.unwrap().subjects.len(), 1);
    let [lookup] = &trail.entries(200, None)[..] else { panic!("one entry") };
    assert_eq!((&lookup.subjects, lookup.by), (&write.subjects, Some(CallerId([3; 16]))));

    let before = entries(&fixture.log).len();
    fixture.rotate(Layer::Root).await;
    let ended = entries(&fixture.log);
    assert_eq!(ended[before..].iter().map(|e| e.what).collect::<Vec<_>>(), [Action::Keys]);
}

#[tokio::test]
async fn a_batch_that_half_fails_tells_both_halves() {
    let fixture = Fixture::new().await;
    let items = vec![
        (id("a"), changes(EMAIL), PutOptions::default()),
        (id("b"), changes(EMAIL), PutOptions::default()),
        (id("c"), changes(&[("email", "17")]), PutOptions::default()),
        (id("a"), changes(&[("nickname", r#""jo""#)]), PutOptions::default()),
    ];
    let trail = Trail::new(Action::Write);
    trail.follow(fixture.vault.write_batch(items)).await;
    fixture.vault.conclude(&trail, 200, None, false).await.unwrap();
    let told: Vec<_> =
        entries(&fixture.log).iter().map(|e| (e.outcome, e.subjects.len(), e.commit.is_some())).collect();
    let done = Outcome::Done;
    assert_eq!(told, [(done, 2, true), (done, 1, true), (Outcome::Failed, 0, false)]);
}

/// Requests that end together share a write of the log: each entry is there before its answer leaves, and once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_end_together_are_each_logged_once_or_none_is_answered() {
    let fixture = Fixture::new().await;
    let before = entries(&fixture.log).len();
    let ends = |count: u8| {
        let ended = (0..count).map(|n| {
            let (vault, log) = (fixture.vault.clone(), fixture.log.clone());
            tokio::spawn(async move {
                let trail = Trail::new(Action::Read);
                trail.follow(async { crate::audit::trail::caller(CallerId([n; 16])) }).await;
                vault.conclude(&trail, 200, None, true).await?;
                // Before the answer leaves.
                let logged = entries(&log).iter().filter(|entry| entry.by == Some(CallerId([n; 16]))).count();
                Ok::<usize, Error>(logged)
            })
        });
        ended.collect::<Vec<_>>()
    };
    for end in ends(200) {
        assert_eq!(end.await.unwrap().unwrap(), 1);
    }
    assert_eq!(entries(&fixture.log).len(), before + 200);
    fixture.vault.inner.outbox.broken.store(true, Ordering::Relaxed);
    for end in ends(20) {
        assert!(matches!(end.await.unwrap(), Err(Error::Log(_))));
    }
    // One whose caller hangs up half way keeps back nobody.
    fixture.vault.inner.outbox.broken.store(false, Ordering::Relaxed);
    let trail = Trail::new(Action::Read);
    {
        let mut gone = Box::pin(fixture.vault.conclude(&trail, 200, None, true));
        assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(gone.as_mut().poll(cx))).await.is_pending());
    }
    // What he left is written along with whatever comes next, be it that the server stops.
    fixture.vault.log(&[Entry::new(Action::Stop, Outcome::Done)]).await.unwrap();
    let left = entries(&fixture.log).split_off(before + 200);
    assert_eq!(left.iter().map(|entry| entry.what).collect::<Vec<_>>(), [Action::Read, Action::Stop]);
}

#[tokio::test]
async fn a_store_that_lacks_what_its_log_tells_is_served_only_to_who_takes_the_loss() {
    let mut fixture = Fixture::new().await;
    put(&fixture.vault, "a", EMAIL).await.unwrap();
    let old = Arc::new(fixture.store.fork());
    put(&fixture.vault, "b", EMAIL).await.unwrap();
    put(&fixture.vault, "c", EMAIL).await.unwrap();
    fixture.vault.close().await.unwrap();
    let unlock = || Unlock::KeyFile(fixture.key.duplicate());

    let before = old.scan(&[], None, 1000).await.unwrap();
    let stale = fixture.open(old.clone()).await.unwrap();
    let refused = stale.unlock(unlock()).await.unwrap_err();
    assert!(matches!(refused, Error::OlderThanLog { commit, told } if told == commit + 2), "{refused:?}");
    assert!(matches!(stale.read_fields(&id("a"), None, &full()).await, Err(Error::Locked)));
    stale.close().await.unwrap();
    assert_eq!(old.scan(&[], None, 1000).await.unwrap(), before, "a refusal changes nothing");

    let size = fixture.log.size();
    let options = VaultOptions { accept_loss: true, log: Some(fixture.log.clone()), ..VaultOptions::default() };
    let taken = Vault::open(old.clone(), &[slot(&fixture.dir).into()], options).await.unwrap();
    taken.unlock(unlock()).await.unwrap();
    let entry = Entry::decode(&fixture.log.read(size, 1).unwrap()[0]).unwrap();
    assert_eq!((entry.what, entry.count), (Action::AcceptLoss, Some(2)));
    taken.close().await.unwrap();

    // Nobody has to take it again, and what is written from here on is told.
    fixture.store = old;
    fixture.vault = fixture.open(fixture.store.clone()).await.unwrap();
    fixture.vault.unlock(Unlock::KeyFile(fixture.key.duplicate())).await.unwrap();
    assert_eq!(fixture.read("a", "email").await.unwrap(), EMAIL[0].1);
    assert!(matches!(fixture.read("b", "email").await, Err(Error::UnknownSubject)));
    let newest = commits(&fixture.log).pop();
    put(&fixture.vault, "b", EMAIL).await.unwrap();
    assert!(commits(&fixture.log).pop() > newest, "the outbox takes the commit for told");
    fixture.restart().await;
    assert_eq!(fixture.read("b", "email").await.unwrap(), EMAIL[0].1);
}

#[tokio::test]
async fn a_log_that_a_copy_of_the_vault_went_on_with_is_not_taken_for_its_own() {
    let fixture = Fixture::new().await;
    put(&fixture.vault, "a", EMAIL).await.unwrap();
    fixture.log.durable(fixture.log.size()).await.unwrap();
    let place = fixture.dir.path().join("copy");
    let copied = std::process::Command::new("cp").arg("-r").arg(fixture.dir.path().join("audit")).arg(&place).status();
    assert!(copied.unwrap().success());
    let log = Log::open(&place).unwrap();
    let options = || VaultOptions { log: Some(log.clone()), ..VaultOptions::default() };
    let unlock = || Unlock::KeyFile(fixture.key.duplicate());
    let copy = Arc::new(fixture.store.fork());
    put(&fixture.vault, "b", EMAIL).await.unwrap();
    fixture.log.durable(fixture.log.size()).await.unwrap();
    put(&fixture.vault, "c", EMAIL).await.unwrap();
    fixture.vault.close().await.unwrap();

    let other = Vault::open(copy, &[slot(&fixture.dir).into()], options()).await.unwrap();
    other.unlock(unlock()).await.unwrap();
    for _ in 0..5 {
        put(&other, "b", EMAIL).await.unwrap();
    }
    let newest = commits(&log).pop();
    other.close().await.unwrap();
    while log.size() <= fixture.log.size() {
        // More of them than the own log has, but of no commit that the store has not.
        log.append(&[Entry::new(Action::Unlock, Outcome::Refused)]).unwrap();
    }
    let had = fixture.log.durable_size();
    let vault = Vault::open(fixture.store.clone(), &[slot(&fixture.dir).into()], options()).await.unwrap();
    let refused = vault.unlock(unlock()).await.unwrap_err();
    assert!(matches!(refused, Error::OtherLog { had: told, .. } if told <= had && told > 0), "{refused:?}");
    vault.close().await.unwrap();
    // Beside its own it opens.
    let vault = fixture.open(fixture.store.clone()).await.unwrap();
    vault.unlock(unlock()).await.unwrap();
    vault.close().await.unwrap();
    // Who takes the other one all the same goes on behind every commit that it tells of.
    let options = VaultOptions { accept_loss: true, ..options() };
    let vault = Vault::open(fixture.store.clone(), &[slot(&fixture.dir).into()], options).await.unwrap();
    vault.unlock(unlock()).await.unwrap();
    put(&vault, "d", EMAIL).await.unwrap();
    assert!(commits(&log).pop() > newest, "the outbox would take it for told");
    vault.close().await.unwrap();
}
