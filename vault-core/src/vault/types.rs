//! What callers of the vault hand in and get back.

use super::ages::{KeyPolicy, LayerStatus};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::restriction::Restriction;
use crate::audit::Log;
use crate::ids::{CallerId, Compartment, ErasureId, FieldName, HoldName, Purpose, RotationId, SubjectId, VaultId};
pub use crate::policy::Role;
use crate::policy::{Decision, SubjectStanding};
use crate::root::{NewUnlock, SlotStatus};
use crate::schema::{Form, View};
use crate::store::Health;
use crate::time::Timestamp;
use crate::trie::CacheStats;
use crate::words::word_enum;

/// How a vault is run.
#[derive(Clone)]
pub struct VaultOptions {
    /// Bound on the cache of opened trie pages, in bytes.
    pub cache_bytes: usize,
    /// How long a shredded id answers "shredded" before it is unknown again, in seconds.
    pub tombstone_seconds: u64,
    /// How long a request is known by its idempotency key, in seconds.
    pub idempotency_seconds: u64,
    /// How often values whose time is over are looked for and finally forgotten, in seconds; at least 1.
    pub sweep_seconds: u64,
    /// How long an erasure may take if it does not say so itself, in seconds.
    pub erasure_deadline_seconds: u64,
    /// Erasures of more subjects wait for a second person; 0 for none.
    pub approve_above: u64,
    /// How old the key of a root slot in hardware gets before a slot rotation, in seconds; 0 for rotations on demand only.
    pub slot_rotation_seconds: u64,
    /// How old keys may get.
    pub keys: KeyPolicy,
    /// Whether the first unlock takes a store that lacks commits which the log tells of, or whose log is not the one it was.
    pub accept_loss: bool,
    /// Where it is logged what is done; none only where nobody else has access.
    pub log: Option<Log>,
}

impl Default for VaultOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 256 * 1024 * 1024,
            tombstone_seconds: 365 * 24 * 3600,
            idempotency_seconds: 24 * 3600,
            sweep_seconds: 3600,
            erasure_deadline_seconds: 30 * 24 * 3600,
            approve_above: 0,
            slot_rotation_seconds: 3600,
            keys: KeyPolicy::default(),
            accept_loss: false,
            log: None,
        }
    }
}

/// How the audit log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStatus {
    /// Its entries.
    pub size: u64,
    /// How many of them are durable.
    pub durable: u64,
    /// Entries of what is committed that wait for the log to take them; nothing is answered meanwhile.
    pub waiting: u64,
    /// How often it took nothing, since the process was started.
    pub failures: u64,
}

/// What happens to one field.
pub enum Change {
    /// Set it: the JSON text of the value, as the caller sent it.
    Set(Zeroizing<String>),
    /// Remove it.
    Remove,
}

/// Changes of one subject's fields; each field at most once.
pub type Changes = Vec<(FieldName, Change)>;

/// How fields are put.
#[derive(Clone, Copy, Debug, Default)]
pub struct PutOptions {
    /// Enrol a shredded id as a new subject.
    pub enrol_again: bool,
    /// Make every removal and overwriting in this call final.
    pub final_: bool,
    /// The version that the one changed field must have; 0 means that it must be absent.
    pub if_match: Option<u32>,
    /// Only if the time of every value that is touched was over at this time, by the schema in force and the value's metadata.
    pub expired_at: Option<Timestamp>,
}

/// Version and time of one stored field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldStamp {
    /// The field.
    pub name: FieldName,
    /// Counts its writes, from 1.
    pub version: u32,
    /// When it was last written.
    pub updated_at: Timestamp,
}

/// What a put did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutOutcome {
    /// Whether the subject is new.
    pub created: bool,
    /// The fields that were set.
    pub fields: Vec<FieldStamp>,
    /// What a final change waits for to be final: a backup of the key plane whose root is retained. See
    /// [`Vault::keep_backup`](super::Vault::keep_backup).
    pub waits_for: Option<String>,
}

/// Who reads, and why.
#[derive(Clone, Debug)]
pub struct Reader {
    /// What it is.
    pub role: Role,
    /// The purposes it may name; an admin any.
    pub purposes: Arc<[Purpose]>,
    /// When its API token expires.
    pub expires_at: Option<Timestamp>,
    /// The purpose it names, as it wrote it.
    pub purpose: Option<Arc<str>>,
}

/// How fields are read.
#[derive(Clone, Debug)]
pub struct ReadRequest {
    /// Who reads.
    pub reader: Reader,
    /// How much is wanted.
    pub view: View,
    /// As given, or the normal form.
    pub form: Form,
}

/// One field as read.
pub struct ReadField {
    /// Which, and which version.
    pub stamp: FieldStamp,
    /// JSON text of what is shown.
    pub value: Zeroizing<String>,
    /// The view, where the policy shows less than was asked for.
    pub lowered: Option<View>,
}

/// What a read answers.
pub struct ReadOutcome {
    /// The fields, in the order of their names.
    pub fields: Vec<ReadField>,
    /// What was decided for each field that was asked for, held or not, in the same order: for the audit.
    pub decisions: Vec<(FieldName, Decision)>,
}

/// What is held of a subject, without values.
#[derive(Clone, Debug)]
pub struct Description {
    /// When the subject was enrolled.
    pub enrolled_at: Timestamp,
    /// How it stands.
    pub standing: SubjectStanding,
    /// The restriction of its processing, if there is one.
    pub restriction: Option<Restriction>,
    /// Purposes that it consents to at present.
    pub consents: Vec<Purpose>,
    /// Its legal holds.
    pub holds: Vec<HoldName>,
    /// Compartments and the version of their DEK.
    pub compartments: Vec<(Compartment, u32)>,
    /// Fields and where they are.
    pub fields: Vec<(FieldStamp, Compartment)>,
}

/// A page of a lookup's answer.
pub struct LookupPage {
    /// Subjects whose field has exactly the value.
    pub subjects: Vec<SubjectId>,
    /// Where the next page starts.
    pub next: Option<String>,
}

/// What shall be shredded, and why.
#[derive(Clone, Debug)]
pub struct NewErasure {
    /// Whose data.
    pub subjects: Vec<SubjectId>,
    /// Only this compartment of it; `None` for the subjects as a whole.
    pub compartment: Option<Compartment>,
    /// Why it is asked for.
    pub reason: String,
    /// The asker's own reference.
    pub reference: Option<String>,
    /// Who asks.
    pub by: Option<CallerId>,
    /// Leave the subjects alone until then.
    pub not_before: Option<Timestamp>,
    /// Refuse reads until then already.
    pub refuse_now: bool,
    /// By when it should be done; none for the usual time.
    pub deadline: Option<Timestamp>,
}

/// How the subjects of an erasure stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ErasureCounts {
    /// Not due yet, or in a dry run: would be shredded.
    pub pending: u64,
    /// F0: durable, reads answer 410, not final yet.
    pub refused: u64,
    /// F1: final.
    pub r#final: u64,
    /// Were never enrolled, or hold nothing in the compartment.
    pub unknown: u64,
    /// Had been shredded before.
    pub shredded: u64,
    /// Due, and left alone for as long as a legal hold keeps them.
    pub held: u64,
    /// Taken back before they were due.
    pub cancelled: u64,
}

/// An erasure request and how far it is.
#[derive(Clone, Debug)]
pub struct Erasure {
    /// Its id.
    pub id: ErasureId,
    /// Why it was asked for.
    pub reason: String,
    /// The asker's own reference.
    pub reference: Option<String>,
    /// The compartment that it is about; `None` for whole subjects.
    pub compartment: Option<Compartment>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Subjects by state.
    pub counts: ErasureCounts,
    /// Distinct subjects asked for.
    pub total: u64,
    /// How it is as a whole.
    pub state: ErasureState,
    /// Until when its subjects are left alone.
    pub not_before: Option<Timestamp>,
    /// By when it should be done.
    pub deadline: Timestamp,
    /// Whether that has passed with something still open.
    pub late: bool,
    /// Who asked.
    pub requested_by: Option<CallerId>,
    /// The second person who agreed, where one had to.
    pub approved_by: Option<CallerId>,
    /// When the first refusals were durable.
    pub f0_at: Option<Timestamp>,
    /// When the old root was gone from every slot, for all of its subjects.
    pub f1_at: Option<Timestamp>,
    /// When the hardware keys of all slots were others.
    pub f2_at: Option<Timestamp>,
    /// When no root was retained for a backup.
    pub f3_at: Option<Timestamp>,
    /// What a shred that is not final yet waits for.
    pub waiting_for: Vec<String>,
    /// Subjects that are not final yet; at most 1,000.
    pub items: Vec<OpenItem>,
}

/// A subject of an erasure that is not final yet.
#[derive(Clone, Debug)]
pub struct OpenItem {
    /// Which.
    pub subject: SubjectId,
    /// Pending, held or refused.
    pub state: ErasureState,
    /// When its refusal was durable.
    pub f0_at: Option<Timestamp>,
    /// A hold that keeps it.
    pub hold: Option<HoldName>,
}

word_enum! {
    /// How an erasure, or a subject of one, is.
    ErasureState {
        /// A second person has to agree first.
        AwaitingApproval = "awaiting_approval",
        /// Not due yet.
        Pending = "pending",
        /// Due, and kept by a legal hold; an erasure, if nothing else of it is open.
        Held = "held",
        /// F0: refused, and not final yet.
        Refused = "refused",
        /// F1: final.
        Final = "final",
        /// Taken back.
        Cancelled = "cancelled",
    }
}

/// The erasures that are open, for the operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenErasures {
    /// Waiting for a second person.
    pub awaiting_approval: u64,
    /// Not due yet.
    pub pending: u64,
    /// Refused, and not final yet.
    pub refused: u64,
    /// Only held subjects are left.
    pub held: u64,
    /// Past their deadline.
    pub late: u64,
    /// The next deadline of those that are not.
    pub next_deadline: Option<Timestamp>,
}

word_enum! {
    /// A layer of keys that can be rotated.
    Layer {
        /// What opens the root slots in files, and the root with it.
        Unlock = "unlock",
        /// The root key: one batch, whatever the size of the vault.
        Root = "root",
        /// Every page key, and the root with them.
        Keks = "keks",
        /// The data keys of subjects.
        Deks = "deks",
        /// The tag key of lookups, with everything that is found by it.
        Lookups = "lookups",
    }
}

/// Has a new unlock key put into its place, where it is kept in one.
pub type PlaceNew = Box<dyn FnOnce() -> std::io::Result<()> + Send + Sync>;

/// What to rotate.
pub enum NewRotation {
    /// What opens the root slots in files, for these. Done when it is answered.
    Unlock {
        /// The only ones from then on.
        unlocks: Vec<NewUnlock>,
        /// Called when they open every slot and those from before still do: whoever keeps one in a file puts it into its
        /// place here, and nothing is ever needed that is not in its place.
        place: PlaceNew,
    },
    /// The root key.
    Root,
    /// Every page key.
    Keks,
    /// Data keys.
    Deks {
        /// Whose.
        which: DeksOf,
        /// Whether the old ones are forgotten: then older backups of the data plane do not open any more for these
        /// subjects. Otherwise each stays in the key plane, sealed under its successor.
        forget: bool,
    },
    /// The tag key of lookups.
    Lookups,
}

/// Whose data keys to rotate.
pub enum DeksOf {
    /// Everybody's.
    All,
    /// Those that are older than so many seconds.
    OlderThan(u64),
    /// Those of these subjects; at most [`CHOSEN_MAX`](super::CHOSEN_MAX). One that is not there has none.
    Subjects(Vec<SubjectId>),
}

impl From<Layer> for NewRotation {
    /// The whole layer, in the way that loses nothing. Unlock keys are refused without new ones.
    fn from(layer: Layer) -> Self {
        match layer {
            Layer::Unlock => Self::Unlock { unlocks: Vec::new(), place: Box::new(|| Ok(())) },
            Layer::Root => Self::Root,
            Layer::Keks => Self::Keks,
            Layer::Deks => Self::Deks { which: DeksOf::All, forget: false },
            Layer::Lookups => Self::Lookups,
        }
    }
}

word_enum! {
    /// How far a rotation is.
    RotationState {
        /// Durable, not begun.
        Queued = "queued",
        /// Under way.
        Running = "running",
        /// Waiting for somebody to go on.
        Paused = "paused",
        /// Complete: the old keys are gone.
        Done = "done",
        /// Given up; the detail says why.
        Failed = "failed",
        /// Given up by request.
        Cancelled = "cancelled",
    }
}

word_enum! {
    /// Whether the vault can be used.
    State {
        /// The root key is not loaded.
        Locked = "locked",
        /// In service.
        Unlocked = "unlocked",
        /// The engine failed; the process must be restarted.
        Failed = "failed",
    }
}

/// A caller to be created.
pub struct NewCaller {
    /// For people.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Why it may read.
    pub purposes: Arc<[Purpose]>,
    /// When its API token stops working.
    pub expires_at: Option<Timestamp>,
    /// How many lookups it may make a minute, in place of what is usual; 0 for any number.
    pub lookups_per_minute: Option<u32>,
}

/// An authenticated API client.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Its id.
    pub id: CallerId,
    /// For people.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Why it may read.
    pub purposes: Arc<[Purpose]>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its API token stops working.
    pub expires_at: Option<Timestamp>,
    /// Until when the API token before its present one works too.
    pub previous_valid_until: Option<Timestamp>,
    /// When it was last seen; after a crash up to some minutes too early.
    pub last_used_at: Option<Timestamp>,
    /// How many lookups it may make a minute, in place of what is usual; 0 for any number.
    pub lookups_per_minute: Option<u32>,
}

/// What replaced a caller's API token.
pub struct NewToken {
    /// The caller.
    pub caller: Caller,
    /// Its new API token, which is nowhere else.
    pub token: Zeroizing<String>,
    /// When the API token before stops working.
    pub previous_valid_until: Timestamp,
}

/// A rotation and how far it is.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// Its id.
    pub id: RotationId,
    /// What it replaces.
    pub layer: Layer,
    /// How far it is.
    pub state: RotationState,
    /// Bound on its speed, in pages or subjects a second.
    pub rate: Option<u32>,
    /// Pages or subjects done.
    pub done: u64,
    /// Pages or subjects in all, as counted when it started.
    pub total: u64,
    /// When it was asked for.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// How many it was done with a second so far, while it is under way.
    pub per_second: Option<u64>,
    /// When it will end if it stays as fast.
    pub eta: Option<Timestamp>,
    /// What it waits for, or why it failed.
    pub detail: Option<String>,
}

/// What the vault counts; kept in the META record with every commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Living subjects, the refused among them.
    pub subjects: u64,
    /// Shredded ids that are remembered.
    pub tombstones: u64,
    /// Subjects refused and not final yet.
    pub refused: u64,
    /// Callers that were not revoked.
    pub callers: u64,
    /// Pages of the trie, without the header.
    pub pages: u64,
    /// Data rows.
    pub rows: u64,
    /// Subjects and compartments that were ever shredded.
    pub shreds: u64,
}

/// How the vault is.
#[derive(Clone, Debug)]
pub struct Status {
    /// Which vault.
    pub vault: VaultId,
    /// Whether it can be used.
    pub state: State,
    /// Counts root keys; unknown while locked.
    pub epoch: Option<u64>,
    /// What it holds; unknown while locked.
    pub counts: Option<Counts>,
    /// The root slots.
    pub slots: Vec<SlotStatus>,
    /// Whether a key in an HSM opens every slot, so that a slot rotation makes shreds final on the slots' own disks (F2).
    pub all_in_hardware: bool,
    /// The storage engine.
    pub store: Health,
    /// The cache of opened pages.
    pub cache: CacheStats,
    /// The sweep of values whose time is over.
    pub retention: RetentionStatus,
    /// The erasures that are open; unknown while locked.
    pub erasures: Option<OpenErasures>,
    /// The rotations under way.
    pub rotations: Vec<RotationProgress>,
    /// The ages of keys, as they were looked at last; none while locked.
    pub key_ages: Vec<LayerStatus>,
    /// The audit log; none if there is none.
    pub log: Option<LogStatus>,
}

/// How far a rotation under way is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotationProgress {
    /// Which one it is.
    pub id: RotationId,
    /// What it replaces.
    pub layer: Layer,
    /// Pages or subjects done.
    pub done: u64,
    /// Pages or subjects in all.
    pub total: u64,
    /// How many it was done with a second since it was begun, resumed or throttled; 0 before the first.
    pub per_second: u64,
    /// Seconds that it will take if it stays as fast; none while it rests.
    pub remaining_seconds: Option<u64>,
    /// Why its last step did not go through; it is tried again.
    pub waits_for: Option<String>,
}

/// What the last pass over expired values did, or the present one did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionStatus {
    /// When the last pass was begun; none since the process started.
    pub started_at: Option<Timestamp>,
    /// When a pass was last completed.
    pub finished_at: Option<Timestamp>,
    /// Subjects it looked at.
    pub subjects: u64,
    /// Values it forgot for good.
    pub forgotten: u64,
    /// Expired values it left, for their subject is under a legal hold.
    pub held: u64,
    /// Subjects it could not deal with.
    pub failed: u64,
    /// Values that all passes since the process started forgot.
    pub forgotten_in_all: u64,
}

/// What a scrub found.
#[derive(Clone, Debug, Default)]
pub struct VerifyReport {
    /// Pages that opened.
    pub pages: u64,
    /// Living subjects.
    pub subjects: u64,
    /// Fields that opened.
    pub fields: u64,
    /// What is damaged or missing; names kinds and positions, never ids or values.
    pub problems: Vec<String>,
}
