//! The contract of the HTTP API, resource by resource.

mod batch;
mod callers;
mod edges;
mod erasures;
mod fields;
mod ids;
mod keys;
mod lock;
mod lookups;
mod notes;
mod roles;
mod schema;
mod shredded;
mod tokens;
mod values;
mod views;
