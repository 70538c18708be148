//! Root slots as a table, and what is wrong with them.

use serde_json::Value;
use vault_core::root::{FileSlot, Reading, RootSlot, SlotError, SlotPlace};

use crate::commands::Failure;
use crate::serve::say;

/// One slot.
pub(super) struct Row {
    place: String,
    kind: &'static str,
    opened_by: String,
    holds: String,
    problem: Option<String>,
}

/// What a slot was found to be: itself, what it holds, whether it is a copy of one before.
pub(super) type Found = Result<(FileSlot, Reading, bool), SlotError>;

impl Row {
    /// A slot that was not unlocked.
    pub(super) fn closed(place: &SlotPlace, slot: Result<FileSlot, SlotError>) -> Self {
        let row = Self::of(place);
        match slot {
            Ok(slot) => Self { opened_by: methods(&slot), holds: since(&slot), ..row },
            Err(error) => Self { problem: Some(error.to_string()), ..row },
        }
    }

    /// A slot that was read, beside the first one.
    pub(super) fn opened(place: &SlotPlace, found: &Found, first: Option<&Reading>) -> Self {
        let row = Self::of(place);
        match found {
            Ok((slot, reading, copied)) => {
                let epochs: Vec<String> = reading.entries.iter().map(|entry| entry.epoch.to_string()).collect();
                let problem = problem(reading, *copied, first);
                Self { opened_by: methods(slot), holds: format!("epoch {}", epochs.join(" and ")), problem, ..row }
            }
            Err(error) => Self { problem: Some(error.to_string()), ..row },
        }
    }

    fn of(place: &SlotPlace) -> Self {
        let kind = if place.is_hardware() { "hardware (F2)" } else { "file (F1)" };
        let nothing = || "-".to_owned();
        Self { place: place.to_string(), kind, opened_by: nothing(), holds: nothing(), problem: None }
    }
}

fn methods(slot: &FileSlot) -> String {
    slot.methods().iter().map(|method| method.as_str()).collect::<Vec<_>>().join(", ")
}

fn since(slot: &FileSlot) -> String {
    slot.hardware().map_or_else(|| "-".to_owned(), |hardware| format!("key of {}", hardware.keys_since))
}

fn problem(reading: &Reading, copied: bool, first: Option<&Reading>) -> Option<String> {
    if copied {
        return Some("it is a copy of another slot: a rotation of either ends both".to_owned());
    }
    if !reading.even {
        return Some(
            "its two copies differ: a root batch runs, or was cut short and is finished at the next start".into(),
        );
    }
    let differs = first.is_some_and(|first| first.entries != reading.entries);
    differs.then(|| "it does not agree with the first slot: the next start brings up the one that lags".to_owned())
}

/// Prints them.
pub(super) fn table(rows: &[Row]) {
    for Row { place, kind, opened_by, holds, problem } in rows {
        say(&format!("{place}\n  {kind}, opened by: {opened_by}; {holds}"));
        if let Some(problem) = problem {
            say(&format!("  PROBLEM: {problem}"));
        }
    }
}

/// Fails if one has a problem.
pub(super) fn verdict(rows: &[Row]) -> Result<(), Failure> {
    told(rows.len(), rows.iter().filter(|row| row.problem.is_some()).count())
}

fn told(slots: usize, problems: usize) -> Result<(), Failure> {
    match problems {
        0 => {
            say(&format!("{slots} root slots are in order"));
            Ok(())
        }
        _ => {
            Err(Failure::damage(format!("{problems} of {slots} root slots have a problem, listed above"))
                .of_verification())
        }
    }
}

/// What a server told.
pub(super) struct Told {
    slots: usize,
    problems: usize,
}

impl Told {
    /// As [`verdict`].
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        told(self.slots, self.problems)
    }
}

/// Prints what a server tells of its slots.
pub(super) fn of_server(answer: &Value) -> Result<Told, Failure> {
    let strange = || Failure::failed("the server's answer was not understood: is it of this version?");
    let slots = answer["data"].as_array().ok_or_else(strange)?;
    let mut problems = 0;
    for slot in slots {
        let text = |key: &str| slot[key].as_str();
        let (name, state) = (text("name").ok_or_else(strange)?, text("state").ok_or_else(strange)?);
        let rotated = text("rotated_at").map_or_else(String::new, |at| format!(", key of {at}"));
        say(&format!("{name}\n  {state}, final: {}{rotated}", text("final").unwrap_or("-")));
        let trouble: Vec<&str> = ["detail", "rotation_waits_for"].into_iter().filter_map(text).collect();
        for trouble in &trouble {
            say(&format!("  PROBLEM: {trouble}"));
        }
        problems += usize::from(!trouble.is_empty() || state != "ok");
    }
    Ok(Told { slots: slots.len(), problems })
}

/// How a slot is named in the configuration.
pub(super) fn configuration(place: &SlotPlace) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let path = |path: &std::path::Path| quoted(&path.display().to_string());
    match place {
        SlotPlace::File(file) => format!("[slots]\nfiles = [{}]  # beside those that are there", path(file)),
        SlotPlace::Pkcs11 { file, hsm } => format!(
            "[[slots.pkcs11]]\nfile = {}\nmodule = {}\ntoken = {}\npin_file = {}",
            path(file),
            path(&hsm.module),
            quoted(&hsm.token),
            path(&hsm.pin_file)
        ),
    }
}
