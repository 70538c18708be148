//! Why a document is no schema: what, where, and the way out.

use std::fmt;

use super::document::{DOCUMENT_MAX, Document};
use super::place::Lines;

/// The longest message that is passed on, in characters.
const MESSAGE_MAX: usize = 400;

/// A schema document that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentError {
    /// The line, counted from 1, where it is known.
    pub line: Option<usize>,
    /// The column in bytes, counted from 1, where it is known.
    pub column: Option<usize>,
    /// The part, as a dotted path, where it is known.
    pub path: Option<String>,
    /// What is wrong with it, and what to do about it.
    pub reason: String,
}

impl DocumentError {
    pub(super) fn check_size(length: usize) -> Result<(), Self> {
        if length <= DOCUMENT_MAX {
            return Ok(());
        }
        Err(Self::whole(format!("the document has {length} bytes, of at most {DOCUMENT_MAX}: shorten descriptions")))
    }

    /// About the document as a whole.
    pub(super) fn whole(reason: impl Into<String>) -> Self {
        Self { line: None, column: None, path: None, reason: reason.into() }
    }

    /// About one part of a document that has its shape.
    pub(super) fn at(document: &Document, path: impl Into<String>, reason: impl Into<String>) -> Self {
        let path = path.into();
        Self { line: document.line(&path), column: None, path: Some(path), reason: reason.into() }
    }

    pub(super) fn in_toml(text: &str, error: &toml::de::Error) -> Self {
        let place = error.span().map(|span| Lines::of(text).at(span.start));
        Self {
            line: place.map(|(line, _)| line),
            column: place.map(|(_, column)| column),
            path: None,
            reason: one_line(error.message()),
        }
    }

    pub(super) fn in_json(error: &serde_json::Error) -> Self {
        let place = format!(" at line {} column {}", error.line(), error.column());
        let told = error.to_string();
        Self {
            line: Some(error.line()),
            column: Some(error.column()),
            path: None,
            reason: one_line(told.strip_suffix(&place).unwrap_or(&told)),
        }
    }
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.column) {
            (Some(line), Some(column)) => write!(f, "line {line}, column {column}: ")?,
            (Some(line), None) => write!(f, "line {line}: ")?,
            _ => {}
        }
        if let Some(path) = &self.path {
            write!(f, "`{path}`: ")?;
        }
        f.write_str(&self.reason)
    }
}

impl std::error::Error for DocumentError {}

/// A parser's message may quote the document at any length.
fn one_line(message: &str) -> String {
    let shown = message.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut line: String = shown.clone().take(MESSAGE_MAX).collect();
    if shown.count() > MESSAGE_MAX {
        line.push('…');
    }
    line
}
