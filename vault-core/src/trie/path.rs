//! Where a page is in its subtree: the nibbles that lead to it.

use super::EntryKey;

/// Nibbles in an entry key.
pub(super) const NIBBLES: usize = 64;

/// The nibble of `key` at `depth`.
pub(super) fn nibble(key: &EntryKey, depth: usize) -> u8 {
    let byte = key[depth / 2];
    if depth.is_multiple_of(2) { byte >> 4 } else { byte & 15 }
}

/// Up to 64 nibbles, one to a byte. Every entry below a page begins with the page's path.
#[derive(Clone, Copy)]
pub(super) struct Path {
    len: u8,
    nibbles: [u8; NIBBLES],
}

impl Path {
    pub(super) const ROOT: Path = Path { len: 0, nibbles: [0; NIBBLES] };

    /// The first `len` nibbles of `key`.
    pub(super) fn of(key: &EntryKey, len: usize) -> Path {
        let mut path = Path::ROOT;
        for (depth, slot) in path.nibbles[..len].iter_mut().enumerate() {
            *slot = nibble(key, depth);
        }
        path.len = u8::try_from(len).expect("a key has 64 nibbles");
        path
    }

    /// The path of a child: below `skip`, at `nibble`.
    pub(super) fn child(&self, skip: &[u8], nibble: u8) -> Path {
        let mut path = *self;
        let from = self.len();
        path.nibbles[from..from + skip.len()].copy_from_slice(skip);
        path.nibbles[from + skip.len()] = nibble;
        path.len = u8::try_from(from + skip.len() + 1).expect("pages lie at most 64 nibbles deep");
        path
    }

    pub(super) fn len(&self) -> usize {
        usize::from(self.len)
    }

    pub(super) fn nibbles(&self) -> &[u8] {
        &self.nibbles[..self.len()]
    }

    /// The lowest key below this path.
    pub(super) fn first(&self) -> EntryKey {
        self.filled_with(0)
    }

    /// The highest key below this path.
    pub(super) fn last(&self) -> EntryKey {
        self.filled_with(15)
    }

    /// Whether `key` lies below.
    pub(super) fn covers(&self, key: &EntryKey) -> bool {
        self.nibbles().iter().enumerate().all(|(depth, &expected)| nibble(key, depth) == expected)
    }

    fn filled_with(&self, rest: u8) -> EntryKey {
        let at = |depth: usize| self.nibbles().get(depth).copied().unwrap_or(rest);
        std::array::from_fn(|byte| at(2 * byte) << 4 | at(2 * byte + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leads_where_it_says() {
        let mut key = [0; 32];
        key[..2].copy_from_slice(&[0xab, 0xcd]);
        let path = Path::of(&key, 1).child(&[0xb], 0xc);
        assert_eq!(path.nibbles(), [0xa, 0xb, 0xc]);
        assert!(path.covers(&key));
        assert_eq!(path.first()[..3], [0xab, 0xc0, 0]);
        assert_eq!(path.last()[..3], [0xab, 0xcf, 0xff]);
        key[1] = 0xdd;
        assert!(!path.covers(&key));
        assert_eq!(Path::of(&key, 64).first(), key);
    }
}
