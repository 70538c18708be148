//! `completions` and `man`: what shells and `man` want to know about the command line.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;
use crate::exit::{Exit, Failure};
use crate::output::Ui;

/// Prints the completion script of a shell.
pub(crate) fn script(shell: Shell) -> Result<Exit, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "vault-cli", &mut text);
    io::stdout().write_all(&text)?;
    Ok(Exit::Done)
}

/// Writes one manual page for each command into a directory.
pub(crate) fn man(dir: &Path, ui: &Ui) -> Result<Exit, Failure> {
    fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), dir))
        .map_err(|error| Failure::failed(format!("cannot write to {}: {error}", dir.display())))?;
    ui.note(&format!("manual pages are in {}; start with: man -l {0}/vault-cli.1", dir.display()));
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::output::Format;

    #[test]
    fn every_command_has_a_manual_page() {
        let dir = tempfile::tempdir().unwrap();
        let ui = Ui { format: Format::Table, quiet: true, progress: false, yes: false };
        man(dir.path(), &ui).unwrap();
        for page in [
            "vault-cli.1",
            "vault-cli-erase.1",
            "vault-cli-erase-show.1",
            "vault-cli-key-rotate.1",
            "vault-cli-subject-import.1",
        ] {
            let text = fs::read_to_string(dir.path().join(page)).unwrap();
            assert!(text.contains(".SH NAME"), "{page}");
        }
    }
}
