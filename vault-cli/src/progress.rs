//! Progress bars on standard error: drawn only for people, silent in scripts.

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::Ui;

/// A bar counting things, `verb` saying what happens to them: `shredding [====>    ] 40/100`.
pub(crate) fn counting(ui: &Ui, verb: &str, total: u64) -> ProgressBar {
    styled(ui, verb, Some(total), "{prefix} [{bar:30}] {pos}/{len} {msg}")
}

/// A bar over bytes read; without a known length it only counts them.
pub(crate) fn reading(ui: &Ui, verb: &str, bytes: Option<u64>) -> ProgressBar {
    let template = if bytes.is_some() {
        "{prefix} [{bar:30}] {bytes}/{total_bytes} {msg} eta {eta}"
    } else {
        "{prefix} {bytes} {msg}"
    };
    styled(ui, verb, bytes, template)
}

fn styled(ui: &Ui, verb: &str, length: Option<u64>, template: &str) -> ProgressBar {
    // indicatif itself draws nothing where standard error is not a terminal.
    if !ui.progress || ui.quiet {
        return ProgressBar::hidden();
    }
    let bar = length.map_or_else(ProgressBar::no_length, ProgressBar::new);
    let style = ProgressStyle::with_template(template)
        .expect("the templates above are constants that parse")
        .progress_chars("=> ");
    bar.with_style(style).with_prefix(verb.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Format;

    #[test]
    fn every_template_parses_and_quiet_draws_nothing() {
        let loud = Ui { format: Format::Table, quiet: false, progress: true, yes: false };
        assert_eq!(counting(&loud, "shredding", 7).length(), Some(7));
        assert_eq!(reading(&loud, "importing", None).length(), None);
        assert_eq!(reading(&loud, "importing", Some(9)).length(), Some(9));
        let quiet = Ui { quiet: true, ..loud };
        assert!(counting(&quiet, "shredding", 7).is_hidden());
    }
}
