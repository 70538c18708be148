//! Consent, restriction and legal holds: every transition, over restarts, and against a shred.

#![allow(clippy::unwrap_used)]

use super::tests::{Fixture, changes, erasure_of, full, id, name, reading};
use super::*;
use crate::ids::{CallerId, HoldName, Purpose};
use crate::policy::{Rule, SubjectStanding};
use crate::schema::{Document, View};

const EMAIL: (&str, &str) = ("email", r#""ada@example.org""#);
const BY: CallerId = CallerId([7; 16]);

fn purpose(text: &str) -> Purpose {
    Purpose::parse(text).unwrap()
}

fn hold(text: &str) -> HoldName {
    HoldName::parse(text).unwrap()
}

async fn with_subjects(subjects: &[&str]) -> Fixture {
    let fixture = Fixture::new().await;
    for subject in subjects {
        fixture.put(subject, &[EMAIL]).await.unwrap();
    }
    fixture
}

/// Marketing rests on consent from here on, and security goes on under a restriction.
async fn use_strict_schema(fixture: &Fixture) {
    let strict = include_str!("../schema/builtin.toml")
        .replace("\"legitimate_interest\"", "\"consent\"")
        .replace("[purposes.security]", "[purposes.security]\nunder_restriction = true");
    fixture.vault.put_schema(Document::from_toml(&strict).unwrap(), None).await.unwrap();
}

async fn read_for(fixture: &Fixture, named: &str) -> Result<ReadOutcome, Error> {
    fixture.vault.read_fields(&id("a"), Some(&[name("email")]), &reading(View::Masked, Some(named))).await
}

async fn no_damage(fixture: &Fixture) {
    assert_eq!(fixture.vault.verify(&|_, _| ()).await.unwrap().problems, [""; 0]);
}

#[tokio::test]
async fn consent_is_given_replaced_withdrawn_and_listed() {
    let mut fixture = with_subjects(&["a", "b"]).await;
    let (a, marketing) = (id("a"), purpose("marketing"));
    assert_eq!(fixture.vault.consents(&a).await.unwrap(), []);
    let first = fixture.vault.give_consent(&a, &marketing, "v1", "web form", BY).await.unwrap();
    let again = fixture.vault.give_consent(&a, &marketing, "v1", "another form", BY).await.unwrap();
    assert_eq!(first, again, "the same version changes nothing");
    let second = fixture.vault.give_consent(&a, &marketing, "v2", "call", BY).await.unwrap();
    fixture.vault.give_consent(&a, &purpose("support"), "v1", "call", BY).await.unwrap();
    fixture.restart().await;

    let listed = fixture.vault.consents(&a).await.unwrap();
    let told: Vec<_> = listed.iter().map(|c| (c.purpose.as_str(), c.version.as_str(), c.in_force())).collect();
    assert_eq!(told, [("marketing", "v1", false), ("marketing", "v2", true), ("support", "v1", true)]);
    assert_eq!((listed[0].given_at, listed[0].replaced_at), (first.given_at, Some(second.given_at)));
    assert_eq!(fixture.vault.describe(&a).await.unwrap().consents, [marketing.clone(), purpose("support")]);

    fixture.vault.withdraw_consent(&a, &marketing, Some("letter")).await.unwrap();
    fixture.vault.withdraw_consent(&a, &marketing, None).await.unwrap();
    fixture.vault.withdraw_consent(&a, &purpose("no_such"), None).await.unwrap();
    assert_eq!(fixture.vault.describe(&a).await.unwrap().consents, [purpose("support")]);
    let listed = fixture.vault.consents(&a).await.unwrap();
    assert_eq!(listed.len(), 3, "withdrawing what is not given leaves no trace");
    assert!(listed[1].withdrawn_at.is_some() && listed[0].withdrawn_at.is_none());
    assert_eq!(listed[1].withdrawn_source.as_deref(), Some("letter"));
    fixture.vault.give_consent(&a, &marketing, "v2", "call", BY).await.unwrap();
    assert_eq!(fixture.vault.consents(&a).await.unwrap().len(), 4, "given anew after a withdrawal");
    assert_eq!(fixture.vault.consents(&id("b")).await.unwrap(), [], "the other subject's are its own");
    no_damage(&fixture).await;
}

#[tokio::test]
async fn consent_refuses_what_does_not_fit() {
    let fixture = with_subjects(&["a"]).await;
    let long = "x".repeat(257);
    for (named, version, source, field) in [
        ("curiosity", "v1", "form", "purpose"),
        ("marketing", "", "form", "version"),
        ("marketing", "a\nb", "form", "version"),
        ("marketing", "v1", long.as_str(), "source"),
    ] {
        let refused = fixture.vault.give_consent(&id("a"), &purpose(named), version, source, BY).await;
        assert!(matches!(refused, Err(Error::Invalid { field: told, .. }) if told == field), "{field}");
    }
    let unknown = fixture.vault.give_consent(&id("nobody"), &purpose("marketing"), "v1", "form", BY).await;
    assert!(matches!(unknown, Err(Error::UnknownSubject)));
    assert!(matches!(fixture.vault.consents(&id("nobody")).await, Err(Error::UnknownSubject)));
    assert_eq!(fixture.vault.consents(&id("a")).await.unwrap(), []);
}

#[tokio::test]
async fn the_history_is_bounded_and_keeps_what_is_in_force() {
    let fixture = with_subjects(&["a"]).await;
    let (a, marketing) = (id("a"), purpose("marketing"));
    let long = "s".repeat(CONSENT_TEXT_MAX);
    fixture.vault.give_consent(&a, &purpose("support"), "kept", &long, BY).await.unwrap();
    for n in 0..70 {
        fixture.vault.give_consent(&a, &marketing, &format!("{n:0>256}"), &long, BY).await.unwrap();
        fixture.vault.withdraw_consent(&a, &marketing, Some(&long)).await.unwrap();
    }
    let listed = fixture.vault.consents(&a).await.unwrap();
    assert!(listed.len() <= CONSENTS_MAX && listed.len() > CONSENTS_MAX / 2, "{}", listed.len());
    assert_eq!(listed[0].version, "kept", "the oldest, but in force");
    assert!(listed.last().unwrap().version.ends_with("69"));
    assert_eq!(fixture.shred(&["a"]).await.counts.r#final, 1);
    no_damage(&fixture).await;
}

#[tokio::test]
async fn consent_decides_the_next_read() {
    let fixture = with_subjects(&["a"]).await;
    let marketing = purpose("marketing");
    assert!(read_for(&fixture, "marketing").await.is_ok(), "the control: it rests on a contract");
    use_strict_schema(&fixture).await;
    let missing = |outcome| matches!(outcome, Err(Error::Refused { rule: Rule::ConsentMissing, .. }));
    assert!(missing(read_for(&fixture, "marketing").await));
    fixture.vault.give_consent(&id("a"), &marketing, "v1", "form", BY).await.unwrap();
    assert!(read_for(&fixture, "marketing").await.is_ok());
    fixture.vault.withdraw_consent(&id("a"), &marketing, None).await.unwrap();
    assert!(missing(read_for(&fixture, "marketing").await));
    assert!(read_for(&fixture, "account").await.is_ok(), "others go on");
}

#[tokio::test]
async fn a_restriction_stops_all_but_the_exempt_purposes_and_lookups_with_them() {
    let mut fixture = with_subjects(&["a", "b"]).await;
    let first = fixture.vault.restrict(&id("a"), None).await.unwrap();
    let told = fixture.vault.restrict(&id("a"), Some("disputed")).await.unwrap();
    assert_eq!((told.since, told.reason.as_deref()), (first.since, Some("disputed")));
    assert_eq!(fixture.vault.restrict(&id("a"), None).await.unwrap(), told, "a reason stays");
    fixture.restart().await;
    use_strict_schema(&fixture).await;
    let restricted = |outcome| matches!(outcome, Err(Error::Refused { rule: Rule::Restricted, .. }));
    assert!(restricted(read_for(&fixture, "account").await));
    assert!(read_for(&fixture, "security").await.is_ok(), "exempt");
    assert_eq!(fixture.look_up("email", EMAIL.1).await, ["b"]);
    let exempt = reading(View::Masked, Some("security")).reader;
    let page = fixture.vault.look_up(&exempt, &name("email"), EMAIL.1, None, None, 100).await.unwrap();
    assert_eq!(page.subjects.len(), 2);
    let described = fixture.vault.describe(&id("a")).await.unwrap();
    assert_eq!((described.standing, described.restriction), (SubjectStanding::Restricted, Some(told)));

    fixture.vault.unrestrict(&id("a")).await.unwrap();
    fixture.vault.unrestrict(&id("a")).await.unwrap();
    assert!(read_for(&fixture, "account").await.is_ok());
    assert_eq!(fixture.look_up("email", EMAIL.1).await, ["a", "b"]);
    assert_eq!(fixture.vault.describe(&id("a")).await.unwrap().restriction, None);
    assert_eq!(fixture.vault.restrict(&id("a"), None).await.unwrap().reason, None, "the former reason is over");
    let long = fixture.vault.restrict(&id("a"), Some(&"x".repeat(REASON_MAX + 1))).await;
    assert!(matches!(long, Err(Error::Invalid { field: "reason", .. })));
    no_damage(&fixture).await;
}

#[tokio::test]
async fn a_lookup_is_for_a_purpose_too() {
    let fixture = Fixture::shipped().await;
    let phone = r#""+971501238301""#;
    fixture.put("a", &[("email", EMAIL.1), ("phone", phone)]).await.unwrap();
    let look_up = async |field: &str, value: &str, purpose: Option<&str>| {
        let reader = reading(View::Masked, purpose).reader;
        let page = fixture.vault.look_up(&reader, &name(field), value, None, None, 100).await;
        page.map(|page| page.subjects.len())
    };
    let refused = |outcome: Result<usize, Error>, expected| match outcome {
        Err(Error::Refused { rule, .. }) => rule == expected,
        _ => false,
    };
    assert_eq!(look_up("email", EMAIL.1, Some("account")).await.unwrap(), 1, "the control");
    assert!(refused(look_up("email", EMAIL.1, None).await, Rule::PurposeRequired));
    assert!(refused(look_up("email", EMAIL.1, Some("delivery")).await, Rule::FieldNotForPurpose));
    assert_eq!(look_up("phone", phone, Some("delivery")).await.unwrap(), 1);
    assert_eq!(look_up("email", EMAIL.1, Some("marketing")).await.unwrap(), 0, "who did not consent is not found");
    fixture.vault.give_consent(&id("a"), &purpose("marketing"), "1", "form", BY).await.unwrap();
    assert_eq!(look_up("email", EMAIL.1, Some("marketing")).await.unwrap(), 1);
    // And so is every read.
    let masked = fixture.vault.read_fields(&id("a"), None, &reading(View::Masked, None)).await;
    assert!(matches!(masked, Err(Error::Refused { rule: Rule::PurposeRequired, .. })));
}

async fn listed(fixture: &Fixture) -> Vec<String> {
    let (held, next) = fixture.vault.held(None, 100).await.unwrap();
    assert_eq!(next, None);
    let mut listed: Vec<String> = held
        .iter()
        .map(|held| {
            let names: Vec<_> = held.holds.iter().map(|hold| format!("{}={}", hold.name, hold.reason)).collect();
            format!("{} {}", held.subject.as_str(), names.join(" "))
        })
        .collect();
    listed.sort();
    listed
}

#[tokio::test]
async fn holds_are_added_listed_and_released() {
    let mut fixture = with_subjects(&["a", "b", "c"]).await;
    let (case, audit) = (hold("case_1"), hold("tax_audit"));
    let first = fixture.vault.add_hold(&id("a"), &case, "lawsuit", BY).await.unwrap();
    assert_eq!(fixture.vault.add_hold(&id("a"), &case, "lawsuit", CallerId([8; 16])).await.unwrap(), first);
    let changed = fixture.vault.add_hold(&id("a"), &case, "appeal", BY).await.unwrap();
    assert_eq!(changed.since, first.since);
    fixture.vault.add_hold(&id("a"), &audit, "audit", BY).await.unwrap();
    fixture.vault.add_hold(&id("b"), &case, "lawsuit", BY).await.unwrap();
    fixture.restart().await;
    assert_eq!(listed(&fixture).await, ["a case_1=appeal tax_audit=audit", "b case_1=lawsuit"]);
    let (page, next) = fixture.vault.held(None, 1).await.unwrap();
    assert_eq!(page.len(), 1);
    let (rest, _) = fixture.vault.held(next.as_deref(), 100).await.unwrap();
    assert_eq!(rest.len(), 1);
    assert_ne!(rest[0].subject, page[0].subject);
    assert_eq!(fixture.vault.describe(&id("a")).await.unwrap().holds, [case.clone(), audit.clone()]);

    fixture.vault.release_hold(&id("a"), &case).await.unwrap();
    assert!(matches!(fixture.vault.release_hold(&id("a"), &case).await, Err(Error::NotFound("hold"))));
    assert_eq!(listed(&fixture).await, ["a tax_audit=audit", "b case_1=lawsuit"]);
    fixture.vault.release_hold(&id("a"), &audit).await.unwrap();
    assert_eq!(listed(&fixture).await, ["b case_1=lawsuit"]);
    fixture.rotate(Layer::Root).await;
    assert_eq!(listed(&fixture).await, ["b case_1=lawsuit"]);
    fixture.vault.add_hold(&id("a"), &audit, "audit", BY).await.unwrap();
    assert_eq!(listed(&fixture).await, ["a tax_audit=audit", "b case_1=lawsuit"], "held anew after it was tidied away");
    no_damage(&fixture).await;
}

#[tokio::test]
async fn a_subject_has_sixteen_holds_at_most() {
    let fixture = with_subjects(&["a"]).await;
    let long = "r".repeat(REASON_MAX);
    for n in 0..HOLDS_MAX {
        fixture.vault.add_hold(&id("a"), &hold(&format!("case_{n}")), &long, BY).await.unwrap();
    }
    let more = fixture.vault.add_hold(&id("a"), &hold("one_more"), "r", BY).await;
    assert!(matches!(more, Err(Error::Conflict(_))));
    fixture.vault.add_hold(&id("a"), &hold("case_3"), "another reason", BY).await.unwrap();
    for reason in ["", "a\nb", &format!("{long}x")] {
        let refused = fixture.vault.add_hold(&id("a"), &hold("case_3"), reason, BY).await;
        assert!(matches!(refused, Err(Error::Invalid { field: "reason", .. })));
    }
}

#[tokio::test]
async fn a_hold_keeps_a_subject_whole_until_it_is_released() {
    let fixture = with_subjects(&["a"]).await;
    let case = hold("case_1");
    fixture.vault.add_hold(&id("a"), &case, "lawsuit", BY).await.unwrap();
    fn held<T>(outcome: Result<T, Error>) -> bool {
        matches!(outcome, Err(Error::Held { hold }) if hold.as_str() == "case_1")
    }
    assert!(held(fixture.vault.shred(erasure_of(vec![id("a")]), None).await));
    assert!(held(fixture.vault.forget_field(&id("a"), &name("email"), None).await));
    let options = PutOptions { final_: true, ..PutOptions::default() };
    let overwrite = changes(&[("email", r#""new@example.org""#)]);
    assert!(held(fixture.vault.put_fields(&id("a"), overwrite, &options).await));
    assert_eq!(fixture.read("a", "email").await.unwrap(), EMAIL.1);
    assert!(fixture.vault.erasures(None, 10).await.unwrap().0.is_empty(), "nothing was begun");
    assert!(held(fixture.put("a", &[("email", "")]).await), "no removal either, final or not");
    fixture.put("a", &[("nickname", r#""x""#)]).await.unwrap();

    fixture.vault.release_hold(&id("a"), &case).await.unwrap();
    assert_eq!(fixture.shred(&["a"]).await.counts.r#final, 1);
    let late = fixture.vault.add_hold(&id("a"), &case, "lawsuit", BY).await;
    assert!(matches!(late, Err(Error::Shredded)));
    no_damage(&fixture).await;
}

#[tokio::test]
async fn held_subjects_of_an_erasure_are_left_alone_and_counted() {
    let fixture = with_subjects(&["a", "b", "c"]).await;
    fixture.vault.add_hold(&id("b"), &hold("case_1"), "lawsuit", BY).await.unwrap();
    let asked = ["a", "b", "c", "x"].map(id);
    let dry = fixture.vault.shred_dry_run(&asked, None).await.unwrap();
    assert_eq!((dry.pending, dry.held, dry.unknown), (2, 1, 1));
    let erasure = fixture.vault.shred(erasure_of(asked.to_vec()), None).await.unwrap().made;
    let shown = fixture.vault.wait_final(erasure.id, std::time::Duration::from_secs(20)).await.unwrap();
    assert_eq!((shown.counts.r#final, shown.counts.held, shown.counts.unknown, shown.total), (2, 1, 1, 4));
    let kept: Vec<_> = shown.items.iter().map(|item| (item.subject.clone(), item.hold.clone().unwrap())).collect();
    assert_eq!(kept, [(id("b"), hold("case_1"))]);
    assert_eq!(fixture.read("b", "email").await.unwrap(), EMAIL.1);
    let with_unknown = fixture.vault.shred(erasure_of(vec![id("b"), id("x")]), None).await.unwrap().made;
    assert_eq!(with_unknown.state, ErasureState::Held);
    assert_eq!((with_unknown.counts.held, with_unknown.counts.unknown), (1, 1));
}

#[tokio::test]
async fn held_subjects_ahead_of_others_hold_up_nobody() {
    let fixture = Fixture::new().await;
    // More than one commit refuses, the first of them nothing but held ones.
    let subjects: Vec<String> = (0..502).map(|n| format!("s{n:03}")).collect();
    for subject in &subjects {
        fixture.put(subject, &[("nickname", r#""x""#)]).await.unwrap();
    }
    for subject in &subjects[..501] {
        fixture.vault.add_hold(&id(subject), &hold("case_1"), "lawsuit", BY).await.unwrap();
    }
    let ids = |range: std::ops::Range<usize>| subjects[range].iter().map(|subject| id(subject)).collect::<Vec<_>>();
    let all_held = fixture.vault.shred(erasure_of(ids(0..501)), None).await;
    assert!(matches!(all_held, Err(Error::Held { .. })));
    assert!(fixture.vault.erasures(None, 10).await.unwrap().0.is_empty());
    let erasure = fixture.shred(&subjects.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!((erasure.counts.r#final, erasure.counts.held), (1, 501));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hold_and_a_shred_at_once_one_wins() {
    let (mut holds, mut shreds) = (0, 0);
    for round in 0..20 {
        let fixture = with_subjects(&["a"]).await;
        let (holding, shredding) = (fixture.vault.clone(), fixture.vault.clone());
        let add = tokio::spawn(async move {
            for _ in 0..round % 5 {
                tokio::task::yield_now().await;
            }
            holding.add_hold(&id("a"), &hold("case_1"), "lawsuit", BY).await
        });
        let shred = tokio::spawn(async move { shredding.shred(erasure_of(vec![id("a")]), None).await });
        match (add.await.unwrap(), shred.await.unwrap()) {
            (Ok(_), Err(Error::Held { .. })) => {
                holds += 1;
                assert_eq!(fixture.read("a", "email").await.unwrap(), EMAIL.1);
            }
            (Err(Error::Shredded), Ok(made)) => {
                shreds += 1;
                assert_eq!(made.made.counts.held, 0);
                assert!(matches!(fixture.read("a", "email").await, Err(Error::Shredded)));
            }
            // The hold came just before: the erasure waits for its release.
            (Ok(_), Ok(made)) => {
                holds += 1;
                assert_eq!((made.made.state, made.made.counts.held), (ErasureState::Held, 1));
                assert_eq!(fixture.read("a", "email").await.unwrap(), EMAIL.1);
            }
            (add, shred) => panic!("both or neither: {:?}, {:?}", add.is_ok(), shred.is_ok()),
        }
    }
    assert_eq!(holds + shreds, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notes_and_values_that_change_at_once_all_get_through() {
    let fixture = with_subjects(&["a"]).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..12 {
        let vault = fixture.vault.clone();
        tasks.spawn(async move {
            match n % 3 {
                0 => vault.add_hold(&id("a"), &hold(&format!("case_{n}")), "r", BY).await.map(|_| ()),
                1 => {
                    vault.give_consent(&id("a"), &purpose("marketing"), &format!("v{n}"), "form", BY).await.map(|_| ())
                }
                _ => {
                    let email = format!("\"a{n}@example.org\"");
                    let changes = changes(&[("email", &email)]);
                    vault.put_fields(&id("a"), changes, &PutOptions::default()).await.map(|_| ())
                }
            }
        });
    }
    while let Some(outcome) = tasks.join_next().await {
        outcome.unwrap().unwrap();
    }
    let described = fixture.vault.describe(&id("a")).await.unwrap();
    assert_eq!((described.holds.len(), described.consents.len()), (4, 1));
    assert_eq!(fixture.vault.consents(&id("a")).await.unwrap().len(), 4);
    assert_eq!(fixture.vault.read_fields(&id("a"), None, &full()).await.unwrap().fields.len(), 1);
    no_damage(&fixture).await;
}
