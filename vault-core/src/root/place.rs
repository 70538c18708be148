//! Where a root slot is.

use std::path::{Path, PathBuf};

use super::HsmPlace;

/// Where a root slot is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotPlace {
    /// A file of its own.
    File(PathBuf),
    /// A slot in hardware: a file that only a key in an HSM opens, which a slot rotation replaces and destroys.
    Pkcs11 {
        /// The file.
        file: PathBuf,
        /// Where the key is.
        hsm: HsmPlace,
    },
}

impl SlotPlace {
    /// Its file.
    pub fn file(&self) -> &Path {
        match self {
            Self::File(file) | Self::Pkcs11 { file, .. } => file,
        }
    }

    /// The same slot with its file elsewhere, for a copy of it.
    pub fn moved_to(&self, file: PathBuf) -> Self {
        match self {
            Self::File(_) => Self::File(file),
            Self::Pkcs11 { hsm, .. } => Self::Pkcs11 { file, hsm: hsm.clone() },
        }
    }

    /// Whether it is a slot in hardware.
    pub fn is_hardware(&self) -> bool {
        matches!(self, Self::Pkcs11 { .. })
    }
}

impl From<PathBuf> for SlotPlace {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl std::fmt::Display for SlotPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.file().display().fmt(f)
    }
}
