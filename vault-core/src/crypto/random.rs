//! Randomness: one system call for each row or page batch.
//!
//! There is no pool that outlives an operation: a cloned virtual machine would draw the same keys from it.

use zeroize::{Zeroize, Zeroizing};

/// Random bytes drawn for one operation, handed out piece by piece.
pub struct Random {
    bytes: Zeroizing<Vec<u8>>,
    used: usize,
}

impl Random {
    /// Draws `len` bytes with one system call. Whoever takes more than he announced pays a further call.
    pub fn new(len: usize) -> Self {
        let mut bytes = Zeroizing::new(vec![0u8; len]);
        draw(&mut bytes);
        Self { bytes, used: 0 }
    }

    /// Draws enough for `count` keys of 256 bits.
    pub fn for_keys(count: usize) -> Self {
        Self::new(count * 32)
    }

    /// Fills `out` with bytes that nobody has been given before.
    pub fn fill(&mut self, out: &mut [u8]) {
        if self.bytes.len() - self.used < out.len() {
            self.bytes.resize(out.len().max(512), 0);
            draw(&mut self.bytes);
            self.used = 0;
        }
        let end = self.used + out.len();
        out.copy_from_slice(&self.bytes[self.used..end]);
        self.bytes[self.used..end].zeroize();
        self.used = end;
    }

    /// An array of fresh bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }
}

fn draw(out: &mut [u8]) {
    // No key may be made without it, so there is no way on; the kernel's generator does not fail once it is seeded.
    getrandom::fill(out).expect("the kernel's random generator answers");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_hands_out_the_same_bytes_twice() {
        let mut random = Random::new(40);
        let pieces: Vec<[u8; 32]> = (0..50).map(|_| random.array()).collect();
        let mut sorted = pieces.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), pieces.len());
        assert!(!sorted.contains(&[0; 32]));
    }
}
