//! The decoders of this room, for `crate::fuzzing`.

use zeroize::Zeroizing;

use super::header;
use super::page::{Page, Shape};
use super::path::Path;
use crate::fuzzing::Target;

pub(crate) const TARGETS: [Target; 2] = [Target::new("page", page), Target::new("header", header::decode_again)];

fn page(bytes: &[u8]) -> bool {
    let Some(page) = Page::decode(Zeroizing::new(bytes.to_vec()), &Path::ROOT) else { return false };
    let again = match page.shape() {
        Shape::Leaf(entries) => {
            assert!(entries.clone().all(|(key, payload)| entries.payload(key) == Some(payload)));
            Page::leaf(page.reseals(), entries)
        }
        Shape::Inner(inner) => {
            let children: Vec<_> = inner.children().collect();
            Page::inner(page.reseals(), inner.skip, children.iter().map(|(nibble, key)| (*nibble, key)))
        }
    };
    assert_eq!(again.bytes(), bytes);
    true
}

/// A leaf and an inner page.
#[cfg(test)]
pub(crate) fn pages() -> Vec<Vec<u8>> {
    use crate::crypto::PageKey;

    let keys = [[1; 32], [2; 32], [0xf3; 32]];
    let leaf = Page::leaf(7, keys.iter().zip([&b"one"[..], b"", b"three"]));
    let children = [3_u8, 9, 15].map(|nibble| (nibble, PageKey::from_slice(&[nibble; 32]).expect("32 bytes")));
    let inner = Page::inner(1, &[0, 5], children.iter().map(|(nibble, key)| (*nibble, key)));
    vec![leaf.bytes().to_vec(), inner.bytes().to_vec()]
}

#[cfg(test)]
pub(crate) use header::encoded;
