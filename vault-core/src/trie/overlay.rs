//! The pages a batch touches, changed in memory before any of them is sealed.
//!
//! Pages are loaded as edits come to them. A leaf may grow past its size and an inner page may run out of children here:
//! `settle` puts that right, once for each page.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::page::{ENTRY_HEAD, Page, Shape};
use super::pages::Pages;
use super::path::{Path, nibble};
use super::{Branch, EntryKey, Payload, TrieError};
use crate::crypto::PageKey;

/// One subtree as a batch sees it.
pub(super) struct Overlay<'p> {
    pub(super) pages: &'p Pages,
    pub(super) branch: Branch,
    pub(super) root: Child,
    /// Pages loaded or made: for estimating how much randomness sealing takes.
    pub(super) loaded: usize,
}

/// A child of an inner page, or the root of a subtree.
pub(super) enum Child {
    Absent,
    /// In the store as it should be.
    Stored(PageKey),
    Loaded(Box<Node>),
}

/// A page in memory.
pub(super) struct Node {
    /// The key it lies in the store under; none if it is new.
    pub(super) key: Option<PageKey>,
    pub(super) reseals: u32,
    pub(super) content: Content,
    /// Its content changed.
    pub(super) dirty: bool,
    /// It must get a fresh key, because something below its place is forgotten or it is rotated.
    pub(super) fresh: bool,
    /// Something below was removed or replaced, so it may have to collapse.
    pub(super) shrunk: bool,
    /// An edit came by, so that it is worth caching.
    pub(super) wanted: bool,
}

pub(super) enum Content {
    Leaf(Leaf),
    Inner(Inner),
}

/// Entries, ascending: as loaded, or taken apart for editing.
pub(super) enum Leaf {
    Page(Arc<Page>),
    Entries(Vec<Entry>),
}

pub(super) struct Entry {
    pub(super) key: Zeroizing<EntryKey>,
    pub(super) payload: Payload,
}

pub(super) struct Inner {
    pub(super) skip: Vec<u8>,
    pub(super) children: Box<[Child; 16]>,
}

impl<'p> Overlay<'p> {
    pub(super) fn new(pages: &'p Pages, branch: Branch, root: Option<&PageKey>) -> Overlay<'p> {
        let root = root.map_or(Child::Absent, |key| Child::Stored(key.duplicate()));
        Overlay { pages, branch, root, loaded: 0 }
    }

    /// Sets the payload at `key`. `forget`: the path gets fresh keys.
    pub(super) async fn insert(&mut self, key: &EntryKey, payload: Payload, forget: bool) -> Result<(), TrieError> {
        let mut child = &mut self.root;
        let mut depth = 0;
        loop {
            let path = Path::of(key, depth);
            load(self.pages, self.branch, child, &path, true, &mut self.loaded).await?;
            let Child::Loaded(node) = child else {
                *child = Child::Loaded(Box::new(Node::lone(key, payload)));
                self.loaded += 1;
                return Ok(());
            };
            if forget {
                node.forget();
            }
            let inner = match &mut node.content {
                Content::Leaf(leaf) => {
                    leaf.put(key, payload);
                    node.dirty = true;
                    return Ok(());
                }
                Content::Inner(inner) => inner,
            };
            let common = inner.common(key, depth);
            if common < inner.skip.len() {
                inner.part(common, node.shrunk);
                node.dirty = true;
                self.loaded += 1;
            }
            depth += inner.skip.len() + 1;
            child = &mut inner.children[usize::from(nibble(key, depth - 1))];
            node.dirty |= matches!(child, Child::Absent);
        }
    }

    /// Forgets the entry at `key`, if there is one.
    pub(super) async fn remove(&mut self, key: &EntryKey) -> Result<(), TrieError> {
        if self.visit(key).await? {
            self.on_loaded_path(key, |node| {
                node.forget();
                if let Content::Leaf(leaf) = &mut node.content {
                    leaf.remove(key);
                    node.dirty = true;
                }
            });
        }
        Ok(())
    }

    /// Marks the pages on the way to `key` for fresh keys.
    pub(super) async fn rekey(&mut self, key: &EntryKey) -> Result<(), TrieError> {
        self.visit(key).await?;
        self.on_loaded_path(key, |node| node.fresh = true);
        Ok(())
    }

    /// Loads the pages on the way to `key`; whether it has an entry.
    async fn visit(&mut self, key: &EntryKey) -> Result<bool, TrieError> {
        let mut child = &mut self.root;
        let mut depth = 0;
        loop {
            let path = Path::of(key, depth);
            let node = load(self.pages, self.branch, child, &path, true, &mut self.loaded).await?;
            match node.map(|node| &mut node.content) {
                None => return Ok(false),
                Some(Content::Leaf(leaf)) => return Ok(leaf.holds(key)),
                Some(Content::Inner(inner)) if inner.common(key, depth) < inner.skip.len() => return Ok(false),
                Some(Content::Inner(inner)) => {
                    depth += inner.skip.len() + 1;
                    child = &mut inner.children[usize::from(nibble(key, depth - 1))];
                }
            }
        }
    }

    fn on_loaded_path(&mut self, key: &EntryKey, mut change: impl FnMut(&mut Node)) {
        let mut child = &mut self.root;
        let mut depth = 0;
        while let Child::Loaded(node) = child {
            change(node);
            match &mut node.content {
                Content::Inner(inner) if inner.common(key, depth) == inner.skip.len() => {
                    depth += inner.skip.len() + 1;
                    child = &mut inner.children[usize::from(nibble(key, depth - 1))];
                }
                _ => return,
            }
        }
    }
}

/// Loads `child` if it is in the store. None if it is absent.
pub(super) async fn load<'c>(
    pages: &Pages,
    branch: Branch,
    child: &'c mut Child,
    path: &Path,
    wanted: bool,
    loaded: &mut usize,
) -> Result<Option<&'c mut Node>, TrieError> {
    if let Child::Stored(key) = child {
        let page = pages.load(key, branch, path, wanted).await?;
        *child = Child::Loaded(Box::new(Node::of_page(key.duplicate(), page)));
        *loaded += 1;
    }
    let Child::Loaded(node) = child else { return Ok(None) };
    node.wanted |= wanted;
    Ok(Some(node))
}

impl Node {
    fn of_page(key: PageKey, page: Arc<Page>) -> Node {
        let content = match page.shape() {
            Shape::Leaf(_) => Content::Leaf(Leaf::Page(page.clone())),
            Shape::Inner(inner) => {
                let mut node = Inner::childless(inner.skip.to_vec());
                for (nibble, key) in inner.children() {
                    node.children[usize::from(nibble)] = Child::Stored(key);
                }
                Content::Inner(node)
            }
        };
        let reseals = page.reseals();
        Node { key: Some(key), reseals, content, dirty: false, fresh: false, shrunk: false, wanted: false }
    }

    /// A page that is not in the store yet.
    pub(super) fn new(content: Content) -> Node {
        Node { key: None, reseals: 0, content, dirty: true, fresh: true, shrunk: false, wanted: true }
    }

    fn lone(key: &EntryKey, payload: Payload) -> Node {
        Node::new(Content::Leaf(Leaf::Entries(vec![Entry { key: Zeroizing::new(*key), payload }])))
    }

    fn forget(&mut self) {
        self.fresh = true;
        self.shrunk = true;
    }
}

impl Inner {
    pub(super) fn childless(skip: Vec<u8>) -> Inner {
        Inner { skip, children: Box::new([const { Child::Absent }; 16]) }
    }

    /// How many nibbles of the skip `key` shares, from `depth` on.
    fn common(&self, key: &EntryKey, depth: usize) -> usize {
        let shared = self.skip.iter().enumerate().take_while(|&(i, &expected)| nibble(key, depth + i) == expected);
        shared.count()
    }

    /// Ends the skip after `common` nibbles. What was here goes to a new page below; this place keeps its key, for its
    /// former content lies above the new places. `shrunk` goes along.
    fn part(&mut self, common: usize, shrunk: bool) {
        let rest = self.skip.split_off(common);
        let children = std::mem::replace(&mut self.children, Inner::childless(Vec::new()).children);
        let mut lower = Node::new(Content::Inner(Inner { skip: rest[1..].to_vec(), children }));
        lower.shrunk = shrunk;
        self.children[usize::from(rest[0])] = Child::Loaded(Box::new(lower));
    }

    pub(super) fn child_count(&self) -> usize {
        self.children.iter().filter(|child| !matches!(child, Child::Absent)).count()
    }
}

impl Leaf {
    /// Bytes of its entries.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Leaf::Page(page) => entries(page).bytes(),
            Leaf::Entries(entries) => entries.iter().map(|entry| ENTRY_HEAD + entry.payload.len()).sum(),
        }
    }

    fn holds(&self, key: &EntryKey) -> bool {
        match self {
            Leaf::Page(page) => entries(page).payload(key).is_some(),
            Leaf::Entries(entries) => position(entries, key).is_ok(),
        }
    }

    fn put(&mut self, key: &EntryKey, payload: Payload) {
        let entries = self.entries_mut();
        match position(entries, key) {
            Ok(at) => entries[at].payload = payload,
            Err(at) => entries.insert(at, Entry { key: Zeroizing::new(*key), payload }),
        }
    }

    fn remove(&mut self, key: &EntryKey) {
        let entries = self.entries_mut();
        if let Ok(at) = position(entries, key) {
            entries.remove(at);
        }
    }

    /// The entries, taken apart.
    pub(super) fn entries_mut(&mut self) -> &mut Vec<Entry> {
        if let Leaf::Page(page) = self {
            let apart = entries(page)
                .map(|(key, payload)| Entry { key: Zeroizing::new(*key), payload: Zeroizing::new(payload.to_vec()) });
            *self = Leaf::Entries(apart.collect());
        }
        match self {
            Leaf::Entries(entries) => entries,
            Leaf::Page(_) => unreachable!("the page was taken apart above"),
        }
    }
}

fn entries(page: &Page) -> super::page::Entries<'_> {
    match page.shape() {
        Shape::Leaf(entries) => entries,
        Shape::Inner(_) => unreachable!("a node is a leaf only if its page is one"),
    }
}

fn position(entries: &[Entry], key: &EntryKey) -> Result<usize, usize> {
    entries.binary_search_by(|entry| entry.key.as_slice().cmp(key))
}
