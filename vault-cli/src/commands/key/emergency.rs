//! `key rotate all --now`: every layer, one after the other, for who thinks that all keys may be known.
//!
//! From the root downwards: once the page keys are others, who has those from before cannot follow what comes below them,
//! so new data keys are drawn only then. What was exposed is told by the times at which each layer ended.

use serde::Serialize;

use super::{Keys, NewRate, NewRotation, NewUnlocks, Page, ROTATIONS, Rotation, begin, place, until_ended};
use crate::args::Rotate;
use crate::client::Client;
use crate::commands::Context;
use crate::exit::{Exit, Failure};
use crate::output::printable;
use crate::progress;

/// The layers in their order, each with what was exposed until it ended.
const LAYERS: [(&str, &str); 5] = [
    ("unlock", "the root slots, to who had an unlock key"),
    ("root", "the vault's header, to who had the root key"),
    ("keks", "everybody's data keys and lookups, to who had the page keys"),
    ("deks", "values as they lie in the store, to who had the data keys"),
    ("lookups", "who has a value, to who had the key of lookups"),
];

#[derive(Serialize)]
struct Report {
    layers: Vec<Ended>,
    /// Layers that could not be rotated.
    not_rotated: Vec<&'static str>,
    /// What no rotation changes.
    left: &'static str,
}

#[derive(Serialize)]
struct Ended {
    layer: &'static str,
    /// Since when the oldest key that was replaced had been in use.
    exposed_from: String,
    started_at: String,
    finished_at: String,
    exposed_until_then: &'static str,
}

/// Pages or subjects a second: more than any machine does.
const FASTEST: u32 = 1_000_000;

/// How often somebody else may be faster in beginning a rotation.
const OVERTAKEN_MAX: u32 = 5;

const LEFT: &str = "copies of the store and of the slots from before stay open to the keys from before";
const UNLOCK_LEFT: &str = "who opened the vault with an unlock key of before can do so again: run `vault-cli key rotate unlock` \
                           with --key-file or --replace-all, or `vault-server unlock-key` on the stopped vault. Copies of \
                           the store from before stay open to the keys from before";

pub(super) fn run(args: &Rotate, client: &Client, context: &Context) -> Result<Exit, Failure> {
    none_paused(client)?;
    context.ui.confirm("Older backups of the data open no more. Rotate every layer and forget all older data keys?")?;
    let before: Keys = client.get("/v1/keys")?.json()?;
    let unlocks = NewUnlocks::of(args, client)?;
    let (report, outcome) = every_layer(args, &before, &unlocks, client, context);
    if outcome.is_ok() || !report.layers.is_empty() {
        tell(&report, context)?;
    }
    outcome
}

/// What was done is told, whatever came after it.
fn every_layer(
    args: &Rotate,
    before: &Keys,
    unlocks: &NewUnlocks,
    client: &Client,
    context: &Context,
) -> (Report, Result<Exit, Failure>) {
    let mut report = Report { layers: Vec::new(), not_rotated: Vec::new(), left: LEFT };
    for (place, (layer, exposed)) in LAYERS.into_iter().enumerate() {
        let own = if layer == "unlock" { unlocks } else { &NewUnlocks::default() };
        let asked = NewRotation {
            layer,
            forget: layer == "deks",
            passphrase: own.passphrase(),
            key_file: own.key_file(),
            replace_all: args.replace_all && layer == "unlock",
            ..NewRotation::default()
        };
        let ended = match rotated(&asked, own, keks_since(&report.layers), client, context) {
            // The server has no place for one of them; the other layers do not wait for that.
            Err(failure) if layer == "unlock" && failure.exit == Exit::Conflict => {
                context.ui.warn(&failure.message);
                report.left = UNLOCK_LEFT;
                report.not_rotated.push(layer);
                continue;
            }
            Err(failure) => {
                report.not_rotated.extend(LAYERS[place..].iter().map(|(layer, _)| *layer));
                return (report, Err(failure));
            }
            Ok(ended) => ended,
        };
        let of = before.layers.iter().find(|before| before.layer == layer);
        report.layers.push(Ended {
            layer,
            exposed_from: of.and_then(|before| before.created_at.clone()).unwrap_or_default(),
            started_at: ended.started_at,
            finished_at: ended.finished_at.unwrap_or_default(),
            exposed_until_then: exposed,
        });
    }
    let exit = if report.not_rotated.is_empty() { Exit::Done } else { Exit::Partial };
    (report, Ok(exit))
}

fn tell(report: &Report, context: &Context) -> Result<(), Failure> {
    if context.ui.wants_json() {
        return context.ui.json(report);
    }
    let row = |ended: &Ended| {
        vec![
            ended.layer.to_owned(),
            ended.exposed_from.clone(),
            ended.finished_at.clone(),
            ended.exposed_until_then.to_owned(),
        ]
    };
    let rows: Vec<_> = report.layers.iter().map(row).collect();
    context.ui.table(&["LAYER", "EXPOSED FROM", "UNTIL", "WHAT WAS EXPOSED"], &rows)?;
    let not_done = "was not rotated, unless a rotation of it goes on: see `vault-cli key status`";
    report.not_rotated.iter().for_each(|layer| context.ui.warn(&format!("{layer} {not_done}")));
    context.ui.note(report.left);
    Ok(())
}

/// Before anything is begun: one that is paused lets no other of its layer begin.
fn none_paused(client: &Client) -> Result<(), Failure> {
    let page: Page = client.get(ROTATIONS)?.json()?;
    page.data.iter().find(|rotation| rotation.state == "paused").map_or(Ok(()), |rotation| Err(paused(rotation)))
}

fn paused(rotation: &Rotation) -> Failure {
    let told = format!("a rotation of {} is paused, and no other can begin", printable(&rotation.layer));
    let id = printable(&rotation.id);
    Failure::failed(told)
        .hint(format!("run `vault-cli key resume {id}` or `vault-cli key cancel {id}`, then this again"))
}

/// Since when the server may have begun the page keys by itself: with other unlock keys it does.
fn keks_since(layers: &[Ended]) -> Option<&str> {
    layers.iter().find(|ended| ended.layer == "unlock").map(|ended| ended.started_at.as_str())
}

fn rotated(
    asked: &NewRotation<'_>,
    unlocks: &NewUnlocks,
    keks_since: Option<&str>,
    client: &Client,
    context: &Context,
) -> Result<Rotation, Failure> {
    let layer = asked.layer;
    let since = keks_since.filter(|_| layer == "keks");
    let mut overtaken = 0;
    let begun: Rotation = loop {
        let by_itself = if layer == "unlock" { None } else { under_way(layer, since, client, context)? };
        if let Some(begun) = by_itself {
            break begun;
        }
        match begin(asked, unlocks, client, context) {
            // Somebody else was faster: that one must end first, too.
            Err(failure) if layer != "unlock" && failure.exit == Exit::Conflict && overtaken < OVERTAKEN_MAX => {
                overtaken += 1;
            }
            begun => break begun?.json()?,
        }
    };
    let ended = followed(&begun, client, context)?;
    match ended.state.as_str() {
        "done" => Ok(ended),
        state => {
            let why = ended.detail.as_deref().unwrap_or_default();
            let told = format!("the rotation of {layer} ended {}: {}", printable(state), printable(why));
            Err(Failure::failed(told).hint("see to the cause, then run it again: it begins with the first layer"))
        }
    }
}

/// The rotation of a layer that the server began by itself since then, if it did. One from before must end first, for it
/// leaves what it had come to.
fn under_way(
    layer: &str,
    since: Option<&str>,
    client: &Client,
    context: &Context,
) -> Result<Option<Rotation>, Failure> {
    let page: Page = client.get(ROTATIONS)?.json()?;
    let Some(newest) = page.data.into_iter().rfind(|rotation| rotation.layer == layer) else { return Ok(None) };
    if since.is_some_and(|since| newest.started_at.as_str() >= since) {
        return Ok(Some(newest));
    }
    if !newest.has_ended() {
        let (layer, id) = (printable(layer), printable(&newest.id));
        let next = format!("`vault-cli key cancel {id}` ends it, for what comes then does all");
        context.ui.warn(&format!(
            "a rotation of {layer} is under way, which must end first and is let run as fast as it can: {next}"
        ));
        // It may just have ended.
        let _ = client.patch(&place(&newest.id), &NewRate { rate: FASTEST });
        followed(&newest, client, context)?;
    }
    Ok(None)
}

/// Shows how far a rotation is until it ends.
fn followed(begun: &Rotation, client: &Client, context: &Context) -> Result<Rotation, Failure> {
    if begun.state == "paused" {
        return Err(paused(begun));
    }
    let bar = progress::counting(&context.ui, &begun.layer, begun.total);
    let mut told = false;
    let answer = until_ended(client, &begun.id, |rotation| {
        bar.set_length(rotation.total);
        bar.set_position(rotation.done);
        if rotation.state == "paused" && !told {
            told = true;
            let id = printable(&rotation.id);
            bar.suspend(|| context.ui.warn(&format!("somebody paused it: `vault-cli key resume {id}` lets it go on")));
        }
    })?;
    bar.finish_and_clear();
    answer.json()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::args::Globals;
    use crate::fake::FakeVault;

    fn rotation(layer: &str, state: &str) -> String {
        format!(
            r#"{{"id":"r-{layer}","layer":"{layer}","state":"{state}","started_at":"2026-03-10T10:00:00Z","finished_at":"later"}}"#
        )
    }

    fn listed(rotations: &[String]) -> (u16, String) {
        (200, format!(r#"{{"data":[{}],"next":null}}"#, rotations.join(",")))
    }

    fn asked_of(answers: Vec<(u16, String)>) -> (FakeVault, Report, Result<Exit, Failure>) {
        let fake = FakeVault::answering(answers);
        let client = Client::anonymous(&fake.connection()).unwrap();
        let context = Context { ui: Globals::default().ui(), globals: Globals::default() };
        let args = Rotate {
            layer: crate::args::Layer::All,
            rate: None,
            older_than: None,
            subjects: Vec::new(),
            forget: false,
            passphrase_file: None,
            key_file: None,
            replace_all: false,
            wait: false,
            now: true,
        };
        let (report, outcome) =
            every_layer(&args, &Keys { layers: Vec::new() }, &NewUnlocks::default(), &client, &context);
        (fake, report, outcome)
    }

    fn layers(report: &Report) -> Vec<&str> {
        report.layers.iter().map(|ended| ended.layer).collect()
    }

    #[test]
    fn what_ended_is_told_when_a_later_layer_fails() {
        let unlock = || (200, rotation("unlock", "done"));
        let (_, report, outcome) = asked_of(vec![
            unlock(),
            unlock(),
            listed(&[]),
            (202, rotation("root", "failed")),
            (200, rotation("root", "failed")),
        ]);
        assert_eq!(outcome.unwrap_err().exit, Exit::Failed);
        assert_eq!(layers(&report), ["unlock"]);
        assert_eq!(report.not_rotated, ["root", "keks", "deks", "lookups"]);

        // The server has no place for a new unlock key: the others are rotated all the same.
        let (_, report, outcome) = asked_of(vec![(409, "{}".into()), listed(&[]), (503, "{}".into())]);
        outcome.unwrap_err();
        assert_eq!(report.not_rotated, ["unlock", "root", "keks", "deks", "lookups"]);
        assert_eq!((layers(&report), report.left), (vec![], UNLOCK_LEFT));
    }

    #[test]
    fn one_that_is_paused_half_way_is_waited_for_until_somebody_lets_it_go_on() {
        let mut answers = vec![(200, rotation("unlock", "done")), (200, rotation("unlock", "done"))];
        for (layer, states) in [("root", &["done"][..]), ("keks", &["running", "paused", "paused", "done"])] {
            answers.extend([listed(&[]), (202, rotation(layer, "queued"))]);
            answers.extend(states.iter().map(|state| (200, rotation(layer, state))));
        }
        // Somebody else was faster.
        answers.extend([listed(&[]), (409, "{}".into())]);
        answers.extend([listed(&[rotation("deks", "paused")]), (200, rotation("deks", "paused"))]);
        let (fake, report, outcome) = asked_of(answers);
        assert_eq!(layers(&report), ["unlock", "root", "keks"]);
        // Paused before it was ours, nobody may know of it.
        let failure = outcome.unwrap_err();
        assert!(failure.message.contains("a rotation of deks is paused"), "{}", failure.message);
        assert_eq!(fake.requests().iter().filter(|asked| asked.starts_with("POST")).count(), 4);
    }
}
