//! `audit verify`: that the log only grows and that its key signs it, as the server proves it or from its files alone.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use vault_core::audit::{KeptHead, check_with, is_continued, next_key, signed_size, size_of};

use super::Context;
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output::{Ui, printable};
use crate::progress;

#[derive(Deserialize)]
struct Keys {
    current: String,
    changes: Vec<String>,
}

#[derive(Deserialize)]
struct Consistency {
    proof: Vec<String>,
}

/// A log as it was found.
struct Found {
    size: u64,
    /// The key that signs now.
    key: String,
    /// How many entries were seen before, if any.
    before: Option<u64>,
}

/// Why a log does not hold, or could not be checked.
enum Unsound {
    /// It does not keep what it promised.
    Broken(String),
    Failed(Failure),
}

impl From<Failure> for Unsound {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Checks that the log goes on from where it was seen last.
pub(crate) fn verify(log_key: Option<&str>, context: &Context) -> Result<Exit, Failure> {
    match watch(&context.client()?, log_key.map(str::trim), &state_dir()?) {
        Ok(found) => {
            if let Some(before) = found.before {
                context.ui.note(&format!("it goes on from the {before} entries that were seen before"));
            }
            context.ui.line(&format!("the log has {} entries, signed by {}", found.size, printable(&found.key)))?;
            not_pinned(log_key, &context.ui);
            Ok(Exit::Done)
        }
        Err(Unsound::Broken(told)) => Ok(refused(&told, &context.ui)),
        Err(Unsound::Failed(failure)) => Err(failure),
    }
}

/// Fetches the signed head, checks it with the key, holds it against the one remembered in `state`, and remembers it.
fn watch(client: &Client, log_key: Option<&str>, state: &Path) -> Result<Found, Unsound> {
    let keys: Keys = client.get("/v1/audit/keys")?.json()?;
    let head = client.get("/v1/audit/checkpoint")?.text()?.to_owned();
    let (key, size) = signer(&keys, log_key, head.as_bytes())?;
    let name = head.lines().next().unwrap_or_default().replace(['/', '.'], "-");
    let place = state.join(format!("{}.checkpoint", printable(&name)));
    let before = match fs::read(&place) {
        Ok(before) => Some(goes_on(client, &before, head.as_bytes(), &place)?),
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => None,
        Err(why) => return Err(Failure::failed(format!("{} cannot be read ({why})", place.display())).into()),
    };
    remember(&place, &head)?;
    Ok(Found { size, key, before })
}

/// The key that signed the head, and its size: the given key, or one that the changes of it lead to.
fn signer(keys: &Keys, log_key: Option<&str>, head: &[u8]) -> Result<(String, u64), Unsound> {
    let mut key = log_key.unwrap_or(&keys.current).to_owned();
    let mut changes = keys.changes.iter();
    loop {
        if let Some(size) = signed_size(head, &key) {
            return Ok((key, size));
        }
        match changes.find_map(|note| next_key(note.as_bytes(), &key)) {
            Some(next) => key = next,
            None => {
                let told = "the head of the log is not signed by this key, nor by one that it was changed to";
                return Err(Unsound::Broken(told.to_owned()));
            }
        }
    }
}

/// Has the server prove that the log of a head goes on from the one that was remembered; answers the size of that.
fn goes_on(client: &Client, before: &[u8], head: &[u8], place: &Path) -> Result<u64, Unsound> {
    let (Some(from), Some(to)) = (size_of(before), size_of(head)) else {
        let told = format!("{} holds no head of a log", place.display());
        return Err(Failure::failed(told).hint("if you do not know why, keep it; move it away to start anew").into());
    };
    if from > to {
        let told = format!("the log had {from} entries when it was last seen, and has {to}: some are gone");
        return Err(Unsound::Broken(told));
    }
    let proof: Consistency = client.get(&format!("/v1/audit/consistency?from={from}&to={to}"))?.json()?;
    let hashes: Option<Vec<[u8; 32]>> = proof.proof.iter().map(|text| hash(text)).collect();
    match hashes.is_some_and(|hashes| is_continued(before, head, &hashes)) {
        true => Ok(from),
        false => {
            let told = format!(
                "the log does not go on from the {from} entries that were last seen: it was rewritten. The head from then is \
                 in {}; keep it, it is evidence",
                place.display()
            );
            Err(Unsound::Broken(told))
        }
    }
}

/// Whole or not at all: what was remembered before must not be lost halfway.
fn remember(place: &Path, head: &str) -> Result<(), Failure> {
    let dir = place.parent().unwrap_or(Path::new("."));
    let written = fs::create_dir_all(dir).and_then(|()| {
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        std::io::Write::write_all(&mut file, head.as_bytes())?;
        file.persist(place).map_err(|error| error.error)
    });
    written.map(drop).map_err(|why| Failure::failed(format!("{} cannot be written ({why})", place.display())))
}

fn refused(told: &str, ui: &Ui) -> Exit {
    ui.warn(told);
    Exit::Verification
}

fn not_pinned(log_key: Option<&str>, ui: &Ui) {
    if log_key.is_none() {
        ui.warn("key not pinned: give --log-key with the log's key from a place that you trust");
    }
}

fn hash(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    let mut hash = [0; 32];
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}

/// Where what was seen is remembered.
fn state_dir() -> Result<PathBuf, Failure> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let none = || Failure::failed("there is no place to remember the log's head in").hint("set XDG_STATE_HOME or HOME");
    Ok(state.or_else(home).ok_or_else(none)?.join("udv"))
}

/// Checks a log from its files alone, and heads that were kept against it.
pub(crate) fn verify_dir(dir: &Path, log_key: Option<&str>, checkpoints: &[PathBuf], ui: &Ui) -> Result<Exit, Failure> {
    if !dir.is_dir() {
        return Err(Failure::failed(format!("{} is no directory", dir.display())));
    }
    let kept = checkpoints.iter().map(|path| kept(path)).collect::<Result<Vec<_>, _>>()?;
    let bar = progress::counting(ui, "checking", 0);
    let report = check_with(dir, log_key.map(str::trim), &kept, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let report = report.map_err(|why| Failure::failed(why.to_string()))?;
    for problem in &report.problems {
        ui.line(&printable(problem))?;
    }
    let (size, signed) = (report.size, report.signed);
    if !report.problems.is_empty() {
        let told =
            format!("{} problems among {size} entries: keep the log as it is, it is evidence", report.problems.len());
        return Ok(refused(&told, ui));
    }
    let moved = if report.moved > 0 { format!(", {} of them moved away", report.moved) } else { String::new() };
    ui.line(&format!("the log is whole: {size} entries{moved}, {signed} of them signed"))?;
    match report.log_key {
        Some(key) => ui.line(&format!("its key is {}", printable(&key)))?,
        None => ui.warn("its signature was not checked: the files do not tell its key"),
    }
    not_pinned(log_key, ui);
    Ok(Exit::Done)
}

fn kept(path: &Path) -> Result<KeptHead, Failure> {
    let head = fs::read(path).map_err(|why| Failure::failed(format!("{} cannot be read ({why})", path.display())))?;
    Ok((path.display().to_string(), head))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::fake::FakeVault;
    use vault_core::audit::{Action, Entry, Log, Outcome};
    use vault_core::crypto::{LogKey, Random};
    use vault_core::ids::VaultId;

    /// A log, and the answers of a server that has it.
    struct Served {
        log: Log,
        _dir: tempfile::TempDir,
    }

    impl Served {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let log = Log::open(dir.path()).unwrap();
            log.unlock(VaultId([7; 16]), key()).unwrap();
            Self { log, _dir: dir }
        }

        fn grow(&self, count: u64) -> String {
            for _ in 0..count {
                self.log.append(&[Entry::new(Action::Read, Outcome::Done)]).unwrap();
            }
            while self.log.durable_size() < self.log.size() {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            String::from_utf8(self.log.checkpoint().unwrap()).unwrap()
        }

        fn keys(&self) -> (u16, String) {
            let (current, changes) = (self.log.vkey().unwrap(), self.log.key_changes().unwrap());
            (200, serde_json::json!({ "current": current, "since": "t", "changes": changes }).to_string())
        }

        fn proof(&self, from: u64, to: u64) -> (u16, String) {
            let proof = self.log.consistency(from, to).unwrap();
            let texts: Vec<String> =
                proof.iter().map(|hash| hash.iter().map(|b| format!("{b:02x}")).collect()).collect();
            (200, serde_json::json!({ "from": from, "to": to, "proof": texts }).to_string())
        }
    }

    fn key() -> LogKey {
        LogKey::draw(&mut Random::for_keys(1))
    }

    fn watched(answers: Vec<(u16, String)>, key: Option<&str>, state: &Path) -> Result<Found, String> {
        let fake = FakeVault::answering(answers);
        match watch(&Client::anonymous(&fake.connection()).unwrap(), key, state) {
            Ok(found) => Ok(found),
            Err(Unsound::Broken(told)) => Err(told),
            Err(Unsound::Failed(failure)) => panic!("{}", failure.message),
        }
    }

    #[test]
    fn a_log_goes_on_from_where_it_was_seen_also_with_another_key() {
        let (state, served) = (tempfile::tempdir().unwrap(), Served::new());
        let first = served.log.vkey().unwrap();
        let head = served.grow(3);
        let found = watched(vec![served.keys(), (200, head)], Some(&first), state.path()).unwrap();
        assert_eq!((found.size, found.before), (3, None));
        for _ in 0..2 {
            served.grow(1);
            served.log.change_key(key()).unwrap();
        }
        let head = served.grow(2);
        let answers = || vec![served.keys(), (200, head.clone()), served.proof(3, 7)];
        let found = watched(answers(), Some(&first), state.path()).unwrap();
        assert_eq!((found.size, found.before, found.key), (7, Some(3), served.log.vkey().unwrap()));
        // A key that no change leads from.
        let other = Served::new();
        let refused = watched(answers(), Some(&other.log.vkey().unwrap()), state.path()).err().unwrap();
        assert!(refused.contains("not signed by this key"), "{refused}");
    }

    #[test]
    fn a_log_that_was_rewritten_or_cut_is_refused_and_what_was_seen_stays() {
        let (state, served, other) = (tempfile::tempdir().unwrap(), Served::new(), Served::new());
        let seen = served.grow(5);
        watched(vec![served.keys(), (200, seen.clone())], None, state.path()).unwrap();
        let cut = other.grow(4);
        let refused = watched(vec![other.keys(), (200, cut)], None, state.path()).err().unwrap();
        assert!(refused.contains("had 5 entries") && refused.contains("has 4"), "{refused}");
        let rewritten = other.grow(4);
        let answers = vec![other.keys(), (200, rewritten), other.proof(5, 8)];
        let refused = watched(answers, None, state.path()).err().unwrap();
        assert!(refused.contains("rewritten"), "{refused}");
        let kept = fs::read_dir(state.path()).unwrap().next().unwrap().unwrap().path();
        assert_eq!(fs::read_to_string(&kept).unwrap(), seen);
        // The same with what is in place of a head: nothing can be told then, and it is left as it is.
        fs::write(&kept, "?").unwrap();
        let fake = FakeVault::answering(vec![served.keys(), (200, seen)]);
        let failed = watch(&Client::anonymous(&fake.connection()).unwrap(), None, state.path());
        assert!(matches!(failed, Err(Unsound::Failed(_))) && fs::read_to_string(&kept).unwrap() == "?");
    }

    #[test]
    fn hashes_have_64_digits() {
        assert_eq!(hash(&"0f".repeat(32)), Some([15; 32]));
        for bad in ["", "0f", &"zz".repeat(32), &"+1".repeat(32), &"0".repeat(63)] {
            assert_eq!(hash(bad), None);
        }
    }
}
