//! `key`: the layers of the vault's own keys, and their rotations.

mod emergency;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use vault_core::crypto::passphrase::new_key_file;
use zeroize::Zeroizing;

use super::Context;
use crate::address::segment;
use crate::age;
use crate::args::{KeyCommand, Layer, Rotate};
use crate::client::{Answer, Client};
use crate::exit::{Exit, Failure};
use crate::output::printable;
use crate::progress;
use crate::secret;

const ROTATIONS: &str = "/v1/keys/rotations";
const SLOTS: &str = "/v1/slots";
const ROTATE_SLOTS: &str = "/v1/slots/rotate";
/// How a request for a rotation is refused before anything is done, or once all is taken back. Not 423: the vault may have been
/// locked half way.
const NOTHING_DONE: [u16; 6] = [400, 401, 403, 409, 422, 429];
const FIRST_LOOK: Duration = Duration::from_millis(100);
const SLOWEST_LOOK: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Keys {
    layers: Vec<LayerStatus>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LayerStatus {
    layer: String,
    version: Option<u64>,
    created_at: Option<String>,
    older: Option<u64>,
    pages: Option<u64>,
    methods: Option<Vec<String>>,
    shreds: Option<u64>,
    shreds_max: Option<u64>,
    last_rotation: Option<LastRotation>,
    due_at: Option<String>,
    overdue: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LastRotation {
    finished_at: Option<String>,
}

#[derive(Deserialize)]
struct Slots {
    data: Vec<Slot>,
}

#[derive(Deserialize)]
struct Slot {
    name: String,
    state: String,
    r#final: String,
    detail: Option<String>,
    rotated_at: Option<String>,
    rotation_waits_for: Option<String>,
}

/// A rotation as the server tells it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Rotation {
    pub(crate) id: String,
    layer: String,
    state: String,
    done: u64,
    total: u64,
    per_second: Option<u64>,
    started_at: String,
    finished_at: Option<String>,
    eta: Option<String>,
    detail: Option<String>,
}

#[derive(Deserialize)]
struct Page {
    data: Vec<Rotation>,
}

#[derive(Default, Serialize)]
struct NewRotation<'a> {
    layer: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    older_than: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subjects: Option<&'a [String]>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    forget: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    passphrase: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_file: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    replace_all: bool,
}

#[derive(Serialize)]
struct NewRate {
    rate: u32,
}

#[derive(Serialize)]
struct NewState<'a> {
    state: &'a str,
}

impl Rotation {
    fn has_ended(&self) -> bool {
        matches!(self.state.as_str(), "done" | "failed" | "cancelled")
    }

    /// What is said beside a progress bar: `running, 1200 a second, ends in 9 seconds`.
    fn pace(&self, now: Timestamp) -> String {
        let mut told = printable(&self.state).to_string();
        if let (Some(per_second), Some(eta)) = (self.per_second, &self.eta) {
            told.push_str(&format!(", {per_second} a second, ends in {}", age::until(eta, now)));
        }
        told
    }

    fn row(&self, now: Timestamp) -> Vec<String> {
        let when = match (&self.finished_at, &self.eta) {
            (Some(at), _) => format!("{} ago", age::since(at, now)),
            (None, Some(eta)) => format!("in {}", age::until(eta, now)),
            (None, None) => "-".into(),
        };
        vec![
            self.id.clone(),
            self.layer.clone(),
            self.state.clone(),
            format!("{}/{}", self.done, self.total),
            format!("{} ago", age::since(&self.started_at, now)),
            when,
            self.detail.clone().unwrap_or_default(),
        ]
    }
}

/// Runs a `key` command.
pub(crate) fn run(command: &KeyCommand, context: &Context) -> Result<Exit, Failure> {
    let client = context.client()?;
    match command {
        KeyCommand::Status { ended } => status(*ended, &client, context),
        KeyCommand::Rotate(args) => rotate(args, &client, context),
        KeyCommand::Watch { rotation } => watch(rotation, &client, context),
        KeyCommand::Slots { rotate } => slots(*rotate, &client, context),
        KeyCommand::Pause { rotation } => change(rotation, &NewState { state: "paused" }, &client, context),
        KeyCommand::Resume { rotation } => change(rotation, &NewState { state: "running" }, &client, context),
        KeyCommand::Throttle { rotation, rate } => change(rotation, &NewRate { rate: *rate }, &client, context),
        KeyCommand::Cancel { rotation } => change(rotation, &NewState { state: "cancelled" }, &client, context),
    }
}

fn slots(rotate: bool, client: &Client, context: &Context) -> Result<Exit, Failure> {
    let answer = match rotate {
        true => client.post(ROTATE_SLOTS, &serde_json::json!({}))?,
        false => client.get(SLOTS)?,
    };
    if context.ui.wants_json() {
        context.ui.line(answer.text()?)?;
        return Ok(Exit::Done);
    }
    let slots: Slots = answer.json()?;
    let now = Timestamp::now();
    let rows: Vec<_> = slots.data.iter().map(|slot| slot.row(now)).collect();
    context.ui.table(&["ROOT SLOT", "STATE", "FINAL", "KEY ROTATED", ""], &rows)?;
    Ok(Exit::Done)
}

impl Slot {
    fn row(&self, now: Timestamp) -> Vec<String> {
        let rotated = self.rotated_at.as_deref().map(|at| format!("{} ago", age::since(at, now)));
        let waits = self.rotation_waits_for.as_ref().map(|why| format!("the slot rotation waits: {why}"));
        let trouble: Vec<String> = self.detail.iter().cloned().chain(waits).collect();
        let rotated = rotated.unwrap_or_else(|| "-".into());
        vec![self.name.clone(), self.state.clone(), self.r#final.clone(), rotated, trouble.join("; ")]
    }
}

fn status(ended: bool, client: &Client, context: &Context) -> Result<Exit, Failure> {
    if context.ui.wants_json() {
        let answer = client.get(if ended { ROTATIONS } else { "/v1/keys" })?;
        context.ui.line(answer.text()?)?;
        return Ok(Exit::Done);
    }
    let keys: Keys = client.get("/v1/keys")?.json()?;
    let now = Timestamp::now();
    let rows: Vec<_> = keys.layers.iter().map(|layer| layer.row(now)).collect();
    let header = ["LAYER", "VERSION", "OLDEST KEY", "ON OLDER", "LAST ROTATION", "DUE", "WHAT IT IS"];
    context.ui.table(&header, &rows)?;
    for layer in keys.layers.iter().filter(|layer| layer.overdue) {
        context.ui.note(&layer.what_to_do());
    }

    let page: Page = client.get(ROTATIONS)?.json()?;
    let shown: Vec<_> = page.data.iter().filter(|r| ended || !r.has_ended()).collect();
    if shown.is_empty() && ended {
        context.ui.note("no rotation was begun yet");
    }
    if !shown.is_empty() {
        context.ui.line("")?;
        let rows: Vec<_> = shown.into_iter().map(|rotation| rotation.row(now)).collect();
        show_rotations(&rows, context)?;
    }
    Ok(Exit::Done)
}

impl LayerStatus {
    fn row(&self, now: Timestamp) -> Vec<String> {
        let number = |n: Option<u64>| n.map_or("-".into(), |n| n.to_string());
        let created = self.created_at.as_deref();
        let last = self.last_rotation.as_ref().map(|last| {
            last.finished_at.as_deref().map_or("unfinished".into(), |at| format!("{} ago", age::since(at, now)))
        });
        vec![
            self.layer.clone(),
            number(self.version),
            created.map_or("-".into(), |at| age::since(at, now)),
            number(self.older),
            last.unwrap_or_else(|| "never".into()),
            self.due(now),
            self.meaning(),
        ]
    }

    fn due(&self, now: Timestamp) -> String {
        match (self.due_at.as_deref(), self.overdue) {
            // It is when it is looked at, for nothing tells which shred was one too many.
            (Some(_), true) if self.has_seen_too_much() => "overdue".into(),
            (Some(at), true) => format!("overdue for {}", age::since(at, now)),
            (Some(at), false) => format!("in {}", age::until(at, now)),
            (None, _) => "-".into(),
        }
    }

    fn has_seen_too_much(&self) -> bool {
        self.shreds_max.is_some_and(|most| self.shreds.is_some_and(|shreds| shreds >= most))
    }

    fn what_to_do(&self) -> String {
        let layer = printable(&self.layer);
        let why = match self.has_seen_too_much() {
            true => "have seen as many shreds as the policy allows",
            false => "are older than the policy allows",
        };
        format!("the keys of {layer} {why}: run `vault-cli key rotate {layer}`")
    }

    fn meaning(&self) -> String {
        match self.layer.as_str() {
            "unlock" => format!("opens the root slots: {}", self.methods.as_deref().unwrap_or_default().join(", ")),
            "root" => "opens the vault's header; kept in the root slots".into(),
            "keks" => match self.pages {
                Some(pages) => format!("{pages} page keys; wrap the data keys"),
                None => "page keys; wrap the data keys".into(),
            },
            "deks" => "data keys, one for each subject and compartment".into(),
            "lookups" => {
                let most = self.shreds_max.map(|most| format!(" of at most {most}")).unwrap_or_default();
                let seen = match self.shreds {
                    Some(1) => format!("; has seen 1 shred{most}"),
                    Some(shreds) => format!("; has seen {shreds} shreds{most}"),
                    None => String::new(),
                };
                format!("the key lookups are made with{seen}")
            }
            _ => String::new(),
        }
    }
}

fn show_rotations(rows: &[Vec<String>], context: &Context) -> Result<(), Failure> {
    let header = ["ROTATION", "LAYER", "STATE", "DONE", "STARTED", "ENDS", ""];
    context.ui.table(&header, rows)
}

fn rotate(args: &Rotate, client: &Client, context: &Context) -> Result<Exit, Failure> {
    let Some(layer) = args.layer.name().filter(|_| !args.now) else {
        return match (args.layer, args.now) {
            (Layer::All, true) => emergency::run(args, client, context),
            (Layer::All, false) => Err(Failure::usage("all layers are rotated at once only with --now")),
            (_, _) => Err(Failure::usage("--now is for all layers: `vault-cli key rotate all --now`")),
        };
    };
    let unlocks = match args.layer {
        Layer::Unlock => NewUnlocks::of(args, client)?,
        _ if args.passphrase_file.is_some() => return Err(Failure::usage("--passphrase-file is for unlock and all")),
        _ if args.key_file.is_some() => return Err(Failure::usage("--key-file is for unlock and all")),
        _ if args.replace_all => return Err(Failure::usage("--replace-all is for unlock and all")),
        _ => NewUnlocks::default(),
    };
    let body = NewRotation {
        layer,
        passphrase: unlocks.passphrase(),
        key_file: unlocks.key_file(),
        replace_all: args.replace_all,
        rate: args.rate,
        older_than: args.older_than,
        subjects: Some(args.subjects.as_slice()).filter(|subjects| !subjects.is_empty()),
        forget: args.forget,
    };
    let answer = begin(&body, &unlocks, client, context)?;
    let rotation: Rotation = answer.json()?;
    if args.wait {
        return watch(&rotation.id, client, context);
    }
    show(&answer, &rotation, context)?;
    context.ui.note(&format!("follow it with: vault-cli key watch {}", printable(&rotation.id)));
    Ok(Exit::Done)
}

/// Asks for a rotation.
fn begin(asked: &NewRotation<'_>, unlocks: &NewUnlocks, client: &Client, context: &Context) -> Result<Answer, Failure> {
    client.post(ROTATIONS, asked).inspect_err(|failure| unlocks.refused(failure, context))
}

/// What a person gives in place of the unlock keys that the server has no place for.
#[derive(Default)]
struct NewUnlocks {
    passphrase: Option<Zeroizing<String>>,
    /// The text of a new key file, and where it is already on disk.
    key_file: Option<(Zeroizing<String>, PathBuf)>,
}

impl NewUnlocks {
    fn of(args: &Rotate, client: &Client) -> Result<Self, Failure> {
        let passphrase = new_passphrase(args.passphrase_file.as_deref(), client)?;
        let key_file = args.key_file.as_ref().map(|path| {
            let (_, text) = new_key_file();
            // On disk before anything can be opened by it alone.
            let mut file = secret::create_private(path)?;
            let written = secret::write_private(&mut file, text.trim_end()).and_then(|()| secret::sync_name(path));
            if let Err(error) = written {
                // Nothing opens by it, and the name is free for the next try.
                let _ = fs::remove_file(path);
                return Err(Failure::failed(format!("cannot write {}: {error}", path.display())));
            }
            Ok::<_, Failure>((text, path.clone()))
        });
        Ok(Self { passphrase, key_file: key_file.transpose()? })
    }

    fn passphrase(&self) -> Option<&str> {
        self.passphrase.as_ref().map(|text| text.as_str())
    }

    fn key_file(&self) -> Option<&str> {
        self.key_file.as_ref().map(|(text, _)| text.trim_end())
    }

    /// A key file that opens nothing is not left lying about; one that perhaps opens the vault is.
    fn refused(&self, failure: &Failure, context: &Context) {
        let Some((_, path)) = &self.key_file else { return };
        if !failure.status.is_some_and(|status| NOTHING_DONE.contains(&status)) {
            context.ui.warn(&format!(
                "the new unlock keys may be in use: keep {} and the key file from before until a rotation of unlock is done; \
                 do it again with another FILE",
                path.display()
            ));
        } else if let Err(error) = fs::remove_file(path) {
            context.ui.warn(&format!("{} opens nothing and can be removed: {error}", path.display()));
        }
    }
}

/// The new passphrase, if the vault is opened by one.
fn new_passphrase(file: Option<&Path>, client: &Client) -> Result<Option<Zeroizing<String>>, Failure> {
    if file.is_some() {
        return secret::read_passphrase(file).map(Some);
    }
    let keys: Keys = client.get("/v1/keys")?.json()?;
    let methods = keys.layers.into_iter().find_map(|layer| layer.methods).unwrap_or_default();
    if methods.iter().any(|method| method == "passphrase") { secret::new_passphrase().map(Some) } else { Ok(None) }
}

fn change(id: &str, change: &impl Serialize, client: &Client, context: &Context) -> Result<Exit, Failure> {
    let answer = client.patch(&place(id), change)?;
    show(&answer, &answer.json()?, context)?;
    Ok(Exit::Done)
}

fn watch(id: &str, client: &Client, context: &Context) -> Result<Exit, Failure> {
    let bar = progress::counting(&context.ui, "rotating", 0);
    let mut waits = None;
    let answer = until_ended(client, id, |rotation| {
        if !rotation.has_ended() && rotation.detail != waits {
            waits.clone_from(&rotation.detail);
            if let Some(why) = &waits {
                bar.suspend(|| context.ui.warn(&printable(why)));
            }
        }
        bar.set_length(rotation.total);
        bar.set_position(rotation.done);
        bar.set_message(rotation.pace(Timestamp::now()));
    })?;
    bar.finish_and_clear();
    let rotation: Rotation = answer.json()?;
    show(&answer, &rotation, context)?;
    match rotation.state.as_str() {
        "done" => Ok(Exit::Done),
        state => Err(Failure::failed(format!("the rotation ended {}", printable(state)))),
    }
}

/// Looks at a rotation, less and less often, until it has ended.
fn until_ended(client: &Client, id: &str, mut seen: impl FnMut(&Rotation)) -> Result<Answer, Failure> {
    let mut pause = FIRST_LOOK;
    loop {
        let answer = client.get(&place(id))?;
        let rotation: Rotation = answer.json()?;
        seen(&rotation);
        if rotation.has_ended() {
            return Ok(answer);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(SLOWEST_LOOK);
    }
}

/// Rotates a layer and waits for its end; returns how many pages it rotated.
pub(crate) fn rotate_and_wait(client: &Client, layer: &str) -> Result<u64, Failure> {
    let begun: Rotation = client.post(ROTATIONS, &NewRotation { layer, ..NewRotation::default() })?.json()?;
    let ended: Rotation = until_ended(client, &begun.id, |_| ())?.json()?;
    match ended.state.as_str() {
        "done" => Ok(ended.total),
        state => Err(Failure::failed(format!("the rotation of {layer} ended {}", printable(state)))),
    }
}

fn show(answer: &Answer, rotation: &Rotation, context: &Context) -> Result<(), Failure> {
    if context.ui.wants_json() {
        return context.ui.line(answer.text()?);
    }
    show_rotations(&[rotation.row(Timestamp::now())], context)
}

fn place(id: &str) -> String {
    format!("{ROTATIONS}/{}", segment(id))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::args::Globals;
    use crate::fake::FakeVault;

    #[test]
    fn a_limit_of_shreds_is_told_and_named_where_it_is_what_makes_the_layer_due() {
        let lookups = |shreds, overdue| LayerStatus {
            layer: "lookups".into(),
            shreds: Some(shreds),
            shreds_max: Some(5),
            overdue,
            ..LayerStatus::default()
        };
        assert!(lookups(2, false).meaning().ends_with("has seen 2 shreds of at most 5"));
        assert!(lookups(2, true).what_to_do().contains("are older than"));
        assert!(lookups(5, true).what_to_do().contains("have seen as many shreds as"));
    }

    #[test]
    fn the_bar_tells_speed_and_end_while_it_is_known() {
        let now: Timestamp = "2026-03-10T10:00:00Z".parse().unwrap();
        let running = Rotation {
            state: "running".into(),
            per_second: Some(1200),
            eta: Some("2026-03-10T10:00:09Z".into()),
            ..Rotation::default()
        };
        assert_eq!(running.pace(now), "running, 1200 a second, ends in 9 seconds");
        assert_eq!(Rotation { per_second: None, eta: None, ..running }.pace(now), "running");
    }

    fn state(state: &str, done: u64) -> (u16, String) {
        let text = format!(
            r#"{{"id":"r1","layer":"keks","state":"{state}","done":{done},"total":8,"started_at":"2026-03-10T10:00:00Z"}}"#
        );
        (200, text)
    }

    #[test]
    fn a_rotation_is_followed_to_its_end() {
        let fake = FakeVault::answering(vec![state("queued", 0), state("running", 5), state("done", 8)]);
        let client = Client::anonymous(&fake.connection()).unwrap();
        assert_eq!(rotate_and_wait(&client, "keks").unwrap(), 8);
        let asked = fake.requests();
        assert!(asked[0].ends_with(r#"{"layer":"keks"}"#), "{asked:?}");
        assert!(asked[2].starts_with("GET /v1/keys/rotations/r1 "), "{asked:?}");

        let fake = FakeVault::answering(vec![state("queued", 0), state("failed", 2)]);
        let client = Client::anonymous(&fake.connection()).unwrap();
        assert_eq!(rotate_and_wait(&client, "keks").unwrap_err().exit, Exit::Failed);
    }

    #[test]
    fn a_new_key_file_is_removed_only_if_nothing_was_done() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new.key");
        // Locked half way, the vault may be opened by it alone.
        let context = Context { ui: Globals::default().ui(), globals: Globals::default() };
        for (status, stays) in [(409, false), (422, false), (423, true), (500, true), (503, true)] {
            fs::write(&path, "udv-unlock-key-1:").unwrap();
            let fake = FakeVault::answering(vec![(status, "{}".into())]);
            let client = Client::anonymous(&fake.connection()).unwrap();
            let unlocks = NewUnlocks { passphrase: None, key_file: Some((Zeroizing::new("k".into()), path.clone())) };
            let asked = NewRotation { layer: "unlock", key_file: unlocks.key_file(), ..NewRotation::default() };
            begin(&asked, &unlocks, &client, &context).err().unwrap();
            assert_eq!(path.exists(), stays, "{status}");
        }
    }

    #[test]
    fn slots_are_told_with_what_they_wait_for() {
        let slots: Slots = serde_json::from_str(
            r#"{"data":[{"name":"/a","state":"ok","final":"F1"},
                {"name":"/b","state":"ok","final":"F2","rotated_at":"2026-03-10T00:00:00Z","rotation_waits_for":"no token"}],
                "final":"F1","methods":["passphrase","pkcs11"]}"#,
        )
        .unwrap();
        let now = "2026-03-10T02:00:00Z".parse().unwrap();
        assert_eq!(slots.data[0].row(now), ["/a", "ok", "F1", "-", ""]);
        assert_eq!(slots.data[1].row(now), ["/b", "ok", "F2", "2 hours ago", "the slot rotation waits: no token"]);
    }

    #[test]
    fn layers_are_told_in_words_whatever_they_leave_out() {
        let keys: Keys = serde_json::from_str(
            r#"{"layers":[{"layer":"unlock","methods":["key-file","passphrase"]},
                {"layer":"root","version":7,"created_at":"2026-03-01T00:00:00Z","older":0,"last_rotation":null},
                {"layer":"keks","pages":null,"last_rotation":{"id":"r","finished_at":"2026-03-09T00:00:00Z"},
                 "due_at":"2026-04-09T00:00:00Z","overdue":false},
                {"layer":"lookups","shreds":7,"due_at":"2026-03-08T00:00:00Z","overdue":true}]}"#,
        )
        .unwrap();
        let now = "2026-03-10T00:00:00Z".parse().unwrap();
        let rows: Vec<_> = keys.layers.iter().map(|layer| layer.row(now)).collect();
        assert!(rows[0][6].ends_with("key-file, passphrase"));
        assert_eq!(rows[1][..6], ["root", "7", "9 days", "0", "never", "-"]);
        assert_eq!(rows[2][4..6], ["24 hours ago", "in 30 days"]);
        assert_eq!(rows[3][5..], ["overdue for 2 days", "the key lookups are made with; has seen 7 shreds"]);
        assert!(keys.layers[3].what_to_do().contains("vault-cli key rotate lookups"));
    }
}
