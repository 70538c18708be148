//! What was signed, against the entries: the last head, the changes of the key, and heads that somebody kept.

use std::path::Path;

use super::super::files;
use super::super::head::{NOTE_MAX, key_notes, next_in, signed_by, told_by};
use super::super::{KeyChange, LogError};
use super::{KeptHead, Seen};

/// The heads of a log.
pub(super) struct Heads<'a> {
    last: Option<Vec<u8>>,
    /// Changes of the key, oldest first.
    changes: Vec<(u64, Vec<u8>)>,
    kept: &'a [KeptHead],
}

/// The keys that signed the log, one after the other.
struct Chain {
    /// Oldest first; the first is not known if nothing tells it.
    keys: Vec<Option<String>>,
}

impl<'a> Heads<'a> {
    pub(super) fn read(dir: &Path, kept: &'a [KeptHead], problems: &mut Vec<String>) -> Result<Self, LogError> {
        let told = |why: std::io::Error| LogError::unavailable(dir, &why);
        let last = match files::read(&dir.join("checkpoint"), NOTE_MAX) {
            Ok(note) => Some(note),
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => None,
            Err(why) => return Err(told(why)),
        };
        if last.as_ref().is_some_and(|last| told_by(last).is_none()) {
            problems.push("the checkpoint is malformed".to_owned());
        }
        Ok(Self { last, changes: key_notes(dir).map_err(told)?, kept })
    }

    /// The sizes that they speak of.
    pub(super) fn sizes(&self) -> Vec<u64> {
        let kept = self.kept.iter().map(|(_, note)| note);
        let notes = self.last.iter().chain(self.changes.iter().map(|(_, note)| note)).chain(kept);
        notes.filter_map(|note| told_by(note)).map(|(size, _)| size).collect()
    }

    /// The size that the last one speaks of.
    pub(super) fn signed(&self) -> u64 {
        self.last.as_deref().and_then(told_by).map_or(0, |(size, _)| size)
    }

    /// Tells what does not fit, and the key that signs now.
    pub(super) fn check(
        &self,
        seen: &Seen,
        size: u64,
        trusted: Option<&str>,
        problems: &mut Vec<String>,
    ) -> Option<String> {
        let chain = self.chain(seen, trusted, problems);
        if trusted.is_some_and(|trusted| !chain.knows(trusted)) {
            problems.push("the given key is none of this log's keys".to_owned());
        }
        self.entries_agree(seen, problems);
        match &self.last {
            Some(last) => self.check_last(last, seen, &chain, problems),
            None if size > 0 => {
                problems.push("the checkpoint is missing: nothing tells that the log ends here".to_owned())
            }
            None => {}
        }
        for (name, note) in self.kept {
            problems.extend(check_kept(name, note, seen, size, &chain));
        }
        chain.keys.last().cloned().flatten()
    }

    /// Follows the keys from change to change.
    fn chain(&self, seen: &Seen, trusted: Option<&str>, problems: &mut Vec<String>) -> Chain {
        let nexts: Vec<Option<String>> = self.changes.iter().map(|(_, note)| next_in(note)).collect();
        let first = self.changes.first().map(|(_, note)| note.as_slice());
        let begins =
            |change: &&(u64, KeyChange)| nexts.first().is_some_and(|next| next.as_ref() == Some(&change.1.new));
        let told = seen.changes.iter().find(begins);
        let given = trusted.filter(|trusted| first.is_none_or(|note| signed_by(note, &[trusted])));
        let given = given.filter(|trusted| !nexts.iter().flatten().any(|next| next == trusted)).map(str::to_owned);
        // From elsewhere rather than from the log itself.
        let mut keys = vec![given.or_else(|| told.map(|(_, change)| change.old.clone()))];
        for ((size, note), next) in self.changes.iter().zip(nexts) {
            let named = told_by(note).is_some_and(|head| head.0 == *size && fits(head, seen));
            if !named {
                problems.push(format!("the head at the change of the key at {size} is not of this log"));
            }
            let both = [keys.last().and_then(Option::as_deref), next.as_deref()];
            if next.is_none() || !signed_by(note, &both.into_iter().flatten().collect::<Vec<_>>()) {
                problems
                    .push(format!("the change of the key at {size} is not signed by the key before and the one after"));
            }
            keys.push(next);
        }
        Chain { keys }
    }

    /// Each change is told by an entry before it, unless that is not here, and no other one is.
    fn entries_agree(&self, seen: &Seen, problems: &mut Vec<String>) {
        let mut after = 0;
        for (size, note) in &self.changes {
            let told =
                seen.changes.iter().any(|(index, change)| index < size && Some(&change.new) == next_in(note).as_ref());
            if !told && seen.unseen == 0 {
                problems.push(format!("no entry tells of the change of the key at {size}"));
            }
            let between = seen.changes.iter().filter(|(index, _)| (after..*size).contains(index));
            for (index, change) in between.filter(|(_, change)| Some(&change.new) != next_in(note).as_ref()) {
                problems
                    .push(format!("entry {index} tells of a change of the key to {}, which did not come", change.new));
            }
            after = *size;
        }
        // The note of a change comes before any head that the new key signs; without both a crash may have come between.
        let of_new = |new: &str| self.last.as_deref().is_some_and(|last| signed_by(last, &[new]));
        for (index, change) in seen.changes.iter().filter(|(index, _)| *index >= after) {
            if of_new(&change.new) {
                problems.push(format!(
                    "entry {index} tells of a change of the key to {}, and its note in keys/ is missing",
                    change.new
                ));
            }
        }
    }

    fn check_last(&self, last: &[u8], seen: &Seen, chain: &Chain, problems: &mut Vec<String>) {
        let size = self.signed();
        if !told_by(last).is_some_and(|head| fits(head, seen)) {
            problems
                .push(format!("the checkpoint (size {size}) is not of these entries: some were changed or removed"));
        }
        // A crash may have come between the note of a change and the next head.
        let before = self.changes.last().is_some_and(|(changed, _)| size <= *changed);
        let keys = chain.keys.iter().rev().take(if before { 2 } else { 1 }).flatten();
        if chain.keys.iter().any(Option::is_some) && !keys.into_iter().any(|key| signed_by(last, &[key])) {
            problems.push("the checkpoint is not signed by the log's key".to_owned());
        }
    }
}

impl Chain {
    fn knows(&self, key: &str) -> bool {
        self.keys.iter().flatten().any(|known| known == key)
    }
}

fn check_kept(name: &str, note: &[u8], seen: &Seen, size: u64, chain: &Chain) -> Option<String> {
    let Some(head) = told_by(note) else { return Some(format!("{name} is no checkpoint, or a malformed one")) };
    if head.0 > size {
        return Some(format!(
            "{name} speaks of {} entries, and there are {size}: some were removed, or it is another log's",
            head.0
        ));
    }
    if !fits(head, seen) {
        return Some(format!("{name} (size {}) is not of this log: its first {} entries are others", head.0, head.0));
    }
    let mut keys = chain.keys.iter().flatten().peekable();
    let signed = keys.peek().is_none() || keys.any(|key| signed_by(note, &[key]));
    (!signed).then(|| format!("{name} is not signed by a key of this log"))
}

fn fits(head: (u64, [u8; 32]), seen: &Seen) -> bool {
    // The hash of no entries at all: RFC 6962, section 2.1.
    let empty = crate::crypto::digest(&[]);
    if head.0 == 0 { head.1 == empty } else { seen.roots.contains(&head) }
}
