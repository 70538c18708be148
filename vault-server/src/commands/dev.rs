//! `dev`: a vault to try out, made if it is new, unlocked, on the loopback.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use vault_core::crypto::passphrase::new_key_file;
use vault_core::root::NewUnlock;
use vault_core::vault::{NewCaller, Role};

use super::{Failure, block_on, variables};
use crate::app::App;
use crate::args::DevArgs;
use crate::process::lock_memory;
use crate::serve::{bind, say, serve};
use crate::site::{ADMIN_TOKEN, SLOT, STORE, Site, UNLOCK_KEY};
use crate::{config, files};

pub(super) fn run(args: &DevArgs) -> Result<(), Failure> {
    if !args.listen.ip().is_loopback() {
        let told = "`dev` listens on the loopback only, for it has no TLS: to serve others, make a vault with \
                    `vault-server init` and serve it with `vault-server run` and [tls] in its configuration";
        return Err(Failure::usage(format!("{} is not a loopback address. {told}", args.listen)));
    }
    if let Some((name, _)) = variables().find(|(name, _)| name.starts_with("UDV_") && name.contains("__")) {
        note!("{name} is not used: `dev` has no configuration. `vault-server init` and `run` have one");
    }
    lock_memory(config::LockMemory::Auto)?;
    let listener = bind(args.listen)?;
    let dir = place(&args.data)?;
    block_on(async {
        if is_new(&dir)? {
            make(&dir).await?;
        }
        let site = Site::of_dir(&dir).accepting_loss(args.accepting.accept_loss);
        let vault = site.open().await?;
        site.unlock(&vault, None).await?;
        let limits = config::Limits::default();
        let app = App::new(vault.clone(), site.unlock.clone(), &limits, site.backups.clone());
        serve(vault, app, listener, None, |address| say(&greeting(address, &args.data))).await
    })
}

/// The directory without `.` and links that its last part may be.
fn place(data: &Path) -> Result<PathBuf, Failure> {
    let told = |why: std::io::Error| Failure::failed(format!("the directory {} cannot be used: {why}", data.display()));
    if data.exists() { data.canonicalize().map_err(told) } else { std::path::absolute(data).map_err(told) }
}

/// Whether a vault has to be made: there is nothing yet. What is neither a vault nor empty is left alone.
fn is_new(dir: &Path) -> Result<bool, Failure> {
    let told = |why: std::io::Error| Failure::failed(format!("the directory {} cannot be read: {why}", dir.display()));
    if !dir.exists() {
        return Ok(true);
    }
    if dir.join(STORE).exists() || dir.join(SLOT).exists() {
        return Ok(false);
    }
    if std::fs::read_dir(dir).map_err(told)?.next().is_none() {
        return Ok(true);
    }
    let told = "is neither empty nor a vault: choose another directory with --data";
    Err(Failure::failed(format!("{} {told}", dir.display())))
}

/// Makes a vault beside its place and moves it there when it is complete, so that a half-made one is never found.
async fn make(dir: &Path) -> Result<(), Failure> {
    let told = |why: std::io::Error| Failure::failed(format!("the vault {} cannot be made: {why}", dir.display()));
    let name = dir.file_name().ok_or_else(|| Failure::usage("--data takes the name of a directory"))?;
    let parent = files::parent(dir);
    std::fs::create_dir_all(parent).map_err(told)?;
    let staging = parent.join(format!(".{}.new", name.to_string_lossy()));
    if staging.exists() {
        // Left by a start that was killed; nobody ever had its keys.
        std::fs::remove_dir_all(&staging).map_err(told)?;
    }
    files::make_private_dir(&staging).map_err(told)?;
    let placed = match fill(&staging).await {
        Ok(()) => std::fs::rename(&staging, dir).map_err(|why| unplaced(dir, &why)),
        Err(failure) => Err(failure),
    };
    if placed.is_err() {
        let _ = std::fs::remove_dir_all(&staging);
    }
    placed?;
    files::sync_dir(parent).map_err(told)
}

fn unplaced(dir: &Path, why: &std::io::Error) -> Failure {
    let hint = match why.kind() {
        ErrorKind::ResourceBusy | ErrorKind::CrossesDevices => {
            ". A mount point itself cannot be taken: name a directory in it"
        }
        _ => "",
    };
    Failure::failed(format!("the vault {} cannot be made: {why}{hint}", dir.display()))
}

async fn fill(dir: &Path) -> Result<(), Failure> {
    let told = |why: std::io::Error| Failure::failed(format!("{} cannot be written: {why}", dir.display()));
    let (key, text) = new_key_file();
    files::write_secret(&dir.join(UNLOCK_KEY), &text).map_err(told)?;
    let vault = Site::of_dir(dir).create(vec![NewUnlock::KeyFile(key)]).await?;
    let (_, token) = vault.create_caller(admin(), None).await?;
    vault.close().await?;
    let line = zeroize::Zeroizing::new(format!("{}\n", *token));
    files::write_secret(&dir.join(ADMIN_TOKEN), &line).map_err(told)
}

/// The first caller of a vault.
pub(super) fn admin() -> NewCaller {
    NewCaller {
        name: "admin".to_owned(),
        role: Role::Admin,
        purposes: [].into(),
        expires_at: None,
        lookups_per_minute: None,
    }
}

fn greeting(address: SocketAddr, data: &Path) -> String {
    let token = data.join(ADMIN_TOKEN);
    let token = token.display();
    let client = client(address, data);
    format!(
        "listening on http://{address}\n\
         the vault is in {data}, its admin's API token in {token}\n\
         \n\
         try:\n  \
         curl -H \"Authorization: Bearer $(cat {token})\" http://{address}/v1/status\n  \
         {client} subject put jane name=\"Jane Doe\" phone=+12015550123\n  \
         {client} subject show jane --view full --purpose account\n",
        data = data.display(),
    )
}

/// How to call the client from here: it finds the usual address and directory by itself.
fn client(address: SocketAddr, data: &Path) -> String {
    let beside = std::env::current_exe().ok().map(|path| path.with_file_name("vault-cli")).filter(|path| path.exists());
    let program = beside.map_or_else(|| "vault-cli".to_owned(), |path| path.display().to_string());
    let url = if address.port() == 8250 { String::new() } else { format!(" --url http://{address}") };
    let usual = data == Path::new("./vault-data") || data == Path::new("vault-data");
    let token = if usual { String::new() } else { format!(" --token-file {}", data.join(ADMIN_TOKEN).display()) };
    format!("{program}{url}{token}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_not_a_vault_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_new(&dir.path().join("absent")).unwrap());
        assert!(is_new(dir.path()).unwrap());
        std::fs::write(dir.path().join("notes.txt"), "mine").unwrap();
        assert!(is_new(dir.path()).unwrap_err().to_string().contains("neither empty nor a vault"));
        std::fs::write(dir.path().join(SLOT), "").unwrap();
        assert!(!is_new(dir.path()).unwrap());
    }

    #[test]
    fn others_are_not_served() {
        let accepting = crate::args::AcceptingArgs { accept_loss: false };
        let args = DevArgs { data: "unused".into(), listen: "0.0.0.0:0".parse().unwrap(), accepting };
        let failure = run(&args).unwrap_err();
        assert_eq!(failure.exit, 2);
        assert!(failure.to_string().contains("TLS"));
    }
}
