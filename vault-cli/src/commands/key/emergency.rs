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

const LEFT: &str = "copies of the store and of the slots from before stay open to the keys from before";
const UNLOCK_LEFT: &str = "who opened the vault with an unlock key of before can do so again: run `vault-cli key rotate unlock` \
                           with --key-file or --replace-all, or `vault-server unlock-key` on the stopped vault. Copies of \
                           the store from before stay open to the keys from before";

pub(super) fn run(args: &Rotate, client: &Client, context: &Context) -> Result<Exit, Failure> {
    none_paused(client)?;
    context.ui.confirm("Older backups of the data open no more. Rotate every layer and forget all older data keys?")?;
    let before: Keys = client.get("/v1/keys")?.json()?;
    let unlocks = NewUnlocks::of(args, client)?;
    let (mut layers, mut not_rotated) = (Vec::new(), Vec::new());
    let mut left = LEFT;
    for (layer, exposed) in LAYERS {
        let own = if layer == "unlock" { &unlocks } else { &NewUnlocks::default() };
        let asked = NewRotation {
            layer,
            forget: layer == "deks",
            passphrase: own.passphrase(),
            key_file: own.key_file(),
            replace_all: args.replace_all && layer == "unlock",
            ..NewRotation::default()
        };
        let ended = match rotated(&asked, own, keks_since(&layers), client, context) {
            // What is done is told, whatever comes after it.
            Err(failure) if !layers.is_empty() && (layer != "unlock" || failure.exit != Exit::Conflict) => {
                let rest = LAYERS.iter().map(|(layer, _)| *layer);
                not_rotated.extend(rest.skip_while(|other| *other != layer));
                tell(&Report { layers, not_rotated, left }, context)?;
                return Err(failure);
            }
            // The server has no place for one of them; the other layers do not wait for that.
            Err(failure) if layer == "unlock" && failure.exit == Exit::Conflict => {
                context.ui.warn(&failure.message);
                left = UNLOCK_LEFT;
                not_rotated.push(layer);
                continue;
            }
            ended => ended?,
        };
        let finished_at = ended.finished_at.clone().unwrap_or_default();
        let since =
            before.layers.iter().find(|before| before.layer == layer).and_then(|before| before.created_at.clone());
        let exposed_from = since.unwrap_or_default();
        layers.push(Ended {
            layer,
            exposed_from,
            started_at: ended.started_at,
            finished_at,
            exposed_until_then: exposed,
        });
    }
    let exit = if not_rotated.is_empty() { Exit::Done } else { Exit::Partial };
    tell(&Report { layers, not_rotated, left }, context)?;
    Ok(exit)
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
    report.not_rotated.iter().for_each(|layer| context.ui.warn(&format!("{layer} was not rotated")));
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
    let by_itself = if layer == "unlock" { None } else { under_way(layer, since, client, context)? };
    let begun: Rotation = match by_itself {
        Some(begun) => begun,
        None => begin(asked, unlocks, client, context)?.json()?,
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
