//! What the operator sees: data on standard output, as tables or JSON; everything else on standard error.

use std::fmt::{Arguments, Write as _};
use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use clap::builder::styling::{AnsiColor, Style};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::exit::Failure;

const RED: Style = AnsiColor::Red.on_default().bold();
const YELLOW: Style = AnsiColor::Yellow.on_default().bold();

/// How data is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns for people.
    #[default]
    Table,
    /// One JSON document, as the server sent it where there is one.
    Json,
}

/// The operator's end of the conversation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ui {
    pub(crate) format: Format,
    pub(crate) quiet: bool,
    pub(crate) progress: bool,
    /// Destructive commands were agreed to beforehand.
    pub(crate) yes: bool,
}

impl Ui {
    pub(crate) fn wants_json(&self) -> bool {
        self.format == Format::Json
    }

    /// A remark for people; silent under `--quiet`.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            tell(format_args!("{text}\n"));
        }
    }

    /// Something that deserves attention; shown even under `--quiet`.
    pub(crate) fn warn(&self, text: &str) {
        tell(format_args!("{YELLOW}warning:{YELLOW:#} {text}\n"));
    }

    /// One line of data.
    pub(crate) fn line(&self, text: &str) -> Result<(), Failure> {
        Ok(writeln!(io::stdout(), "{text}")?)
    }

    /// A JSON document of our own.
    pub(crate) fn json(&self, document: &impl Serialize) -> Result<(), Failure> {
        let text =
            serde_json::to_string(document).map_err(|_| Failure::failed("the answer could not be written as JSON"))?;
        self.line(&text)
    }

    /// Rows under a header. Cells are made safe for a terminal here, so callers pass what they got.
    pub(crate) fn table(&self, header: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_header(header.to_vec());
        for row in rows {
            table.add_row(row.iter().map(|cell| printable_lines(cell)).collect::<Vec<_>>());
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        self.line(&table.trim_fmt())
    }

    /// Asks before something that cannot be undone; without a terminal only `--yes` counts as agreement.
    pub(crate) fn confirm(&self, question: &str) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
            return Err(Failure::usage(format!("{question} Nothing was done."))
                .hint("nobody can be asked here: add --yes to agree beforehand"));
        }
        tell(format_args!("{question} Type yes to go on: "));
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        match answer.trim() {
            "yes" | "y" => Ok(()),
            _ => Err(Failure::failed("nothing was done")),
        }
    }
}

/// That nobody reads it any more is no reason to stop.
fn tell(text: Arguments<'_>) {
    let _ = anstream::stderr().write_fmt(text);
}

/// Tells the operator why the command ended.
pub(crate) fn report(failure: &Failure) {
    if !failure.message.is_empty() {
        tell(format_args!("{RED}error:{RED:#} {}\n", failure.message));
    }
    if let Some(hint) = &failure.hint {
        tell(format_args!("  {hint}\n"));
    }
}

/// Text that cannot drive a terminal: control and direction-override characters become visible escapes.
pub(crate) fn printable(text: &str) -> String {
    escape(text, |_| false)
}

/// As [`printable`], but lines stay lines: for values such as postal addresses.
pub(crate) fn printable_lines(text: &str) -> String {
    escape(text, |c| c == '\n')
}

fn escape(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let overrides = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if (c.is_control() || overrides) && !keep(c) {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn scripted() -> Ui {
        Ui { format: Format::Table, quiet: true, progress: false, yes: false }
    }

    #[test]
    fn control_and_override_characters_are_shown_not_obeyed() {
        assert_eq!(printable("a\u{1b}[31mb\nc\u{202e}"), "a\\u{1b}[31mb\\u{a}c\\u{202e}");
        assert_eq!(printable_lines("28th Street\nأبو ظبي\r"), "28th Street\nأبو ظبي\\u{d}");
    }

    #[test]
    fn without_a_terminal_a_destructive_command_needs_yes() {
        // Test runners give no terminal on both streams; if one does, there is nothing to check here.
        if io::stdin().is_terminal() && io::stderr().is_terminal() {
            return;
        }
        let refused = scripted().confirm("Shred 3 subjects?").unwrap_err();
        assert_eq!(refused.exit as u8, 2);
        assert!(refused.hint.as_deref().is_some_and(|h| h.contains("--yes")));
        let agreed = Ui { yes: true, ..scripted() };
        assert!(agreed.confirm("Shred 3 subjects?").is_ok());
    }
}
