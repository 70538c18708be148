//! Somebody who holds every version of every row ever written, and a root key: what he can read.
//!
//! He follows every key he can get to, through every version of the row it leads to.

use std::collections::{BTreeMap, BTreeSet};

use zeroize::Zeroizing;

use super::header::Header;
use super::page::{Page, Shape};
use super::pages::{place, row_key};
use super::path::Path;
use super::{Branch, EntryKey, Kind, Payload};
use crate::crypto::{PageKey, RootKey, TagKey, page};
use crate::ids::VaultId;

/// All that an attacker gets to.
#[derive(Default)]
pub(crate) struct Reach {
    /// Every version of every entry.
    pub(crate) entries: Vec<(Kind, EntryKey, Payload)>,
    /// The rows of the pages that he opens.
    pub(crate) rows: BTreeSet<Vec<u8>>,
    /// The same rows with where they are: kind, and the nibbles that lead there.
    pub(crate) places: Vec<(Kind, Vec<u8>, Vec<u8>)>,
    /// Tag keys, with the kind and generation they are for.
    pub(crate) tag_keys: Vec<(Kind, u32, TagKey)>,
}

/// What follows from all versions of all `rows` and `root`.
pub(crate) fn reach(rows: &[(Vec<u8>, Vec<u8>)], root: &RootKey, vault: VaultId) -> Reach {
    let mut versions: BTreeMap<&[u8], Vec<&[u8]>> = BTreeMap::new();
    for (key, value) in rows {
        versions.entry(key).or_default().push(value);
    }
    let mut reach = Reach::default();
    let mut ahead: Vec<(PageKey, Branch, Path)> = Vec::new();
    for sealed in versions.get(&Header::row_key(root)[..]).into_iter().flatten() {
        let Ok(header) = Header::open(root, vault, sealed) else { continue };
        for subtree in header.subtrees() {
            let Branch { kind, generation } = subtree.branch;
            reach.tag_keys.push((kind, generation, subtree.tag_key().duplicate()));
            ahead.extend(subtree.root.iter().map(|key| (key.duplicate(), subtree.branch, Path::ROOT)));
        }
    }
    while let Some((key, branch, path)) = ahead.pop() {
        let row = row_key(&key.address());
        if !reach.rows.insert(row.clone()) {
            continue;
        }
        reach.places.push((branch.kind, path.nibbles().to_vec(), row.clone()));
        for sealed in versions.get(&row[..]).into_iter().flatten() {
            let opened = page::open(&key, &place(vault, branch, &path), sealed).ok();
            let Some(page) = opened.and_then(|bytes| Page::decode(bytes, &path)) else { continue };
            match page.shape() {
                Shape::Leaf(entries) => reach
                    .entries
                    .extend(entries.map(|(key, payload)| (branch.kind, *key, Zeroizing::new(payload.to_vec())))),
                Shape::Inner(inner) => {
                    ahead.extend(inner.children().map(|(n, key)| (key, branch, path.child(inner.skip, n))));
                }
            }
        }
    }
    reach
}

/// Every version of every entry that follows from all versions of all `rows` and `root`.
pub(crate) fn reachable(rows: &[(Vec<u8>, Vec<u8>)], root: &RootKey, vault: VaultId) -> Vec<(Kind, EntryKey, Payload)> {
    reach(rows, root, vault).entries
}
