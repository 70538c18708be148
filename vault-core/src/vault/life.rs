//! The vault's life: created, opened locked, unlocked, locked again, closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Mutex, mpsc, watch};

use super::finalizer::{Finalizer, Job};
use super::meta::{self, Meta, MetaHead};
use super::outbox::{self, Outbox};
use super::session::{Session, Snapshot};
use super::turns::Turns;
use super::types::{Counts, State, Status, VaultOptions};
use super::writer::{Alarm, Command, QUEUE, Writer};
use super::{Inner, Tasks, Vault, ages, callers, erase, idempotency, restore, retained, retention, schema, slots};
use crate::audit::{Action, Entry, Outcome, TreeHead, trail};
use crate::crypto::Random;
use crate::error::Error;
use crate::ids::VaultId;
use crate::memory;
use crate::root::{FileSlot, Hsm, Method, NewUnlock, RootEntry, RootSlot, Roots, SlotError, SlotPlace, Unlock};
use crate::store::{Batch, Expect, Store, StoreError};
use crate::time::Timestamp;
use crate::trie::{Header, Pages};

/// Whether the finalizer runs.
#[derive(Clone, Copy)]
pub(super) enum Finalizing {
    /// It goes on with what an earlier run left.
    Resumed,
    /// It does not run.
    AtRest,
}

impl Vault {
    /// Creates a vault in an empty store, with new root slots, and leaves it unlocked.
    ///
    /// # Errors
    /// [`Error::Exists`] if the store is not empty; [`Error::Slot`] if a slot's file exists or can not be written.
    pub async fn create(
        store: Arc<dyn Store>,
        places: &[SlotPlace],
        unlocks: Vec<NewUnlock>,
        options: VaultOptions,
    ) -> Result<Self, Error> {
        if !store.scan(&[], None, 1).await?.is_empty() {
            return Err(Error::Exists("a vault in this store"));
        }
        let mut random = Random::new(1024);
        let vault = VaultId(random.array());
        let root = RootEntry::draw(1, &mut random);
        let slots = create_slots(places, vault, unlocks, &root).await?;

        let mut header = Header::new(vault, Timestamp::now(), &mut random);
        let head = MetaHead { vault, epoch: header.epoch() };
        let (counts, logged) = (Counts::default(), TreeHead::default());
        let meta = Meta { head, sequence: 1, counts, logged, at: Timestamp::settled() }.seal(header.meta_key());
        let header_row = header.seal(&root.key, &mut random);
        let mut batch = Batch::default();
        batch.expect.push((meta::KEY.to_vec(), Expect::Absent));
        batch.put = vec![header_row, (meta::KEY.to_vec(), meta)];
        store.commit(batch).await?;

        let created = Self::assemble(store, vault, slots, options);
        created.start(&mut *created.inner.life.lock().await, Finalizing::Resumed).await?;
        Ok(created)
    }

    /// Whether a store is a vault's.
    ///
    /// # Errors
    /// The store's.
    pub async fn is_in(store: &dyn Store) -> Result<bool, Error> {
        Ok(store.get(meta::KEY).await?.is_some())
    }

    /// Opens an existing vault, locked.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the store has no valid META record; [`Error::Slot`] names a slot that is missing, damaged
    /// or another vault's.
    pub async fn open(store: Arc<dyn Store>, places: &[SlotPlace], options: VaultOptions) -> Result<Self, Error> {
        restore::refuse_unfinished(&*store).await?;
        let head = MetaHead::decode(&meta_row(&*store).await?)?;
        let slots = open_slots(places, head.vault)?;
        Ok(Self::assemble(store, head.vault, slots, options))
    }

    pub(super) fn assemble(store: Arc<dyn Store>, vault: VaultId, slots: Vec<FileSlot>, options: VaultOptions) -> Self {
        let pages = Pages::new(store.clone(), vault, options.cache_bytes);
        let shared = slots.iter().map(|slot| Arc::new(slot.clone()) as Arc<dyn RootSlot>).collect();
        let (log, accept_loss) = (options.log.clone(), options.accept_loss);
        let keeper = Arc::new(retained::Keeper::new(vault, slots.iter().map(|slot| slot.path().to_owned()).collect()));
        let inner = Inner {
            store,
            pages,
            vault,
            options,
            roots: Roots::new(shared),
            file_slots: slots,
            session: ArcSwapOption::empty(),
            callers: ArcSwap::from_pointee(None),
            loading_callers: Mutex::new(()),
            rotating: Mutex::new(()),
            changing_unlocks: Mutex::new(()),
            rounds: Mutex::new(()),
            keeper,
            rotating_slots: Mutex::new(()),
            under_way: idempotency::UnderWay::default(),
            sweeps: retention::Sweeps::default(),
            outbox: Arc::new(Outbox::new(log)),
            turns: Turns::new(),
            accept_loss: AtomicBool::new(accept_loss),
            life: Mutex::new(None),
            failed: watch::Sender::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Loads the root key and brings the vault into service. Recovers first, if a crash left something half done.
    ///
    /// # Errors
    /// [`Error::WrongUnlockKey`]; [`Error::Root`] if store and slots do not belong together, and then nothing was
    /// changed; [`Error::OlderThanLog`] and [`Error::OtherLog`] unless [`VaultOptions::accept_loss`]; [`Error::Damaged`].
    pub async fn unlock(&self, unlock: Unlock) -> Result<(), Error> {
        memory::apart(|| self.unlock_and_start(unlock, Finalizing::Resumed)).await
    }

    /// As [`Vault::unlock`], but nothing goes on by itself: what an earlier run left unfinished stays so, and the store
    /// stands still for [`Vault::verify`]. What needs a root batch answers [`Error::Locked`].
    ///
    /// # Errors
    /// As [`Vault::unlock`].
    pub async fn unlock_at_rest(&self, unlock: Unlock) -> Result<(), Error> {
        memory::apart(|| self.unlock_and_start(unlock, Finalizing::AtRest)).await
    }

    async fn unlock_and_start(&self, unlock: Unlock, finalizing: Finalizing) -> Result<(), Error> {
        // From before the slots, so that a lock that runs beside it does not take their keys away half way.
        let mut life = self.inner.life.lock().await;
        let slots = self.inner.file_slots.clone();
        let opened = memory::blocking(move || unlock_slots(&slots, &unlock)).await;
        let started = match opened {
            Ok(Ok(())) => self.start(&mut life, finalizing).await,
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Error::Failed),
        };
        if life.is_none() {
            // Nothing was started: no key stays behind.
            self.inner.forget_keys().await;
        }
        started
    }

    /// Recovery, then the session: header, META, writer, finalizer.
    pub(super) async fn start(&self, life: &mut Option<Tasks>, finalizing: Finalizing) -> Result<(), Error> {
        if *self.inner.failed.borrow() {
            return Err(Error::Failed);
        }
        if life.is_some() {
            return Ok(());
        }
        let inner = &self.inner;
        let row = inner.meta_row().await?;
        let head = MetaHead::decode(&row)?;
        let root = inner.recover(head.epoch).await?;
        let header = inner.header(&root).await?;
        let meta = Meta::open(&row, header.meta_key())?;
        if meta.head != (MetaHead { vault: inner.vault, epoch: header.epoch() }) {
            return Err(Error::Damaged("the META record and the vault header disagree"));
        }
        // Vaults of all ages are opened by one process of tests.
        if cfg!(not(test)) {
            Timestamp::told_before(meta.at);
        }
        let (meta, row, other_log) = match finalizing {
            Finalizing::Resumed => {
                let (meta, row, other_log) = inner.as_new_as_its_log(meta, row, &header).await?;
                inner.recover_outbox(&header, other_log.is_some()).await?;
                (meta, row, other_log)
            }
            // The difference stays to be seen.
            Finalizing::AtRest => (meta, row, None),
        };
        let schema = Arc::new(schema::load(inner, &header).await?);
        let Meta { counts, sequence, logged, .. } = meta;
        let (header, log_is_other) = (Arc::new(header), other_log.is_some());
        let snapshot = Snapshot { header, counts, sequence, logged, log_is_other, schema };
        let (commands, queue) = mpsc::channel(QUEUE);
        let (jobs, mut job_queue) = mpsc::unbounded_channel();
        let session = Arc::new(Session::new(snapshot, root, commands, jobs));
        let writer = Writer::new(inner.clone(), session.clone(), row);
        let finalizer = match finalizing {
            Finalizing::Resumed => Some(Finalizer::resume(inner.clone(), session.clone()).await?),
            Finalizing::AtRest => None,
        };
        inner.load_callers(&session).await?;
        let writer = tokio::spawn(writer.run(queue));
        if let Some(told) = other_log
            && let Err(error) = restore::take_other_log(inner, &session, told).await
        {
            let _ = session.writer.send(Command::Stop).await;
            let _ = writer.await;
            return Err(error);
        }
        let last_used = finalizer.as_ref().map(|_| {
            // At rest nothing is written by itself.
            tokio::spawn(callers::note_now_and_then(inner.clone(), session.clone()))
        });
        let alarmed = inner.clone();
        let finalizer = tokio::spawn(async move {
            // At rest the queue ends here, and whoever sends to it is told that the vault is locked.
            if let Some(finalizer) = finalizer {
                let _alarm = Alarm::of(&alarmed);
                finalizer.run(&mut job_queue).await;
            }
            // A queue that is only dropped may keep what was being sent just then, and who sent it would wait for ever.
            job_queue.close();
            while job_queue.recv().await.is_some() {}
        });
        // At rest nothing goes on by itself.
        let goes_on = matches!(finalizing, Finalizing::Resumed);
        let retention = goes_on.then(|| tokio::spawn(retention::run(inner.clone(), session.clone())));
        let slots = goes_on.then(|| tokio::spawn(slots::run(inner.clone(), session.clone())));
        let erasures = goes_on.then(|| tokio::spawn(erase::run(inner.clone(), session.clone())));
        let ages = goes_on.then(|| tokio::spawn(ages::run(self.clone(), session.clone())));
        let tasks = Tasks { writer, finalizer, last_used, retention, slots, ages, erasures };
        if let Err(error) = inner.unlock_log(&session, matches!(finalizing, Finalizing::AtRest)).await {
            self.end(&session, tasks).await;
            return Err(error);
        }
        *life = Some(tasks);
        inner.session.store(Some(session));
        Ok(())
    }

    /// Drops every key from memory, once what was queued is committed and what is being written to root slots, or beside them,
    /// is written: as long as their disks take. Reads and writes answer [`Error::Locked`] from the beginning.
    ///
    /// # Errors
    /// None at present; the engine's failure is told by [`Vault::failed`].
    pub async fn lock(&self) -> Result<(), Error> {
        let mut life = self.inner.life.lock().await;
        let session = self.inner.session.swap(None);
        if let (Some(session), Some(tasks)) = (session, life.take()) {
            memory::apart(|| self.end(&session, tasks)).await;
        }
        self.inner.forget_keys().await;
        Ok(())
    }

    /// Ends what runs for a session, once what was queued is committed.
    async fn end(&self, session: &Arc<Session>, tasks: Tasks) {
        if let Some(last_used) = tasks.last_used {
            last_used.abort();
            // Not what the request to lock did.
            trail::aside(callers::note_all(&self.inner, session)).await;
        }
        session.stop();
        if let Some(erasures) = tasks.erasures {
            // What it has under way goes on after the next unlock.
            erasures.abort();
            let _ = erasures.await;
        }
        if let Some(slots) = tasks.slots {
            // Whatever step it is at, the slots open.
            slots.abort();
            let _ = slots.await;
        }
        if let Some(ages) = tasks.ages {
            // A rotation that it has begun is durable.
            ages.abort();
            let _ = ages.await;
        }
        if let Some(retention) = tasks.retention {
            // What it has under way is final or untouched.
            retention.abort();
            let _ = retention.await;
        }
        // Either may have ended already, when the engine failed.
        let _ = session.finalizer.send(Job::Stop);
        let _ = tasks.finalizer.await;
        let _ = session.writer.send(Command::Stop).await;
        let _ = tasks.writer.await;
        self.inner.keeper.all_noted().await;
        if let Some(log) = self.inner.outbox.log() {
            // The last head of the log is signed with what is durable by now.
            if let Err(error) = log.checkpoint() {
                tracing::debug!(%error, "the log was not signed at the end");
            }
            log.lock();
        }
    }

    /// Locks the vault and lets the store go.
    ///
    /// # Errors
    /// [`Error::Store`] if the engine can not make its rows durable.
    pub async fn close(&self) -> Result<(), Error> {
        self.lock().await?;
        Ok(self.inner.store.close().await?)
    }

    /// Makes the audit log durable and lets it go; after [`Vault::close`].
    pub fn close_log(&self) {
        if let Some(log) = self.inner.outbox.log() {
            log.close();
        }
    }

    /// What opens each of the root slots that unlock keys open: one in hardware has its own. Once no change of unlock keys is
    /// under way, for half way of one the slots have those from before and those that come.
    pub async fn slot_unlocks(&self) -> Vec<Vec<Method>> {
        let _no_change = self.inner.changing_unlocks.lock().await;
        self.inner.file_slots.iter().filter(|slot| slot.takes_unlock_keys()).map(FileSlot::methods).collect()
    }

    /// What opens the root slots.
    pub fn unlock_methods(&self) -> Vec<Method> {
        let mut methods: Vec<Method> = self.inner.file_slots.iter().flat_map(FileSlot::methods).collect();
        methods.sort_by_key(|method| method.as_str());
        methods.dedup();
        methods
    }

    /// Whether the vault is unlocked: what a request can afford to ask, unlike [`Vault::status`].
    pub fn state(&self) -> State {
        self.inner.state_of(self.inner.session.load().as_ref())
    }

    /// How the vault is. Looks at the disk.
    pub fn status(&self) -> Status {
        let inner = &self.inner;
        let session = inner.session.load_full();
        let state = inner.state_of(session.as_ref());
        let erasures = session.as_ref().map(|session| session.open.status(Timestamp::now()));
        let rotations = session.as_ref().map(|session| session.rotating()).unwrap_or_default();
        let key_ages = session.as_ref().map(|session| session.key_ages()).unwrap_or_default();
        let snapshot = session.map(|session| session.snapshot());
        Status {
            vault: inner.vault,
            state,
            epoch: snapshot.as_ref().map(|s| s.header.epoch()),
            counts: snapshot.as_ref().map(|s| s.counts),
            slots: inner.roots.status(),
            all_in_hardware: inner.roots.all_in_hardware(),
            store: inner.store.health(),
            cache: inner.pages.stats(),
            retention: inner.sweeps.status(),
            erasures,
            rotations,
            key_ages,
            log: inner.outbox.status(),
        }
    }

    /// Resolves when the engine has failed: nothing is acknowledged any more and the process should be restarted.
    pub async fn failed(&self) {
        let mut failed = self.inner.failed.subscribe();
        // The sender lives as long as this handle.
        let _ = failed.wait_for(|failed| *failed).await;
    }
}

impl Inner {
    fn state_of(&self, session: Option<&Arc<Session>>) -> State {
        match session {
            _ if *self.failed.borrow() => State::Failed,
            Some(_) => State::Unlocked,
            None => State::Locked,
        }
    }

    /// Drops every key that is held outside of a session.
    async fn forget_keys(&self) {
        self.outbox.clear();
        self.roots.forget_retained_keys();
        self.keeper.clear().await;
        self.pages.clear();
        // All at once: one whose disk does not answer keeps its own key only.
        let locking = |slot: FileSlot| memory::blocking(move || slot.lock());
        let locking: Vec<_> = self.file_slots.iter().cloned().map(locking).collect();
        for locked in locking {
            // It only fails with the process.
            let _ = locked.await;
        }
    }

    /// Refuses a store that is older than its audit log, for what the log tells of later is lost, and answers would not say
    /// so; and a log that is not the one it was, for what that told would be told nowhere. Where somebody took that upon
    /// himself, the one counts as new as the other from here on, and the log tells it. Answers also what is still
    /// to be logged if the log is another one: [`restore::take_other_log`].
    async fn as_new_as_its_log(
        &self,
        mut meta: Meta,
        row: Vec<u8>,
        header: &Header,
    ) -> Result<(Meta, Vec<u8>, Option<Entry>), Error> {
        // For this one time: whoever unlocks it later was not asked.
        let accept_loss = self.accept_loss.swap(false, Ordering::Relaxed);
        let Some(log) = self.outbox.log() else { return Ok((meta, row, None)) };
        let is_same = self.log_continues(meta.logged).await?;
        // Of another log all of it may be news.
        let told = self.told_of(if is_same { meta.logged.size } else { 0 });
        let lost = told.saturating_sub(meta.sequence);
        let refusal = match (is_same, lost) {
            (false, _) => Error::OtherLog { entries: log.size(), had: meta.logged.size },
            (true, 0) => return Ok((meta, row, None)),
            (true, _) => Error::OlderThanLog { commit: meta.sequence, told },
        };
        if !accept_loss {
            return Err(refusal);
        }
        tracing::error!("the vault is served all the same, and what is lost stays so: {refusal}");
        let count = (lost > 0).then_some(lost);
        let told = Entry { count, ..Entry::new(Action::AcceptLoss, Outcome::Done) };
        // The outbox would take the next commits for told.
        meta.sequence += lost;
        if !is_same {
            return Ok((meta, row, Some(told)));
        }
        let end = self.outbox.append(&[told])?;
        log.durable(end).await?;
        meta.logged = log.head().filter(|head| head.size >= end).ok_or(Error::Failed)?;
        let settled = meta.seal(header.meta_key());
        let mut batch = Batch::default();
        batch.expect.push((meta::KEY.to_vec(), Expect::Value(row)));
        batch.put.push((meta::KEY.to_vec(), settled.clone()));
        self.store.commit(batch).await?;
        Ok((meta, settled, None))
    }

    /// Whether the log is the one that had this head, or its continuation. Without a log that is not asked.
    pub(super) async fn log_continues(&self, head: TreeHead) -> Result<bool, Error> {
        let Some(log) = self.outbox.log() else { return Ok(true) };
        if head.size == 0 || log.size() < head.size {
            return Ok(head.size == 0);
        }
        // What is not durable yet has no hash.
        log.durable(head.size).await?;
        Ok(log.root(head.size)? == Some(head.root))
    }

    /// The newest commit that the log tells of, as far as it has entries from `begin` on. A log that does not read is told of
    /// where it is checked.
    fn told_of(&self, begin: u64) -> u64 {
        self.outbox.log().map_or(0, |log| outbox::newest_commit(log, begin).unwrap_or(0))
    }

    async fn recover(&self, epoch: u64) -> Result<RootEntry, Error> {
        let recovered = self.roots.recover(epoch, |root| {
            let (store, vault, pages) = (self.store.clone(), self.vault, self.pages.clone());
            async move {
                let row = store.get(&Header::row_key(&root)).await?;
                match row.and_then(|sealed| Header::open(&root, vault, &sealed).ok()) {
                    Some(header) => retained::named_ids(&pages, &header).await.map(Some),
                    None => Ok::<_, StoreError>(None),
                }
            }
        });
        Ok(recovered.await?)
    }

    /// The META record as it lies in the store.
    pub(super) async fn meta_row(&self) -> Result<Vec<u8>, Error> {
        meta_row(&*self.store).await
    }

    async fn header(&self, root: &RootEntry) -> Result<Header, Error> {
        let sealed = self.store.get(&Header::row_key(&root.key)).await?;
        let sealed = sealed.ok_or(Error::Damaged("the vault header is missing"))?;
        Ok(Header::open(&root.key, self.vault, &sealed)?)
    }
}

async fn create_slots(
    places: &[SlotPlace],
    vault: VaultId,
    unlocks: Vec<NewUnlock>,
    root: &RootEntry,
) -> Result<Vec<FileSlot>, Error> {
    if places.is_empty() {
        return Err(Error::Invalid { field: "slots", expected: "at least one root slot" });
    }
    let (places, root) = (places.to_vec(), root.duplicate());
    let created = memory::blocking(move || {
        let mut made = Vec::new();
        for place in &places {
            match create_slot(place, vault, &unlocks, &root) {
                Ok(slot) => made.push(slot),
                Err(error) => {
                    // Nothing depends on them, and half of the slots would only be in the way of the next attempt.
                    made.into_iter().for_each(|slot: FileSlot| drop(slot.wipe()));
                    return Err(error);
                }
            }
        }
        Ok(made)
    });
    Ok(created.await.map_err(|_| Error::Failed)??)
}

/// Opens the slots of a vault, locked.
pub(super) fn open_slots(places: &[SlotPlace], vault: VaultId) -> Result<Vec<FileSlot>, SlotError> {
    let mut slots = Vec::with_capacity(places.len());
    for place in places {
        let slot = FileSlot::open_place(place)?;
        slot.belongs_to(vault)?;
        if place.is_hardware() && slots.iter().any(|other| slot.is_copy_of(other)) {
            return Err(SlotError::Copied { slot: slot.name() });
        }
        slots.push(slot);
    }
    Ok(slots)
}

/// Makes one slot. One in hardware has no other unlock key.
pub(super) fn create_slot(
    place: &SlotPlace,
    vault: VaultId,
    unlocks: &[NewUnlock],
    root: &RootEntry,
) -> Result<FileSlot, SlotError> {
    match place {
        SlotPlace::File(path) => FileSlot::create(path, vault, unlocks, root),
        SlotPlace::Pkcs11 { file, hsm } => FileSlot::create_in_hardware(file, vault, Hsm::new(hsm.clone()), root),
    }
}

/// Those outside hardware first: they show that the unlock key is right, before any HSM is asked.
pub(super) fn unlock_slots(slots: &[FileSlot], unlock: &Unlock) -> Result<(), SlotError> {
    let (hardware, files): (Vec<&FileSlot>, Vec<&FileSlot>) = slots.iter().partition(|slot| slot.hardware().is_some());
    let fits = files.is_empty() == matches!(unlock, Unlock::Hardware);
    if let (false, Some(slot)) = (fits, files.first().or(hardware.first())) {
        let others = slot.methods().iter().map(|method| method.as_str()).collect::<Vec<_>>().join(", ");
        let method = if files.is_empty() { unlock.method().as_str() } else { "an HSM alone" };
        return Err(SlotError::NoSuchMethod { slot: slot.name(), method, others });
    }
    files.iter().chain(&hardware).try_for_each(|slot| slot.unlock(unlock))
}

async fn meta_row(store: &dyn Store) -> Result<Vec<u8>, Error> {
    store
        .get(meta::KEY)
        .await?
        .ok_or(Error::Damaged("the META record is missing: the store lost its rows, or is not a vault's"))
}
