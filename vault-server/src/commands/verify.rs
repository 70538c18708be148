//! `verify`: check a stopped vault from end to end.

use indicatif::{ProgressBar, ProgressStyle};

use super::{Failure, block_on};
use crate::args::VerifyArgs;
use crate::serve::say;
use crate::site::Site;

pub(super) fn run(args: &VerifyArgs, site: &Site) -> Result<(), Failure> {
    block_on(async {
        let vault = match site.open().await {
            Ok(vault) => vault,
            // What is wrong with a log that does not open, its files tell.
            Err(failure) => return Err(log_problems(site, None, args.no_progress)?.unwrap_or(failure)),
        };
        site.unlock_at_rest(&vault, args.passphrase_file.as_deref()).await?;
        let bar = bar("verifying", args.no_progress);
        let report = vault
            .verify(&|done, total| {
                bar.set_length(total);
                bar.set_position(done);
            })
            .await;
        bar.finish_and_clear();
        let key = vault.audit_log().and_then(|log| Ok(log.vkey()?)).ok();
        vault.close().await?;
        vault.close_log();
        let report = report?;
        let logged = log_problems(site, key.as_deref(), args.no_progress)?;
        let seen = format!("{} pages, {} subjects, {} fields", report.pages, report.subjects, report.fields);
        if report.problems.is_empty() {
            say(&format!("the vault is whole: {seen}"));
            return logged.map_or(Ok(()), Err);
        }
        say(&report.problems.join("\n"));
        let told = format!("{} problems among {seen}: keep a copy, and restore what is listed", report.problems.len());
        Err(Failure::damage(told))
    })
    .map_err(|failure| failure.of_verification().if_in_use(". Only a stopped vault can be verified"))
}

/// Checks the audit log from its files; tells what is wrong with it, if anything is.
fn log_problems(site: &Site, key: Option<&str>, hidden: bool) -> Result<Option<Failure>, Failure> {
    if !site.audit.is_dir() {
        return Ok(None);
    }
    let bar = bar("checking the audit log", hidden);
    let report = vault_core::audit::check(&site.audit, key, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let report = report.map_err(|error| Failure::failed(error.to_string()))?;
    if report.problems.is_empty() {
        say(&format!("the audit log is whole: {} entries, {} of them signed", report.size, report.signed));
        return Ok(None);
    }
    say(&report.problems.join("\n"));
    let told = format!(
        "{} problems in the audit log {}: keep it as it is, it is evidence; and put back a copy of it",
        report.problems.len(),
        site.audit.display()
    );
    Ok(Some(Failure::damage(told)))
}

/// On standard error, and only on a terminal.
fn bar(what: &'static str, hidden: bool) -> ProgressBar {
    if hidden {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(&format!("{what} {{bar:40}} {{pos}}/{{len}} {{elapsed}}"));
    let bar = ProgressBar::new(0);
    style.into_iter().for_each(|style| bar.set_style(style));
    bar
}
