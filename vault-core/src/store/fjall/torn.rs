//! What is wrong with fjall's journals, before fjall opens them: a batch that a loss of power left torn at the end is cut off,
//! damage before that is told.
//!
//! A batch is on several pages of the disk, and before its `fdatasync` returns any of them may be there and others not.
//! fjall drops a last batch that stops short, but takes one with a hole for damage. Only the last one can have holes: the
//! next is begun when it is durable. And it was acknowledged to nobody. Where fjall meets a head that it cannot read, it
//! takes that for the end and cuts the journal off there, with all that was acknowledged later: it must not get so far.
//!
//! A batch is `1 ‖ u32 items ‖ u64 sequence number`, its items, `3 ‖ u64 checksum of the items (XXH3) ‖ "FJL" ‖ 3`; an
//! item is `2 ‖ u8 type ‖ u8 compression ‖ u64 keyspace ‖ u16 key length ‖ u32 value length ‖ u32 bytes of it here ‖ key ‖
//! value`. Numbers are little-endian. The checksum leaves the sequence number out, by which fjall tells what is newer and what
//! a table has already; so its order is looked at as well.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

const START_LEN: usize = 1 + 4 + 8;
const ITEM_HEAD_LEN: usize = 1 + 1 + 1 + 8 + 2 + 4 + 4;
const TRAILER: [u8; 4] = *b"FJL\x03";
/// How far the sequence number goes from one batch to the next, at most: tables take one each as well.
const STEP_MAX: u64 = 1 << 20;

/// What the journals are found to be.
pub(super) enum Found {
    Whole,
    /// A torn last batch was cut off.
    Cut,
    /// This one is damaged where it was durable.
    Damaged(PathBuf),
}

/// Looks through all journals, and cuts off a torn last batch.
pub(super) fn mend(dir: &Path) -> io::Result<Found> {
    let journals = journals(dir)?;
    let Some((active, sealed)) = journals.split_last() else { return Ok(Found::Whole) };
    let mut order = Order::default();
    for journal in sealed {
        if !matches!(state(&fs::read(journal)?, &mut order), State::Whole) {
            return Ok(Found::Damaged(journal.clone()));
        }
    }
    match state(&fs::read(active)?, &mut order) {
        State::Whole => Ok(Found::Whole),
        State::Damaged => Ok(Found::Damaged(active.clone())),
        State::TornAt(end) => {
            let file = File::options().write(true).open(active)?;
            file.set_len(end as u64)?;
            file.sync_all()?;
            Ok(Found::Cut)
        }
    }
}

/// The journals in their order; the last one is written to.
fn journals(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut journals = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let number = name.strip_suffix(".jnl").and_then(|number| number.parse::<u64>().ok());
        journals.extend(number.map(|number| (number, path)));
    }
    journals.sort_unstable();
    Ok(journals.into_iter().map(|(_, path)| path).collect())
}

enum State {
    Whole,
    /// The last batch begins there, and is all that is wrong.
    TornAt(usize),
    Damaged,
}

/// The sequence numbers of the last two batches.
#[derive(Default)]
struct Order(Option<u64>, Option<u64>);

impl Order {
    /// Whether this one may come next.
    fn takes(&self, sequence: u64) -> bool {
        self.1.is_none_or(|last| sequence > last && sequence - last <= STEP_MAX)
    }

    /// Whether zeros in place of bytes of the number would explain one that may not; otherwise another number may be wrong.
    fn is_torn(&self, sequence: u64) -> bool {
        sequence <= self.0.unwrap_or(0)
    }

    fn add(&mut self, sequence: u64) {
        (self.0, self.1) = (self.1, Some(sequence));
    }
}

fn state(journal: &[u8], order: &mut Order) -> State {
    let mut at = 0;
    while let Some(Batch { len, sequence, whole: true }) = batch(&journal[at..]) {
        if !order.takes(sequence) {
            let last = journal[at + len..].iter().all(|byte| *byte == 0);
            return if last && order.is_torn(sequence) { State::TornAt(at) } else { State::Damaged };
        }
        order.add(sequence);
        at += len;
    }
    let rest = &journal[at..];
    // Made longer than what is in it, a journal ends in zeros.
    if rest.iter().all(|byte| *byte == 0) {
        return State::Whole;
    }
    // A hole may be in the batch's own heads, so that its end cannot be told; but behind it there is no other.
    let later = (1..rest.len()).any(|from| batch(&rest[from..]).is_some_and(|batch| batch.whole));
    if later { State::Damaged } else { State::TornAt(at) }
}

struct Batch {
    len: usize,
    sequence: u64,
    /// Whether its checksum matches.
    whole: bool,
}

/// The batch at the beginning; none if there is none to its end.
fn batch(bytes: &[u8]) -> Option<Batch> {
    let head = bytes.get(..START_LEN).filter(|head| head[0] == 1)?;
    let items = u32::from_le_bytes(head[1..5].try_into().ok()?);
    let sequence = u64::from_le_bytes(head[5..].try_into().ok()?);
    let mut rest = &bytes[START_LEN..];
    for _ in 0..items {
        rest = rest.get(item_len(rest)?..)?;
    }
    let items = &bytes[START_LEN..bytes.len() - rest.len()];
    let end = rest.get(..1 + 8 + TRAILER.len()).filter(|end| end[0] == 3 && end.ends_with(&TRAILER))?;
    let whole = end[1..9] == xxh3_64(items).to_le_bytes();
    Some(Batch { len: START_LEN + items.len() + end.len(), sequence, whole })
}

fn item_len(bytes: &[u8]) -> Option<usize> {
    let head = bytes.get(..ITEM_HEAD_LEN).filter(|head| head[0] == 2)?;
    let key = u16::from_le_bytes(head[11..13].try_into().ok()?);
    let value = u32::from_le_bytes(head[17..21].try_into().ok()?);
    ITEM_HEAD_LEN.checked_add(usize::from(key))?.checked_add(usize::try_from(value).ok()?)
}
