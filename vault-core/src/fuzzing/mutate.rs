//! Valid encodings, damaged in the ways that decoders trip over. Depends on nothing, so that other crates' tests can take the
//! file as it is.

use std::path::{Path, PathBuf};

/// Dice that a seed repeats (splitmix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// The dice of a run, by `UDV_TEST_SEED` or the clock; says which.
    pub(crate) fn of_run() -> Self {
        let clock = || std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64);
        let seed = number_from("UDV_TEST_SEED").unwrap_or_else(clock);
        eprintln!("UDV_TEST_SEED={seed}");
        Self(seed)
    }

    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % sides.max(1) as u64) as usize
    }
}

/// A number from the environment.
pub(crate) fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// How often a decoder is tried: `UDV_TEST_CASES`, or `usual`.
pub(crate) fn cases(usual: u64) -> u64 {
    number_from("UDV_TEST_CASES").unwrap_or(usual)
}

/// The corpora are kept here, one directory for each decoder.
pub(crate) fn corpora() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

/// The corpus of a decoder, in the order of its names.
pub(crate) fn corpus(decoder: &str) -> Vec<Vec<u8>> {
    let Ok(names) = std::fs::read_dir(corpora().join(decoder)) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = names.filter_map(|name| Some(name.ok()?.path())).collect();
    paths.sort();
    paths.iter().filter_map(|path| std::fs::read(path).ok()).collect()
}

/// Tries a decoder on its corpus, all of which it must take, and on `cases` mutants of it. A panic ends it, and the input is
/// told. Answers how many mutants it took.
pub(crate) fn fire(
    decoder: &str,
    corpus: &[Vec<u8>],
    cases: u64,
    dice: &mut Dice,
    mut run: impl FnMut(&[u8]) -> bool,
) -> u64 {
    assert!(!corpus.is_empty(), "the decoder {decoder} has no corpus");
    for bytes in corpus {
        let _told = Told { decoder, bytes };
        assert!(run(bytes), "a file of the corpus of {decoder} is refused");
    }
    let mut taken = 0;
    for _ in 0..cases {
        let bytes = mutant(corpus, dice);
        let _told = Told { decoder, bytes: &bytes };
        taken += u64::from(run(&bytes));
    }
    taken
}

/// Tells an input that a decoder panicked on.
struct Told<'a> {
    decoder: &'a str,
    bytes: &'a [u8],
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let hex: String = self.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            eprintln!("the decoder {} fails on: {hex}\nkeep it as a file of its corpus", self.decoder);
        }
    }
}

/// One of the corpus with one to four changes.
pub(crate) fn mutant(corpus: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = corpus[dice.roll(corpus.len())].clone();
    for _ in 0..=dice.roll(4) {
        change(&mut bytes, corpus, dice);
    }
    bytes
}

const BYTES: [u8; 12] = [0, 1, 2, 0x0a, 0x20, 0x22, 0x7f, 0x80, 0xc3, 0xf0, 0xfe, 0xff];
const NUMBERS: [u64; 12] =
    [0, 1, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0xffff, 0x1_0000, 0x7fff_ffff, 0xffff_ffff, u64::MAX];
const TEXTS: [&str; 20] = [
    "\"",
    "\\u0000",
    "\\ud800",
    "{",
    "}",
    "[[[[[[[[",
    "]",
    ",",
    ":",
    "-0",
    "1e999",
    "99999999999999999999",
    "null",
    "%00",
    "..",
    "/",
    "\r\n",
    "\u{202e}",
    "é",
    "",
];

fn change(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], dice: &mut Dice) {
    let at = dice.roll(bytes.len() + 1);
    let to = at + dice.roll((bytes.len() - at).min(64) + 1);
    match dice.roll(12) {
        0 | 1 => {
            let bit = 1 << dice.roll(8);
            bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= bit);
        }
        2 => {
            let other = BYTES[dice.roll(BYTES.len())];
            bytes.get_mut(at).into_iter().for_each(|byte| *byte = other);
        }
        3 => drop(bytes.drain(at..to)),
        4 => bytes.truncate(at),
        5 => {
            let fresh: Vec<u8> = (0..=dice.roll(16)).map(|_| dice.roll(256) as u8).collect();
            bytes.splice(at..at, fresh);
        }
        6 => {
            let again = bytes[at..to].to_vec();
            bytes.splice(at..at, again);
        }
        7 => {
            let other = &corpus[dice.roll(corpus.len())];
            let from = dice.roll(other.len() + 1);
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        8 | 9 => {
            // A length, perhaps: of two, four or eight bytes, the one way round or the other.
            let number = NUMBERS[dice.roll(NUMBERS.len())].wrapping_add(dice.roll(3) as u64).wrapping_sub(1);
            let width = 2 << dice.roll(3);
            let mut written = number.to_be_bytes()[8 - width..].to_vec();
            if dice.roll(2) == 1 {
                written.reverse();
            }
            let end = (at + width).min(bytes.len());
            bytes.splice(at..end, written);
        }
        10 => {
            let text = TEXTS[dice.roll(TEXTS.len())].as_bytes();
            bytes.splice(at..to, text.iter().copied());
        }
        _ => bytes[at..to].fill(0),
    }
    // Long enough for whatever a limit refuses, and no longer.
    bytes.truncate(256 * 1024);
}
