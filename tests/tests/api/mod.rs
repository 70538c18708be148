//! The contract of the HTTP API, resource by resource.

mod audit;
mod audit_log;
mod batch;
mod callers;
mod edges;
mod erasures;
mod export;
mod fields;
mod ids;
mod keys;
mod lock;
mod lookups;
mod metadata;
mod notes;
mod retention;
mod roles;
mod schema;
mod shredded;
mod tokens;
mod values;
mod views;
