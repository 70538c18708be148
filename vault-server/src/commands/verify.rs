//! `verify`: check a stopped vault from end to end.

use indicatif::{ProgressBar, ProgressStyle};

use super::{Failure, block_on};
use crate::args::VerifyArgs;
use crate::serve::say;
use crate::site::Site;

pub(super) fn run(args: &VerifyArgs, site: &Site) -> Result<(), Failure> {
    block_on(async {
        let vault = site.open().await?;
        site.unlock_at_rest(&vault, args.passphrase_file.as_deref()).await?;
        let bar = bar(args.no_progress);
        let report = vault
            .verify(&|done, total| {
                bar.set_length(total);
                bar.set_position(done);
            })
            .await;
        bar.finish_and_clear();
        vault.close().await?;
        let report = report?;
        let seen = format!("{} pages, {} subjects, {} fields", report.pages, report.subjects, report.fields);
        if report.problems.is_empty() {
            say(&format!("the vault is whole: {seen}"));
            return Ok(());
        }
        say(&report.problems.join("\n"));
        let told = format!("{} problems among {seen}: keep a copy, and restore what is listed", report.problems.len());
        Err(Failure::damage(told))
    })
    .map_err(|failure| failure.of_verification().if_in_use(". Only a stopped vault can be verified"))
}

/// On standard error, and only on a terminal.
fn bar(hidden: bool) -> ProgressBar {
    if hidden {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("verifying {bar:40} {pos}/{len} {elapsed}");
    let bar = ProgressBar::new(0);
    style.into_iter().for_each(|style| bar.set_style(style));
    bar
}
