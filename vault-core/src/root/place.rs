//! Where a root slot is.

use std::path::PathBuf;

/// Where a root slot is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotPlace {
    /// A file of its own.
    File(PathBuf),
}

impl From<PathBuf> for SlotPlace {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl std::fmt::Display for SlotPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
        }
    }
}
