//! The plaintext of a page, byte for byte.
//!
//! ```text
//! leaf   0 u8 = 1   1 u32 reseals   5 u16 count    7 entries, ascending: 32 B key ‖ u16 length ‖ payload
//! inner  0 u8 = 2   1 u32 reseals   5 u8 length of skip    6 skip, a byte a nibble
//!        then u16 bitmap (bit n: there is a child at nibble n), then the children's keys, 32 B each, ascending
//! ```
//! Numbers are big-endian. A page stays in this form while it is open: one buffer that wipes itself.

use std::sync::OnceLock;

use zeroize::Zeroizing;

use super::EntryKey;
use super::pages::Address;
use super::path::{NIBBLES, Path};
use crate::codec::PAYLOAD_MAX;
use crate::crypto::PageKey;

/// Bytes of entries a leaf holds at most, unless it holds a single one.
pub const LEAF_BYTES: usize = 1536;
/// The largest payload, in bytes: whatever the codec writes, with its version byte.
#[allow(clippy::cast_possible_truncation)]
pub const PAYLOAD_BYTES_MAX: usize = PAYLOAD_MAX as usize + 1;
/// Bytes an entry takes beside its payload.
pub(super) const ENTRY_HEAD: usize = 32 + 2;

const LEAF: u8 = 1;
const INNER: u8 = 2;
const LEAF_HEAD: usize = 7;
const INNER_HEAD: usize = 6;

/// A page, opened and checked.
pub(super) struct Page {
    bytes: Zeroizing<Vec<u8>>,
    /// Where the children of an inner page lie, by nibble, once somebody went there: deriving that takes longer than the rest
    /// of the way.
    addresses: OnceLock<Box<Addresses>>,
}

type Addresses = [OnceLock<Address>; 16];

/// What a page is.
pub(super) enum Shape<'p> {
    Leaf(Entries<'p>),
    Inner(Inner<'p>),
}

/// The entries of a leaf, ascending.
#[derive(Clone, Copy)]
pub(super) struct Entries<'p>(&'p [u8]);

/// An inner page: all that is below it begins with its path and `skip`, and goes on with the nibble of a child.
#[derive(Clone, Copy)]
pub(super) struct Inner<'p> {
    pub(super) skip: &'p [u8],
    bitmap: u16,
    keys: &'p [u8],
}

impl Page {
    /// Checks the plaintext of the page at `path`; `None` if it is not exactly a page of that place.
    pub(super) fn decode(bytes: Zeroizing<Vec<u8>>, path: &Path) -> Option<Page> {
        let sound = match *bytes.first()? {
            LEAF => leaf_is_sound(&bytes, path),
            INNER => inner_is_sound(&bytes, path),
            _ => None,
        };
        sound.map(|()| Page::of(bytes))
    }

    fn of(bytes: Zeroizing<Vec<u8>>) -> Page {
        Page { bytes, addresses: OnceLock::new() }
    }

    /// A leaf of these entries, which are ascending.
    pub(super) fn leaf<'e, I>(reseals: u32, entries: I) -> Page
    where
        I: Iterator<Item = (&'e EntryKey, &'e [u8])> + Clone,
    {
        let len: usize = entries.clone().map(|(_, payload)| ENTRY_HEAD + payload.len()).sum();
        let count = u16::try_from(entries.clone().count()).expect("a leaf of some KiB has few entries");
        // Reserved in full, for a buffer that grows leaves copies of secrets behind.
        let mut out = Zeroizing::new(Vec::with_capacity(LEAF_HEAD + len));
        out.push(LEAF);
        out.extend_from_slice(&reseals.to_be_bytes());
        out.extend_from_slice(&count.to_be_bytes());
        for (key, payload) in entries {
            out.extend_from_slice(key);
            let len = u16::try_from(payload.len()).expect("payloads were checked against their limit");
            out.extend_from_slice(&len.to_be_bytes());
            out.extend_from_slice(payload);
        }
        Page::of(out)
    }

    /// An inner page of these children, ascending by nibble.
    pub(super) fn inner<'c, I>(reseals: u32, skip: &[u8], children: I) -> Page
    where
        I: Iterator<Item = (u8, &'c PageKey)> + Clone,
    {
        let bitmap = children.clone().fold(0u16, |bits, (nibble, _)| bits | 1 << nibble);
        let mut out = Zeroizing::new(Vec::with_capacity(INNER_HEAD + skip.len() + 2 + 16 * 32));
        out.push(INNER);
        out.extend_from_slice(&reseals.to_be_bytes());
        out.push(u8::try_from(skip.len()).expect("a skip is shorter than a key"));
        out.extend_from_slice(skip);
        out.extend_from_slice(&bitmap.to_be_bytes());
        for (_, key) in children {
            out.extend_from_slice(key.expose());
        }
        Page::of(out)
    }

    /// The same content with another count of reseals.
    pub(super) fn with_reseals(&self, reseals: u32) -> Page {
        let mut bytes = self.bytes.clone();
        bytes[1..5].copy_from_slice(&reseals.to_be_bytes());
        Page::of(bytes)
    }

    /// How often this page was sealed again under its present key.
    pub(super) fn reseals(&self) -> u32 {
        u32::from_be_bytes([self.bytes[1], self.bytes[2], self.bytes[3], self.bytes[4]])
    }

    pub(super) fn shape(&self) -> Shape<'_> {
        if self.bytes[0] == LEAF {
            return Shape::Leaf(Entries(&self.bytes[LEAF_HEAD..]));
        }
        let (skip, rest) = self.bytes[INNER_HEAD..].split_at(usize::from(self.bytes[5]));
        Shape::Inner(Inner { skip, bitmap: u16::from_be_bytes([rest[0], rest[1]]), keys: &rest[2..] })
    }

    /// Where the child at `nibble` lies, which has this key.
    pub(super) fn address_of(&self, nibble: u8, key: &PageKey) -> Address {
        let addresses = self.addresses.get_or_init(|| Box::new([const { OnceLock::new() }; 16]));
        *addresses[usize::from(nibble)].get_or_init(|| key.address())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes of memory it takes, or will.
    pub(super) fn footprint(&self) -> usize {
        let addresses = if self.bytes[0] == LEAF { 0 } else { size_of::<Addresses>() };
        self.bytes.capacity() + addresses
    }
}

impl<'p> Entries<'p> {
    /// Their bytes, as [`LEAF_BYTES`] counts them.
    pub(super) fn bytes(&self) -> usize {
        self.0.len()
    }

    pub(super) fn payload(mut self, wanted: &EntryKey) -> Option<&'p [u8]> {
        self.find(|(key, _)| *key >= wanted).filter(|(key, _)| *key == wanted).map(|(_, payload)| payload)
    }
}

impl<'p> Iterator for Entries<'p> {
    type Item = (&'p EntryKey, &'p [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, rest) = self.0.split_first_chunk::<32>()?;
        let (len, rest) = rest.split_first_chunk::<2>()?;
        let (payload, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
        self.0 = rest;
        Some((key, payload))
    }
}

impl<'p> Inner<'p> {
    /// The key of the child at `nibble`.
    pub(super) fn child(&self, nibble: u8) -> Option<PageKey> {
        if self.bitmap >> nibble & 1 == 0 {
            return None;
        }
        let before = (self.bitmap & ((1 << nibble) - 1)).count_ones() as usize;
        PageKey::from_slice(&self.keys[32 * before..32 * (before + 1)])
    }

    /// The children, ascending by nibble.
    pub(super) fn children(self) -> impl DoubleEndedIterator<Item = (u8, PageKey)> + 'p {
        (0..16).filter_map(move |nibble| Some((nibble, self.child(nibble)?)))
    }
}

fn leaf_is_sound(bytes: &[u8], path: &Path) -> Option<()> {
    let count = usize::from(u16::from_be_bytes([*bytes.get(5)?, *bytes.get(6)?]));
    let mut entries = Entries(&bytes[LEAF_HEAD..]);
    let mut previous: Option<&EntryKey> = None;
    for _ in 0..count {
        let (key, payload) = entries.next()?;
        let in_place = path.covers(key) && previous.is_none_or(|previous| previous < key);
        (in_place && payload.len() <= PAYLOAD_BYTES_MAX).then_some(())?;
        previous = Some(key);
    }
    (count > 0 && entries.0.is_empty()).then_some(())
}

fn inner_is_sound(bytes: &[u8], path: &Path) -> Option<()> {
    let skip_len = usize::from(*bytes.get(5)?);
    let (skip, rest) = bytes[INNER_HEAD..].split_at_checked(skip_len)?;
    let (bitmap, keys) = rest.split_first_chunk::<2>()?;
    let children = u16::from_be_bytes(*bitmap).count_ones() as usize;
    let sound = path.len() + skip_len < NIBBLES && skip.iter().all(|&nibble| nibble < 16);
    (sound && children >= 2 && keys.len() == 32 * children).then_some(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::crypto::Random;

    fn zeroizing(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(bytes.to_vec())
    }

    #[test]
    fn golden_bytes() {
        let (a, b) = ([0x11; 32], [0x12; 32]);
        let leaf = Page::leaf(7, [(&a, &b"xy"[..]), (&b, &b""[..])].into_iter());
        let expected = format!("0100000007{}{}{}", "0002", "11".repeat(32) + "00027879", "12".repeat(32) + "0000");
        assert_eq!(hex::encode(leaf.bytes()), expected);
        let (left, right) = (PageKey::from_slice(&[0xaa; 32]).unwrap(), PageKey::from_slice(&[0xbb; 32]).unwrap());
        let inner = Page::inner(0x0102_0304, &[1, 15], [(0, &left), (15, &right)].into_iter());
        let expected = format!("020102030402010f8001{}{}", "aa".repeat(32), "bb".repeat(32));
        assert_eq!(hex::encode(inner.bytes()), expected);
        let Shape::Inner(shape) = inner.shape() else { panic!("an inner page was written") };
        assert_eq!(shape.child(15), Some(right));
        assert_eq!(shape.child(1), None);
        assert_eq!(inner.with_reseals(0).reseals(), 0);
    }

    #[test]
    fn refuses_what_is_not_exactly_a_page_of_its_place() {
        let (a, b) = ([0x11; 32], [0x12; 32]);
        let at = |key: &EntryKey, len| Path::of(key, len);
        let leaf = Page::leaf(0, [(&a, &b"x"[..]), (&b, &b"y"[..])].into_iter());
        assert!(Page::decode(zeroizing(leaf.bytes()), &at(&a, 1)).is_some());
        assert!(Page::decode(zeroizing(leaf.bytes()), &at(&a, 2)).is_none(), "an entry of another place");
        assert!(Page::decode(zeroizing(&[leaf.bytes(), &[0]].concat()), &Path::ROOT).is_none(), "trailing bytes");
        let swapped = Page::leaf(0, [(&b, &b"x"[..]), (&a, &b"y"[..])].into_iter());
        assert!(Page::decode(zeroizing(swapped.bytes()), &Path::ROOT).is_none(), "not ascending");
        let twice = Page::leaf(0, [(&a, &b"x"[..]), (&a, &b"y"[..])].into_iter());
        assert!(Page::decode(zeroizing(twice.bytes()), &Path::ROOT).is_none(), "one key twice");
        assert!(Page::decode(zeroizing(Page::leaf(0, [].into_iter()).bytes()), &Path::ROOT).is_none(), "empty");
        let key = PageKey::from_slice(&[1; 32]).unwrap();
        let lone = Page::inner(0, &[], [(3, &key)].into_iter());
        assert!(Page::decode(zeroizing(lone.bytes()), &Path::ROOT).is_none(), "a lone child");
        let two = |skip: &[u8]| Page::inner(0, skip, [(3, &key), (4, &key)].into_iter());
        assert!(Page::decode(zeroizing(two(&[1; 63]).bytes()), &Path::ROOT).is_some());
        assert!(Page::decode(zeroizing(two(&[1; 63]).bytes()), &at(&a, 1)).is_none(), "deeper than a key");
        assert!(Page::decode(zeroizing(two(&[16]).bytes()), &Path::ROOT).is_none(), "not a nibble");
        let huge = vec![0; PAYLOAD_BYTES_MAX + 1];
        let leaf = Page::leaf(0, [(&a, &huge[..])].into_iter());
        assert!(Page::decode(zeroizing(leaf.bytes()), &Path::ROOT).is_none(), "too large a payload");
    }

    proptest! {
        #[test]
        fn any_leaf_round_trips(
            entries in prop::collection::btree_map(any::<[u8; 32]>(), prop::collection::vec(any::<u8>(), 0..40), 1..30),
            reseals: u32,
        ) {
            let leaf = Page::leaf(reseals, entries.iter().map(|(key, payload)| (key, &payload[..])));
            let decoded = Page::decode(zeroizing(leaf.bytes()), &Path::ROOT).unwrap();
            prop_assert_eq!(decoded.reseals(), reseals);
            let Shape::Leaf(found) = decoded.shape() else { panic!("a leaf was written") };
            let found: BTreeMap<_, _> = found.map(|(key, payload)| (*key, payload.to_vec())).collect();
            prop_assert_eq!(found, entries);
        }

        #[test]
        fn any_inner_round_trips(skip in prop::collection::vec(0u8..16, 0..60), bitmap: u16) {
            prop_assume!(bitmap.count_ones() >= 2);
            let mut random = Random::for_keys(16);
            let keys: Vec<_> = (0..16).filter(|n| bitmap >> n & 1 == 1).map(|n| (n, PageKey::draw(&mut random))).collect();
            let inner = Page::inner(3, &skip, keys.iter().map(|(n, key)| (*n, key)));
            let decoded = Page::decode(zeroizing(inner.bytes()), &Path::ROOT).unwrap();
            let Shape::Inner(found) = decoded.shape() else { panic!("an inner page was written") };
            prop_assert_eq!(found.skip, &skip[..]);
            prop_assert_eq!(found.children().collect::<Vec<_>>(), keys);
        }

        #[test]
        fn any_bytes_are_a_page_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0u8..4) {
            if let Some(first) = bytes.first_mut() { *first = kind; }
            if let Some(page) = Page::decode(zeroizing(&bytes), &Path::ROOT) {
                let again = match page.shape() {
                    Shape::Leaf(entries) => Page::leaf(page.reseals(), entries),
                    Shape::Inner(inner) => {
                        let keys: Vec<_> = inner.children().collect();
                        Page::inner(page.reseals(), inner.skip, keys.iter().map(|(n, key)| (*n, key)))
                    }
                };
                prop_assert_eq!(again.bytes(), &bytes[..]);
            }
        }

        #[test]
        fn a_changed_page_never_panics(at in 0usize..300, to: u8, cut in 0usize..300) {
            let keys: Vec<EntryKey> = (0..6).map(|n| [n; 32]).collect();
            let leaf = Page::leaf(0, keys.iter().map(|key| (key, &b"payload"[..])));
            let mut bytes = leaf.bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] = to;
            bytes.truncate(cut.max(1));
            if let Some(page) = Page::decode(zeroizing(&bytes), &Path::ROOT) {
                let Shape::Leaf(entries) = page.shape() else { panic!("its first byte says leaf") };
                prop_assert!(entries.count() > 0);
            }
        }
    }
}
