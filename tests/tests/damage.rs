//! Every file of a vault damaged in every way, and the real programs on it: refused in plain words, or right answers; never a
//! panic, never wrong data, nobody missing without a word.
//!
//! The vault was stopped, or killed right after its last write: then the damage of the last batch can look like a write that a
//! power loss tore, and no engine can do but drop it. That this write is missing must be told, and nothing is served without
//! it.
//!
//! `UDV_TEST_CASES=2000` tries more cases for each engine, `UDV_TEST_SEED=7` repeats a run's choices.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vault_core::store::EngineName;

use crate::harness::{
    Choices, Client, Finished, Running, Vault, copy_dir, files_under, number_from, run, seed, server_command, wait_for,
};

/// For tests alone; its identity is not needed here.
const RECIPIENT: &str = "age1jw3f2f3gu0ctl2dmj9a3y30vuzes0zg8ytf5xl4rjhx8ejq5yykq8t8ltn";
const SUBJECTS: usize = 10;
/// Cases for each engine, short.
const CASES: u64 = 24;

/// What is asked, and the answers: status, and the body where it is a success.
type Facts = BTreeMap<String, (u16, Value)>;

struct Bed {
    vault: Vault,
    token: String,
    value_token: String,
    erasures: Vec<String>,
    facts: Facts,
    images: [Image; 2],
}

/// The whole vault, as it was left.
struct Image {
    left: Left,
    /// Relative to it.
    files: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// Right after the last acknowledged write.
    Killed,
    /// So that what an engine wrote last is no write that was asked for.
    Stopped,
}

/// What tells that writes are missing: the audit log has them.
const OLDER: &str = "older than its audit log";

impl Bed {
    /// One of everything, and two copies of it.
    fn new(engine: EngineName) -> Self {
        let vault = Vault::configured_in(tempfile::tempdir().unwrap(), engine);
        let running = vault.start();
        let admin = &running.admin;
        let items: Vec<_> = (0..SUBJECTS).map(|n| json!({ "subject": format!("s{n}"), "fields": fields(n) })).collect();
        admin.post("/v1/batch/write", &json!({ "items": items })).expect(200);
        admin.set("s1", &json!({ "device": { "n": "x".repeat(6000) } })).expect(200);
        admin.put("/v1/subjects/s2/restriction", &json!({ "reason": "a dispute" })).expect(200);
        admin.put("/v1/subjects/s3/holds/case_1", &json!({ "reason": "claim" })).expect(200);
        admin.put("/v1/subjects/s3/consents/marketing", &json!({ "version": "1", "source": "form" }));
        let token = json!({ "subject": "s4", "field": "phone" });
        let value_token = admin.post("/v1/tokens", &token).expect(201).json()["token"].as_str().unwrap().to_owned();
        let mut erasures = vec![shred(&running, &json!({ "subjects": ["s8"], "reason": "asked to" }))];
        rotate(&running, "lookups");
        rotate(&running, "deks");
        rotate(&running, "root");
        let pending =
            json!({ "subjects": ["s9"], "reason": "later", "not_before": "2099-01-01T00:00:00Z", "refuse_now": true });
        let pending = admin.post("/v1/erasures", &pending).expect(201).json();
        erasures.push(format!("/v1/erasures/{}", pending["id"].as_str().unwrap()));
        // So many entries of the audit log that some are in a bundle, and their hashes in a tile.
        (0..256).for_each(|_| drop(admin.get("/v1/subjects/s0").expect(200)));
        running.stop();
        // A retained root, with a list of who is refused since beside the slot.
        let mut backup = server_command();
        backup.args(["backup", "--no-progress", "--config"]).arg(vault.config()).arg("--out").arg(vault.root());
        run({
            backup.args(["--recipient", RECIPIENT, "--retain"]);
            backup
        })
        .expect(0);
        let token = fs::read_to_string(vault.token_file()).unwrap().trim().to_owned();
        let images = [Left::Killed, Left::Stopped].map(|left| Image { left, files: Vec::new() });
        let mut bed = Self { vault, token, value_token, erasures, facts: Facts::new(), images };
        let running = bed.vault.start();
        bed.ask(&running);
        running.admin.set("late", &fields(77)).expect(201);
        running.server.kill();
        bed.keep(Left::Killed);
        let running = bed.vault.start();
        bed.facts = bed.ask(&running);
        running.stop();
        bed.keep(Left::Stopped);
        bed
    }

    fn whole(&self, left: Left) -> PathBuf {
        self.vault.root().join(format!("{left:?}"))
    }

    fn keep(&mut self, left: Left) {
        let whole = self.whole(left);
        copy_dir(&self.vault.data(), &whole);
        let mut files: Vec<PathBuf> =
            files_under(&whole).iter().map(|file| file.strip_prefix(&whole).unwrap().to_owned()).collect();
        // The caller's, not the vault's.
        files.retain(|file| !file.ends_with("admin.token"));
        files.sort();
        self.images.iter_mut().filter(|image| image.left == left).for_each(|image| image.files.clone_from(&files));
    }

    fn put_back(&self, left: Left) {
        fs::remove_dir_all(self.vault.data()).unwrap();
        copy_dir(&self.whole(left), &self.vault.data());
    }

    fn ask(&self, running: &Running) -> Facts {
        let admin = running.admin.with_token(Some(&self.token)).for_purpose("account");
        let mut facts = Facts::new();
        let mut note = |question: &str, answer: (u16, Value)| drop(facts.insert(question.to_owned(), answer));
        for subject in (0..SUBJECTS).map(|n| format!("s{n}")).chain(["late".to_owned(), "nobody".to_owned()]) {
            let path = format!("/v1/subjects/{subject}");
            for field in ["name", "phone", "device"] {
                let question = format!("{path}/fields/{field}?view=full");
                note(&question, answer(&admin, &question));
            }
            let mut export = answer(&admin, &format!("{path}/export"));
            // When it was asked for, and who asked before.
            for changing in ["exported_at", "accesses"] {
                if let Some(export) = export.1.as_object_mut() {
                    export.remove(changing);
                }
            }
            note(&format!("{path}/export"), export);
        }
        for n in [0, 3, 77] {
            let lookup = json!({ "field": "phone", "value": phone(n) });
            let found = admin.post("/v1/lookups", &lookup);
            note(&format!("look up {n}"), told(found.status, &found.body));
        }
        let resolved = admin.post("/v1/tokens/resolve", &json!({ "token": self.value_token }));
        note("value token", told(resolved.status, &resolved.body));
        for erasure in &self.erasures {
            note(erasure, answer(&admin, erasure));
        }
        for path in ["/v1/schema", "/v1/holds", "/v1/callers"] {
            let mut answered = answer(&admin, path);
            if let Some(callers) = answered.1.get_mut("data").and_then(Value::as_array_mut) {
                callers
                    .iter_mut()
                    .filter_map(Value::as_object_mut)
                    .for_each(|caller| drop(caller.remove("last_used_at")));
            }
            note(path, answered);
        }
        let status = answer(&admin, "/v1/status");
        note("subjects", (status.0, status.1["counts"]["subjects"].clone()));
        facts
    }

    fn verify(&self) -> Finished {
        self.offline(&[])
    }

    fn salvage(&self, to: &Path) -> Finished {
        self.offline(&["--salvage", to.to_str().unwrap()])
    }

    fn offline(&self, arguments: &[&str]) -> Finished {
        let mut command = server_command();
        command.args(["verify", "--no-progress", "--config"]).arg(self.vault.config()).args(arguments);
        run(command)
    }
}

fn shred(running: &Running, asked: &Value) -> String {
    let made = running.admin.post("/v1/erasures", asked).expect(201).json();
    let path = format!("/v1/erasures/{}", made["id"].as_str().unwrap());
    wait_for("a final shred", || (running.admin.get(&path).expect(200).json()["state"] == "final").then_some(()));
    path
}

fn rotate(running: &Running, layer: &str) {
    let started = running.admin.post("/v1/keys/rotations", &json!({ "layer": layer })).expect(202).json();
    let path = format!("/v1/keys/rotations/{}", started["id"].as_str().unwrap());
    wait_for("the rotation", || (running.admin.get(&path).json()["state"] == "done").then_some(()));
}

fn phone(n: usize) -> String {
    format!("+9715012{n:05}")
}

fn fields(n: usize) -> Value {
    json!({ "name": format!("n{n}"), "phone": phone(n) })
}

fn answer(client: &Client, path: &str) -> (u16, Value) {
    let answer = client.get(path);
    told(answer.status, &answer.body)
}

/// Of a refusal only its code.
fn told(status: u16, body: &str) -> (u16, Value) {
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    (status, if status < 300 { body } else { body["code"].clone() })
}

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    FlipFirst,
    FlipHead,
    FlipAny,
    FlipLast,
    CutAll,
    CutHalf,
    CutSome,
    CutLast,
    ZeroSome,
    ZeroAll,
    Garbage,
    Longer,
    Delete,
}

const OPS: [Op; 13] = [
    Op::FlipFirst,
    Op::FlipHead,
    Op::FlipAny,
    Op::FlipLast,
    Op::CutAll,
    Op::CutHalf,
    Op::CutSome,
    Op::CutLast,
    Op::ZeroSome,
    Op::ZeroAll,
    Op::Garbage,
    Op::Longer,
    Op::Delete,
];

/// Damages a file; `false` if it is as it was.
fn damage(path: &Path, op: Op, dice: &mut Choices) -> bool {
    let before = fs::read(path).unwrap();
    if op == Op::Delete {
        fs::remove_file(path).unwrap();
        return true;
    }
    let mut bytes = before.clone();
    // Files of an engine are longer than what is in them.
    let used = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
    let any = dice.below(used as u64) as usize;
    let bit = 1 << dice.below(8);
    let flip = |bytes: &mut Vec<u8>, at: usize| bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= bit);
    match op {
        Op::FlipFirst => flip(&mut bytes, 0),
        Op::FlipHead => flip(&mut bytes, any % 64),
        Op::FlipAny => flip(&mut bytes, any),
        Op::FlipLast => flip(&mut bytes, used.saturating_sub(1)),
        Op::CutAll => bytes.clear(),
        Op::CutHalf => bytes.truncate(used / 2),
        Op::CutSome => bytes.truncate(any),
        Op::CutLast => bytes.truncate(used.saturating_sub(1)),
        Op::ZeroSome => bytes[any..(any + 512).min(used)].fill(0),
        Op::ZeroAll => bytes.fill(0),
        Op::Garbage => {
            let to = (any + 64).min(used);
            bytes[any..to].iter_mut().for_each(|byte| *byte = dice.below(256) as u8);
        }
        Op::Longer => bytes.extend([0xa5; 37]),
        Op::Delete => {}
    }
    fs::write(path, &bytes).unwrap();
    bytes != before
}

/// Files of one kind: the digits of their names are left out.
fn kind_of(file: &Path) -> String {
    file.to_str().unwrap().chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// How many cases went which way.
#[derive(Debug, Default)]
struct Tally {
    cases: usize,
    not_started: usize,
    served_with_damage: usize,
    without_effect: usize,
    found_by_verify: usize,
    salvaged: usize,
    /// Refused because the engine dropped what it wrote last.
    older: usize,
    case: String,
    faults: Vec<String>,
}

impl Tally {
    fn holds(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.faults.push(format!("{}: {}", self.case, otherwise()));
        }
    }

    /// Nobody is shown a panic, and none was caught.
    fn plain(&mut self, what: &str, text: &str) {
        for word in ["panicked", "a panic was caught", "RUST_BACKTRACE", "unwrap()", "Err(", "Some("] {
            self.holds(!text.contains(word), || format!("`{word}` in what {what} says: {text}"));
        }
    }

    fn ended(&mut self, what: &str, finished: &Finished) {
        self.plain(what, &format!("{}{}", finished.out, finished.err));
        let known = matches!(finished.code, Some(0 | 1 | 2 | 8));
        self.holds(known, || format!("{what} ended with {:?}: {}", finished.code, finished.err));
        let told = finished.code == Some(0) || finished.err.trim().len() > 20;
        self.holds(told, || format!("{what} fails without a word"));
    }
}

fn case(bed: &Bed, with_salvage: bool, tally: &mut Tally) {
    let verified = bed.verify();
    tally.ended("verify", &verified);
    let clean = verified.code == Some(0);
    tally.found_by_verify += usize::from(!clean);
    if with_salvage {
        salvaged(bed, tally);
    }
    match bed.vault.try_start() {
        Err(refusal) => {
            tally.not_started += 1;
            tally.plain("the server", &refusal.text);
            let exit = refusal.status.code();
            tally.holds(exit.is_some_and(|code| code != 0), || format!("{exit:?}: {}", refusal.text));
            tally.holds(!clean, || format!("verify finds nothing, and it does not start: {}", refusal.text));
            if refusal.text.contains(OLDER) {
                tally.older += 1;
                let told = format!("{}{}", verified.out, verified.err);
                tally.holds(told.contains(OLDER), || {
                    format!("the last writes are missing, and verify does not tell: {told}")
                });
            }
        }
        Ok(running) => {
            let facts = bed.ask(&running);
            let wrong: Vec<_> = facts.iter().filter(|(question, fact)| bed.facts[*question] != **fact).collect();
            // A configuration that is cut off before its unlock keys is one of a vault that starts locked.
            let refused = |(status, body): &(u16, Value)| *status == 423 || *status >= 500 && body.is_string();
            for (question, fact) in &wrong {
                let (status, body) = fact;
                tally.holds(refused(fact), || {
                    format!("{question}: {status} {body} instead of {:?}; verify: {clean}", bed.facts[*question])
                });
                tally.holds(!clean, || format!("{question} is refused ({body}), and verify finds nothing"));
            }
            match wrong.is_empty() {
                true => tally.without_effect += 1,
                false => tally.served_with_damage += 1,
            }
            running.server.terminate();
            let (_, log) = running.server.ended();
            tally.plain("the server", &log);
        }
    }
}

fn salvaged(bed: &Bed, tally: &mut Tally) {
    let to = bed.vault.root().join("salvaged");
    let _ = fs::remove_dir_all(&to);
    let finished = bed.salvage(&to);
    tally.ended("a salvage", &finished);
    let Ok(lines) = fs::read_to_string(to.join("subjects.ndjson")) else { return };
    tally.salvaged += 1;
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let subject = line["subject"].as_str().unwrap();
        let known = subject == "late" || subject[1..].parse::<usize>().is_ok_and(|n| n < 8);
        tally.holds(known, || format!("a salvage brings back {subject}"));
        for field in line["fields"].as_array().unwrap() {
            let n = if subject == "late" { 77 } else { subject[1..].parse().unwrap_or(0) };
            let name = field["name"].as_str().unwrap();
            let right = name == "device" || field["value"] == fields(n)[name];
            tally.holds(right, || format!("a salvage brings back a wrong {name} of {subject}"));
        }
    }
}

fn torture(engine: EngineName) {
    let seed = seed();
    let wanted = number_from("UDV_TEST_CASES").unwrap_or(CASES);
    eprintln!("damage of {engine}: UDV_TEST_SEED={seed}, {wanted} cases");
    let bed = Bed::new(engine);
    let mut dice = Choices::new(seed);
    let mut undamaged = Tally::default();
    for image in &bed.images {
        bed.put_back(image.left);
        case(&bed, true, &mut undamaged);
    }
    let seen = (undamaged.without_effect, undamaged.found_by_verify, &undamaged.faults);
    assert_eq!(seen, (2, 0, &vec![]), "the control: undamaged");
    let mut tally = Tally::default();
    let kinds_of = |image: &Image| image.files.iter().map(|file| kind_of(file)).collect::<Vec<_>>();
    let mut kinds: Vec<String> = BTreeSet::from_iter(bed.images.iter().flat_map(kinds_of)).into_iter().collect();
    eprintln!("files of {} kinds: {kinds:?}", kinds.len());
    // What holds data comes up more often.
    let holds_data =
        |kind: &&String| ["/db", ".jnl", "tables", "journal", ".slot"].iter().any(|part| kind.contains(part));
    let more: Vec<String> = kinds.iter().filter(holds_data).cloned().collect();
    kinds.extend(more.iter().chain(&more).cloned().collect::<Vec<_>>());
    // The very last batch of what an engine appends to, first of all.
    for op in [Op::FlipLast, Op::CutLast] {
        for file in bed.images[0].files.iter().filter(|file| is_appended_to(file)) {
            try_one(&bed, &bed.images[0], file, op, false, &mut dice, &mut tally);
        }
    }
    for number in 0..wanted {
        // Each kind in turn.
        let kind = &kinds[usize::try_from(number).unwrap() % kinds.len()];
        let with_kind: Vec<&Image> = bed.images.iter().filter(|image| kinds_of(image).contains(kind)).collect();
        let image = dice.of(&with_kind);
        let of_kind: Vec<&PathBuf> = image.files.iter().filter(|file| kind_of(file) == *kind).collect();
        let (file, op) = (dice.of(&of_kind), dice.of(&OPS));
        try_one(&bed, image, file, op, number % 3 == 0, &mut dice, &mut tally);
    }
    let faults = tally.faults.len();
    tally.faults.clear();
    eprintln!("damage of {engine}: {tally:?}");
    assert_eq!(faults, 0, "see above");
    assert!(tally.not_started > 0 && tally.found_by_verify > 0 && tally.salvaged > 0, "{tally:?}");
    assert!(tally.older > 0, "no damage of the last batch cost the last write: {tally:?}");
}

fn is_appended_to(file: &Path) -> bool {
    file.extension().is_some_and(|kind| kind == "jnl") || file.ends_with("store/db")
}

/// One kind of damage of one file of an image, if it changes anything.
fn try_one(bed: &Bed, image: &Image, file: &Path, op: Op, with_salvage: bool, dice: &mut Choices, tally: &mut Tally) {
    bed.put_back(image.left);
    if !damage(&bed.vault.data().join(file), op, dice) {
        return;
    }
    tally.case = format!("case {}, {op:?} of {}, {:?}", tally.cases, file.display(), image.left);
    let faults = tally.faults.len();
    case(bed, with_salvage, tally);
    tally.cases += 1;
    for fault in &tally.faults[faults..] {
        eprintln!("{fault}");
    }
}

#[test]
fn damaged_files_of_a_vault_on_sled_are_told_or_without_effect() {
    torture(EngineName::Sled);
}

#[test]
fn damaged_files_of_a_vault_on_fjall_are_told_or_without_effect() {
    torture(EngineName::Fjall);
}
