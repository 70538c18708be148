//! `verify`: check a stopped vault from end to end.

mod salvage;

use std::collections::HashSet;
use std::path::Path;

use vault_core::audit::{self, KeptHead, LogReport};
use vault_core::certificate;

use super::{Failure, FailureKind, bar, block_on};
use crate::args::VerifyArgs;
use crate::serve::say;
use crate::site::Site;

pub(super) fn run(args: &VerifyArgs, site: &Site) -> Result<(), Failure> {
    if let Some(dir) = &args.salvage {
        return salvage::run(dir, args, site);
    }
    block_on(async {
        // The log is looked at beside the vault and not opened with it: that would mend and sign what shall be told.
        let certificates = args.certificates.as_deref().map(Certificates::read).transpose()?.unwrap_or_default();
        let logged = Logged::look(site, certificates, args.no_progress);
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
        let untold = match &logged {
            Some(logged) => vault.verify_log(&logged.report, &|size| audit::root_at(&site.audit, size)).await,
            None => Ok(Vec::new()),
        };
        vault.close().await?;
        let mut report = report?;
        report.problems.extend(untold?);
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
    /// Certificates that were held against it.
    certificates: usize,
}

impl Logged {
    /// Checks the files; none if there is no log.
    fn look(site: &Site, certificates: Certificates, hidden: bool) -> Result<Option<Self>, Failure> {
        if !site.audit.is_dir() {
            return Ok(None);
        }
        let head = std::fs::read(site.audit.join("checkpoint")).unwrap_or_default();
        let bar = bar("checking the audit log", hidden);
        let Certificates { count, heads, problems } = certificates;
        let report = audit::check_with(&site.audit, None, &heads, &|done, total| {
            bar.set_length(total);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        let mut report = report.map_err(|error| Failure::failed(error.to_string()))?;
        report.problems.extend(problems);
        Ok(Some(Self { report, head, certificates: count }))
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
        let Self { report, certificates, .. } = self;
        if report.problems.is_empty() {
            say(&format!("the audit log is whole: {} entries, {} of them signed", report.size, report.signed));
            if certificates > 0 {
                say(&format!("{certificates} certificates hold, and are of this log"));
            }
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

/// Certificates of erasures, checked each for itself.
#[derive(Default)]
struct Certificates {
    count: usize,
    /// Their heads of the log, each once: what holds in one of them is in the log if it is the log's.
    heads: Vec<KeptHead>,
    problems: Vec<String>,
}

impl Certificates {
    fn read(dir: &Path) -> Result<Self, Failure> {
        let told = |path: &Path, why: std::io::Error| Failure::failed(format!("{}: {why}", path.display()));
        let mut found = Self::default();
        let mut seen = HashSet::new();
        for entry in std::fs::read_dir(dir).map_err(|why| told(dir, why))? {
            let path = entry.map_err(|why| told(dir, why))?.path();
            if path.extension().is_none_or(|kind| kind != "json") {
                continue;
            }
            found.count += 1;
            let bytes = std::fs::read(&path).map_err(|why| told(&path, why))?;
            match certificate::check(&bytes, None) {
                Ok(checked) if seen.insert(checked.checkpoint.clone()) => {
                    found.heads.push((path.display().to_string(), checked.checkpoint.into_bytes()));
                }
                Ok(_) => {}
                Err(error) => found.problems.push(format!("{}: {error}", path.display())),
            }
        }
        Ok(found)
    }
}
