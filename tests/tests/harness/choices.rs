//! What the tortures choose, the same again for the same seed.

/// A small generator of choices (splitmix64).
pub(crate) struct Choices(u64);

impl Choices {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`, or 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }

    pub(crate) fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    pub(crate) fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    /// Others, that go on by themselves.
    pub(crate) fn fork(&mut self) -> Self {
        Self::new(self.below(u64::MAX))
    }
}

/// A number that whoever runs the tests may give.
pub(crate) fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is no number")))
}

/// `UDV_TEST_SEED`, or one of its own.
pub(crate) fn seed() -> u64 {
    let clock = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    number_from("UDV_TEST_SEED").unwrap_or(clock)
}
