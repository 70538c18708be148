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
mod roles;
mod shredded;
mod values;
mod views;
