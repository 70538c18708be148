//! Reading: one entry, a range of them, or everything there is.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::header::{Header, Subtree};
use super::page::{Page, Shape};
use super::pages::{Pages, row_key};
use super::path::{NIBBLES, Path, nibble};
use super::{EntryKey, Kind, Payload, TrieError};
use crate::crypto::PageKey;
use crate::store::StoreError;

/// The payload at `key`, if there is one.
///
/// # Errors
/// [`TrieError::Missing`] if the header is no longer current, or the store lost a page.
pub async fn find(pages: &Pages, header: &Header, kind: Kind, key: &EntryKey) -> Result<Option<Payload>, TrieError> {
    let subtree = header.serving(kind);
    let mut next = subtree.root.as_ref().map(|root| (root.duplicate(), subtree.address_of_root(root)));
    let mut depth = 0;
    while let Some((page_key, address)) = next {
        let page = pages.load_at(&address, &page_key, subtree.branch, &Path::of(key, depth), true).await?;
        next = match page.shape() {
            Shape::Leaf(entries) => return Ok(entries.payload(key).map(|payload| Zeroizing::new(payload.to_vec()))),
            Shape::Inner(inner) if !skip_leads_to(inner.skip, key, depth) => None,
            Shape::Inner(inner) => {
                depth += inner.skip.len() + 1;
                let nibble = nibble(key, depth - 1);
                inner.child(nibble).map(|child| {
                    let address = page.address_of(nibble, &child);
                    (child, address)
                })
            }
        };
    }
    Ok(None)
}

/// Up to `limit` entries whose keys begin with `prefix` and come after `after`, ascending.
///
/// # Errors
/// As for [`find`].
pub async fn scan(
    pages: &Pages,
    header: &Header,
    kind: Kind,
    prefix: &[u8],
    after: Option<&EntryKey>,
    limit: usize,
) -> Result<Vec<(EntryKey, Payload)>, TrieError> {
    scan_subtree(pages, header.serving(kind), prefix, after, limit).await
}

/// The first `limit` entries of the subtree beside the serving one, after `after`, ascending; none if there is no such.
///
/// # Errors
/// As for [`find`].
pub async fn scan_beside(
    pages: &Pages,
    header: &Header,
    kind: Kind,
    after: Option<&EntryKey>,
    limit: usize,
) -> Result<Vec<(EntryKey, Payload)>, TrieError> {
    match header.beside(kind) {
        Some(subtree) => scan_subtree(pages, subtree, &[], after, limit).await,
        None => Ok(Vec::new()),
    }
}

async fn scan_subtree(
    pages: &Pages,
    subtree: &Subtree,
    prefix: &[u8],
    after: Option<&EntryKey>,
    limit: usize,
) -> Result<Vec<(EntryKey, Payload)>, TrieError> {
    let Some(range) = Range::new(prefix, after) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    let mut ahead: Vec<Ahead> = roots(subtree).into_iter().map(|(key, path)| Ahead { key, path, from: None }).collect();
    while let Some(Ahead { key, path, from }) = ahead.pop() {
        if found.len() >= limit {
            break;
        }
        let address = match from {
            None => subtree.address_of_root(&key),
            Some((parent, nibble)) => parent.address_of(nibble, &key),
        };
        let page = pages.load_at(&address, &key, subtree.branch, &path, true).await?;
        match page.shape() {
            Shape::Leaf(entries) => {
                let wanted = entries.filter(|(key, _)| range.holds(key));
                let room = limit - found.len();
                found.extend(wanted.take(room).map(|(key, payload)| (*key, Zeroizing::new(payload.to_vec()))));
            }
            Shape::Inner(inner) => {
                let below = inner.children().map(|(nibble, key)| Ahead {
                    key,
                    path: path.child(inner.skip, nibble),
                    from: Some((page.clone(), nibble)),
                });
                ahead.extend(below.rev().filter(|child| range.meets(&child.path)));
            }
        }
    }
    Ok(found)
}

/// A page that a scan comes to, and at which nibble of which other one; of none, if it is the root.
struct Ahead {
    key: PageKey,
    path: Path,
    from: Option<(Arc<Page>, u8)>,
}

/// What a [`walk`] comes across.
#[derive(Debug, PartialEq, Eq)]
pub enum Visit<'a> {
    /// A page that opens; then its entries follow, or its children.
    Page {
        /// The subtree it is in.
        kind: Kind,
        /// The subtree's generation.
        generation: u32,
        /// The key of its row in the store.
        row: &'a [u8],
    },
    /// An entry of the page before.
    Entry {
        /// The subtree it is in.
        kind: Kind,
        /// The subtree's generation.
        generation: u32,
        /// Its key.
        key: &'a EntryKey,
        /// Its payload.
        payload: &'a [u8],
    },
    /// A page whose row is not there; what lay below it is lost.
    Missing {
        /// The subtree it is in.
        kind: Kind,
        /// The key of the row.
        row: &'a [u8],
    },
    /// A page that does not open or decode; what lay below it is lost.
    Damaged {
        /// The subtree it is in.
        kind: Kind,
        /// The key of the row.
        row: &'a [u8],
    },
}

/// Visits every page and entry of every subtree, as the store has them: past the cache. Goes on past damage.
///
/// # Errors
/// [`TrieError::Store`] only; damage is told to `visit`.
pub async fn walk(pages: &Pages, header: &Header, visit: &mut (dyn FnMut(Visit<'_>) + Send)) -> Result<(), TrieError> {
    for subtree in header.subtrees() {
        walk_subtree(pages, subtree, visit).await?;
    }
    Ok(())
}

async fn walk_subtree(
    pages: &Pages,
    subtree: &Subtree,
    visit: &mut (dyn FnMut(Visit<'_>) + Send),
) -> Result<(), TrieError> {
    let kind = subtree.branch.kind;
    let mut ahead = roots(subtree);
    while let Some((key, path)) = ahead.pop() {
        let address = key.address();
        let row = &row_key(&address)[..];
        let page = match pages.fetch(&key, &address, subtree.branch, &path).await {
            Ok(page) => page,
            Err(TrieError::Missing) => {
                visit(Visit::Missing { kind, row });
                continue;
            }
            // Also where it is the engine that noticed.
            Err(TrieError::Damaged | TrieError::Store(StoreError::Corrupt(_))) => {
                visit(Visit::Damaged { kind, row });
                continue;
            }
            Err(other) => return Err(other),
        };
        visit(Visit::Page { kind, generation: subtree.branch.generation, row });
        match page.shape() {
            Shape::Leaf(entries) => {
                let generation = subtree.branch.generation;
                entries.for_each(|(key, payload)| visit(Visit::Entry { kind, generation, key, payload }));
            }
            Shape::Inner(inner) => {
                ahead.extend(inner.children().rev().map(|(nibble, key)| (key, path.child(inner.skip, nibble))));
            }
        }
    }
    Ok(())
}

/// Whether `key` goes on with `skip` at `depth`.
pub(super) fn skip_leads_to(skip: &[u8], key: &EntryKey, depth: usize) -> bool {
    skip.iter().enumerate().all(|(i, &expected)| nibble(key, depth + i) == expected)
}

fn roots(subtree: &Subtree) -> Vec<(PageKey, Path)> {
    subtree.root.iter().map(|root| (root.duplicate(), Path::ROOT)).collect()
}

/// Keys from `first` to `last`, and after `after`.
struct Range<'a> {
    first: EntryKey,
    last: EntryKey,
    after: Option<&'a EntryKey>,
}

impl<'a> Range<'a> {
    /// None if no key can have that prefix.
    fn new(prefix: &[u8], after: Option<&'a EntryKey>) -> Option<Range<'a>> {
        if prefix.len() > NIBBLES / 2 {
            return None;
        }
        let (mut first, mut last) = ([0; 32], [0xff; 32]);
        first[..prefix.len()].copy_from_slice(prefix);
        last[..prefix.len()].copy_from_slice(prefix);
        Some(Range { first, last, after })
    }

    fn holds(&self, key: &EntryKey) -> bool {
        (self.first..=self.last).contains(key) && self.after.is_none_or(|after| key > after)
    }

    /// Whether some key below `path` may be in the range.
    fn meets(&self, path: &Path) -> bool {
        path.first() <= self.last && path.last() >= self.first && self.after.is_none_or(|after| path.last() > *after)
    }
}
