//! What the README promises: its commands exist, and the tour tells the whole story.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{program, run, skip};

fn readme() -> Option<String> {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).ok()
}

fn tour(arguments: &[&str]) -> crate::harness::Finished {
    let mut command = Command::new(program("vault-cli"));
    command.arg("demo").args(arguments).env("NO_COLOR", "1");
    run(command)
}

#[test]
fn the_tour_ends_with_every_promise_kept() {
    let told = tour(&[]).expect(0);
    let told = format!("{}{}", told.out, told.err);
    for words in ["older than its slot", "410"] {
        assert!(told.contains(words), "`{words}` is not in: {told}");
    }
    assert!(told.matches('✓').count() >= 8, "{told}");
    assert!(!told.contains('✗'), "{told}");
}

#[test]
fn the_tour_takes_other_customers_and_leaves_its_vault_when_asked() {
    let directory = tempfile::tempdir().unwrap();
    let [input, keep] = [directory.path().join("few.ndjson"), directory.path().join("kept")];
    let customers = std::fs::read_to_string(crate::harness::CUSTOMERS).unwrap();
    let few: Vec<_> = customers.lines().skip(100).take(12).collect();
    std::fs::write(&input, few.join("\n")).unwrap();
    tour(&["--input", input.to_str().unwrap(), "--keep", keep.to_str().unwrap()]).expect(0);
    assert!(find(&keep, "root.slot").is_some(), "the vault is kept");
}

fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    crate::harness::files_under(directory).into_iter().find(|path| path.ends_with(name))
}

#[test]
fn the_two_commands_are_there_as_promised() {
    let Some(readme) = readme() else {
        return skip("there is no README.md");
    };
    for command in
        ["cargo run --release --bin vault-server -- dev", "cargo test --workspace", "vault-cli demo", "-- demo"]
    {
        let either = command == "vault-cli demo" || command == "-- demo";
        let there = readme.contains(command) || (either && readme.contains("demo"));
        assert!(there, "`{command}` is not in the README");
    }
}

#[test]
fn every_command_that_is_shown_exists() {
    let Some(readme) = readme() else {
        return skip("there is no README.md");
    };
    let mut shown = 0;
    for line in readme.lines().map(str::trim) {
        for name in ["vault-server", "vault-cli"] {
            let Some((before, after)) = line.split_once(name) else { continue };
            // A command line, not a sentence: nothing before it but a prompt, a path or cargo.
            let leads = before
                .split_whitespace()
                .all(|word| word == "$" || word.starts_with(['.', '/', '-']) || ["cargo", "run"].contains(&word));
            if !leads || !after.starts_with(' ') {
                continue;
            }
            let plain = |word: &&str| {
                word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') && !word.starts_with('-')
            };
            let words: Vec<_> =
                after.split_whitespace().skip_while(|word| *word == "--").take_while(plain).take(1).collect();
            let mut command = Command::new(program(name));
            command.args(&words).arg("--help");
            run(command).expect(0);
            shown += usize::from(!words.is_empty());
        }
    }
    assert!(shown >= 2, "the README shows {shown} commands");
}

#[test]
fn every_command_explains_itself() {
    for (name, commands) in [
        (
            "vault-server",
            &["dev", "init", "run", "verify", "backup", "restore", "slots", "admin-token", "check-config"][..],
        ),
        (
            "vault-cli",
            &["demo", "status", "subject", "erase", "key", "lock", "unlock", "caller", "completions", "man"][..],
        ),
    ] {
        for command in commands {
            let mut help = Command::new(program(name));
            help.args([command, "--help"]);
            assert!(run(help).expect(0).out.len() > 100, "{name} {command}");
        }
        let mut nonsense = Command::new(program(name));
        nonsense.arg("nonsense");
        assert_eq!(run(nonsense).code, Some(2));
        let mut version = Command::new(program(name));
        version.arg("--version");
        assert!(run(version).expect(0).out.contains(env!("CARGO_PKG_VERSION")));
    }
    let mut completions = Command::new(program("vault-cli"));
    completions.args(["completions", "bash"]);
    assert!(run(completions).expect(0).out.contains("vault-cli"));
    let directory = tempfile::tempdir().unwrap();
    let mut man = Command::new(program("vault-cli"));
    man.arg("man").arg(directory.path().join("man"));
    run(man).expect(0);
    assert!(crate::harness::files_under(directory.path()).len() > 5);
}
