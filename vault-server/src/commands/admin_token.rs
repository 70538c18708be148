//! `admin-token`: a new admin API token for who lost the last one and can unlock the vault.

use super::dev::admin;
use super::init::hand_over;
use super::{Failure, block_on};
use crate::args::AdminTokenArgs;
use crate::site::Site;

pub(super) fn run(args: &AdminTokenArgs, site: &Site) -> Result<(), Failure> {
    if let Some(path) = args.out.as_ref().filter(|path| path.exists()) {
        let told = format!("{} exists already and is not overwritten: choose another path for --out", path.display());
        return Err(Failure::failed(told));
    }
    let token = block_on(async {
        let vault = site.open().await?;
        site.unlock(&vault, args.passphrase_file.as_deref()).await?;
        let made = vault.create_caller(admin(), None).await;
        vault.close().await?;
        Ok(made?.1)
    })
    .map_err(|failure| {
        failure.if_in_use(". While it runs, whoever still has an admin's API token uses `vault-cli caller create`")
    })?;
    hand_over(&token, args.out.as_deref())?;
    note!("the lost API token still works until it is revoked: `vault-cli caller list`, `vault-cli caller revoke`");
    Ok(())
}
