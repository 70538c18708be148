//! What a command ends with: the exit codes scripts rely on, and the failure that carries one.

use std::fmt;
use std::io;

use serde::Deserialize;

use crate::output::printable;

/// The exit codes of every command. 130 (interrupted) is not here: it is what a shell shows for SIGINT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    /// Not authenticated, or refused by policy.
    Refused = 4,
    /// Held, in conflict, or changed meanwhile.
    Conflict = 5,
    /// Locked, overloaded or not reachable.
    Unreachable = 6,
    Shredded = 7,
    /// A verification failed: the vault did not keep a promise.
    Verification = 8,
    /// Part of a batch failed; the rest was done.
    Partial = 9,
}

impl Exit {
    /// The exit code for a refused request, by HTTP status.
    pub(crate) fn for_status(status: u16) -> Self {
        match status {
            401 | 403 | 429 => Self::Refused,
            404 => Self::NotFound,
            409 | 412 => Self::Conflict,
            410 => Self::Shredded,
            423 | 503 => Self::Unreachable,
            _ => Self::Failed,
        }
    }
}

/// A problem document (RFC 9457) as the vault sends it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Problem {
    pub(crate) title: String,
    pub(crate) code: String,
    pub(crate) detail: String,
    pub(crate) field: Option<String>,
    pub(crate) rule: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = [&self.detail, &self.title, &self.code].into_iter().find(|text| !text.is_empty());
        out.write_str(&printable(said.map_or("refused", String::as_str)))?;
        for (name, value) in [("field", &self.field), ("rule", &self.rule)] {
            // The sentence may name it already.
            if let Some(value) = value.as_ref().filter(|value| !self.detail.contains(&format!("({name} {value})"))) {
                write!(out, " ({name} {})", printable(value))?;
            }
        }
        Ok(())
    }
}

/// Why a command ends early: an exit code, what happened, and what to do next.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    /// The HTTP status behind it, if the server answered.
    pub(crate) status: Option<u16>,
    /// The code of the server's problem document; empty if there is none.
    pub(crate) code: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None, status: None, code: String::new() }
    }

    /// The command line itself is wrong; nothing was asked of the server.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// A refusal by the server.
    pub(crate) fn refused(status: u16, problem: &Problem) -> Self {
        Self {
            exit: Exit::for_status(status),
            message: problem.to_string(),
            hint: hint_for(status, &problem.code).map(str::to_owned),
            status: Some(status),
            code: problem.code.clone(),
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// True when the server found fault with what was sent, so that sending less of it may help.
    pub(crate) fn blames_the_body(&self) -> bool {
        matches!(self.status, Some(400 | 413 | 422))
    }
}

fn hint_for(status: u16, code: &str) -> Option<&'static str> {
    match (status, code) {
        (403, "wrong_unlock_key") => Some("check the passphrase and try again"),
        (423, _) => Some("unlock the vault first: vault-cli unlock"),
        _ => None,
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // Whoever reads our output went away (`… | head`): that is no failure of ours.
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(Exit::Done, String::new());
        }
        Self::failed(format!("input or output failed: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_become_the_documented_exit_codes() {
        let table = [
            (400, 1),
            (401, 4),
            (403, 4),
            (404, 3),
            (409, 5),
            (410, 7),
            (412, 5),
            (413, 1),
            (422, 1),
            (423, 6),
            (429, 4),
            (500, 1),
            (503, 6),
            (507, 1),
        ];
        for (status, code) in table {
            assert_eq!(Exit::for_status(status) as u8, code, "status {status}");
        }
    }

    #[test]
    fn a_problem_names_its_field_and_cannot_drive_the_terminal() {
        let problem = Problem {
            detail: "not a phone number valid for its region\u{1b}[2J".into(),
            field: Some("phone".into()),
            ..Problem::default()
        };
        let text = Failure::refused(422, &problem).to_string();
        assert!(text.ends_with("(field phone)"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn any_problem_is_shown_on_one_line_without_control_characters() {
        use crate::fuzz::{Dice, cases, corpus, fire};

        let run = |bytes: &[u8]| {
            let Ok(problem) = serde_json::from_slice::<Problem>(bytes) else { return false };
            let shown = Failure::refused(422, &problem).to_string();
            assert!(!shown.is_empty() && !shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
            true
        };
        let taken = fire("problem", &corpus("problem"), cases(5000), &mut Dice::of_run(), run);
        assert!(taken > 0);
    }
}
