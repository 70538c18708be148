//! One file a resource: parse, call one method of the vault, answer.

pub(crate) mod accesses;
pub(crate) mod audit;
pub(crate) mod backups;
pub(crate) mod batch;
pub(crate) mod callers;
pub(crate) mod certificates;
pub(crate) mod erasures;
pub(crate) mod export;
pub(crate) mod fields;
pub(crate) mod health;
pub(crate) mod keys;
pub(crate) mod lock;
pub(crate) mod lookups;
pub(crate) mod metadata;
pub(crate) mod notes;
pub(crate) mod schema;
pub(crate) mod shapes;
pub(crate) mod slots;
pub(crate) mod status;
pub(crate) mod subjects;
#[cfg(test)]
mod tests;
pub(crate) mod tokens;

use crate::problem::Problem;

/// A page of a list, by default.
const PAGE: usize = 100;
/// The largest page of a list.
const PAGE_MAX: usize = 1000;

/// The size of a page that is asked for.
fn page_size(asked: Option<usize>) -> Result<usize, Problem> {
    match asked.unwrap_or(PAGE) {
        size if (1..=PAGE_MAX).contains(&size) => Ok(size),
        _ => Err(Problem::invalid("limit", "1 to 1000")),
    }
}
