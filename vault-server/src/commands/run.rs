//! `run`: serve a vault made by `init`.

use axum_server::tls_rustls::RustlsConfig;

use super::{Failure, block_on};
use crate::app::App;
use crate::args::AcceptingArgs;
use crate::config::{Config, Tls};
use crate::process::lock_memory;
use crate::serve::{bind, say, serve};
use crate::site::Site;
use crate::tls;

pub(super) fn run(config: &Config, accepting: AcceptingArgs) -> Result<(), Failure> {
    lock_memory(config.process.lock_memory)?;
    let site = Site::of_config(config).accepting_loss(accepting.accept_loss);
    for slot in site.slots_beside_store() {
        tracing::warn!(slot, "this root slot is on the same disk as the store: one image of that disk holds both");
    }
    let listener = bind(config.server.listen)?;
    block_on(async {
        let tls = tls(&config.tls)?;
        let vault = site.open().await?;
        match &site.unlock {
            Some(_) => site.unlock(&vault, None).await?,
            None => tracing::info!("the vault is locked: unlock it with `vault-cli unlock`"),
        }
        let app = App::new(vault.clone(), site.unlock.clone(), &config.limits, site.backups.clone());
        let scheme = if tls.is_some() { "https" } else { "http" };
        serve(vault, app, listener, tls, |address| say(&format!("listening on {scheme}://{address}"))).await
    })
}

fn tls(tls: &Tls) -> Result<Option<RustlsConfig>, Failure> {
    let (Some(cert), Some(key)) = (&tls.cert, &tls.key) else {
        tls::outlive_hangup()?;
        return Ok(None);
    };
    let live = RustlsConfig::from_config(tls::load(cert, key)?);
    tls::reload_on_hangup(live.clone(), cert, key)?;
    Ok(Some(live))
}
