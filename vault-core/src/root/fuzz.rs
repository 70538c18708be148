//! The decoders of this room, for `crate::fuzzing`.

use super::{layout, refusals};
use crate::fuzzing::Target;

pub(crate) const TARGETS: [Target; 2] =
    [Target::new("slot", layout::decode_again), Target::new("refusals", refusals::decode_again)];

#[cfg(test)]
pub(crate) use layout::blocks;
#[cfg(test)]
pub(crate) use refusals::files;
