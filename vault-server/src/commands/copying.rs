//! `migrate` and `compact`: a stopped vault's store copied to a fresh one, compared with it, and put in its place.
//!
//! The copy is made in `DIR.new`, where a file marks it as unfinished until it is the store. Then the two change places at
//! once, and the store as it was becomes `DIR.old-ENGINE`. Whenever this is killed, `DIR` is one store or the other, and the
//! next call tidies up.

mod places;

use vault_core::store::{DiskStore, EngineName, Store, StoreError, copy};
use vault_core::vault::Vault;

use self::places::Places;
use super::{Failure, bar, block_on};
use crate::args::{CompactArgs, CopyingArgs, MigrateArgs};
use crate::serve::say;
use crate::site::Site;

/// Why the store as it was should not be kept for long.
const OLD: &str = "It holds rows of subjects who were shredded, too; no key opens them, but do not keep it longer than you \
                   need it";

pub(super) fn migrate(args: &MigrateArgs, site: &Site) -> Result<(), Failure> {
    let places = Places::of(&site.store)?;
    if places.engine()? == args.to {
        return already(args, site, &places);
    }
    let done = rebuild(site, &places, args.to, &args.copying)?;
    say(&format!("{} rows are copied and compared: the store is kept by {} now", done.rows, args.to));
    say(&format!("it takes {}, and took {} with {}", mib(done.after), mib(done.before), done.from));
    if site.engine != args.to {
        let (to, config) = (args.to, args.config.display());
        say(&format!("next: set `engine = \"{to}\"` under [store] in {config}, then start the server"));
    }
    tell_olds(args, &places)
}

/// The store is kept by that engine: what is left to do is to remove the old one.
fn already(args: &MigrateArgs, site: &Site, places: &Places) -> Result<(), Failure> {
    block_on(async {
        let store = open(site, args.to, places).await?;
        places.tidy()?;
        Ok(store.close().await?)
    })?;
    say(&format!("the store is kept by {} already", args.to));
    tell_olds(args, places)
}

/// Of every store as it was: whoever goes there and back leaves two.
fn tell_olds(args: &MigrateArgs, places: &Places) -> Result<(), Failure> {
    let again = format!("migrate --config {} --to {}", args.config.display(), args.to);
    let olds: Vec<_> = places.olds().collect();
    olds.into_iter().try_for_each(|engine| tell_old(places, engine, args.copying.remove, &again))
}

pub(super) fn compact(args: &CompactArgs, site: &Site) -> Result<(), Failure> {
    let places = Places::of(&site.store)?;
    let engine = places.engine()?;
    let whose = match (&args.which.config, &args.which.data) {
        (Some(config), _) => format!("--config {}", config.display()),
        (None, data) => format!("--data {}", data.iter().map(|dir| dir.display().to_string()).collect::<String>()),
    };
    if args.copying.remove && places.old(engine).exists() {
        // The store has to be one that opens before the other goes.
        block_on(async { Ok(open(site, engine, &places).await?.close().await?) })?;
        return tell_old(&places, engine, true, "");
    }
    let done = rebuild(site, &places, engine, &args.copying)?;
    say(&format!("{} rows are copied and compared", done.rows));
    say(&format!("the store took {}, and takes {} now", mib(done.before), mib(done.after)));
    tell_old(&places, engine, args.copying.remove, &format!("compact {whose}"))
}

/// Removes the store as it was, or says where it is and how it is removed.
fn tell_old(places: &Places, engine: EngineName, remove: bool, again: &str) -> Result<(), Failure> {
    let old = places.old(engine);
    if remove {
        places.remove(&old)?;
        say(&format!("removed the store as it was, {}", old.display()));
        return Ok(());
    }
    say(&format!("the store as it was is in {}. {OLD}: remove it with `vault-server {again} --remove`", old.display()));
    Ok(())
}

/// What was done.
struct Rebuilt {
    rows: u64,
    from: EngineName,
    /// Bytes on disk, without the reserves.
    before: u64,
    after: u64,
}

fn rebuild(site: &Site, places: &Places, to: EngineName, args: &CopyingArgs) -> Result<Rebuilt, Failure> {
    let from = places.engine()?;
    block_on(async {
        let source = open(site, from, places).await?;
        places.tidy()?;
        places.refuse_old(from)?;
        places.mark()?;
        let before = places.bytes(&places.store);
        let copied = copied(site, places, &source, to, args).await;
        // Nobody else gets at the store between its closing and its change of places.
        let held = source.hold();
        let closed = source.close().await;
        let rows = match copied {
            Ok(rows) => rows,
            Err(failure) => {
                places.discard()?;
                return Err(failure);
            }
        };
        let _held = held?;
        closed?;
        places.swap(from)?;
        Ok(Rebuilt { rows, from, before, after: places.bytes(&places.store) })
    })
}

/// Fills the fresh store and compares it with the source, as it is read back from the disk.
async fn copied(
    site: &Site,
    places: &Places,
    source: &dyn Store,
    to: EngineName,
    args: &CopyingArgs,
) -> Result<u64, Failure> {
    let counting = bar("counting", args.no_progress);
    let total = copy::count(source, |done| counting.set_position(done)).await;
    counting.finish_and_clear();
    let total = total?;

    let target = site.open_engine(to, &places.copy)?;
    let copying = bar("copying", args.no_progress);
    copying.set_length(total);
    let copied = copy::copy(source, &target, |done| copying.set_position(done)).await;
    copying.finish_and_clear();
    target.close().await?;
    drop(target);
    let rows = copied.map_err(|error| no_room(error, places))?;

    // Opened once more: what is compared is what the next start finds, and that start has less to read back.
    let target = site.open_engine(to, &places.copy)?;
    let comparing = bar("comparing", args.no_progress);
    comparing.set_length(total);
    let same = copy::same(source, &target, |done| comparing.set_position(done)).await;
    comparing.finish_and_clear();
    target.close().await?;
    if !same? || rows != total {
        return Err(Failure::failed("the copy differs from the store: it is discarded, and the store is as it was"));
    }
    Ok(rows)
}

fn no_room(error: StoreError, places: &Places) -> Failure {
    match error {
        StoreError::Full => Failure::failed(format!(
            "the disk of {} has not room for a copy of the store beside it: free some space and run this again; the store \
             is as it was",
            places.store.display()
        )),
        error => error.into(),
    }
}

/// The store, which has to be a vault's: what else its engine makes of what is left there would take its place.
async fn open(site: &Site, engine: EngineName, places: &Places) -> Result<DiskStore, Failure> {
    let opened = site.open_engine(engine, &places.store);
    let store = opened.map_err(|failure| failure.if_in_use(". Only a stopped vault's store can be copied"))?;
    if !Vault::is_in(&store).await? {
        store.close().await?;
        return Err(Failure::damage(format!(
            "there is no vault in {}, for its META record is missing: nothing was changed. Put back what is missing there, or \
             restore a backup",
            places.store.display()
        )));
    }
    Ok(store)
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
