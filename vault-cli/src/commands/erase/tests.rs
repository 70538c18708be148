//! What `erase` asks, waits for and ends with.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::fake::FakeVault;
use crate::output::Format;

fn outcome(done: u64, unknown: u64, before: u64, held: u64) -> Outcome {
    let mut outcome = Outcome::default();
    let counts = [("final", done), ("unknown", unknown), ("shredded", before), ("held", held)];
    outcome.add(done + unknown + before + held, &counts.map(|(state, n)| (state.to_owned(), n)).into());
    outcome
}

#[test]
fn the_exit_code_tells_what_became_of_the_ids() {
    for ((done, unknown, before, held), code) in [
        ((3, 0, 0, 0), 0),
        ((3, 0, 1, 0), 0),
        ((3, 1, 0, 0), 9),
        ((0, 1, 1, 0), 9),
        ((0, 2, 0, 0), 3),
        ((0, 0, 2, 0), 7),
        ((0, 0, 0, 2), 5),
        ((3, 0, 0, 1), 9),
        ((0, 0, 1, 1), 9),
    ] {
        assert_eq!(outcome(done, unknown, before, held).exit() as u8, code);
    }
}

#[test]
fn it_says_which_hold_keeps_whom() {
    let begun = r#"{"id":"e1","state":"refused","total":3,"counts":{"refused":1,"held":2},"items":[
        {"subject":"a","state":"refused","f0_at":"t"},{"subject":"b","state":"held","hold":"case_1"}]}"#;
    let ended = r#"{"id":"e1","state":"held","total":3,"counts":{"final":1,"held":2},
        "items":[{"subject":"b","state":"held","hold":"case_1"}]}"#;
    let fake = FakeVault::answering(vec![(200, ended.into())]);
    let client = Client::anonymous(&fake.connection()).unwrap();
    let ui = Ui { format: Format::Table, quiet: true, progress: false, yes: true };
    let erasures = wait(vec![serde_json::from_str(begun).unwrap()], &client, &ui).unwrap();
    let mut outcome = Outcome::default();
    outcome.add(erasures[0].total, &erasures[0].counts);
    outcome.erasures = erasures;
    let lines = held_lines(&outcome);
    assert_eq!(lines, ["b is left alone: the legal hold case_1 keeps it", "1 more are held: vault-cli hold list"]);
    assert_eq!(outcome.exit() as u8, 9);
}

#[test]
fn a_request_of_nothing_but_held_ones_among_several_does_not_stop_the_rest() {
    let held = r#"{"code":"held","detail":"the subject is under the legal hold `case_1`"}"#;
    let fake = FakeVault::answering(vec![(409, held.into()), (201, answer("final", 2, 0)), (409, held.into())]);
    let client = Client::anonymous(&fake.connection()).unwrap();
    let args = EraseArgs {
        command: None,
        ids: vec![],
        file: None,
        reason: "r".into(),
        compartment: None,
        reference: None,
        dry_run: false,
        no_wait: true,
        certificates: None,
        not_before: None,
        refuse_now: false,
        deadline: None,
    };
    let subjects: Vec<_> = (0..100_002).map(|n| n.to_string()).collect();
    let begun = begin(&args, &subjects, &client).unwrap();
    assert_eq!((begun[0].counts["held"], begun[1].counts["final"]), (100_000, 2));
    let failure = begin(&args, &subjects[..1], &client).unwrap_err();
    assert_eq!(failure.exit as u8, 5);
    assert!(failure.message.contains("case_1"));
}

fn answer(state: &str, done: u64, refused: u64) -> String {
    format!(
        r#"{{"id":"e1","reason":"r","created_at":"t","state":"{state}","total":2,"f0_at":"t",
        "counts":{{"final":{done},"refused":{refused},"unknown":0,"shredded":0}}}}"#
    )
}

#[test]
fn an_erasure_is_waited_for_until_nothing_is_merely_refused() {
    let fake = FakeVault::answering(vec![
        (201, answer("refused", 0, 2)),
        (200, answer("refused", 1, 1)),
        (200, answer("final", 2, 0)),
    ]);
    let client = Client::anonymous(&fake.connection()).unwrap();
    let args = EraseArgs {
        command: None,
        ids: vec![],
        file: None,
        reason: "r".into(),
        reference: None,
        compartment: None,
        dry_run: false,
        no_wait: false,
        certificates: None,
        not_before: None,
        refuse_now: false,
        deadline: None,
    };
    let subjects = ["a".to_owned(), "b".to_owned()];
    let begun = begin(&args, &subjects, &client).unwrap();
    let ui = Ui { format: Format::Table, quiet: true, progress: false, yes: true };
    let ended = wait(begun, &client, &ui).unwrap();
    assert_eq!(ended[0].counts["final"], 2);
    let asked = fake.requests();
    assert!(asked[0].ends_with(r#"{"subjects":["a","b"],"reason":"r"}"#));
    assert!(asked[2].starts_with("GET /v1/erasures/e1?wait=1 "));
}

#[test]
fn many_ids_are_split_into_requests_of_a_hundred_thousand() {
    let fake = FakeVault::answering(vec![
        (201, answer("final", 2, 0)),
        (423, r#"{"code":"locked","detail":"locked"}"#.into()),
    ]);
    let client = Client::anonymous(&fake.connection()).unwrap();
    let args = EraseArgs {
        command: None,
        ids: vec![],
        file: None,
        reason: "r".into(),
        compartment: None,
        reference: None,
        dry_run: false,
        no_wait: true,
        certificates: None,
        not_before: None,
        refuse_now: false,
        deadline: None,
    };
    let subjects: Vec<_> = (0..100_001).map(|n| n.to_string()).collect();
    let failure = begin(&args, &subjects, &client).unwrap_err();
    assert_eq!(failure.exit as u8, 6);
    assert!(failure.hint.unwrap().contains("100000 of 100001 ids"));
    assert!(fake.requests()[1].contains(r#"{"subjects":["100000"],"#));
}
