//! The vault header: the one page the root key opens, and all the ways into the sealed tries.
//!
//! ```text
//! off  0  u8  version = 1
//! off  1  u64 epoch                 9  u64 created, ms            17  u64 root created, ms
//! off 25  u32 reseals              29  32 B META key              61  32 B caller key
//! off 93  u8  count of subtrees, then each, ascending by kind and generation:
//!         u8 kind ‖ u32 generation ‖ u8 duty ‖ u64 created, ms ‖ 32 B tag key ‖ u8 (1: there is a root page) ‖ 32 B its key or zeros
//! ```
//! Of each kind one subtree serves (duty 0), and at most one beside it is being built (1) or retires (2).
//! Numbers are big-endian. It is sealed like a page (subtree 0, generation 0, no path) under the root's header key.

use std::sync::OnceLock;

use zeroize::Zeroizing;

use super::pages::{Address, row_key};
use super::{Branch, EntryKey, Kind, TrieError};
use crate::crypto::page::{self, PagePlace};
use crate::crypto::{CallerKey, MetaKey, PageKey, Random, RootKey, TagKey};
use crate::ids::VaultId;
use crate::time::Timestamp;

const VERSION: u8 = 1;
const FIXED: usize = 94;
const SUBTREE: usize = 1 + 4 + 1 + 8 + 32 + 1 + 32;

/// The vault header, opened. Immutable for readers: a batch makes a new one.
pub struct Header {
    vault: VaultId,
    epoch: u64,
    created_at: Timestamp,
    root_created_at: Timestamp,
    reseals: u32,
    meta_key: MetaKey,
    caller_key: CallerKey,
    subtrees: Vec<Subtree>,
    /// The row it lies in; none before it was ever sealed.
    row: Option<Vec<u8>>,
}

/// One sealed trie: its kind, its generation, and the keys that lead into it.
pub(super) struct Subtree {
    pub(super) branch: Branch,
    duty: Duty,
    created_at: Timestamp,
    tag_key: TagKey,
    pub(super) root: Option<PageKey>,
    /// Where the root page lies, once somebody went there.
    address: OnceLock<Address>,
}

/// What a subtree is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Duty {
    /// Everything is found in it.
    Serving = 0,
    /// It takes the place of the serving one once it has all that has.
    Building = 1,
    /// Its entries are taken out, then it goes.
    Retiring = 2,
}

/// The subtrees of a kind: which serves, and which is beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generations {
    /// The generation that serves.
    pub serving: u32,
    /// Another one, and what it is there for.
    pub beside: Option<(u32, Duty)>,
}

/// A change of the subtrees of a kind, in a batch that changes the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Succession {
    /// An empty subtree with a fresh tag key is to be built beside the serving one.
    Begin,
    /// The one that was built serves; the one before it retires, and its tag key is gone.
    Switch,
    /// The one that was being built retires.
    Undo,
    /// The one that retires goes; it must be empty.
    Drop,
}

/// What may be told about a subtree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubtreeInfo {
    /// Its kind.
    pub kind: Kind,
    /// What it is there for.
    pub duty: Duty,
    /// Its generation; counts tag keys of this kind, from 1.
    pub generation: u32,
    /// When its tag key was drawn.
    pub created_at: Timestamp,
    /// Whether it has no page.
    pub empty: bool,
}

impl Header {
    /// The header of a new vault: empty subtrees, fresh keys, epoch 1.
    pub fn new(vault: VaultId, now: Timestamp, random: &mut Random) -> Header {
        let subtrees = Kind::ALL.map(|kind| Subtree::empty(Branch { kind, generation: 1 }, Duty::Serving, now, random));
        Header {
            vault,
            epoch: 1,
            created_at: now,
            root_created_at: now,
            reseals: 0,
            meta_key: MetaKey::draw(random),
            caller_key: CallerKey::draw(random),
            subtrees: subtrees.into(),
            row: None,
        }
    }

    /// Seals it under `root` and notes the row it now lies in: the row's key and value.
    pub fn seal(&mut self, root: &RootKey, random: &mut Random) -> (Vec<u8>, Vec<u8>) {
        let key = root.header_key();
        let row = row_key(&key.address());
        let sealed = page::seal(&key, &self.place(), &self.encode(), random);
        self.row = Some(row.clone());
        (row, sealed)
    }

    /// Opens the value of the row at [`Header::row_key`].
    ///
    /// # Errors
    /// [`TrieError::Damaged`]: another root's or vault's header, or a changed byte.
    pub fn open(root: &RootKey, vault: VaultId, sealed: &[u8]) -> Result<Header, TrieError> {
        let place = PagePlace { vault, subtree: 0, generation: 0, path: &[] };
        let bytes = page::open(&root.header_key(), &place, sealed).map_err(|_| TrieError::Damaged)?;
        let mut header = decode(vault, &bytes).ok_or(TrieError::Damaged)?;
        header.row = Some(Header::row_key(root));
        Ok(header)
    }

    /// The key of the row that holds the header under `root`.
    pub fn row_key(root: &RootKey) -> Vec<u8> {
        row_key(&root.header_key().address())
    }

    /// The vault it belongs to.
    pub fn vault(&self) -> VaultId {
        self.vault
    }

    /// The epoch of the root it is sealed under.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// When the vault was made.
    pub fn created_at(&self) -> Timestamp {
        self.created_at
    }

    /// When the root it is sealed under was drawn.
    pub fn root_created_at(&self) -> Timestamp {
        self.root_created_at
    }

    /// Makes the tags of the serving subtree of `kind`.
    pub fn tag_key(&self, kind: Kind) -> &TagKey {
        &self.serving(kind).tag_key
    }

    /// Makes the tags of the one that is being built, if there is one.
    pub fn next_tag_key(&self, kind: Kind) -> Option<&TagKey> {
        self.beside(kind).filter(|subtree| subtree.duty == Duty::Building).map(|subtree| &subtree.tag_key)
    }

    /// Seals the META record, the outbox and the evidence of shreds.
    pub fn meta_key(&self) -> &MetaKey {
        &self.meta_key
    }

    /// Makes the stored form of callers' API tokens.
    pub fn caller_key(&self) -> &CallerKey {
        &self.caller_key
    }

    /// The generation of the serving subtree of `kind`.
    pub fn generation(&self, kind: Kind) -> u32 {
        self.serving(kind).branch.generation
    }

    /// The subtrees of `kind`.
    pub fn generations(&self, kind: Kind) -> Generations {
        let beside = self.beside(kind).map(|subtree| (subtree.branch.generation, subtree.duty));
        Generations { serving: self.generation(kind), beside }
    }

    /// The key of an entry in the serving subtree of `kind`: the tag of (`tag_kind`, `name`, `value`), then the
    /// discriminator.
    pub fn entry_key(&self, kind: Kind, tag_kind: &str, name: &str, value: &[u8], discriminator: [u8; 16]) -> EntryKey {
        let mut key = [0; 32];
        key[..16].copy_from_slice(&self.tag_key(kind).tag(tag_kind, name, value));
        key[16..].copy_from_slice(&discriminator);
        key
    }

    /// What may be told about the subtrees, ascending by kind and generation.
    pub fn subtree_info(&self) -> Vec<SubtreeInfo> {
        let info = |subtree: &Subtree| SubtreeInfo {
            kind: subtree.branch.kind,
            duty: subtree.duty,
            generation: subtree.branch.generation,
            created_at: subtree.created_at,
            empty: subtree.root.is_none(),
        };
        self.subtrees.iter().map(info).collect()
    }

    /// Changes the subtrees of `kind`; without effect where it does not fit how they are.
    pub(super) fn succeed(&mut self, kind: Kind, change: Succession, now: Timestamp, random: &mut Random) {
        let serving = self.serving_index(kind);
        let beside = self.beside_index(kind);
        match (change, beside.map(|at| (at, self.subtrees[at].duty))) {
            (Succession::Begin, None) => {
                let branch = Branch { kind, generation: self.subtrees[serving].branch.generation + 1 };
                self.subtrees.insert(serving + 1, Subtree::empty(branch, Duty::Building, now, random));
            }
            (Succession::Switch, Some((at, Duty::Building))) => {
                self.subtrees[at].duty = Duty::Serving;
                self.subtrees[serving].retire(random);
            }
            (Succession::Undo, Some((at, Duty::Building))) => self.subtrees[at].retire(random),
            (Succession::Drop, Some((at, Duty::Retiring))) if self.subtrees[at].root.is_none() => {
                self.subtrees.remove(at);
            }
            _ => debug_assert!(false, "{change:?} does not fit"),
        }
    }

    pub(super) fn serving(&self, kind: Kind) -> &Subtree {
        &self.subtrees[self.serving_index(kind)]
    }

    pub(super) fn serving_index(&self, kind: Kind) -> usize {
        let serves = |subtree: &Subtree| subtree.branch.kind == kind && subtree.duty == Duty::Serving;
        let serving = self.subtrees.iter().position(serves);
        serving.expect("one subtree of every kind serves: new() makes it, decode() insists")
    }

    pub(super) fn beside(&self, kind: Kind) -> Option<&Subtree> {
        self.beside_index(kind).map(|at| &self.subtrees[at])
    }

    pub(super) fn beside_index(&self, kind: Kind) -> Option<usize> {
        self.subtrees.iter().position(|subtree| subtree.branch.kind == kind && subtree.duty != Duty::Serving)
    }

    pub(super) fn subtrees(&self) -> &[Subtree] {
        &self.subtrees
    }

    pub(super) fn set_root(&mut self, index: usize, root: Option<PageKey>) {
        let subtree = &mut self.subtrees[index];
        if subtree.root != root {
            subtree.address = OnceLock::new();
        }
        subtree.root = root;
    }

    /// The key of the row it lies in, once it was sealed or opened.
    pub fn current_row(&self) -> Option<&[u8]> {
        self.row.as_deref()
    }

    /// Goes on to the next epoch; to be sealed under its root.
    pub(super) fn advance(&mut self, now: Timestamp) {
        self.epoch += 1;
        self.root_created_at = now;
        self.reseals = 0;
    }

    /// The same header for a restored vault, as if it were at this epoch: the next one is higher than any that was before.
    #[must_use]
    pub(crate) fn at_epoch(&self, epoch: u64) -> Header {
        Header { epoch, ..self.duplicate() }
    }

    /// Notes that it is sealed once more under the same root. That happens when a subtree gets its first page, and so
    /// only a few times for each root.
    pub(super) fn count_reseal(&mut self) {
        self.reseals = self.reseals.saturating_add(1);
    }

    /// From here on a header from before opens none of what lies under the META key.
    pub(super) fn renew_meta_key(&mut self, random: &mut Random) {
        self.meta_key = MetaKey::draw(random);
    }

    pub(super) fn duplicate(&self) -> Header {
        Header {
            vault: self.vault,
            epoch: self.epoch,
            created_at: self.created_at,
            root_created_at: self.root_created_at,
            reseals: self.reseals,
            meta_key: self.meta_key.duplicate(),
            caller_key: self.caller_key.duplicate(),
            subtrees: self.subtrees.iter().map(Subtree::duplicate).collect(),
            row: self.row.clone(),
        }
    }

    fn place(&self) -> PagePlace<'static> {
        PagePlace { vault: self.vault, subtree: 0, generation: 0, path: &[] }
    }

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(FIXED + SUBTREE * self.subtrees.len()));
        out.push(VERSION);
        out.extend_from_slice(&self.epoch.to_be_bytes());
        out.extend_from_slice(&self.created_at.0.to_be_bytes());
        out.extend_from_slice(&self.root_created_at.0.to_be_bytes());
        out.extend_from_slice(&self.reseals.to_be_bytes());
        out.extend_from_slice(self.meta_key.expose());
        out.extend_from_slice(self.caller_key.expose());
        out.push(u8::try_from(self.subtrees.len()).expect("there are few kinds and generations"));
        for subtree in &self.subtrees {
            subtree.encode(&mut out);
        }
        out
    }
}

impl Subtree {
    fn empty(branch: Branch, duty: Duty, now: Timestamp, random: &mut Random) -> Subtree {
        Subtree { branch, duty, created_at: now, tag_key: TagKey::draw(random), root: None, address: OnceLock::new() }
    }

    /// From here on entries are only taken out. Another tag key takes the place of its own, which nothing needs any more.
    fn retire(&mut self, random: &mut Random) {
        self.duty = Duty::Retiring;
        self.tag_key = TagKey::draw(random);
    }

    #[cfg(test)]
    pub(super) fn tag_key(&self) -> &TagKey {
        &self.tag_key
    }

    fn duplicate(&self) -> Subtree {
        Subtree {
            branch: self.branch,
            duty: self.duty,
            created_at: self.created_at,
            tag_key: self.tag_key.duplicate(),
            root: self.root.as_ref().map(PageKey::duplicate),
            address: self.address.clone(),
        }
    }

    /// Where this root page of its lies.
    pub(super) fn address_of_root(&self, root: &PageKey) -> Address {
        *self.address.get_or_init(|| root.address())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.branch.kind as u8);
        out.extend_from_slice(&self.branch.generation.to_be_bytes());
        out.push(self.duty as u8);
        out.extend_from_slice(&self.created_at.0.to_be_bytes());
        out.extend_from_slice(self.tag_key.expose());
        out.push(u8::from(self.root.is_some()));
        out.extend_from_slice(self.root.as_ref().map_or(&[0u8; 32], |key| key.expose()));
    }
}

/// Shows the epoch only.
impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Header").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

fn decode(vault: VaultId, bytes: &[u8]) -> Option<Header> {
    let mut reader = Reader(bytes);
    (reader.u8()? == VERSION).then_some(())?;
    let mut header = Header {
        vault,
        epoch: reader.u64()?,
        created_at: Timestamp(reader.u64()?),
        root_created_at: Timestamp(reader.u64()?),
        reseals: reader.u32()?,
        meta_key: MetaKey::from_slice(reader.take(32)?)?,
        caller_key: CallerKey::from_slice(reader.take(32)?)?,
        subtrees: Vec::new(),
        row: None,
    };
    let count = usize::from(reader.u8()?);
    header.subtrees.reserve_exact(count);
    for _ in 0..count {
        header.subtrees.push(decode_subtree(&mut reader)?);
    }
    let ascending = header.subtrees.is_sorted_by(|a, b| a.branch < b.branch);
    let of = |kind, serve| {
        let of = header.subtrees.iter().filter(move |subtree| subtree.branch.kind == kind);
        of.filter(|subtree| (subtree.duty == Duty::Serving) == serve).count()
    };
    let complete = Kind::ALL.iter().all(|&kind| of(kind, true) == 1 && of(kind, false) <= 1);
    (reader.0.is_empty() && ascending && complete).then_some(header)
}

fn decode_subtree(reader: &mut Reader<'_>) -> Option<Subtree> {
    let branch = Branch { kind: Kind::from_number(reader.u8()?)?, generation: reader.u32()? };
    let duty = match reader.u8()? {
        0 => Duty::Serving,
        1 => Duty::Building,
        2 => Duty::Retiring,
        _ => return None,
    };
    let created_at = Timestamp(reader.u64()?);
    let tag_key = TagKey::from_slice(reader.take(32)?)?;
    let (has_root, root) = (reader.u8()?, reader.take(32)?);
    let root = match has_root {
        0 => root.iter().all(|&byte| byte == 0).then_some(None)?,
        1 => Some(PageKey::from_slice(root)?),
        _ => return None,
    };
    Some(Subtree { branch, duty, created_at, tag_key, root, address: OnceLock::new() })
}

/// Whatever decodes is written again as it was.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn decode_again(bytes: &[u8]) -> bool {
    let Some(header) = decode(VaultId([7; 16]), bytes) else { return false };
    assert_eq!(&header.encode()[..], bytes);
    true
}

/// Headers as they are encoded: of a new vault, and with a second generation of lookups.
#[cfg(test)]
pub(crate) fn encoded() -> Vec<Vec<u8>> {
    let mut random = Random::for_keys(64);
    let mut header = Header::new(VaultId([7; 16]), Timestamp(5), &mut random);
    let fresh = header.encode().to_vec();
    header.succeed(Kind::Lookups, Succession::Begin, Timestamp(6), &mut random);
    header.set_root(0, Some(PageKey::draw(&mut random)));
    vec![fresh, header.encode().to_vec()]
}

struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, len: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const VAULT: VaultId = VaultId([9; 16]);

    fn known() -> Header {
        let mut header = Header::new(VAULT, Timestamp(0x0102), &mut Random::for_keys(8));
        header.epoch = 3;
        header.root_created_at = Timestamp(0x0304);
        header.reseals = 5;
        header.meta_key = MetaKey::from_slice(&[0x0a; 32]).unwrap();
        header.caller_key = CallerKey::from_slice(&[0x0b; 32]).unwrap();
        for (subtree, byte) in header.subtrees.iter_mut().zip(0xc1..) {
            subtree.tag_key = TagKey::from_slice(&[byte; 32]).unwrap();
        }
        header.subtrees[1].branch.generation = 4;
        header.subtrees[1].root = PageKey::from_slice(&[0xdd; 32]);
        header
    }

    #[test]
    fn golden_bytes() {
        let mut expected = "01".to_owned() + "0000000000000003" + "0000000000000102" + "0000000000000304" + "00000005";
        expected += &("0a".repeat(32) + &"0b".repeat(32) + "06");
        for (kind, generation, tag, root) in [
            ("01", "00000001", "c1", None),
            ("02", "00000004", "c2", Some("dd")),
            ("03", "00000001", "c3", None),
            ("04", "00000001", "c4", None),
            ("05", "00000001", "c5", None),
            ("06", "00000001", "c6", None),
        ] {
            expected += &(kind.to_owned() + generation + "00" + "0000000000000102" + &tag.repeat(32));
            expected += &(if root.is_some() { "01" } else { "00" }.to_owned() + &root.unwrap_or("00").repeat(32));
        }
        assert_eq!(hex::encode(&*known().encode()), expected);
        assert_eq!(expected.len() / 2, FIXED + 6 * SUBTREE);
    }

    #[test]
    fn opens_only_under_its_root_and_vault_and_unchanged() {
        let mut random = Random::for_keys(4);
        let (root, other) = (RootKey::draw(&mut random), RootKey::draw(&mut random));
        let mut header = known();
        let (row, sealed) = header.seal(&root, &mut random);
        assert_eq!(row, Header::row_key(&root));
        let opened = Header::open(&root, VAULT, &sealed).unwrap();
        assert_eq!(opened.encode(), header.encode());
        assert_eq!(opened.current_row(), Some(&row[..]));
        assert!(Header::open(&other, VAULT, &sealed).is_err());
        assert!(Header::open(&root, VaultId([8; 16]), &sealed).is_err());
        for bit in 0..sealed.len() * 8 {
            let mut bytes = sealed.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::open(&root, VAULT, &bytes).unwrap_err(), TrieError::Damaged);
        }
    }

    #[test]
    fn decoding_is_strict() {
        let bytes = known().encode();
        assert!(decode(VAULT, &bytes).is_some());
        for len in 0..bytes.len() {
            assert!(decode(VAULT, &bytes[..len]).is_none(), "cut to {len}");
        }
        assert!(decode(VAULT, &[&bytes[..], &[0]].concat()).is_none(), "trailing bytes");
        let changed = |at: usize, to: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = to;
            decode(VAULT, &bytes)
        };
        assert!(changed(0, 2).is_none(), "another version");
        assert!(changed(FIXED, 2).is_none(), "a kind twice, another missing");
        assert!(changed(FIXED, 9).is_none(), "an unknown kind");
        assert!(changed(FIXED + SUBTREE - 33, 2).is_none(), "neither a root nor none");
        assert!(changed(FIXED + SUBTREE - 1, 1).is_none(), "a key where there is none");
    }

    #[test]
    fn a_generation_is_built_beside_the_serving_one_and_takes_its_place() {
        let mut random = Random::for_keys(8);
        let mut header = known();
        let old_tag = header.tag_key(Kind::Lookups).duplicate();
        let change = |header: &mut Header, change| {
            header.succeed(Kind::Lookups, change, Timestamp(2), &mut Random::for_keys(2));
            *header = decode(VAULT, &header.encode()).unwrap();
            header.generations(Kind::Lookups)
        };
        let generations = |serving, beside| Generations { serving, beside };
        assert_eq!(change(&mut header, Succession::Begin), generations(4, Some((5, Duty::Building))));
        assert_eq!(*header.tag_key(Kind::Lookups), old_tag);
        let next_tag = header.next_tag_key(Kind::Lookups).unwrap().duplicate();
        assert_ne!(next_tag, old_tag);
        assert_eq!(change(&mut header, Succession::Switch), generations(5, Some((4, Duty::Retiring))));
        assert_eq!(*header.tag_key(Kind::Lookups), next_tag);
        assert!(header.next_tag_key(Kind::Lookups).is_none());
        assert!(header.subtrees.iter().all(|subtree| subtree.tag_key != old_tag), "the old tag key is gone at once");
        header.subtrees[1].root = None;
        assert_eq!(change(&mut header, Succession::Drop), generations(5, None));
        change(&mut header, Succession::Begin);
        assert_eq!(change(&mut header, Succession::Undo), generations(5, Some((6, Duty::Retiring))));
        assert_eq!(change(&mut header, Succession::Drop), generations(5, None));

        let mut two_serve = known();
        let branch = Branch { kind: Kind::Lookups, generation: 5 };
        two_serve.subtrees.insert(2, Subtree::empty(branch, Duty::Serving, Timestamp(1), &mut random));
        assert!(decode(VAULT, &two_serve.encode()).is_none());
        two_serve.subtrees[1].duty = Duty::Retiring;
        assert!(decode(VAULT, &two_serve.encode()).is_some(), "the control");
    }

    #[test]
    fn entry_keys_join_tag_and_discriminator() {
        let header = known();
        let key = header.entry_key(Kind::Lookups, "lookup", "phone", b"+1", [7; 16]);
        assert_eq!(key[..16], header.tag_key(Kind::Lookups).tag("lookup", "phone", b"+1"));
        assert_eq!(key[16..], [7; 16]);
    }
}
