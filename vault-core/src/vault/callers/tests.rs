//! API tokens that are replaced, compared and counted as used.

#![allow(clippy::unwrap_used)]

use super::used::note_all;
use super::*;
use crate::crypto::CallerKey;
use crate::ids::IdempotencyKey;
use crate::store::Fault;
use crate::vault::Role;
use crate::vault::tests::Fixture;

const DAY: u64 = 24 * 3600;

fn shop(expires_at: Option<Timestamp>) -> NewCaller {
    NewCaller { name: "shop".into(), role: Role::Service, purposes: [].into(), expires_at, lookups_per_minute: Some(7) }
}

async fn made(fixture: &Fixture) -> (CallerId, Zeroizing<String>) {
    let (caller, token) = fixture.vault.create_caller(shop(None), None).await.unwrap();
    (caller.id, token)
}

impl Fixture {
    fn works(&self, token: &str) -> bool {
        self.vault.authenticate(token).is_ok()
    }

    fn sequence(&self) -> u64 {
        self.vault.session().unwrap().snapshot().sequence
    }
}

#[tokio::test]
async fn a_replaced_api_token_goes_on_for_a_while() {
    let mut fixture = Fixture::new().await;
    let (id, first) = made(&fixture).await;
    let before = Timestamp::now();
    let second = fixture.vault.rotate_caller(id, 3600, None).await.unwrap();
    assert!(second.previous_valid_until >= before.plus_seconds(3600));
    assert!(*second.token != *first && second.token.starts_with(TOKEN_PREFIX));
    fixture.restart().await;
    assert!(fixture.works(&first) && fixture.works(&second.token));
    let listed = fixture.vault.callers().unwrap();
    assert_eq!((listed.len(), listed[0].previous_valid_until), (1, Some(second.previous_valid_until)));
    assert_eq!(listed[0].lookups_per_minute, Some(7));

    let third = fixture.vault.rotate_caller(id, 3600, None).await.unwrap();
    assert!(!fixture.works(&first), "the one from before the last stops at once");
    assert!(fixture.works(&second.token) && fixture.works(&third.token));
    let fourth = fixture.vault.rotate_caller(id, 0, None).await.unwrap();
    assert!(!fixture.works(&second.token) && !fixture.works(&third.token) && fixture.works(&fourth.token));

    let fifth = fixture.vault.rotate_caller(id, OVERLAP_MAX, None).await.unwrap();
    assert!(fixture.works(&fourth.token) && fixture.works(&fifth.token));
    fixture.vault.revoke_caller(id).await.unwrap();
    assert!(!fixture.works(&fourth.token) && !fixture.works(&fifth.token), "a revocation stops both");
    assert!(matches!(fixture.vault.rotate_caller(id, 0, None).await, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn an_overlap_is_bounded() {
    let fixture = Fixture::new().await;
    let (id, _) = made(&fixture).await;
    let refused = fixture.vault.rotate_caller(id, OVERLAP_MAX + 1, None).await;
    assert!(matches!(refused, Err(Error::Invalid { field: "overlap", .. })));
    assert!(matches!(fixture.vault.rotate_caller(CallerId([1; 16]), 0, None).await, Err(Error::NotFound(_))));
    let end = Timestamp::now().plus_seconds(DAY);
    let (guest, _) = fixture.vault.create_caller(shop(Some(end)), None).await.unwrap();
    let rotated = fixture.vault.rotate_caller(guest.id, 2 * DAY, None).await.unwrap();
    assert_eq!(rotated.previous_valid_until, end, "not longer than the caller");
}

#[tokio::test]
async fn a_rotation_is_done_once() {
    let fixture = Fixture::new().await;
    let (id, _) = made(&fixture).await;
    let key = IdempotencyKey::parse("k").unwrap();
    let once = |body| Idempotency { caller: id, key: key.clone(), path: "rotate", body, status: 200 };
    let rotated = fixture.vault.rotate_caller(id, 0, Some(&once(b"a"))).await.unwrap();
    assert!(matches!(fixture.vault.rotate_caller(id, 0, Some(&once(b"a"))).await, Err(Error::Conflict(_))));
    assert!(matches!(fixture.vault.rotate_caller(id, 0, Some(&once(b"b"))).await, Err(Error::IdempotencyMismatch)));
    assert!(fixture.works(&rotated.token));
}

#[tokio::test]
async fn rotations_and_a_revocation_at_once_leave_nothing_that_works() {
    let fixture = Fixture::new().await;
    let (id, first) = made(&fixture).await;
    let rotate = || fixture.vault.rotate_caller(id, 3600, None);
    let (a, b, revoked, c, noted) =
        tokio::join!(rotate(), rotate(), fixture.vault.revoke_caller(id), rotate(), async {
            note_all(&fixture.vault.inner, &fixture.vault.session().unwrap()).await
        });
    revoked.unwrap();
    let () = noted;
    for token in [a, b, c].into_iter().flatten().map(|new| new.token).chain([first]) {
        assert!(!fixture.works(&token));
    }
    assert_eq!(fixture.vault.status().counts.unwrap().callers, 0);
}

#[tokio::test]
async fn last_use_is_known_at_once_and_durable_at_the_end() {
    let mut fixture = Fixture::new().await;
    let (id, token) = made(&fixture).await;
    let last = |fixture: &Fixture| fixture.vault.callers().unwrap()[0].last_used_at;
    assert_eq!(last(&fixture), None);
    let sequence = fixture.sequence();
    fixture.vault.authenticate(&token).unwrap();
    let seen = last(&fixture).unwrap();
    assert_eq!(fixture.sequence(), sequence, "a request writes nothing");
    fixture.vault.rotate_caller(id, 3600, None).await.unwrap();
    assert_eq!(last(&fixture), Some(seen), "a reload of the callers forgets nothing");
    fixture.restart().await;
    assert_eq!(last(&fixture), Some(seen));
    assert!(fixture.works(&token), "what was written down left the API tokens alone");
}

#[tokio::test]
async fn last_use_is_written_down_coarsely() {
    let fixture = Fixture::new().await;
    let (id, token) = made(&fixture).await;
    let session = fixture.vault.session().unwrap();
    let note = async |millis| fixture.vault.inner.note_used(&session, millis).await;
    fixture.vault.authenticate(&token).unwrap();
    let before = fixture.sequence();
    note(u64::MAX).await.unwrap();
    assert_eq!(fixture.sequence(), before, "not late enough");
    note(0).await.unwrap();
    assert_eq!(fixture.sequence(), before + 1);
    note(0).await.unwrap();
    assert_eq!(fixture.sequence(), before + 1, "nothing moved");

    std::thread::sleep(std::time::Duration::from_millis(2));
    fixture.vault.authenticate(&token).unwrap();
    fixture.store.fail_next_commit(Fault::Full);
    assert!(note(0).await.is_err());
    fixture.vault.revoke_caller(id).await.unwrap();
    let before = fixture.sequence();
    note(0).await.unwrap();
    assert_eq!(fixture.sequence(), before, "a revoked caller is let be");
}

fn record(key: &CallerKey, token: &[u8]) -> CallerRecord {
    CallerRecord {
        id: CallerId([1; 16]),
        name: "shop".into(),
        role: Role::Service,
        purposes: [].into(),
        created_at: Timestamp(0),
        expires_at: Some(Timestamp(900)),
        revoked: false,
        token_hash: key.token_hash(token),
        previous: Some(PreviousToken { hash: key.token_hash(b"old"), until: Timestamp(100) }),
        last_used_at: None,
        lookups_per_minute: None,
    }
}

#[test]
fn api_tokens_stop_at_their_times() {
    let key = CallerKey::draw(&mut Random::for_keys(1));
    let table = CallerTable::new(key.duplicate(), vec![record(&key, b"new")], None);
    let works = |token: &[u8], at| table.authenticate(token, Timestamp(at)).is_some();
    assert!(works(b"old", 99) && works(b"new", 99));
    assert!(!works(b"old", 100) && works(b"new", 100));
    assert!(works(b"new", 899) && !works(b"new", 900));
    assert!(!works(b"other", 1));
}

#[test]
fn the_whole_hash_is_compared() {
    let key = CallerKey::draw(&mut Random::for_keys(1));
    for (position, accepted) in [(None, true), (Some(16), false), (Some(31), false)] {
        let mut record = record(&key, b"new");
        if let Some(position) = position {
            record.token_hash[position] ^= 1;
        }
        let table = CallerTable::new(key.duplicate(), vec![record], None);
        assert_eq!(table.authenticate(b"new", Timestamp(1)).is_some(), accepted, "{position:?}");
    }
}
