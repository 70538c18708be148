//! A schema that is put into force, and what becomes of what is stored.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use super::tests::{Fixture, changes, erasure_of, full, id, name, reading, slot};
use super::{NewErasure, PutOptions};
use crate::error::Error;
use crate::ids::Compartment;
use crate::policy::{Decision, Rule};
use crate::schema::{Document, SchemaError, View};
use crate::store::{Fault, MemoryStore};

const SHIPPED: &str = include_str!("../../../docs/schema/privacy-policy.toml");

fn document(toml: &str) -> Document {
    Document::from_toml(toml).unwrap()
}

/// The built-in schema and two compartments more, all of it for `account` to see.
const APART: &str = concat!(
    include_str!("../schema/builtin.toml"),
    "\n[compartments.marketing]\n[fields.interests]\ntype = \"json\"\ncompartment = \"marketing\"\n",
    "[fields.second_email]\ntype = \"email\"\ncompartment = \"marketing\"\nlookup = [\"exact\"]\n"
);

/// The shipped schema with something replaced.
fn but(from: &str, to: &str) -> Document {
    assert!(SHIPPED.contains(from), "{from}");
    document(&SHIPPED.replacen(from, to, 1))
}

impl Fixture {
    /// A vault under the shipped schema.
    pub(super) async fn shipped() -> Self {
        let fixture = Self::new().await;
        fixture.vault.put_schema(document(SHIPPED), None).await.unwrap();
        fixture
    }

    /// A vault with the compartments `profile` and `marketing`, in which are `interests` and `second_email`.
    pub(super) async fn apart() -> Self {
        Self::apart_on(Arc::new(MemoryStore::new())).await
    }

    pub(super) async fn apart_on(store: Arc<MemoryStore>) -> Self {
        let fixture = Self::on(store).await;
        fixture.vault.put_schema(document(APART), None).await.unwrap();
        fixture
    }

    pub(super) async fn shred_compartment(&self, subject: &str, compartment: &str) {
        let asked =
            NewErasure { compartment: Some(Compartment::parse(compartment).unwrap()), ..erasure_of(vec![id(subject)]) };
        let erasure = self.vault.shred(asked, None).await.unwrap().made;
        let erasure = self.vault.wait_final(erasure.id, std::time::Duration::from_secs(20)).await.unwrap();
        assert_eq!((erasure.counts.r#final, erasure.f1_at.is_some()), (1, true));
    }
}

#[tokio::test]
async fn a_schema_comes_into_force_over_stored_data_and_survives_a_restart() {
    let mut fixture = Fixture::new().await;
    fixture.put("a", &[("phone", r#""+971501238301""#)]).await.unwrap();
    assert_eq!(fixture.vault.schema().unwrap().version, 1);
    let put = fixture.vault.put_schema(document(SHIPPED), Some(1)).await.unwrap();
    assert_eq!(put.version, 2);
    assert_eq!(fixture.vault.put_schema(document(SHIPPED), None).await.unwrap().version, 2, "it is in force already");
    let stale = fixture.vault.put_schema(but("title = ", "# title = "), Some(1)).await;
    assert!(matches!(stale, Err(Error::PreconditionFailed)));
    fixture.put("a", &[("home_address", r#""1 Road""#)]).await.unwrap();
    fixture.restart().await;
    let schema = fixture.vault.schema().unwrap();
    assert_eq!((schema.version, schema.document()), (2, put.document()));
    assert_eq!(fixture.read("a", "phone").await.unwrap(), r#""+971501238301""#, "as it was sealed under version 1");
    assert_eq!(fixture.read("a", "home_address").await.unwrap(), r#""1 Road""#);
    assert_eq!(fixture.vault.schema_version(1).await.unwrap().fields().count(), 9);
    assert!(matches!(fixture.vault.schema_version(3).await, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn a_change_that_would_orphan_what_is_stored_is_refused_while_something_is() {
    let fixture = Fixture::shipped().await;
    let orphan = "[fields.nickname]";
    let renamed = but(orphan, "[fields.handle]");
    fixture.vault.check_schema(&renamed).unwrap();
    fixture.put("a", &[("nickname", r#""ada""#)]).await.unwrap();
    assert!(matches!(fixture.vault.put_schema(renamed.clone(), None).await, Err(Error::SchemaChange(_))));
    assert!(matches!(fixture.vault.check_schema(&renamed), Err(Error::SchemaChange(_))));
    assert_eq!(fixture.vault.schema().unwrap().version, 2, "nothing changed");
    // The way out: the renamed field keeps its id.
    let kept = but(orphan, "[fields.handle]\nid = \"nickname\"");
    fixture.vault.put_schema(kept, None).await.unwrap();
    assert_eq!(fixture.read("a", "handle").await.unwrap(), r#""ada""#);
    let old = fixture.vault.read_fields(&id("a"), Some(&[name("nickname")]), &full()).await;
    assert!(matches!(old, Err(Error::Schema(SchemaError::UnknownField(_)))));
    let described = fixture.vault.describe(&id("a")).await.unwrap();
    assert_eq!(described.fields[0].0.name, name("handle"));
}

#[tokio::test]
async fn a_write_that_was_prepared_under_another_schema_is_prepared_again() {
    let fixture = Fixture::shipped().await;
    // Both are under way at once, often enough for either to come first.
    for round in 0..40 {
        let subject = format!("s-{round}");
        let (retire, allow) = (round % 2 == 0, but("title = ", &format!("title = \"{round}\" #")));
        let next = match retire {
            true => document(&allow.to_toml().replacen("[fields.nickname]", "[fields.nickname]\nretired = true", 1)),
            false => allow,
        };
        let (put, changed) =
            tokio::join!(fixture.put(&subject, &[("nickname", r#""x""#)]), fixture.vault.put_schema(next, None));
        changed.unwrap();
        match put {
            Ok(_) => assert!(fixture.vault.describe(&id(&subject)).await.is_ok()),
            Err(error) => assert!(matches!(error, Error::Schema(SchemaError::Retired { .. })), "{error}"),
        }
    }
}

#[tokio::test]
async fn a_schema_that_is_not_committed_is_not_in_force() {
    let fixture = Fixture::new().await;
    fixture.store.fail_next_commit(Fault::Full);
    assert!(matches!(fixture.vault.put_schema(document(SHIPPED), None).await, Err(Error::DiskFull)));
    assert_eq!(fixture.vault.schema().unwrap().version, 1);
    assert!(fixture.put("a", &[("interests", "[]")]).await.is_err());
}

#[tokio::test]
async fn the_shipped_schema_says_who_sees_what() {
    let fixture = Fixture::shipped().await;
    fixture
        .put(
            "a",
            &[("phone", r#""+971501238301""#), ("birth_date", r#""1990-02-28""#), ("home_address", r#""1 Road""#)],
        )
        .await
        .unwrap();
    let read = async |field: &str, view, purpose| {
        let names = [name(field)];
        let outcome = fixture.vault.read_fields(&id("a"), Some(&names), &reading(view, Some(purpose))).await;
        outcome.map(|outcome| outcome.fields[0].value.to_string())
    };
    assert_eq!(read("phone", View::Full, "support").await.unwrap(), "\"+971•••••01\"");
    assert_eq!(read("phone", View::Full, "delivery").await.unwrap(), "\"+971501238301\"");
    assert_eq!(read("home_address", View::Full, "delivery").await.unwrap(), "\"1 Road\"");
    let refused = read("birth_date", View::Masked, "delivery").await;
    let Err(Error::Refused { rule, field }) = refused else { panic!("it is refused") };
    assert_eq!((rule, field), (Rule::FieldNotForPurpose, Some(name("birth_date"))));
    // What is decided goes out with the answer, for the audit: of fields that are not held, or not shown, too.
    let outcome = fixture.vault.read_fields(&id("a"), None, &reading(View::Full, Some("delivery"))).await.unwrap();
    let decided = |field: &str| outcome.decisions.iter().find(|(name, _)| name.as_str() == field).unwrap().1;
    assert_eq!(decided("phone"), Decision::Allow(View::Full));
    assert_eq!(decided("birth_date"), Decision::Refuse(Rule::FieldNotForPurpose));
    assert_eq!(outcome.decisions.len(), fixture.vault.schema().unwrap().fields().count());
    let refused = read("phone", View::Full, "marketing").await;
    assert!(matches!(refused, Err(Error::Refused { rule: Rule::ConsentMissing, .. })));
}

#[tokio::test]
async fn a_compartment_is_shredded_alone() {
    let mut fixture = Fixture::apart().await;
    let second = ("second_email", r#""ada2@example.org""#);
    let fields = [("email", r#""ada@example.org""#), ("interests", r#"["sailing"]"#), second];
    fixture.put("a", &fields).await.unwrap();
    fixture.put("b", &fields).await.unwrap();
    fixture.shred_compartment("a", "marketing").await;
    for _ in 0..2 {
        assert!(matches!(fixture.read("a", "interests").await, Err(Error::NoSuchField)));
        assert_eq!(fixture.read("a", "email").await.unwrap(), fields[0].1);
        assert_eq!(fixture.read("b", "interests").await.unwrap(), fields[1].1);
        let mut found = fixture.look_up("email", fields[0].1).await;
        found.sort();
        assert_eq!(found, ["a", "b"]);
        assert_eq!(fixture.look_up(second.0, second.1).await, ["b"]);
        fixture.restart().await;
    }
    let report = fixture.vault.verify(&|_, _| {}).await.unwrap();
    assert_eq!(report.problems, [""; 0]);
    // It begins anew with the next value, under another key.
    fixture.put("a", &[("interests", r#"["chess"]"#)]).await.unwrap();
    assert_eq!(fixture.read("a", "interests").await.unwrap(), r#"["chess"]"#);
    // Again, and the subject as a whole beside it.
    fixture.shred_compartment("a", "marketing").await;
    fixture.shred(&["a"]).await;
    assert!(matches!(fixture.read("a", "email").await, Err(Error::Shredded)));
    assert_eq!(fixture.vault.verify(&|_, _| {}).await.unwrap().problems, [""; 0]);
}

#[tokio::test]
async fn while_a_compartments_shred_waits_it_holds_nothing_and_takes_nothing() {
    let mut fixture = Fixture::apart().await;
    fixture.put("a", &[("email", r#""ada@example.org""#), ("interests", r#"["sailing"]"#)]).await.unwrap();
    let away = fixture.dir.path().join("away");
    std::fs::rename(slot(&fixture.dir), &away).unwrap();
    let compartment = Some(Compartment::parse("marketing").unwrap());
    let asked = NewErasure { compartment, ..erasure_of(vec![id("a")]) };
    let erasure = fixture.vault.shred(asked, None).await.unwrap().made;
    assert_eq!((erasure.counts.refused, erasure.f1_at), (1, None));
    assert!(matches!(fixture.read("a", "interests").await, Err(Error::NoSuchField)));
    assert!(matches!(fixture.put("a", &[("interests", "[]")]).await, Err(Error::Conflict(_))));
    let new = super::NewToken {
        subject: id("a"),
        field: name("email"),
        ttl: None,
        single_use: false,
        shape: super::TokenShape::Random,
        purpose: None,
        caller: None,
    };
    let told = fixture.vault.create_token(new).await.err().unwrap();
    assert!(matches!(told, Error::Conflict(_)), "said as it is, and not as a failure of the engine: {told}");
    assert!(fixture.read("a", "email").await.is_ok(), "the rest goes on");

    std::fs::rename(&away, slot(&fixture.dir)).unwrap();
    fixture.restart().await;
    let done = fixture.vault.wait_final(erasure.id, std::time::Duration::from_secs(20)).await.unwrap();
    assert_eq!((done.counts.r#final, done.f1_at.is_some()), (1, true));
    fixture.put("a", &[("interests", "[]")]).await.unwrap();
}

#[tokio::test]
async fn what_has_no_such_compartment_is_counted_and_left_alone() {
    let fixture = Fixture::apart().await;
    fixture.put("a", &[("email", r#""ada@example.org""#)]).await.unwrap();
    let marketing = Compartment::parse("marketing").unwrap();
    let counts = fixture.vault.shred_dry_run(&[id("a"), id("nobody")], Some(&marketing)).await.unwrap();
    assert_eq!((counts.unknown, counts.pending), (2, 0));
    let undeclared = Compartment::parse("cellar").unwrap();
    for compartment in [undeclared, Compartment::system()] {
        let counts = fixture.vault.shred_dry_run(&[id("a")], Some(&compartment)).await;
        assert!(matches!(counts, Err(Error::Invalid { field: "compartment", .. })));
    }
}

#[tokio::test]
async fn a_final_change_gives_a_new_key_to_its_own_compartments_only() {
    let fixture = Fixture::apart().await;
    fixture.put("a", &[("email", r#""ada@example.org""#), ("interests", r#"["sailing"]"#)]).await.unwrap();
    let options = PutOptions { final_: true, ..PutOptions::default() };
    fixture.vault.put_fields(&id("a"), changes(&[("interests", r#"["chess"]"#)]), &options).await.unwrap();
    let compartments = fixture.vault.describe(&id("a")).await.unwrap().compartments;
    let version = |of: &str| compartments.iter().find(|(name, _)| name.as_str() == of).unwrap().1;
    assert_eq!((version("profile"), version("marketing")), (1, 2));
    assert_eq!(fixture.read("a", "interests").await.unwrap(), r#"["chess"]"#);
    assert_eq!(fixture.read("a", "email").await.unwrap(), r#""ada@example.org""#);
}

#[tokio::test]
async fn a_subject_never_grows_beyond_what_can_be_noted_and_shredded() {
    let fixture = Fixture::new().await;
    let long = |n: usize| format!("f{n:0>63}");
    let declared = |n| format!("[fields.{}]\ntype = \"name\"\nlookup = [\"exact\"]\n", long(n));
    let fields: String = (0..120).map(declared).collect();
    let toml = format!("{APART}{fields}[purposes.p]\nbasis = \"consent\"\n");
    fixture.vault.put_schema(document(&toml), None).await.unwrap();
    let mut held = 0;
    let full = loop {
        match fixture.put("a", &[(&long(held), r#""x y""#)]).await {
            Ok(_) => held += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, Error::TooLarge), "{full}");
    assert!(held > 40, "{held}");
    // What a subject is owed fits all the same, at its largest.
    let by = crate::ids::CallerId([1; 16]);
    fixture.vault.restrict(&id("a"), Some("disputed")).await.unwrap();
    fixture.vault.give_consent(&id("a"), &crate::ids::Purpose::parse("p").unwrap(), "1", "form", by).await.unwrap();
    let holds: Vec<_> =
        (0..super::HOLDS_MAX).map(|n| crate::ids::HoldName::parse(&format!("h{n:0>63}")).unwrap()).collect();
    for hold in &holds {
        fixture.vault.add_hold(&id("a"), hold, "a lawsuit", by).await.unwrap();
    }
    // A rotation of lookups lists all it is found by once more, and what comes meanwhile fits as well.
    let rotation = fixture.vault.rotate(super::Layer::Lookups, Some(20), None).await.unwrap().made;
    let mut n = 0;
    while fixture.vault.rotation(rotation.id).await.unwrap().finished_at.is_none() {
        n += 1;
        fixture.put("a", &[(&long(n % held), &format!(r#""x {n}""#))]).await.unwrap();
    }
    assert!(n > 0, "nothing was written meanwhile");
    assert_eq!(fixture.vault.verify(&|_, _| {}).await.unwrap().problems, [""; 0]);
    for hold in &holds {
        fixture.vault.release_hold(&id("a"), hold).await.unwrap();
    }
    // Room is made by what goes, and a removal goes through on a full record.
    fixture.put("a", &[(&long(0), "")]).await.unwrap();
    assert_eq!(fixture.vault.verify(&|_, _| {}).await.unwrap().problems, [""; 0]);
    fixture.put("b", &[("email", r#""b@example.org""#)]).await.unwrap();
    assert_eq!(fixture.shred(&["a", "b"]).await.counts.r#final, 2);
    assert_eq!(fixture.vault.verify(&|_, _| {}).await.unwrap().problems, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_subject_holds_up_no_shred_and_no_final_change() {
    let fixture = Arc::new(Fixture::apart().await);
    let fields = [("email", r#""ada@example.org""#), ("phone", r#""+971501238301""#), ("interests", "[]")];
    for subject in ["busy", "a", "b", "c"] {
        fixture.put(subject, &fields).await.unwrap();
    }
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let create = |fixture: Arc<Fixture>, stop: Arc<std::sync::atomic::AtomicBool>| async move {
        let mut made = 0;
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            let new = super::NewToken {
                subject: id("busy"),
                field: name("phone"),
                ttl: None,
                single_use: false,
                shape: super::TokenShape::Random,
                purpose: None,
                caller: None,
            };
            made += u32::from(fixture.vault.create_token(new).await.is_ok());
        }
        made
    };
    let busy: Vec<_> = (0..4).map(|_| tokio::spawn(create(fixture.clone(), stop.clone()))).collect();
    for round in 0..5 {
        let (email, interests) = (format!(r#""ada{round}@example.org""#), format!("[{round}]"));
        fixture.put("busy", &[("email", &email), ("interests", &interests)]).await.unwrap();
        fixture.vault.forget_field(&id("busy"), &name("email"), None).await.unwrap();
        fixture.shred_compartment("busy", "marketing").await;
    }
    assert_eq!(fixture.shred(&["a", "b", "c"]).await.counts.r#final, 3);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for busy in busy {
        assert!(busy.await.unwrap() > 0, "the control: it was busy");
    }
}
