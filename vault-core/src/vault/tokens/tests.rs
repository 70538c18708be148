//! Value tokens from outside, and what is left of them in the trie.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::tests::{Fixture, erasure_of, full, id, name, reading as as_admin};
use super::super::{Layer, ReadRequest};
use super::*;
use crate::ids::{CallerId, Purpose, SubjectId};
use crate::policy::Rule;
use crate::root::{FileSlot, RootSlot, Unlock};
use crate::schema::View;
use crate::store::MemoryStore;
use crate::trie::attacker::reach;

const ME: CallerId = CallerId([1; 16]);
const OTHER: CallerId = CallerId([2; 16]);
const PHONE: &str = r#""+971501238301""#;

fn plain(subject: &str, field: &str) -> NewToken {
    NewToken {
        subject: id(subject),
        field: name(field),
        ttl: None,
        single_use: false,
        shape: TokenShape::Random,
        purpose: None,
        caller: None,
    }
}

impl Fixture {
    async fn token(&self, new: NewToken) -> String {
        self.vault.create_token(new).await.unwrap().token.to_string()
    }

    async fn resolved(&self, token: &str, request: &ReadRequest, caller: CallerId) -> Result<Resolved, Error> {
        let item = ResolveItem { token, view: request.view };
        self.vault.resolve_token(item, &request.reader, caller).await
    }

    /// In full, for the purpose `account`.
    async fn value(&self, token: &str) -> Result<String, Error> {
        self.resolved(token, &full(), ME).await.map(|resolved| resolved.value.to_string())
    }

    #[track_caller]
    fn unknown<T>(outcome: &Result<T, Error>) -> bool {
        matches!(outcome, Err(Error::NotFound("value token")))
    }

    /// Entries of the subtree of tokens, and in the system's subtree of what only tokens put there.
    async fn entries(&self) -> (usize, usize) {
        let inner = &self.vault.inner;
        let header = inner.session.load_full().unwrap().snapshot().header.clone();
        let tokens = trie::scan(&inner.pages, &header, Kind::Tokens, &[], None, usize::MAX).await.unwrap();
        let mut beside = 0;
        for name in ["token-times", "spent-tokens"] {
            let prefix = header.entry_key(Kind::System, name, "", b"", [0; 16]);
            beside +=
                trie::scan(&inner.pages, &header, Kind::System, &prefix[..16], None, usize::MAX).await.unwrap().len();
        }
        (tokens.len(), beside)
    }
}

#[tokio::test]
async fn a_token_resolves_to_the_present_value_until_it_is_revoked() {
    let fixture = Fixture::new().await;
    fixture.put("a", &[("phone", PHONE), ("name", r#""Ada""#)]).await.unwrap();
    let token = fixture.token(plain("a", "phone")).await;
    assert_eq!(fixture.value(&token).await.unwrap(), PHONE);
    assert_eq!(fixture.value(&token).await.unwrap(), PHONE, "again and again");
    let other = fixture.token(plain("a", "phone")).await;
    assert_ne!(token, other, "nothing of the value is in it");

    fixture.put("a", &[("phone", r#""+971501238302""#)]).await.unwrap();
    assert_eq!(fixture.value(&token).await.unwrap(), r#""+971501238302""#);
    fixture.put("a", &[("phone", "")]).await.unwrap();
    assert!(Fixture::unknown(&fixture.value(&token).await), "the field is not held");
    fixture.put("a", &[("phone", PHONE)]).await.unwrap();
    assert_eq!(fixture.value(&token).await.unwrap(), PHONE, "a removal that is not final forgets no token");

    fixture.vault.revoke_token(&token, Role::Service, ME).await.unwrap();
    assert!(Fixture::unknown(&fixture.value(&token).await));
    assert!(Fixture::unknown(&fixture.vault.revoke_token(&token, Role::Service, ME).await));
    for nothing in ["", "udt_00000000000000000000000000000000", &"x".repeat(5000)] {
        assert!(Fixture::unknown(&fixture.value(nothing).await));
        assert!(Fixture::unknown(&fixture.vault.revoke_token(nothing, Role::Service, ME).await));
    }
    assert_eq!(fixture.entries().await, (4, 1));
    fixture.rotate(Layer::Root).await;
    assert_eq!(fixture.entries().await, (2, 0), "the revoked one went with the next root batch");
    assert_eq!(fixture.value(&other).await.unwrap(), PHONE);
}

#[tokio::test]
async fn what_can_not_be_made() {
    let fixture = Fixture::new().await;
    fixture.put("a", &[("phone", PHONE)]).await.unwrap();
    fixture.put("gone", &[("phone", PHONE)]).await.unwrap();
    fixture.shred(&["gone"]).await;
    let items = [
        plain("a", "phone"),
        plain("a", "shoe_size"),
        plain("a", "email"),
        plain("nobody", "phone"),
        plain("gone", "phone"),
        NewToken { ttl: Some(0), ..plain("a", "phone") },
        NewToken { ttl: Some(3654 * 24 * 3600), ..plain("a", "phone") },
        NewToken { shape: TokenShape::Email, ..plain("a", "phone") },
        NewToken { purpose: Purpose::parse("curiosity").ok(), ..plain("a", "phone") },
        NewToken { shape: TokenShape::Phone, ttl: Some(3653 * 24 * 3600), ..plain("a", "phone") },
        plain("nobody", "phone"),
    ];
    let outcomes = fixture.vault.create_tokens(&items).await;
    assert!(matches!(outcomes[1], Err(Error::Schema(_))));
    assert!(matches!(outcomes[2], Err(Error::NoSuchField)));
    assert!(matches!((&outcomes[3], &outcomes[10]), (Err(Error::UnknownSubject), Err(Error::UnknownSubject))));
    assert!(matches!(outcomes[4], Err(Error::Shredded)));
    for (at, parameter) in [(5, "ttl"), (6, "ttl"), (7, "shape"), (8, "purpose")] {
        assert!(matches!(outcomes[at], Err(Error::Invalid { field, .. }) if field == parameter), "{at}");
    }
    for at in [0, 9] {
        assert_eq!(fixture.value(&outcomes[at].as_ref().unwrap().token).await.unwrap(), PHONE);
    }
    assert_eq!(fixture.entries().await, (4, 1), "and nothing of the others");
}

#[tokio::test]
async fn one_use_is_one_use_and_a_refused_one_is_none() {
    let fixture = Fixture::new().await;
    fixture.put("a", &[("phone", PHONE)]).await.unwrap();
    let once = NewToken { single_use: true, ..plain("a", "phone") };
    let token = fixture.token(once.clone()).await;
    let refused = fixture.resolved(&token, &as_admin(View::Full, None), ME).await;
    assert!(matches!(refused, Err(Error::Refused { rule: Rule::PurposeRequired, .. })));
    let refused = fixture.resolved(&token, &as_admin(View::None, Some("account")), ME).await;
    assert!(matches!(refused, Err(Error::Invalid { field: "view", .. })));
    assert_eq!(fixture.value(&token).await.unwrap(), PHONE);
    assert!(Fixture::unknown(&fixture.value(&token).await));

    // Twice in one batch, and by many at once: exactly one gets it.
    let token = fixture.token(once.clone()).await;
    let request = full();
    let item = ResolveItem { token: &token, view: View::Full };
    let outcomes = fixture.vault.resolve_tokens(&[item; 3], &request.reader, ME).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert_eq!(outcomes.iter().filter(|outcome| Fixture::unknown(outcome)).count(), 2);
    let token: Arc<str> = fixture.token(once).await.into();
    let racing: Vec<_> = (0..16)
        .map(|_| {
            let (vault, token, reader) = (fixture.vault.clone(), token.clone(), request.reader.clone());
            tokio::spawn(async move {
                vault.resolve_token(ResolveItem { token: &token, view: View::Full }, &reader, ME).await.is_ok()
            })
        })
        .collect();
    let mut won = 0;
    for one in racing {
        won += usize::from(one.await.unwrap());
    }
    assert_eq!(won, 1);
    fixture.rotate(Layer::Root).await;
    assert_eq!(fixture.entries().await, (0, 0));
}

#[tokio::test]
async fn bound_to_a_purpose_or_a_caller() {
    let fixture = Fixture::new().await;
    fixture.put("a", &[("phone", PHONE)]).await.unwrap();
    let bound = NewToken { purpose: Purpose::parse("delivery").ok(), ..plain("a", "phone") };
    let token = fixture.token(bound).await;
    let read = async |view, purpose| fixture.resolved(&token, &as_admin(view, purpose), ME).await;
    assert_eq!(*read(View::Full, Some("delivery")).await.unwrap().value, PHONE);
    for purpose in [Some("account"), Some("support"), None] {
        for view in [View::Full, View::Masked] {
            let refused = read(view, purpose).await;
            assert!(matches!(refused, Err(Error::Refused { rule: Rule::TokenPurpose, field: None })), "{purpose:?}");
        }
    }
    let undeclared = read(View::Full, Some("curiosity")).await;
    assert!(matches!(undeclared, Err(Error::Refused { rule: Rule::PurposeUndeclared, .. })));

    let token = fixture.token(NewToken { caller: Some(ME), ..plain("a", "phone") }).await;
    assert_eq!(fixture.value(&token).await.unwrap(), PHONE);
    assert!(Fixture::unknown(&fixture.resolved(&token, &full(), OTHER).await));
}

#[tokio::test]
async fn a_resolve_is_decided_like_any_read() {
    let fixture = Fixture::new().await;
    fixture.put("a", &[("phone", PHONE), ("birth_date", r#""1985-04-12""#)]).await.unwrap();
    let (phone, birth) = (fixture.token(plain("a", "phone")).await, fixture.token(plain("a", "birth_date")).await);
    let masked = fixture.resolved(&phone, &as_admin(View::Masked, None), ME).await.unwrap();
    assert!(!masked.value.contains("501238301") && masked.lowered.is_none(), "{}", *masked.value);
    let lowered = fixture.resolved(&phone, &as_admin(View::Full, Some("support")), ME).await.unwrap();
    assert_eq!(lowered.lowered, Some(View::Last4));
    let refused = fixture.resolved(&birth, &as_admin(View::Full, Some("marketing")), ME).await;
    assert!(matches!(refused, Err(Error::Refused { rule: Rule::FieldNotForPurpose, .. })));
    // Who may not read does not learn which tokens there are.
    for token in [&phone[..], "udt_0"] {
        let refused = fixture.resolved(token, &as_admin(View::Full, None), ME).await;
        assert!(matches!(refused, Err(Error::Refused { rule: Rule::PurposeRequired, .. })));
        let mut request = full();
        request.reader.role = super::super::Role::Auditor;
        let refused = fixture.resolved(token, &request, ME).await;
        assert!(matches!(refused, Err(Error::Refused { rule: Rule::Role, .. })));
    }
}

#[tokio::test]
async fn a_token_past_its_end_resolves_no_more_and_goes_with_a_root_batch() {
    let fixture = Fixture::new().await;
    fixture.put("a", &[("phone", PHONE)]).await.unwrap();
    let short = fixture.token(NewToken { ttl: Some(1), single_use: true, ..plain("a", "phone") }).await;
    let long = fixture.token(NewToken { ttl: Some(3600), ..plain("a", "phone") }).await;
    assert_eq!(fixture.value(&long).await.unwrap(), PHONE);
    assert_eq!(fixture.entries().await, (4, 2));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(Fixture::unknown(&fixture.value(&short).await));
    assert!(Fixture::unknown(&fixture.vault.revoke_token(&short, Role::Service, ME).await));
    fixture.rotate(Layer::Root).await;
    assert_eq!(fixture.entries().await, (2, 1));
    assert_eq!(fixture.value(&long).await.unwrap(), PHONE);
    // Revoked with time left: its place in the index by time goes with it.
    fixture.vault.revoke_token(&long, Role::Service, ME).await.unwrap();
    fixture.rotate(Layer::Root).await;
    assert_eq!(fixture.entries().await, (0, 0));
}

#[tokio::test]
async fn forgetting_the_field_for_good_or_its_compartment_takes_its_tokens_along() {
    let fixture = Fixture::apart().await;
    let (email, second) = (r#""a@example.org""#, r#""b@example.org""#);
    fixture.put("a", &[("phone", PHONE), ("email", email), ("second_email", second)]).await.unwrap();
    let of_phone = fixture.token(NewToken { ttl: Some(3600), ..plain("a", "phone") }).await;
    let of_email = fixture.token(plain("a", "email")).await;
    let of_second = fixture.token(NewToken { ttl: Some(3600), single_use: true, ..plain("a", "second_email") }).await;
    fixture.vault.forget_field(&id("a"), &name("phone"), None).await.unwrap();
    assert_eq!(fixture.entries().await, (4, 1));
    fixture.put("a", &[("phone", PHONE)]).await.unwrap();
    assert!(Fixture::unknown(&fixture.value(&of_phone).await), "the new value is none of the old token's business");
    assert_eq!(fixture.value(&of_email).await.unwrap(), email);

    fixture.shred_compartment("a", "marketing").await;
    assert_eq!(fixture.entries().await, (2, 0));
    fixture.put("a", &[("second_email", second)]).await.unwrap();
    assert!(Fixture::unknown(&fixture.value(&of_second).await));
    assert_eq!(fixture.value(&of_email).await.unwrap(), email);
}

#[tokio::test]
async fn a_token_that_is_bound_to_a_caller_is_revoked_by_him_or_an_admin() {
    let fixture = Fixture::new().await;
    fixture.put("a", &[("phone", PHONE)]).await.unwrap();
    let other = CallerId([2; 16]);
    for (role, caller, revoked) in
        [(Role::Service, other, false), (Role::Service, ME, true), (Role::Admin, other, true)]
    {
        let token = fixture.token(NewToken { caller: Some(ME), ..plain("a", "phone") }).await;
        assert_eq!(fixture.vault.revoke_token(&token, role, caller).await.is_ok(), revoked);
        assert_eq!(fixture.value(&token).await.is_err(), revoked);
    }
}

#[tokio::test]
async fn more_tokens_of_a_field_than_one_root_batch_takes_go_with_it() {
    let fixture = Fixture::new().await;
    fixture.put("a", &[("phone", PHONE), ("email", r#""a@example.org""#)]).await.unwrap();
    let of_email = fixture.token(plain("a", "email")).await;
    let new: Vec<_> = (0..FORGET_MAX + 500).map(|_| plain("a", "phone")).collect();
    let mut last = None;
    for batch in new.chunks(1000) {
        last = fixture.vault.create_tokens(batch).await.pop().map(|created| created.unwrap().token.to_string());
    }
    let epoch = fixture.vault.status().epoch.unwrap();
    fixture.vault.forget_field(&id("a"), &name("phone"), None).await.unwrap();
    assert!(fixture.vault.status().epoch.unwrap() >= epoch + 2, "in several root batches");
    assert_eq!(fixture.entries().await, (2, 0));
    assert!(Fixture::unknown(&fixture.value(&last.unwrap()).await));
    assert_eq!(fixture.value(&of_email).await.unwrap(), r#""a@example.org""#);
    assert!(matches!(fixture.read("a", "phone").await, Err(Error::NoSuchField)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_made_while_its_field_is_forgotten_dies_too() {
    let fixture = Fixture::new().await;
    for round in 0..5 {
        fixture.put("a", &[("phone", PHONE), ("name", r#""Ada""#)]).await.unwrap();
        let making = {
            let vault = fixture.vault.clone();
            tokio::spawn(async move {
                let mut made = 0;
                // Bounded, for each one makes the forgetting start over.
                while made < 30 && vault.create_token(plain("a", "phone")).await.is_ok() {
                    made += 1;
                }
                made
            })
        };
        tokio::time::sleep(Duration::from_millis(5)).await;
        fixture.vault.forget_field(&id("a"), &name("phone"), None).await.unwrap();
        let made = making.await.unwrap();
        assert_eq!(fixture.entries().await, (0, 0), "round {round}: of {made} tokens some are left");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_shred_the_current_root_leads_to_no_token() {
    let fixture = Fixture::on(Arc::new(MemoryStore::keeping())).await;
    for subject in ["doomed", "kept"] {
        fixture.put(subject, &[("phone", PHONE)]).await.unwrap();
    }
    let new = [NewToken { ttl: Some(3600), ..plain("doomed", "phone") }, plain("doomed", "phone")];
    let mut tokens = Vec::new();
    for created in fixture.vault.create_tokens(&new).await {
        tokens.push(created.unwrap().token.to_string());
    }
    let spent = fixture.token(NewToken { single_use: true, ..plain("doomed", "phone") }).await;
    fixture.value(&spent).await.unwrap();
    tokens.push(spent);
    let kept = fixture.token(plain("kept", "phone")).await;
    let before = root(&fixture).await;
    fixture.shred(&["doomed"]).await;
    assert_eq!(fixture.entries().await, (2, 0));

    let rows = fixture.store.every_version();
    let found = |root: &crate::crypto::RootKey| {
        let reach = reach(&rows, root, fixture.vault.inner.vault);
        let (_, _, key) = reach.tag_keys.iter().find(|(kind, ..)| *kind == Kind::Tokens).unwrap();
        let tagged = |token: &String| {
            let tag = key.tag("token", "", token.as_bytes());
            reach.entries.iter().any(|(kind, entry, _)| {
                matches!(kind, Kind::Tokens | Kind::System) && (entry[..16] == tag || entry[16..] == tag)
            })
        };
        (tokens.iter().filter(|token| tagged(token)).count(), tagged(&kept))
    };
    assert_eq!(found(&root(&fixture).await), (0, true), "nothing of the shredded subject's, all of the other's");
    assert_eq!(found(&before), (3, true), "the control: the root from before leads to all of them");
    for token in &tokens {
        assert!(Fixture::unknown(&fixture.value(token).await));
    }
    let report = fixture.vault.verify(&|_, _| {}).await.unwrap();
    assert_eq!(report.problems, [""; 0]);
}

/// The root in force, from the slot.
async fn root(fixture: &Fixture) -> crate::crypto::RootKey {
    let slot = FileSlot::open(&super::super::tests::slot(&fixture.dir)).unwrap();
    slot.unlock(&Unlock::KeyFile(fixture.key.duplicate())).unwrap();
    slot.read().await.unwrap().entries.pop().unwrap().key
}

#[tokio::test]
async fn an_id_that_is_enrolled_again_has_none_of_the_old_tokens() {
    let fixture = Fixture::new().await;
    fixture.put("a", &[("phone", PHONE)]).await.unwrap();
    let token = fixture.token(plain("a", "phone")).await;
    // With every slot out of reach the shred stays refused: no token resolves then either.
    let (path, aside) = (super::super::tests::slot(&fixture.dir), fixture.dir.path().join("aside"));
    std::fs::rename(&path, &aside).unwrap();
    let erasure = fixture.vault.shred(erasure_of(vec![id("a")]), None).await.unwrap().made;
    assert!(Fixture::unknown(&fixture.value(&token).await));
    assert!(matches!(fixture.vault.create_token(plain("a", "phone")).await, Err(Error::Shredded)));
    std::fs::rename(&aside, &path).unwrap();
    fixture.vault.wait_final(erasure.id, Duration::from_secs(60)).await.unwrap();
    let options = super::super::PutOptions { enrol_again: true, ..Default::default() };
    let changes = super::super::tests::changes(&[("phone", PHONE)]);
    fixture.vault.put_fields(&id("a"), changes, &options).await.unwrap();
    assert!(Fixture::unknown(&fixture.value(&token).await));
}

/// How many tokens over how many subjects, and how many more on one: 10^5 with `UDV_TEST_LONG`.
fn sizes() -> (usize, usize, usize) {
    if std::env::var_os("UDV_TEST_LONG").is_some() { (100_000, 100, 5_000) } else { (2_000, 100, 2_500) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_are_made_and_resolved_in_batches_and_die_with_their_subjects() {
    let (many, subjects, on_one) = sizes();
    let fixture = Fixture::new().await;
    for n in 0..subjects {
        fixture.put(&format!("s{n}"), &[("phone", PHONE)]).await.unwrap();
    }
    let shapes = TokenShape::ALL;
    let new: Vec<NewToken> = (0..many)
        .map(|n| plain(&format!("s{}", n % subjects), "phone"))
        .chain((0..on_one).map(|n| NewToken { ttl: Some(3600), shape: shapes[n % 2], ..plain("s0", "phone") }))
        .collect();
    let begun = Instant::now();
    let mut tokens: Vec<String> = Vec::new();
    for batch in new.chunks(1000) {
        let created = fixture.vault.create_tokens(batch).await;
        tokens.extend(created.into_iter().map(|created| created.unwrap().token.to_string()));
    }
    let created = begun.elapsed();
    assert_eq!(fixture.entries().await.0, 2 * new.len());

    let begun = Instant::now();
    let request = full();
    let resolve = async |tokens: &[String]| {
        let mut good = 0;
        for batch in tokens.chunks(1000) {
            let items: Vec<_> = batch.iter().map(|token| ResolveItem { token, view: View::Full }).collect();
            for outcome in fixture.vault.resolve_tokens(&items, &request.reader, ME).await {
                match outcome {
                    Ok(resolved) => {
                        assert_eq!(*resolved.value, PHONE);
                        good += 1;
                    }
                    Err(error) => assert!(matches!(error, Error::NotFound("value token")), "{error}"),
                }
            }
        }
        good
    };
    assert_eq!(resolve(&tokens).await, tokens.len());
    let resolved = begun.elapsed();

    // All but one subject, the one with many tokens among them, which takes several root batches.
    let begun = Instant::now();
    let doomed: Vec<SubjectId> = (0..subjects - 1).map(|n| id(&format!("s{n}"))).collect();
    let epoch = fixture.vault.status().epoch.unwrap();
    let erasure = fixture.vault.shred(erasure_of(doomed), None).await.unwrap().made;
    assert_eq!(resolve(&tokens[..subjects]).await, 1, "refused is gone for readers");
    let done = fixture.vault.wait_final(erasure.id, Duration::from_secs(600)).await.unwrap();
    let shredded = begun.elapsed();
    assert_eq!((done.counts.r#final, done.counts.refused), (subjects as u64 - 1, 0));
    let rounds = fixture.vault.status().epoch.unwrap() - epoch;
    assert!(rounds as usize > (many + on_one) / (FORGET_MAX + 1) / 2, "{rounds} rounds");
    let living = many / subjects;
    assert_eq!(fixture.entries().await, (2 * living, 0));
    assert_eq!(resolve(&tokens).await, living);
    let rate = |took: Duration| tokens.len() as f64 / took.as_secs_f64();
    println!(
        "{} tokens: {:.0} created a second, {:.0} resolved a second, forgotten in {shredded:?} and {rounds} root batches",
        tokens.len(),
        rate(created),
        rate(resolved)
    );
    let report = fixture.vault.verify(&|_, _| {}).await.unwrap();
    assert_eq!(report.problems, [""; 0]);
}
