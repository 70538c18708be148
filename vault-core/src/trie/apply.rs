//! From edits to the rows of one batch, and the steps of giving every page a fresh key.

use std::future::Future;
use std::pin::Pin;

use serde::{Deserialize, Serialize};

use super::edits::{Edits, Op, Side};
use super::header::Header;
use super::overlay::{Child, Content, Overlay, load};
use super::pages::{Address, Pages, Written, row_key};
use super::path::Path;
use super::settle::Output;
use super::{Branch, EntryKey, Kind, TrieError};
use crate::crypto::{Random, RootKey, page};
use crate::time::Timestamp;

/// Bytes of randomness a page takes at most: a key and a nonce.
const RANDOM_A_PAGE: usize = 32 + page::NONCE_LEN;

/// What kind of batch it is.
pub enum Mode<'a> {
    /// Under the present root: only [`Op::Insert`]. Existing pages keep their keys.
    Data {
        /// The present root, for the header in case a subtree gets its first page.
        root: &'a RootKey,
    },
    /// Under the next root: any edits, none included. The header moves to `next` and the next epoch.
    Root {
        /// The next root.
        next: &'a RootKey,
        /// A step of rekeying everything, to be done along with it.
        rekey: Option<RekeyStep>,
        /// Whether what the header alone leads to, META and the rows like it, is to get a fresh key.
        renew: bool,
        /// The time to note for the new root.
        now: Timestamp,
    },
}

/// One step of giving every page a fresh key.
pub struct RekeyStep {
    /// Where to go on.
    pub cursor: RekeyCursor,
    /// About how many pages to rekey; their ancestors come on top, and at least one leaf is done.
    pub max_pages: usize,
}

/// Where the rekeying of all pages goes on. Everything before it has a key drawn since [`RekeyCursor::start`].
///
/// It holds the beginning of an entry's key, so it is kept sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RekeyCursor {
    kind: u8,
    generation: u32,
    key: EntryKey,
}

/// A batch, ready to be committed; then [`Pages::publish`] it. If it was not committed, throw it away.
pub struct Applied {
    /// The header from now on.
    pub header: Header,
    /// Whether it differs from the one before (always after a root batch).
    pub header_changed: bool,
    /// Rows to write.
    pub put: Vec<(Vec<u8>, Vec<u8>)>,
    /// Keys of rows to remove.
    pub delete: Vec<Vec<u8>>,
    /// By how many the number of page rows changes; the header is not counted.
    pub page_delta: i64,
    /// Pages that the rekey step came to for the first time.
    pub rekeyed: u64,
    /// Where the next rekey step goes on; none after the last one, or if there was no step.
    pub next_cursor: Option<RekeyCursor>,
    /// Pages resealed so often that they should get fresh keys: an [`Op::Rekey`] of each of these does it.
    pub worn: Vec<(Kind, EntryKey)>,
    pub(super) written: Vec<Written>,
    pub(super) dropped: Vec<Address>,
}

/// Works out the rows of a batch. Nothing is written; keys are drawn afresh by each call.
///
/// # Errors
/// [`TrieError::NeedsRootBatch`] if a data batch has other edits than insertions, [`TrieError::TooLarge`] for a payload,
/// and whatever reading pages may answer.
pub async fn apply(pages: &Pages, header: &Header, edits: Edits, mode: Mode<'_>) -> Result<Applied, TrieError> {
    if matches!(mode, Mode::Data { .. }) && edits.needs_root_batch() {
        return Err(TrieError::NeedsRootBatch);
    }
    edits.check_sizes()?;
    let mut overlays: Vec<Overlay<'_>> = Vec::new();
    for subtree in header.subtrees() {
        overlays.push(Overlay::new(pages, subtree.branch, subtree.root.as_ref()));
    }
    let succession = edits.succession;
    for (kind, side, key, op) in edits.into_sorted() {
        let at = match side {
            Side::Serving => Some(header.serving_index(kind)),
            Side::Beside => header.beside_index(kind),
        };
        let Some(at) = at else { continue };
        let overlay = &mut overlays[at];
        match op {
            Op::Insert(payload) => overlay.insert(&key, payload, false).await?,
            Op::Replace(payload) => overlay.insert(&key, payload, true).await?,
            Op::Remove => overlay.remove(&key).await?,
            Op::Rekey => overlay.rekey(&key).await?,
        }
    }
    let mut progress = Progress::default();
    if let Mode::Root { rekey: Some(step), .. } = &mode {
        progress = mark_step(&mut overlays, step).await?;
    }
    let loaded: usize = overlays.iter().map(|overlay| overlay.loaded).sum();
    let mut out = Output::new(Random::new(RANDOM_A_PAGE * (loaded + 1)));
    out.gives_way = matches!(mode, Mode::Root { rekey: Some(_), .. });
    let mut next = header.duplicate();
    let mut roots_changed = false;
    for (index, overlay) in overlays.into_iter().enumerate() {
        let root = overlay.settle(&mut out).await?;
        roots_changed |= root != header.subtrees()[index].root;
        next.set_root(index, root);
    }
    if let (Some((kind, change)), Mode::Root { now, .. }) = (succession, &mode) {
        next.succeed(kind, change, *now, &mut out.random);
    }
    Ok(finish(next, roots_changed, out, progress, &mode))
}

fn finish(mut header: Header, roots_changed: bool, mut out: Output, progress: Progress, mode: &Mode<'_>) -> Applied {
    let mut delete: Vec<Vec<u8>> = out.dropped.iter().map(row_key).collect();
    match mode {
        Mode::Data { root } if roots_changed => {
            header.count_reseal();
            out.put.push(header.seal(root, &mut out.random));
        }
        Mode::Data { .. } => {}
        Mode::Root { next, renew, now, .. } => {
            if *renew {
                header.renew_meta_key(&mut out.random);
            }
            delete.extend(header.current_row().map(<[u8]>::to_vec));
            header.advance(*now);
            out.put.push(header.seal(next, &mut out.random));
        }
    }
    let count = |rows: usize| i64::try_from(rows).expect("a batch has far fewer than 2^63 rows");
    Applied {
        header,
        header_changed: roots_changed || matches!(mode, Mode::Root { .. }),
        page_delta: count(out.new_rows) - count(out.dropped.len()),
        put: out.put,
        delete,
        rekeyed: progress.pages as u64,
        next_cursor: progress.next,
        worn: out.worn,
        written: out.written,
        dropped: out.dropped,
    }
}

impl RekeyCursor {
    /// Before the first page.
    pub fn start() -> RekeyCursor {
        RekeyCursor { kind: 0, generation: 0, key: [0; 32] }
    }

    /// From which key on a subtree is still to be done; none if it is done.
    fn start_in(&self, branch: Branch) -> Option<EntryKey> {
        match (branch.kind as u8, branch.generation).cmp(&(self.kind, self.generation)) {
            std::cmp::Ordering::Less => None,
            std::cmp::Ordering::Equal => Some(self.key),
            std::cmp::Ordering::Greater => Some([0; 32]),
        }
    }
}

/// How far a step came.
#[derive(Default)]
struct Progress {
    pages: usize,
    leaves: usize,
    next: Option<RekeyCursor>,
}

async fn mark_step(overlays: &mut [Overlay<'_>], step: &RekeyStep) -> Result<Progress, TrieError> {
    let mut progress = Progress::default();
    for overlay in overlays {
        if let (Some(from), None) = (step.cursor.start_in(overlay.branch), &progress.next) {
            let (pages, branch, loaded) = (overlay.pages, overlay.branch, &mut overlay.loaded);
            let mut mark = Mark { pages, branch, from, max: step.max_pages, loaded, progress: &mut progress };
            mark.mark(&mut overlay.root, &Path::ROOT).await?;
        }
    }
    Ok(progress)
}

/// Marks the pages of one subtree, in the order of their places, whose places reach beyond `from`.
struct Mark<'a> {
    pages: &'a Pages,
    branch: Branch,
    from: EntryKey,
    max: usize,
    loaded: &'a mut usize,
    progress: &'a mut Progress,
}

impl Mark<'_> {
    async fn mark(&mut self, child: &mut Child, path: &Path) -> Result<(), TrieError> {
        if matches!(child, Child::Absent) || path.last() < self.from || self.progress.next.is_some() {
            return Ok(());
        }
        // A leaf at least, so that the cursor moves on whatever the maximum.
        if self.progress.pages >= self.max && self.progress.leaves > 0 {
            let Branch { kind, generation } = self.branch;
            self.progress.next = Some(RekeyCursor { kind: kind as u8, generation, key: path.first() });
            return Ok(());
        }
        let Some(node) = load(self.pages, self.branch, child, path, false, self.loaded).await? else {
            return Ok(());
        };
        node.fresh = true;
        self.progress.pages += usize::from(path.first() >= self.from);
        match &mut node.content {
            Content::Leaf(_) => self.progress.leaves += 1,
            Content::Inner(inner) => self.mark_children(&inner.skip, &mut inner.children, path).await?,
        }
        Ok(())
    }

    fn mark_children<'s>(
        &'s mut self,
        skip: &'s [u8],
        children: &'s mut [Child; 16],
        path: &'s Path,
    ) -> Pin<Box<dyn Future<Output = Result<(), TrieError>> + Send + 's>> {
        Box::pin(async move {
            for (nibble, child) in (0..).zip(children.iter_mut()) {
                self.mark(child, &path.child(skip, nibble)).await?;
            }
            // Others may run now and then, for nobody waits for this.
            tokio::task::yield_now().await;
            Ok(())
        })
    }
}

/// Shows counts only.
impl std::fmt::Debug for Applied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Applied").field("put", &self.put.len()).field("delete", &self.delete.len()).finish()
    }
}
