//! Brings the pages of a batch into their final shape and seals each of them once.
//!
//! From the leaves up: too large a leaf is split, an inner page below which something was forgotten collapses if what is
//! left fits half a leaf, a lone child moves up into its parent. What moves up does so only under keys that are fresh all
//! the way to the root, and its old row is dropped.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::overlay::{Child, Content, Entry, Inner, Leaf, Node, Overlay, load};
use super::page::{ENTRY_HEAD, LEAF_BYTES, Page};
use super::pages::{Address, Pages, Written, place, row_key};
use super::path::{NIBBLES, Path, nibble};
use super::{Branch, EntryKey, Kind, TrieError};
use crate::crypto::{PageKey, Random, page};

/// An inner page collapses when its entries take no more than this; less than a leaf, so that it does not flutter.
const COLLAPSE_BYTES: usize = LEAF_BYTES / 2;
/// Reseals after which a page asks for a fresh key: far below the 2^32 random nonces of SP 800-38D §8.3.
const WORN: u32 = 1 << 24;
/// Reseals after which a page is sealed no more under its key.
const USED_UP: u32 = 1 << 31;

/// What settling brings forth.
pub(super) struct Output {
    pub(super) random: Random,
    pub(super) put: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) written: Vec<Written>,
    pub(super) dropped: Vec<Address>,
    pub(super) worn: Vec<(Kind, EntryKey)>,
    /// Rows that were not there before.
    pub(super) new_rows: usize,
    /// Whether others may run now and then: a step of a rotation is long, and nobody waits for it.
    pub(super) gives_way: bool,
}

struct Settle<'a> {
    pages: &'a Pages,
    branch: Branch,
    out: &'a mut Output,
}

type Settled<'a> = Pin<Box<dyn Future<Output = Result<bool, TrieError>> + Send + 'a>>;

impl Output {
    pub(super) fn new(random: Random) -> Output {
        Output {
            random,
            put: Vec::new(),
            written: Vec::new(),
            dropped: Vec::new(),
            worn: Vec::new(),
            new_rows: 0,
            gives_way: false,
        }
    }
}

impl Overlay<'_> {
    /// Settles and seals the subtree; its root page's key, if there is anything left.
    pub(super) async fn settle(self, out: &mut Output) -> Result<Option<PageKey>, TrieError> {
        let mut settle = Settle { pages: self.pages, branch: self.branch, out };
        match self.root {
            Child::Absent => Ok(None),
            Child::Stored(key) => Ok(Some(key)),
            Child::Loaded(mut node) => {
                if settle.settle(&mut node, &Path::ROOT).await? {
                    return settle.seal(&node, &Path::ROOT).map(Some);
                }
                settle.drop_row(&node);
                Ok(None)
            }
        }
    }
}

impl Settle<'_> {
    /// Gives the page at `path` its final shape and seals what is below it. False if nothing is left of it.
    async fn settle(&mut self, node: &mut Node, path: &Path) -> Result<bool, TrieError> {
        if !settle_leaf(node, path) {
            return Ok(false);
        }
        if matches!(node.content, Content::Leaf(_)) {
            return Ok(true);
        }
        self.settle_inner(node, path).await
    }

    fn settle_inner<'s>(&'s mut self, node: &'s mut Node, path: &'s Path) -> Settled<'s> {
        Box::pin(async move {
            if let Content::Inner(inner) = &mut node.content {
                self.settle_children(inner, path).await?;
            }
            if node.shrunk && !self.collapse(node, path).await? {
                return Ok(false);
            }
            if let Content::Inner(inner) = &mut node.content {
                let before = self.out.put.len();
                self.seal_children(inner, path)?;
                if self.out.gives_way && self.out.put.len() > before {
                    tokio::task::yield_now().await;
                }
            }
            Ok(true)
        })
    }

    async fn settle_children(&mut self, inner: &mut Inner, path: &Path) -> Result<(), TrieError> {
        for (nibble, child) in (0..).zip(inner.children.iter_mut()) {
            if let Child::Loaded(node) = child
                && !self.settle(node, &path.child(&inner.skip, nibble)).await?
            {
                self.drop_row(node);
                *child = Child::Absent;
            }
        }
        Ok(())
    }

    fn seal_children(&mut self, inner: &mut Inner, path: &Path) -> Result<(), TrieError> {
        for (nibble, child) in (0..).zip(inner.children.iter_mut()) {
            if let Child::Loaded(node) = child {
                *child = Child::Stored(self.seal(node, &path.child(&inner.skip, nibble))?);
            }
        }
        Ok(())
    }

    /// Takes an inner page's children into it if they are few enough. False if there are none.
    async fn collapse(&mut self, node: &mut Node, path: &Path) -> Result<bool, TrieError> {
        let Content::Inner(inner) = &mut node.content else { return Ok(true) };
        match inner.child_count() {
            0 => return Ok(false),
            1 => node.content = self.take_lone_child(inner, path).await?,
            _ if self.fits_half_a_leaf(inner, path).await? => node.content = Content::Leaf(self.take_children(inner)),
            _ => return Ok(true),
        }
        debug_assert!(node.fresh, "what moves up needs a fresh key there");
        node.dirty = true;
        Ok(true)
    }

    /// The content for an inner page with one child: the child's. Grandchildren stay where they are, for paths are
    /// absolute.
    async fn take_lone_child(&mut self, inner: &mut Inner, path: &Path) -> Result<Content, TrieError> {
        let present = inner.children.iter().position(|child| !matches!(child, Child::Absent));
        let at = present.expect("one child was counted");
        let nibble = u8::try_from(at).expect("there are 16 children");
        let (child, child_path) = (&mut inner.children[at], path.child(&inner.skip, nibble));
        load(self.pages, self.branch, child, &child_path, false, &mut 0).await?;
        let Child::Loaded(node) = std::mem::replace(child, Child::Absent) else {
            unreachable!("a child that is present was loaded above")
        };
        self.drop_row(&node);
        match node.content {
            Content::Leaf(leaf) => Ok(Content::Leaf(leaf)),
            Content::Inner(mut lower) => {
                let skip = [&inner.skip[..], &[nibble], &lower.skip].concat();
                lower.skip = skip;
                Ok(Content::Inner(lower))
            }
        }
    }

    /// Whether all that is below fits half a leaf. Reads no more children than it takes to know; an inner child alone
    /// is too much, or it would have collapsed itself.
    async fn fits_half_a_leaf(&self, inner: &mut Inner, path: &Path) -> Result<bool, TrieError> {
        let (mut sum, mut unread) = (0, 0);
        for child in inner.children.iter() {
            match child {
                Child::Absent => {}
                Child::Stored(_) => unread += 1,
                Child::Loaded(node) => match &node.content {
                    Content::Leaf(leaf) => sum += leaf.bytes(),
                    Content::Inner(_) => return Ok(false),
                },
            }
        }
        for (nibble, child) in (0..).zip(inner.children.iter_mut()) {
            if sum + unread * ENTRY_HEAD > COLLAPSE_BYTES {
                return Ok(false);
            }
            if !matches!(child, Child::Stored(_)) {
                continue;
            }
            let child_path = path.child(&inner.skip, nibble);
            let node = load(self.pages, self.branch, child, &child_path, false, &mut 0).await?;
            match node.map(|node| &node.content) {
                Some(Content::Leaf(leaf)) => sum += leaf.bytes(),
                _ => return Ok(false),
            }
            unread -= 1;
        }
        Ok(sum <= COLLAPSE_BYTES)
    }

    /// The entries of all children, which are leaves and loaded.
    fn take_children(&mut self, inner: &mut Inner) -> Leaf {
        let mut entries = Vec::new();
        for child in inner.children.iter_mut() {
            if let Child::Loaded(node) = child {
                self.drop_row(node);
                if let Content::Leaf(leaf) = &mut node.content {
                    entries.append(leaf.entries_mut());
                }
            }
        }
        Leaf::Entries(entries)
    }

    /// Seals a page whose children are sealed, if it changed; its key from now on.
    fn seal(&mut self, node: &Node, path: &Path) -> Result<PageKey, TrieError> {
        match &node.key {
            Some(key) if !node.fresh && !node.dirty => Ok(key.duplicate()),
            Some(key) if !node.fresh => {
                let reseals = node.reseals.saturating_add(1);
                if reseals >= USED_UP {
                    return Err(TrieError::NeedsRootBatch);
                }
                if reseals >= WORN {
                    self.out.worn.push((self.branch.kind, path.first()));
                }
                let address = key.address();
                self.write(node, path, key, address, Some(address), reseals);
                Ok(key.duplicate())
            }
            old => {
                let old = old.as_ref().map(PageKey::address);
                self.out.dropped.extend(old);
                self.out.new_rows += 1;
                let key = PageKey::draw(&mut self.out.random);
                self.write(node, path, &key, key.address(), old, 0);
                Ok(key)
            }
        }
    }

    fn write(
        &mut self,
        node: &Node,
        path: &Path,
        key: &PageKey,
        address: Address,
        replaces: Option<Address>,
        reseals: u32,
    ) {
        let page = encode(&node.content, reseals);
        let place = place(self.pages.vault(), self.branch, path);
        let sealed = page::seal(key, &place, page.bytes(), &mut self.out.random);
        self.out.put.push((row_key(&address), sealed));
        self.out.written.push(Written { address, replaces, page: Arc::new(page), wanted: node.wanted });
    }

    fn drop_row(&mut self, node: &Node) {
        self.out.dropped.extend(node.key.as_ref().map(PageKey::address));
    }
}

/// Splits too large a leaf into an inner page of leaves, by one level. False if the page is a leaf without entries.
fn settle_leaf(node: &mut Node, path: &Path) -> bool {
    let Content::Leaf(leaf) = &mut node.content else { return true };
    if leaf.bytes() <= LEAF_BYTES {
        return leaf.bytes() > 0;
    }
    let entries = leaf.entries_mut();
    if entries.len() > 1 {
        // The page keeps its key: what it held lies above the new places.
        node.content = Content::Inner(split(std::mem::take(entries), path));
        node.dirty = true;
    }
    true
}

fn split(entries: Vec<Entry>, path: &Path) -> Inner {
    let (first, last) = (&entries[0].key, &entries[entries.len() - 1].key);
    // Ascending, so that what the outermost share all share.
    let same = |&depth: &usize| nibble(first, depth) == nibble(last, depth);
    let skip: Vec<u8> = (path.len()..NIBBLES).take_while(same).map(|depth| nibble(first, depth)).collect();
    let depth = path.len() + skip.len();
    let mut inner = Inner::childless(skip);
    for entry in entries {
        let child = &mut inner.children[usize::from(nibble(&entry.key, depth))];
        if matches!(child, Child::Absent) {
            *child = Child::Loaded(Box::new(Node::new(Content::Leaf(Leaf::Entries(Vec::new())))));
        }
        if let Child::Loaded(node) = child
            && let Content::Leaf(Leaf::Entries(entries)) = &mut node.content
        {
            entries.push(entry);
        }
    }
    inner
}

fn encode(content: &Content, reseals: u32) -> Page {
    match content {
        Content::Leaf(Leaf::Page(page)) => page.with_reseals(reseals),
        Content::Leaf(Leaf::Entries(entries)) => {
            Page::leaf(reseals, entries.iter().map(|entry| (&*entry.key, entry.payload.as_slice())))
        }
        Content::Inner(inner) => {
            let children = (0..).zip(inner.children.iter()).filter_map(|(nibble, child)| match child {
                Child::Stored(key) => Some((nibble, key)),
                Child::Absent => None,
                Child::Loaded(_) => unreachable!("children are sealed before their parent"),
            });
            Page::inner(reseals, &inner.skip, children)
        }
    }
}
