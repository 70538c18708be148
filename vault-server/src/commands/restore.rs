//! `restore`: a vault from backups and its root slots; as a drill, into a scratch directory that is gone afterwards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Poll;

use tempfile::TempDir;
use vault_core::Error;
use vault_core::audit::{Action, Entry, LogError, WIDTH};
use vault_core::backup::Identities;
use vault_core::root::{SlotPlace, Unlock};
use vault_core::time::Timestamp;
use vault_core::vault::{DrillReport, RestoreAsk, RestoreReport, RestoreStep, Vault, VaultOptions};

use super::{Failure, block_on, styled};
use crate::archives;
use crate::args::RestoreArgs;
use crate::files;
use crate::serve::say;
use crate::site::Site;

/// A file system in memory: what is written there reaches no disk.
const MEMORY: &str = "/dev/shm";

pub(super) fn run(args: &RestoreArgs, site: &Site) -> Result<(), Failure> {
    let archives = Archives::of(args)?;
    match args.drill {
        true => drill(args, site, &archives),
        false => restore(args, site, &archives),
    }
}

/// What is restored, and what opens it.
struct Archives {
    keys: PathBuf,
    data: Vec<PathBuf>,
    identities: Arc<Identities>,
}

impl Archives {
    fn of(args: &RestoreArgs) -> Result<Self, Failure> {
        let identities = Identities::read(&args.identity).map_err(Error::from)?;
        let found = args.from.as_deref().map(archives::list).transpose()?.unwrap_or_default();
        let (keys, data) = archives::newest(&found);
        let missing = |what: &str, option: &str| {
            let dir = args.from.as_deref().unwrap_or(Path::new("."));
            Failure::failed(format!("there is no {what} in {}: name one with {option}", dir.display()))
        };
        let keys = args.key_plane.clone().or(keys).ok_or_else(|| missing("key plane", "--key-plane"))?;
        let data = if args.data_plane.is_empty() { data } else { args.data_plane.clone() };
        match data.is_empty() {
            true => Err(missing("data plane", "--data-plane")),
            false => Ok(Self { keys, data, identities: Arc::new(identities) }),
        }
    }

    fn tell(&self) {
        say(&format!("key plane: {}", self.keys.display()));
        self.data.iter().for_each(|path| say(&format!("data plane: {}", path.display())));
    }
}

fn restore(args: &RestoreArgs, site: &Site, archives: &Archives) -> Result<(), Failure> {
    archives.tell();
    if !site.audit.exists() {
        note!(
            "warning: there is no audit log in {}, and a new one is begun: if there is one, put it there first",
            site.audit.display()
        );
    }
    let unlock = site.unlock_key(args.passphrase_file.as_deref())?;
    let (report, since) = block_on(async {
        site.hold_slots()?;
        let options = site.logged()?;
        let (vault, report) = from(args, site, archives, unlock, options).await?;
        let since = changed_since(&vault, report.data.created_at.min(report.keys.created_at));
        vault.close().await?;
        vault.close_log();
        Ok((report, since?))
    })
    .map_err(|failure| failure.if_in_use(". Nothing is restored into a vault that is served"))?;
    tell(&report);
    if !report.log_is_other {
        tell_changed(&since);
    }
    verdict(report.verify.problems)
}

/// What the audit log tells of changes behind the archives: the vault does not know them any more.
#[derive(Default)]
struct Changed {
    /// The first of these entries.
    from: Option<u64>,
    counts: BTreeMap<&'static str, u64>,
}

fn changed_since(vault: &Vault, since: Timestamp) -> Result<Changed, Failure> {
    let log = vault.audit_log()?;
    let mut changed = Changed::default();
    let mut look = |index, bytes: &[u8]| {
        // What rode in a commit changed something.
        let Some(entry) = Entry::decode(bytes).filter(|entry| entry.commit.is_some() && entry.at > since) else {
            return;
        };
        if !matches!(entry.what, Action::Restore | Action::Backup | Action::Slots | Action::Unlock) {
            changed.from.get_or_insert(index);
            *changed.counts.entry(entry.what.as_str()).or_default() += entry.count.unwrap_or(1);
        }
    };
    let mut from = 0;
    loop {
        match log.scan(from..log.size(), &mut look) {
            Ok(()) => return Ok(changed),
            // A bundle that was moved away.
            Err(LogError::MovedAway { index }) => from = (index / WIDTH + 1) * WIDTH,
            Err(error) => return Err(Error::from(error).into()),
        }
    }
}

fn tell_changed(changed: &Changed) {
    let Some(from) = changed.from else { return };
    let counts: Vec<String> = changed.counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
    say(&format!(
        "  changed since the archives were made, and back to what it was: {}. See `vault-cli audit export --from {from}`, \
         and do again what must hold: erasures, forgotten fields, consents, revoked callers",
        counts.join(", ")
    ));
}

/// The real slots are only read, once: a restore changes the root in its own.
fn drill(args: &RestoreArgs, site: &Site, archives: &Archives) -> Result<(), Failure> {
    archives.tell();
    // Before there is anything to be cleaned up.
    let unlock = site.unlock_key(args.passphrase_file.as_deref())?;
    let place = args.scratch.clone().unwrap_or_else(std::env::temp_dir);
    let memory = Some(Path::new(MEMORY)).filter(|memory| memory.is_dir());
    [Some(place.as_path()), memory].into_iter().flatten().for_each(sweep);
    let scratch = scratch(&place)?;
    if memory.is_none() {
        note!(
            "warning: there is no {MEMORY}, so the root slots are copied to {}: images of that disk hold them",
            scratch.path().display()
        );
    }
    let slots = Slots::copied(&site.slots, memory.unwrap_or(scratch.path()))?;
    let stand_in = site.stand_in(scratch.path(), slots.places.clone());
    let outcome = block_on(async {
        tokio::select! {
            outcome = try_out(args, &stand_in, archives, unlock) => outcome,
            // It is cleaned up all the same.
            () = interrupted() => Err(Failure::failed("the drill was interrupted, and proves nothing")),
        }
    });
    let cleaned = slots.wipe().and_then(|()| scratch.close());
    let (report, drilled) = outcome?;
    cleaned.map_err(|why| {
        let told = "remove them yourself: they hold a copy of the root slots";
        Failure::failed(format!("the drill's own files could not be removed ({why}): {told}"))
    })?;
    tell(&report);
    tell_drill(&drilled);
    let mut problems: Vec<String> = report.verify.problems.into_iter().chain(drilled.problems).collect();
    let empty = report.missing + report.unreadable;
    if empty > 0 && empty * 2 > drilled.living_opened {
        problems.push(format!(
            "{empty} of {} compartments hold nothing: this data plane is too old for the key plane, or is not this vault's own",
            drilled.living_opened
        ));
    }
    verdict(problems)
}

async fn try_out(
    args: &RestoreArgs,
    stand_in: &Site,
    archives: &Archives,
    unlock: Unlock,
) -> Result<(RestoreReport, DrillReport), Failure> {
    let (vault, report) = from(args, stand_in, archives, unlock, stand_in.unlogged()).await?;
    let drilled = vault.drill(&archives.data[0], &archives.identities).await;
    vault.close().await?;
    Ok((report, drilled?))
}

async fn from(
    args: &RestoreArgs,
    site: &Site,
    archives: &Archives,
    unlock: Unlock,
    options: VaultOptions,
) -> Result<(Vault, RestoreReport), Failure> {
    let ask = RestoreAsk {
        store: site.open_store()?,
        places: site.slots.clone(),
        identities: archives.identities.clone(),
        keys: archives.keys.clone(),
        data: archives.data.clone(),
        options,
        accept_unknown_refusals: args.accept_unknown_refusals,
    };
    let bar = styled("{spinner} {msg}: {pos} rows {elapsed}", args.no_progress);
    let progress = |step, done| {
        bar.set_message(word(step));
        bar.set_position(done);
    };
    let restored = Vault::restore(&ask, unlock, &progress).await;
    bar.finish_and_clear();
    Ok(restored?)
}

/// Somebody, or the system, asks it to end.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut asked = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
    std::future::poll_fn(|context| {
        let any = asked.iter_mut().flatten().any(|signal| signal.poll_recv(context).is_ready());
        if any { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// How directories of drills are named; their process follows.
const PREFIX: &str = "udv-drill-";

/// Removes what drills left that were killed.
fn sweep(place: &Path) {
    for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists()) {
            overwrite_all(&entry.path());
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Writes zeros over the copies of slots in a directory.
fn overwrite_all(dir: &Path) {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    // The store's files are sealed rows.
    for path in entries.filter(|path| path.file_name().is_some_and(|name| name != "store")) {
        if path.is_dir() {
            overwrite_all(&path);
        } else {
            let _ = files::overwrite(&path);
        }
    }
}

fn scratch(place: &Path) -> Result<TempDir, Failure> {
    let made = tempfile::Builder::new().prefix(&format!("{PREFIX}{}-", std::process::id())).tempdir_in(place);
    made.map_err(|why| {
        let told = "name another place with --scratch";
        Failure::failed(format!("no scratch directory can be made in {} ({why}): {told}", place.display()))
    })
}

/// Copies of root slots, with the refusals that are noted beside them.
struct Slots {
    places: Vec<SlotPlace>,
    dir: TempDir,
}

impl Slots {
    fn copied(slots: &[SlotPlace], place: &Path) -> Result<Self, Failure> {
        let dir = scratch(place)?;
        let mut places = Vec::new();
        for (number, slot) in slots.iter().enumerate() {
            let to = dir.path().join(number.to_string());
            let copied = std::fs::create_dir(&to).and_then(|()| copy(slot.file(), &to));
            match copied {
                Ok(file) => places.push(slot.moved_to(file)),
                Err(why) => note!("warning: the drill goes without the root slot {slot}: {why}"),
            }
        }
        match places.is_empty() {
            true => Err(Failure::failed("no root slot could be read: a restore needs one")),
            false => Ok(Self { places, dir }),
        }
    }

    /// Overwrites and removes them.
    fn wipe(self) -> std::io::Result<()> {
        for number in 0.. {
            let Ok(entries) = std::fs::read_dir(self.dir.path().join(number.to_string())) else { break };
            for entry in entries {
                files::overwrite(&entry?.path())?;
            }
        }
        self.dir.close()
    }
}

/// The slot's file, and the refusals beside it (`<slot>.<epoch>.refusals`).
fn copy(slot: &Path, to: &Path) -> std::io::Result<PathBuf> {
    let name = slot.file_name().unwrap_or_default();
    std::fs::copy(slot, to.join(name))?;
    for entry in std::fs::read_dir(files::parent(slot))? {
        let beside = entry?.file_name();
        let (Some(text), Some(slot_name)) = (beside.to_str(), name.to_str()) else { continue };
        if text.starts_with(slot_name) && text.ends_with(".refusals") {
            std::fs::copy(files::parent(slot).join(&beside), to.join(&beside))?;
        }
    }
    Ok(to.join(name))
}

fn tell(report: &RestoreReport) {
    let RestoreReport { keys, data, subjects, rows, .. } = report;
    say(&format!(
        "restored: {subjects} subjects, {rows} rows; data of {}, keys of {}",
        data.created_at, keys.created_at
    ));
    let some = |count: u64, what: &str| {
        if count > 0 {
            say(&format!("  {count} {what}"));
        }
    };
    some(
        report.left_out,
        "rows left out, for no key leads to them: of subjects shredded since the data plane was made",
    );
    some(report.missing, "compartments without a row: written after the data plane was made, and empty now");
    some(report.unreadable, "rows that their keys do not open, as after a field was forgotten for good: empty now");
    some(report.lookups_mended, "subjects whose lookups were brought up to their data");
    some(report.refused_again, "subjects and compartments refused again, as they were when the key plane lagged");
    if report.log_is_other {
        say(
            "  the audit log is not the one that the archives tell of: what changed since they were made is not known, and earlier \
             erasures get no certificates. If there is a later copy of it, put that there and restore again",
        );
    }
    if report.unknown_refusals {
        say("  it is not known who was refused since the key plane was made: shred them again by the audit log");
    }
}

fn tell_drill(drilled: &DrillReport) {
    let DrillReport { living_opened, dead_refused, dead_expired, rows_tried, keys_tried, .. } = drilled;
    say(&format!(
        "drill: {living_opened} compartments of living subjects opened; {dead_refused} shredded subjects answer so, and \
         {dead_expired} are unknown by now; {rows_tried} old rows of subjects without a key opened with none of \
         {keys_tried} keys"
    ));
}

fn verdict(problems: Vec<String>) -> Result<(), Failure> {
    if problems.is_empty() {
        say("verified: everything that is there opens");
        return Ok(());
    }
    say(&problems.join("\n"));
    let told = format!("{} problems in what was restored: use another backup", problems.len());
    Err(Failure::damage(told).of_verification())
}

fn word(step: RestoreStep) -> &'static str {
    match step {
        RestoreStep::Checking => "checking the archives",
        RestoreStep::Writing => "writing",
        RestoreStep::Mending => "comparing lookups",
        RestoreStep::Verifying => "verifying",
    }
}
