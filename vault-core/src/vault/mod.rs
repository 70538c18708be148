//! The use cases: one method of [`Vault`] for each thing that can be asked. The only place that holds keys *and* store.
//!
//! | room | what |
//! |---|---|
//! | `life` | create, open, unlock, lock, status, close |
//! | `put`, `read`, `last4`, `erase`, `rotate`, `callers`, `verify` | the use cases |
//! | `refuse`, `shred` | the halves of a shred: F0 and F1 |
//! | `idempotency` | requests that are done once, however often they are sent |
//! | `subject`, `row`, `records`, `meta` | how a subject lies in the trie and in rows |
//! | `notes` | what is noted about a subject in its compartment `system` |
//! | `consents`, `restriction`, `holds` | its topics: what may be done with a subject, and not |
//! | `schema` | the declared schema: kept, loaded, changed |
//! | `export` | everything held of a subject, for the subject |
//! | `accesses` | who saw what of a subject, and whose data a caller saw |
//! | `metadata` | what is known of each value besides itself |
//! | `retention` | values whose time is over are forgotten for good |
//! | `ages` | how old keys are, and what is done about those that get too old |
//! | `slots` | rotation of root slots in hardware: F2 |
//! | `stale`, `expire` | what is tidied away later: left-behind lookup entries, what has an end |
//! | `listing` | what a subject is found by, in each generation of lookups |
//! | `session` | what exists only while unlocked; snapshots for readers |
//! | `tokens` | value tokens: made, resolved, revoked, forgotten |
//! | `unlocks` | other unlock keys for the root slots in files |
//! | `outbox`, `logged` | what is done goes into the audit log: with the commit, or before the answer |
//! | `backup`, `restore` | archives of both planes, and a vault from them |
//! | `salvage` | what of a damaged vault still opens |
//! | `retained` | roots that stay for a backup of the key plane |
//! | `turns` | writes that lost a race take turns |
//! | `writer` | the one task that commits |
//! | `finalizer` | the one task that replaces the root |
//! | `types` | what goes in and comes out |

mod accesses;
mod ages;
#[cfg(test)]
mod ages_tests;
mod backup;
mod callers;
mod certify;
mod consents;
#[cfg(test)]
mod damage_tests;
mod erase;
#[cfg(test)]
mod erase_tests;
mod evidence;
#[cfg(test)]
mod evidence_tests;
mod expire;
mod export;
mod finalizer;
#[cfg(test)]
mod forensic;
#[cfg(test)]
mod forensic_hsm;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod holds;
mod idempotency;
mod last4;
mod life;
#[cfg(test)]
mod life_tests;
mod listing;
mod log_key;
mod logged;
mod meta;
mod metadata;
mod notes;
#[cfg(test)]
mod notes_tests;
mod outbox;
#[cfg(test)]
mod outbox_tests;
mod put;
mod read;
mod records;
mod refuse;
mod renew;
#[cfg(test)]
mod renew_tests;
mod restore;
mod restriction;
mod retained;
mod retention;
#[cfg(test)]
mod retention_tests;
mod rotate;
mod row;
mod salvage;
mod schema;
#[cfg(test)]
mod schema_tests;
mod session;
mod shred;
mod slots;
#[cfg(test)]
mod slots_tests;
mod stale;
mod subject;
#[cfg(test)]
mod tests;
mod tokens;
mod turns;
mod types;
mod unlocks;
#[cfg(test)]
mod unlocks_tests;
mod verify;
mod writer;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

pub use accesses::{ACCESSES_MAX, Access, AccessPage, NewestAccesses, Reach, Reached, Span};
pub use ages::{KeyPolicy, KeyStatus, LastRotation, LayerStatus};
pub use backup::{BackedUp, BackupAsk, BackupSink};
pub use callers::OVERLAP_MAX;
pub use certify::{CERTIFICATES_MAX, SubjectCertificate};
pub use consents::{CONSENT_TEXT_MAX, CONSENTS_MAX, Consent};
pub use erase::{REASON_MAX, SUBJECTS_MAX};
pub use export::{Export, ExportedField, Use};
pub use holds::{HOLDS_MAX, HeldSubject, Hold};
pub use idempotency::{Idempotency, Made};
pub use last4::Last4Lookup;
pub use log_key::LogKeys;
pub use metadata::{
    Applied, FoundValue, Metadata, MetadataEdit, MetadataLists, MetadataPage, MetadataPatch, MetadataQuery, SEARCH_MAX,
};
pub use read::LOOKUP_MAX;
pub use restore::{DrillReport, RestoreAsk, RestoreProgress, RestoreReport, RestoreStep};
pub use restriction::Restriction;
pub use retained::RetainedRoot;
pub use rotate::{CHOSEN_MAX, RATE_MAX};
pub use salvage::{LostPart, Salvage, SalvageReport, Salvaged, SalvagedField};
pub use tokens::{CreatedToken, NewToken, ResolveItem, Resolved, TokenShape};
pub use types::*;

use crate::error::Error;
use crate::ids::VaultId;
use crate::root::{FileSlot, Roots};
use crate::store::Store;
use crate::trie::Pages;
use callers::CallerTable;
use session::Session;
use turns::Turns;

/// A handle on one vault; cheap to clone.
#[derive(Clone)]
pub struct Vault {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) pages: Pages,
    pub(crate) vault: VaultId,
    pub(crate) options: VaultOptions,
    pub(crate) roots: Roots,
    file_slots: Vec<FileSlot>,
    session: ArcSwapOption<Session>,
    callers: ArcSwap<Option<CallerTable>>,
    loading_callers: Mutex<()>,
    rotating: Mutex<()>,
    /// One change of unlock keys at a time, from its beginning to its end.
    changing_unlocks: Mutex<()>,
    /// Held while a root batch is committed, and while a backup copies what one replaces.
    rounds: Mutex<()>,
    /// What is known of retained roots besides their keys.
    keeper: Arc<retained::Keeper>,
    /// Held over a slot rotation.
    rotating_slots: Mutex<()>,
    under_way: idempotency::UnderWay,
    /// What the sweeps of expired values did.
    sweeps: retention::Sweeps,
    /// Entries of commits on their way into the audit log.
    pub(crate) outbox: Arc<outbox::Outbox>,
    /// For writes that lost a race for their subject.
    turns: Turns,
    /// [`VaultOptions::accept_loss`], until the vault is unlocked.
    accept_loss: AtomicBool,
    /// Held while unlocking or locking; the tasks of the session under it.
    life: Mutex<Option<Tasks>>,
    pub(crate) failed: watch::Sender<bool>,
}

struct Tasks {
    writer: JoinHandle<()>,
    finalizer: JoinHandle<()>,
    /// Writes down now and then when callers were last seen.
    last_used: Option<JoinHandle<()>>,
    /// Forgets what has expired; none at rest.
    retention: Option<JoinHandle<()>>,
    /// Rotates slots in hardware; none at rest.
    slots: Option<JoinHandle<()>>,
    /// Holds the ages of keys against the policy; none at rest.
    ages: Option<JoinHandle<()>>,
    /// Looks after erasures that wait; none at rest.
    erasures: Option<JoinHandle<()>>,
}

impl Vault {
    fn session(&self) -> Result<Arc<Session>, Error> {
        if *self.inner.failed.borrow() {
            return Err(Error::Failed);
        }
        self.inner.session.load_full().ok_or(Error::Locked)
    }
}
