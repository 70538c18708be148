//! `backup`: both planes of a vault as archives in a directory, by the server that runs or from the store that stands still.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use indicatif::HumanBytes;
use serde_json::json;
use vault_core::Error;
use vault_core::audit::{Action, Entry, Outcome};
use vault_core::backup::Plane;
use vault_core::ids::BackupId;
use vault_core::vault::{BackupAsk, Vault};

use super::{Failure, IN_USE, bar, block_on, local, remote, styled};
use crate::archives::{self, Incoming, Kind};
use crate::args::{BackupArgs, Step};
use crate::logging::LogFormat;
use crate::remote::Remote;
use crate::serve::say;
use crate::site::Site;

pub(super) fn run(args: &BackupArgs, format: Option<LogFormat>) -> Result<(), Failure> {
    if let Some(remote) = remote(&args.of)? {
        return match &args.out {
            Some(out) => args.steps().into_iter().try_for_each(|step| of_server(&remote, args, step, out)),
            None => remote.delete("/v1/backups/retained").map(|_| say(RELEASED)),
        };
    }
    let site = local(&args.of, format)?;
    block_on(async {
        let vault = site.open().await?;
        let outcome = of_store(&site, &vault, args).await;
        vault.close().await?;
        outcome
    })
    .map_err(|failure| failure.if_in_use(IN_USE))
}

const RELEASED: &str = "no root is retained any more: shreds that waited for a key plane become final \
                        once every root slot answers";

async fn of_store(site: &Site, vault: &Vault, args: &BackupArgs) -> Result<(), Failure> {
    // Who is named is told before a passphrase is asked for.
    if args.out.is_some() {
        site.backups.recipients(&args.recipient).map_err(Error::from)?;
    }
    if args.release || args.steps().iter().any(|step| step.plane == Plane::Keys) {
        site.unlock(vault, args.of.passphrase_file.as_deref()).await?;
    }
    let Some(out) = &args.out else {
        vault.forget_retained().await?;
        vault.log(&[Entry::new(Action::Backup, Outcome::Done)]).await?;
        say(RELEASED);
        return Ok(());
    };
    for step in args.steps() {
        vault.log(&[Entry::new(Action::Backup, Outcome::Done)]).await?;
        write(site, vault, args, step, out).await?;
    }
    Ok(())
}

async fn write(site: &Site, vault: &Vault, args: &BackupArgs, step: Step, out: &Path) -> Result<(), Failure> {
    let plane = step.plane;
    let recipients = site.backups.recipients(&args.recipient).map_err(Error::from)?;
    let base = since(step, out)?.and_then(|id| site.backups.index(id).ok());
    let retain = args.retain && plane == Plane::Keys;
    let ask = BackupAsk { base, retain, ..BackupAsk::new(plane, recipients) };
    let mut incoming = Incoming::begin(out, Kind::of(plane, ask.base.is_some()), ask.id)?;
    let bar = bar(name(plane), args.no_progress);
    let progress = |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    };
    let made = vault.back_up(&ask, &mut incoming, &progress).await;
    bar.finish_and_clear();
    let made = made?;
    let bytes = incoming.bytes();
    let path = incoming.place()?;
    if retain {
        vault.keep_backup(ask.id).await?;
    }
    if let Some(Err(why)) = made.index.map(|index| site.backups.keep(&index)) {
        note!("warning: no increment can be made of this data plane, for its index could not be written: {why}");
    }
    let manifest = made.manifest;
    say(&told(plane, &path, &format!("{} rows, {}", manifest.rows, HumanBytes(bytes))));
    Ok(())
}

fn of_server(remote: &Remote, args: &BackupArgs, step: Step, out: &Path) -> Result<(), Failure> {
    let plane = step.plane;
    let known = remote.get("/v1/backups")?;
    let known = |id: &BackupId| known["data"].as_array().is_some_and(|known| known.contains(&json!(id.to_string())));
    let base = since(step, out)?.filter(known);
    let retain = args.retain && plane == Plane::Keys;
    let mut asked = json!({ "plane": plane.as_str(), "recipients": args.recipient, "retain": retain });
    if let Some(base) = base {
        asked["since"] = json!(base.to_string());
    }
    let (id, body) = remote.receive("/v1/backups", &asked)?;
    let received = keep(args, plane, Kind::of(plane, base.is_some()), (id, body), out);
    let (path, bytes) = received.inspect_err(|_| {
        if retain {
            // Or shreds would wait for it for an hour. A server that is gone forgets it by itself.
            let _ = remote.delete(&format!("/v1/backups/{id}"));
        }
    })?;
    if retain {
        remote.post(&format!("/v1/backups/{id}/keep"), &json!({}))?;
    }
    say(&told(plane, &path, &HumanBytes(bytes).to_string()));
    Ok(())
}

/// Writes an archive while it comes.
fn keep(
    args: &BackupArgs,
    plane: Plane,
    kind: Kind,
    (id, body): (BackupId, impl Read),
    out: &Path,
) -> Result<(PathBuf, u64), Failure> {
    let mut incoming = Incoming::begin(out, kind, id)?;
    // How much there will be is not known.
    let bar = styled(&format!("{} {{spinner}} {{bytes}} {{bytes_per_sec}} {{elapsed}}", name(plane)), args.no_progress);
    let received = std::io::copy(&mut bar.wrap_read(body), &mut incoming).and_then(|_| incoming.flush());
    bar.finish_and_clear();
    received.map_err(|why| {
        let told = "the server's log says why if it was the server; nothing was kept. Begin again";
        Failure::failed(format!("the {} broke off ({why}): {told}", name(plane)))
    })?;
    let bytes = incoming.bytes();
    Ok((incoming.place()?, bytes))
}

/// The data plane that an increment is asked for.
fn since(step: Step, out: &Path) -> Result<Option<BackupId>, Failure> {
    if !step.incremental {
        return Ok(None);
    }
    let found = archives::list(out)?;
    Ok(found.into_iter().rfind(|archive| archive.kind != Kind::Keys).map(|archive| archive.id))
}

fn told(plane: Plane, path: &Path, size: &str) -> String {
    format!("{}: {} ({size})", name(plane), path.display())
}

fn name(plane: Plane) -> &'static str {
    match plane {
        Plane::Data => "data plane",
        Plane::Keys => "key plane",
    }
}
