//! A root slot in a file: two sealed copies in blocks of their own, overwritten in place.
//!
//! A random slot key seals the entries and is itself wrapped by each unlock key. Only the slot key stays in memory, so
//! new roots can be written without a passphrase or key file at hand.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

mod hardware;
mod held;
mod unlocks;

pub use self::unlocks::NEW_UNLOCKS_MAX;

use self::held::{Held, Shown};
use super::copies::{COPIES, Copies, Copy, next_sequence, overwriting_order, reading};
use super::layout::{BLOCK_LEN, Block, ENTRIES_MAX, STANZAS_MAX, block};
use super::stanza::{Stanza, Unlocking};
use super::{Hardware, Hsm, Method, NewUnlock, Reading, RootEntry, RootSlot, SlotError, Unlock};
use crate::crypto::{Random, SlotKey};
use crate::ids::VaultId;
use crate::memory;

/// A root slot in a file of 8 KiB with mode 0600.
#[derive(Clone)]
pub struct FileSlot(Arc<Inner>);

struct Inner {
    path: PathBuf,
    vault: VaultId,
    /// Of a slot in hardware: the token that alone opens it.
    hsm: Option<Hsm>,
    /// Held while keys in the HSM are made or destroyed.
    making_keys: Mutex<()>,
    /// Held over every access to the file, so that accesses do not overlap: as long as the disk takes.
    state: Mutex<State>,
    /// For whoever must not wait for the disk.
    shown: Mutex<Shown>,
}

#[derive(Default)]
struct State {
    stanzas: Vec<Stanza>,
    /// Which of them the vault was unlocked by.
    opener: usize,
    key: Option<SlotKey>,
    /// Drawn for a slot rotation; nothing is sealed with it.
    fresh: Option<(Stanza, SlotKey)>,
    /// Drawn for one that failed while it wrote: a copy may be sealed with it, and images of that may be somewhere, so that
    /// it is not taken again.
    spent: Vec<SlotKey>,
    /// What a slot rotation waits for.
    waits_for: Option<String>,
}

impl FileSlot {
    /// Makes the file, with `first` in it, to be opened by any of `unlocks`; the slot is then unlocked. Blocks: an
    /// Argon2id run for each passphrase.
    ///
    /// # Errors
    /// [`SlotError::Exists`] if there is a file already; no unlock keys or more than 8; a cost out of bounds; a disk that
    /// does not take it, and then no file is left.
    pub fn create(
        path: &Path,
        vault: VaultId,
        unlocks: &[NewUnlock],
        first: &RootEntry,
    ) -> Result<FileSlot, SlotError> {
        if !(1..=STANZAS_MAX).contains(&unlocks.len()) {
            return Err(SlotError::Count { what: "unlock keys", most: STANZAS_MAX });
        }
        Self::make(path, vault, unlocks, None, first)
    }

    fn make(
        path: &Path,
        vault: VaultId,
        unlocks: &[NewUnlock],
        hsm: Option<Hsm>,
        first: &RootEntry,
    ) -> Result<FileSlot, SlotError> {
        make_file(path)?;
        let filled = fill(path, vault, unlocks, hsm, first);
        if filled.is_err() {
            // Nothing depends on the file yet, and a half-made one would only be in the way of the next attempt.
            drop(std::fs::remove_file(path));
        }
        filled
    }

    /// Opens the file and leaves it locked.
    ///
    /// # Errors
    /// [`SlotError::Missing`], [`SlotError::Damaged`] if no copy is whole, [`SlotError::Unreachable`].
    pub fn open(path: &Path) -> Result<FileSlot, SlotError> {
        Self::open_with(path, None)
    }

    fn open_with(path: &Path, hsm: Option<Hsm>) -> Result<FileSlot, SlotError> {
        let newest = read_blocks(path)?.into_iter().flatten().max_by_key(|b| b.sequence);
        let Some(Block { vault, stanzas, .. }) = newest else {
            return Err(SlotError::Damaged { slot: name(path) });
        };
        Ok(FileSlot(Arc::new(Inner::new(path, vault, hsm, State { stanzas, ..State::default() }))))
    }

    /// The vault it says it belongs to; certain once it is unlocked.
    pub fn vault(&self) -> VaultId {
        self.0.vault
    }

    /// Refuses another vault's slot.
    ///
    /// # Errors
    /// [`SlotError::OtherVault`].
    pub fn belongs_to(&self, vault: VaultId) -> Result<(), SlotError> {
        if self.0.vault == vault { Ok(()) } else { Err(SlotError::OtherVault { slot: self.name() }) }
    }

    /// The ways it can be unlocked, in the order of its unlock keys.
    pub fn methods(&self) -> Vec<Method> {
        self.0.shown().methods
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Whether the slot key is in memory. Blocks while the file is written.
    pub fn is_unlocked(&self) -> bool {
        self.0.state().key.is_some()
    }

    /// Loads the slot key. A slot in hardware is opened by its own token, whatever is given. Blocks: a passphrase costs an
    /// Argon2id run, an HSM may take its time.
    ///
    /// # Errors
    /// [`SlotError::NoSuchMethod`], [`SlotError::WrongUnlockKey`], [`SlotError::Hsm`]; [`SlotError::Damaged`] if the unlock
    /// key is right and yet no copy opens; as [`FileSlot::open`].
    pub fn unlock(&self, unlock: &Unlock) -> Result<(), SlotError> {
        self.0.unlock(unlock)
    }

    /// Drops the slot key. Blocks while the file is written.
    pub fn lock(&self) {
        let mut state = self.0.state();
        state.key = None;
        state.fresh = None;
        state.spent.clear();
    }

    /// Runs blocking work on the file away from the async workers.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, SlotError> + Send + 'static,
    ) -> Result<T, SlotError> {
        let inner = Arc::clone(&self.0);
        let done = memory::blocking(move || work(&inner)).await;
        done.unwrap_or_else(|_| Err(self.0.unreachable("its task was ended")))
    }
}

#[async_trait::async_trait]
impl RootSlot for FileSlot {
    fn name(&self) -> String {
        name(&self.0.path)
    }

    async fn read(&self) -> Result<Reading, SlotError> {
        self.blocking(|inner| inner.read()).await
    }

    async fn stage(&self, entries: &[RootEntry]) -> Result<(), SlotError> {
        let entries: Vec<_> = entries.iter().map(RootEntry::duplicate).collect();
        self.blocking(move |inner| inner.write(&entries, 1)).await
    }

    async fn settle(&self, entries: &[RootEntry]) -> Result<(), SlotError> {
        let entries: Vec<_> = entries.iter().map(RootEntry::duplicate).collect();
        self.blocking(move |inner| inner.write(&entries, COPIES)).await
    }

    fn hardware(&self) -> Option<Hardware> {
        self.0.shown().hardware
    }

    async fn draw_keys(&self) -> Result<(), SlotError> {
        self.blocking(Inner::draw_keys).await
    }

    async fn reseal(&self) -> Result<(), SlotError> {
        self.blocking(Inner::reseal).await
    }

    async fn destroy_old_keys(&self) -> Result<(), SlotError> {
        self.blocking(Inner::destroy_old_keys).await
    }
}

impl Inner {
    fn new(path: &Path, vault: VaultId, hsm: Option<Hsm>, state: State) -> Self {
        let shown = Mutex::new(Shown::of(&state, hsm.is_some()));
        Self { path: path.to_owned(), vault, hsm, making_keys: Mutex::new(()), state: Mutex::new(state), shown }
    }

    fn state(&self) -> Held<'_> {
        Held::of(self)
    }

    fn unlock(&self, unlock: &Unlock) -> Result<(), SlotError> {
        let mut blocks: Vec<Block> =
            read_blocks(&self.path)?.into_iter().flatten().filter(|b| b.vault == self.vault).collect();
        blocks.sort_by_key(|b| std::cmp::Reverse(b.sequence));
        if blocks.is_empty() {
            return Err(self.damaged());
        }
        let own = self.hsm.clone().map(Unlock::Pkcs11);
        let unlock = own.as_ref().unwrap_or(unlock);
        self.offer(unlock.method(), &blocks)?;
        let mut unlocking = Unlocking::new(unlock);
        let mut refusal = SlotError::WrongUnlockKey { slot: name(&self.path) };
        for block in blocks {
            let (opener, key) = match unlocking.slot_key(self.vault, &block.stanzas) {
                Ok(Some(opened)) => opened,
                Ok(None) => continue,
                Err(error) => {
                    refusal = error.of_slot(&name(&self.path));
                    continue;
                }
            };
            if block.entries(&key).is_ok() {
                let mut state = self.state();
                (state.stanzas, state.opener, state.key) = (block.stanzas, opener, Some(key));
                return Ok(());
            }
            refusal = self.damaged();
        }
        Err(refusal)
    }

    /// Refuses a way that no copy offers, naming those there are.
    fn offer(&self, method: Method, blocks: &[Block]) -> Result<(), SlotError> {
        let mut others: Vec<&str> = Vec::new();
        for offered in blocks.iter().flat_map(|b| &b.stanzas).map(|s| s.origin.method()) {
            if offered == method {
                return Ok(());
            }
            if !others.contains(&offered.as_str()) {
                others.push(offered.as_str());
            }
        }
        let (slot, others) = (name(&self.path), others.join(", "));
        Err(SlotError::NoSuchMethod { slot, method: method.as_str(), others })
    }

    fn read(&self) -> Result<Reading, SlotError> {
        let state = self.state();
        state.key.as_ref().ok_or_else(|| self.locked())?;
        reading(self.copies(&state)?).ok_or_else(|| self.damaged())
    }

    /// Overwrites the first `count` copies in the order of [`overwriting_order`].
    fn write(&self, entries: &[RootEntry], count: usize) -> Result<(), SlotError> {
        if !(1..=ENTRIES_MAX).contains(&entries.len()) {
            return Err(SlotError::Count { what: "roots", most: ENTRIES_MAX });
        }
        let mut state = self.state();
        let key = state.key.as_ref().ok_or_else(|| self.locked())?;
        let copies = self.copies(&state)?;
        let sequence = next_sequence(&copies);
        for (sequence, at) in (sequence..).zip(overwriting_order(&copies, entries)).take(count) {
            self.write_block(at, &block(sequence, self.vault, &state.stanzas, entries, key))?;
        }
        if count == COPIES {
            state.spent.clear();
        }
        Ok(())
    }

    /// Both copies. A file in which no block is whole is taken for a damaged slot of ours and may be written anew, for
    /// the root is in memory; whole blocks that are not ours are not. One that a slot rotation sealed, which was told that
    /// it had failed, is ours as well.
    fn copies(&self, state: &State) -> Result<Copies, SlotError> {
        let blocks = read_blocks(&self.path)?;
        let foreign = blocks.iter().flatten().any(|b| b.vault != self.vault);
        let whole = blocks.iter().flatten().count();
        let open = |block: Block| {
            let entries =
                (block.vault == self.vault).then(|| state.keys().find_map(|key| block.entries(key).ok()))??;
            Some(Copy { sequence: block.sequence, entries })
        };
        let copies = blocks.map(|block| block.and_then(open));
        match copies.iter().flatten().count() {
            0 if foreign => Err(SlotError::OtherVault { slot: name(&self.path) }),
            0 if whole > 0 => Err(self.damaged()),
            _ => Ok(copies),
        }
    }

    /// Writes one copy in place, makes it durable, and reads it back through a handle of its own.
    fn write_block(&self, at: usize, bytes: &[u8]) -> Result<(), SlotError> {
        let offset = u64::try_from(at * BLOCK_LEN).expect("a slot file has two blocks");
        let write = || {
            let file = OpenOptions::new().write(true).open(&self.path)?;
            file.write_all_at(bytes, offset)?;
            file.sync_all()?;
            let mut back = vec![0; BLOCK_LEN];
            File::open(&self.path)?.read_exact_at(&mut back, offset)?;
            Ok(back)
        };
        let back: Vec<u8> = write().map_err(|error| failed(&self.path, &error))?;
        if back == bytes { Ok(()) } else { Err(SlotError::NotKept { slot: name(&self.path) }) }
    }

    /// Makes the file's name durable.
    fn sync_directory(&self) -> Result<(), SlotError> {
        let parent = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(|error| failed(&self.path, &error))
    }

    fn damaged(&self) -> SlotError {
        SlotError::Damaged { slot: name(&self.path) }
    }

    fn locked(&self) -> SlotError {
        SlotError::Locked { slot: name(&self.path) }
    }

    fn unreachable(&self, why: &str) -> SlotError {
        SlotError::Unreachable { slot: name(&self.path), why: why.to_owned() }
    }
}

/// The slot of a new, empty file.
fn fill(
    path: &Path,
    vault: VaultId,
    unlocks: &[NewUnlock],
    hsm: Option<Hsm>,
    first: &RootEntry,
) -> Result<FileSlot, SlotError> {
    let slot_key = SlotKey::draw(&mut Random::for_keys(1));
    let stanza = |unlock| Stanza::new(vault, unlock, &slot_key).map_err(|error| error.of_slot(&name(path)));
    let stanzas = unlocks.iter().map(stanza).collect::<Result<Vec<_>, _>>()?;
    let inner = Inner::new(path, vault, hsm, State { stanzas, key: Some(slot_key), ..State::default() });
    inner.write(std::slice::from_ref(first), COPIES)?;
    inner.sync_directory()?;
    Ok(FileSlot(Arc::new(inner)))
}

fn make_file(path: &Path) -> Result<(), SlotError> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(SlotError::Exists { slot: name(path) }),
        Err(error) => Err(SlotError::Unreachable { slot: name(path), why: error.to_string() }),
    }
}

/// The blocks of the file; none for one that is cut short or damaged.
fn read_blocks(path: &Path) -> Result<[Option<Block>; COPIES], SlotError> {
    let read = || -> io::Result<Vec<u8>> {
        let limit = u64::try_from(COPIES * BLOCK_LEN).expect("8 KiB");
        let mut bytes = Vec::with_capacity(COPIES * BLOCK_LEN);
        File::open(path)?.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| failed(path, &error))?;
    let mut blocks = bytes.chunks(BLOCK_LEN);
    Ok(std::array::from_fn(|_| blocks.next().and_then(Block::parse)))
}

fn failed(path: &Path, error: &io::Error) -> SlotError {
    match error.kind() {
        ErrorKind::NotFound => SlotError::Missing { slot: name(path) },
        _ => SlotError::Unreachable { slot: name(path), why: error.to_string() },
    }
}

fn name(path: &Path) -> String {
    path.display().to_string()
}
