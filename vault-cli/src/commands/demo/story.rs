//! How the demo is told: one line a step, each with its verdict, and a summary.

use std::io::Write;

use clap::builder::styling::{AnsiColor, Style};
use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output::{Ui, printable};

const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();

#[derive(Serialize)]
struct Step {
    ok: bool,
    step: String,
}

#[derive(Serialize)]
struct Told<'a> {
    ok: bool,
    steps: &'a [Step],
}

/// The steps so far.
pub(super) struct Story {
    steps: Vec<Step>,
    ui: Ui,
}

impl Story {
    pub(super) fn new(ui: &Ui) -> Self {
        Self { steps: Vec::new(), ui: *ui }
    }

    /// Tells one step. A failed check does not stop the story, but decides its end.
    pub(super) fn step(&mut self, ok: bool, text: &str) -> Result<(), Failure> {
        let step = printable(text);
        if !self.ui.wants_json() {
            let (style, mark) = if ok { (GOOD, "✓") } else { (BAD, "✗") };
            writeln!(anstream::stdout(), "{style}{mark}{style:#} {step}")?;
        }
        self.steps.push(Step { ok, step });
        Ok(())
    }

    /// The verdict over all steps.
    pub(super) fn end(&self) -> Result<Exit, Failure> {
        let failed = self.steps.iter().filter(|step| !step.ok).count();
        if self.ui.wants_json() {
            self.ui.json(&Told { ok: failed == 0, steps: &self.steps })?;
        }
        if failed > 0 {
            return Err(Failure::new(Exit::Verification, format!("{failed} of {} checks failed", self.steps.len())));
        }
        self.ui.note(&format!(
            "\nAll {} checks passed. What was shredded needs the old root key, and that is gone: whoever holds \
             every\nold byte of the store, and gets today's slot and key as well, reads nothing of that person. \
             Only a copy\nof the old slot itself would have helped, which is why slots live apart from stores and \
             backups.",
            self.steps.len()
        ));
        Ok(Exit::Done)
    }
}

/// The vault's epoch: how many root keys it has had.
pub(super) fn epoch(client: &Client) -> Result<u64, Failure> {
    #[derive(Deserialize)]
    struct Status {
        epoch: u64,
    }
    let status: Status = client.get("/v1/status")?.json()?;
    Ok(status.epoch)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::output::Format;

    #[test]
    fn one_failed_check_makes_the_whole_story_exit_8() {
        let ui = Ui { format: Format::Json, quiet: true, progress: false, yes: false };
        let mut story = Story::new(&ui);
        story.step(true, "first").unwrap();
        assert_eq!(story.end().unwrap(), Exit::Done);
        story.step(false, "second").unwrap();
        story.step(true, "third").unwrap();
        let failure = story.end().unwrap_err();
        assert_eq!(failure.exit as u8, 8);
        assert!(failure.message.contains("1 of 3"));
    }
}
