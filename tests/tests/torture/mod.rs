//! The vault under torture, held against a model of what it may be found to hold.

pub(crate) mod model;
