//! Where one vault lives: its store, its slots, and how it is opened.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use vault_core::audit::{Log, Sync};
use vault_core::root::{SlotPlace, Unlock};
use vault_core::store::{DiskOptions, DiskStore, EngineName, Store, StoreError};
use vault_core::vault::{Vault, VaultOptions};
use zeroize::Zeroizing;

use crate::backups::Backups;
use crate::commands::Failure;
use crate::config::{AuditSync, Config};
use crate::files;
use crate::unlock::Source;

/// The places of one vault.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) store: PathBuf,
    pub(crate) slots: Vec<SlotPlace>,
    pub(crate) unlock: Option<Source>,
    /// The directory of the audit log.
    pub(crate) audit: PathBuf,
    pub(crate) backups: Backups,
    sync: Sync,
    /// The engine that keeps the store.
    pub(crate) engine: EngineName,
    disk: DiskOptions,
    options: VaultOptions,
}

/// The names inside a directory made by `dev`.
pub(crate) const STORE: &str = "store";
pub(crate) const AUDIT: &str = "audit";
pub(crate) const BACKUPS: &str = "backups";
pub(crate) const SLOT: &str = "root.slot";
pub(crate) const UNLOCK_KEY: &str = "unlock.key";
pub(crate) const ADMIN_TOKEN: &str = "admin.token";

impl Site {
    /// A directory made by `dev`.
    pub(crate) fn of_dir(dir: &Path) -> Self {
        Self {
            store: dir.join(STORE),
            slots: vec![SlotPlace::File(dir.join(SLOT))],
            unlock: Some(Source::KeyFile(dir.join(UNLOCK_KEY))),
            audit: dir.join(AUDIT),
            backups: Backups::new(Vec::new(), dir.join(BACKUPS)),
            sync: Sync::default(),
            engine: EngineName::found_in(&dir.join(STORE)).unwrap_or_default(),
            disk: DiskOptions::default(),
            options: VaultOptions::default(),
        }
    }

    /// What a configuration names.
    pub(crate) fn of_config(config: &Config) -> Self {
        const MIB: u64 = 1024 * 1024;
        let key_file = config.unlock.key_file.clone().map(Source::KeyFile);
        let passphrase_file = config.unlock.passphrase_file.clone().map(Source::PassphraseFile);
        let hsm = config.unlock.pkcs11.as_ref().map(|hsm| Source::Pkcs11(hsm.hsm()));
        let slots = slots(config);
        let unlock = match slots.iter().all(SlotPlace::is_hardware) {
            true => Some(Source::Hardware),
            false => key_file.or(passphrase_file).or(hsm).or_else(Source::credential),
        };
        Self {
            store: config.store.dir.clone(),
            slots,
            unlock,
            audit: match config.audit.dir.as_os_str().is_empty() {
                true => files::parent(&config.store.dir).join(AUDIT),
                false => config.audit.dir.clone(),
            },
            backups: Backups::new(
                config.backup.recipients.clone(),
                match config.backup.index_dir.as_os_str().is_empty() {
                    true => files::parent(&config.store.dir).join(BACKUPS),
                    false => config.backup.index_dir.clone(),
                },
            ),
            sync: match config.audit.sync {
                AuditSync::Entry => Sync::Entry,
                AuditSync::Interval => Sync::Every(Duration::from_millis(config.audit.interval_ms)),
            },
            engine: config.store.engine,
            disk: DiskOptions {
                cache_bytes: config.store.cache_mib.saturating_mul(MIB),
                reserve_bytes: config.store.reserve_mib.saturating_mul(MIB),
                min_free_bytes: config.store.min_free_mib.saturating_mul(MIB),
            },
            options: VaultOptions {
                cache_bytes: config.cache.pages_mib.saturating_mul(1024 * 1024),
                tombstone_seconds: config.limits.tombstone_days.saturating_mul(24 * 3600),
                sweep_seconds: config.retention.sweep_seconds,
                erasure_deadline_seconds: config.erasure.deadline_days.saturating_mul(24 * 3600),
                approve_above: config.erasure.approve_above,
                slot_rotation_seconds: config.slots.rotation_seconds,
                keys: config.rotation.policy(),
                ..VaultOptions::default()
            },
        }
    }

    /// Whether a store is served that lacks what its audit log tells of.
    pub(crate) fn accepting_loss(mut self, accept_loss: bool) -> Self {
        self.options.accept_loss = accept_loss;
        self
    }

    /// Makes the vault; it is unlocked afterwards.
    ///
    /// # Errors
    /// If there is one already, or its places cannot be written.
    pub(crate) async fn create(&self, unlocks: Vec<vault_core::root::NewUnlock>) -> Result<Vault, Failure> {
        let store = self.open_store()?;
        Ok(Vault::create(store, &self.slots, unlocks, self.logged()?).await?)
    }

    /// Opens the vault, locked.
    ///
    /// # Errors
    /// In plain words, with the place that is wrong.
    pub(crate) async fn open(&self) -> Result<Vault, Failure> {
        let store = self.existing_store()?;
        self.hold_slots()?;
        Ok(Vault::open(store, &self.slots, self.logged()?).await?)
    }

    /// The same without its audit log, whose files are left as they are: for a look at a vault that stands still.
    ///
    /// # Errors
    /// As [`Site::open`].
    pub(crate) async fn open_unlogged(&self) -> Result<Vault, Failure> {
        let store = self.existing_store()?;
        self.hold_slots()?;
        Ok(Vault::open(store, &self.slots, self.unlogged()).await?)
    }

    /// The options of a vault that is opened without its log.
    pub(crate) fn unlogged(&self) -> VaultOptions {
        self.options.clone()
    }

    /// The same vault with a store and other slots in `dir`, for a drill.
    pub(crate) fn stand_in(&self, dir: &Path, slots: Vec<SlotPlace>) -> Self {
        Self { store: dir.join(STORE), audit: dir.join(AUDIT), slots, ..self.clone() }
    }

    /// Takes the root slots for this process, for as long as it lives: two that write to one would end each other's store.
    ///
    /// # Errors
    /// If another process has one.
    pub(crate) fn hold_slots(&self) -> Result<(), Failure> {
        static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        for place in &self.slots {
            // One that is missing is told where it is opened.
            let Ok(file) = File::options().read(true).write(true).open(place.file()) else { continue };
            match file.try_lock() {
                // Some file systems have no locks.
                Ok(()) | Err(TryLockError::Error(_)) => held.push(file),
                Err(TryLockError::WouldBlock) => return Err(Failure::slot_in_use(place.file())),
            }
        }
        Ok(())
    }

    /// The store, which must be there.
    ///
    /// # Errors
    /// In plain words, with its place.
    pub(crate) fn existing_store(&self) -> Result<Arc<dyn Store>, Failure> {
        if !self.store.is_dir() {
            let told = "put it back, or correct the path; `vault-server dev` and `vault-server init` make new vaults";
            return Err(Failure::failed(format!("there is no store in {}: {told}", self.store.display())));
        }
        self.open_store()
    }

    /// The options of a vault that is opened with its log.
    ///
    /// # Errors
    /// If the log does not open.
    pub(crate) fn logged(&self) -> Result<VaultOptions, Failure> {
        let log = Log::open_with(&self.audit, self.sync).map_err(|error| Failure::failed(error.to_string()))?;
        Ok(VaultOptions { log: Some(log), ..self.options.clone() })
    }

    /// The store, made if there is none.
    ///
    /// # Errors
    /// In plain words, with its place.
    pub(crate) fn open_store(&self) -> Result<Arc<dyn Store>, Failure> {
        Ok(Arc::new(self.open_engine(self.engine, &self.store)?))
    }

    /// Opens a store as this site's is configured, wherever it is and whatever engine keeps it.
    ///
    /// # Errors
    /// In plain words, with the directory.
    pub(crate) fn open_engine(&self, engine: EngineName, dir: &Path) -> Result<DiskStore, Failure> {
        let told = |error: &StoreError| format!("the store in {} does not open: {error}", dir.display());
        DiskStore::open(engine, dir, self.disk.clone()).map_err(|error| match error {
            StoreError::Locked(_) => Failure::store_in_use(dir),
            StoreError::Corrupt(_) => Failure::damage(told(&error)),
            _ => Failure::failed(told(&error)),
        })
    }

    /// Unlocks with the given passphrase file, else the configured source, else a passphrase typed at the terminal.
    ///
    /// # Errors
    /// If the unlock key is wrong, or does not fit the store.
    pub(crate) async fn unlock(&self, vault: &Vault, passphrase_file: Option<&Path>) -> Result<(), Failure> {
        Ok(vault.unlock(self.unlock_key(passphrase_file)?).await?)
    }

    /// As [`Site::unlock`], for a look at a vault that stands still.
    ///
    /// # Errors
    /// As [`Site::unlock`].
    pub(crate) async fn unlock_at_rest(&self, vault: &Vault, passphrase_file: Option<&Path>) -> Result<(), Failure> {
        Ok(vault.unlock_at_rest(self.unlock_key(passphrase_file)?).await?)
    }

    /// What the vault is unlocked with: see [`Site::unlock`].
    ///
    /// # Errors
    /// If there is no terminal, or a file cannot be read.
    pub(crate) fn unlock_key(&self, passphrase_file: Option<&Path>) -> Result<Unlock, Failure> {
        let source =
            passphrase_file.map(|path| Source::PassphraseFile(path.to_owned())).or_else(|| self.unlock.clone());
        Ok(match source {
            Some(source) => source.read()?,
            None => Unlock::Passphrase(prompt("Passphrase of the vault: ")?),
        })
    }

    /// The same vault without one of its slots; none if it is the last.
    pub(crate) fn without(&self, place: &SlotPlace) -> Option<Self> {
        let slots: Vec<SlotPlace> = self.slots.iter().filter(|slot| *slot != place).cloned().collect();
        let hardware = slots.iter().all(SlotPlace::is_hardware).then_some(Source::Hardware);
        let unlock = hardware.or_else(|| self.unlock.clone());
        (!slots.is_empty()).then(|| Self { slots, unlock, ..self.clone() })
    }

    /// The slots that lie on the store's own disk, where one image holds both.
    pub(crate) fn slots_beside_store(&self) -> Vec<String> {
        let outside = self.slots.iter().filter(|slot| !slot.is_hardware());
        outside.filter(|slot| files::same_disk(slot.file(), &self.store)).map(SlotPlace::to_string).collect()
    }
}

fn slots(config: &Config) -> Vec<SlotPlace> {
    let files = config.slots.files.iter().cloned().map(SlotPlace::File);
    let hardware = config.slots.pkcs11.iter();
    files.chain(hardware.map(|slot| SlotPlace::Pkcs11 { file: slot.file.clone(), hsm: slot.hsm() })).collect()
}

/// Asks for a secret at the terminal, without showing it.
///
/// # Errors
/// If there is no terminal.
pub(crate) fn prompt(question: &str) -> Result<Zeroizing<String>, Failure> {
    let told = |why| format!("no passphrase could be asked for ({why}): use a terminal, or give --passphrase-file");
    rpassword::prompt_password(question).map(Zeroizing::new).map_err(|why| Failure::failed(told(why)))
}
