//! `verify`: check a stopped vault from end to end.

use vault_core::audit::{self, LogReport};

use super::{Failure, FailureKind, bar, block_on};
use crate::args::VerifyArgs;
use crate::serve::say;
use crate::site::Site;

pub(super) fn run(args: &VerifyArgs, site: &Site) -> Result<(), Failure> {
    block_on(async {
        // The log is looked at beside the vault and not opened with it: that would mend and sign what shall be told.
        let logged = Logged::look(site, args.no_progress);
        let vault = match site.open_unlogged().await {
            Ok(vault) => vault,
            Err(failure) if failure.kind == FailureKind::StoreInUse => return Err(failure),
            Err(failure) => return Err(logged?.and_then(|logged| logged.told(site, &[])).unwrap_or(failure)),
        };
        let logged = logged?;
        site.unlock_at_rest(&vault, args.passphrase_file.as_deref()).await?;
        let bar = bar("verifying", args.no_progress);
        let report = vault
            .verify(&|done, total| {
                bar.set_length(total);
                bar.set_position(done);
            })
            .await;
        bar.finish_and_clear();
        let keys = vault.log_signers().await;
        vault.close().await?;
        let report = report?;
        let keys = keys.unwrap_or_default();
        let damage = match logged {
            Some(logged) => logged.told(site, &keys),
            None if keys.is_empty() => None,
            None => Some(Failure::damage(format!("the audit log {} is missing: put it back", site.audit.display()))),
        };
        let seen = format!("{} pages, {} subjects, {} fields", report.pages, report.subjects, report.fields);
        if report.problems.is_empty() {
            say(&format!("the vault is whole: {seen}"));
            return damage.map_or(Ok(()), Err);
        }
        say(&report.problems.join("\n"));
        let told = format!("{} problems among {seen}: keep a copy, and restore what is listed", report.problems.len());
        Err(Failure::damage(told))
    })
    .map_err(|failure| failure.of_verification().if_in_use(". Only a stopped vault can be verified"))
}

/// The audit log as its files were found.
struct Logged {
    report: LogReport,
    /// The signed head; empty if there is none.
    head: Vec<u8>,
}

impl Logged {
    /// Checks the files; none if there is no log.
    fn look(site: &Site, hidden: bool) -> Result<Option<Self>, Failure> {
        if !site.audit.is_dir() {
            return Ok(None);
        }
        let head = std::fs::read(site.audit.join("checkpoint")).unwrap_or_default();
        let bar = bar("checking the audit log", hidden);
        let report = audit::check(&site.audit, None, &|done, total| {
            bar.set_length(total);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        let report = report.map_err(|error| Failure::failed(error.to_string()))?;
        Ok(Some(Self { report, head }))
    }

    /// Says how the log is, with the keys that the vault has for it; answers what is wrong.
    fn told(mut self, site: &Site, keys: &[String]) -> Option<Failure> {
        let own = match &self.report.log_key {
            Some(key) => keys.contains(key),
            None => self.head.is_empty() || keys.iter().any(|key| audit::signed_size(&self.head, key).is_some()),
        };
        if !keys.is_empty() && !own {
            self.report.problems.push("the checkpoint is not signed by the vault's key for the log".to_owned());
        }
        let Self { report, .. } = self;
        if report.problems.is_empty() {
            say(&format!("the audit log is whole: {} entries, {} of them signed", report.size, report.signed));
            return None;
        }
        say(&report.problems.join("\n"));
        let told = format!(
            "{} problems in the audit log {}: keep it as it is, it is evidence; and put back a copy of it",
            report.problems.len(),
            site.audit.display()
        );
        Some(Failure::damage(told))
    }
}
