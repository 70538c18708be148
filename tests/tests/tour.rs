//! The README's second and third tour, run as they stand: every command, with the exit code or status it promises.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::{Vault, able_python, program, run, skip};

const SECOND: &str = "## Second tour";
const THIRD: &str = "## Third tour";

/// The command blocks of a tour.
fn blocks(heading: &str) -> Option<Vec<String>> {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).ok()?;
    let (_, tour) = readme.split_once(heading)?;
    let tour = tour.split("\n## ").next()?;
    let blocks = tour.split("```bash\n").skip(1).filter_map(|rest| rest.split("\n```").next());
    Some(blocks.map(str::to_owned).collect())
}

/// A script that runs a block and compares what each command ends with: `# 4 field_not_for_purpose` behind a command
/// says that it exits with 4 and prints that word; without it a command exits with 0.
fn script(block: &str) -> String {
    let mut script = String::from("set -u\ntold=$(mktemp)\n");
    let mut command = String::new();
    for line in block.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let (code, promise) = match line.rsplit_once("  # ") {
            Some((code, promise)) => (code, Some(promise)),
            None => (line, None),
        };
        command += code;
        command.push('\n');
        let complete = !code.trim_end().ends_with('\\') && command.matches('\'').count().is_multiple_of(2);
        if !complete || command.trim().is_empty() {
            continue;
        }
        if command.contains("() {") || command.starts_with("url=") || command.starts_with("json=") {
            script += &command;
        } else {
            let promise = promise.unwrap_or_default().trim();
            let (first, rest) = promise.split_once(' ').unwrap_or((promise, ""));
            let (status, word) = if first.parse::<u16>().is_ok() { (first, rest.trim()) } else { ("0", promise) };
            script += &format!("{{ {}\n}} >\"$told\" 2>&1 </dev/null; status=$?\n", command.trim_end());
            script += &format!("judge {status} {} \"$status\" {}\n", quote(word), quote(command.trim()));
        }
        command.clear();
    }
    script
}

/// How a command is judged: curl's status is the last line that it prints.
const JUDGE: &str = r#"
failed=0
judge() {
    local last got=$3; last=$(tail -n 1 "$told")
    if [[ $1 -ge 100 ]]; then
        got=$last
    elif [[ $last =~ ^[345][0-9][0-9]$ ]]; then
        # A status that nobody announced.
        got=$last
    fi
    if [[ $got != "$1" ]] || { [[ -n $2 ]] && ! grep -qF -- "$2" "$told"; }; then
        printf 'expected %s "%s", got %s of: %s\n' "$1" "$2" "$got" "$4"; cat "$told"; failed=1
    fi
}
"#;

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn follow(block: &str) {
    let vault = Vault::dev();
    let running = vault.start();
    let place = vault.root();
    fs::create_dir_all(place.join("docs")).unwrap();
    for part in ["docs/schema", "docs/udv_check.py", "vault-cli"] {
        let there = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(part);
        std::os::unix::fs::symlink(fs::canonicalize(there).unwrap(), place.join(part)).unwrap();
    }
    std::os::unix::fs::symlink(vault.data(), place.join("vault-data")).unwrap();
    let block = block.replace("http://127.0.0.1:8250", &running.server.url);
    let whole = format!("{JUDGE}{}\nexit $failed\n", script(&block));
    let programs = program("vault-cli").parent().unwrap().to_owned();
    if let Some(python) = able_python().filter(|python| python.starts_with('/')) {
        std::os::unix::fs::symlink(python, place.join("python3")).unwrap();
    }
    let path = format!("{}:{}:{}", place.display(), programs.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command.arg("-c").arg(whole).current_dir(place).env("PATH", path);
    command.env("UDV_URL", &running.server.url).env("XDG_CONFIG_HOME", place.join("none")).env("NO_COLOR", "1");
    let told = run(command);
    assert_eq!(told.code, Some(0), "{}{}", told.out, told.err);
    assert!(told.out.is_empty(), "{}", told.out);
    running.stop();
}

#[test]
fn with_the_command_line() {
    let Some(blocks) = blocks(SECOND) else { return skip("there is no README.md") };
    assert!(blocks[0].lines().filter(|line| line.contains("vault-cli")).count() > 15, "{}", blocks[0]);
    follow(&blocks[0]);
}

#[test]
fn with_curl() {
    let Some(blocks) = blocks(SECOND) else { return skip("there is no README.md") };
    if Command::new("curl").arg("--version").output().is_err() {
        return skip("curl is not installed");
    }
    assert!(blocks[1].lines().filter(|line| line.contains("vault ") || line.contains("as ")).count() > 10);
    follow(&blocks[1]);
}

#[test]
fn with_evidence_and_backups() {
    let Some(blocks) = blocks(THIRD) else { return skip("there is no README.md") };
    if Command::new("age").arg("--version").output().is_err() || able_python().is_none() {
        return skip("age, or python3 with the package cryptography, is not installed");
    }
    assert!(blocks[0].lines().filter(|line| line.starts_with("vault-")).count() > 15, "{}", blocks[0]);
    follow(&blocks[0]);
}

#[test]
fn a_promise_that_is_not_kept_is_noticed() {
    let judged = |line: &str| {
        let mut command = Command::new("bash");
        command.arg("-c").arg(format!("{JUDGE}{}\nexit $failed\n", script(line)));
        run(command).code
    };
    assert_eq!(judged("true"), Some(0));
    assert_eq!(judged("false"), Some(1));
    assert_eq!(judged("(echo refused; exit 4)  # 4 refused"), Some(0));
    assert_eq!(judged("(echo refused; exit 4)  # 4 consent"), Some(1));
    assert_eq!(judged("(echo refused; exit 5)  # 4 refused"), Some(1));
    assert_eq!(judged("(exit 3)  # 3"), Some(0));
    assert_eq!(judged("echo 3  # 3"), Some(1));
    assert_eq!(judged("printf 'x\\n403\\n'  # 403 x"), Some(0));
    assert_eq!(judged("printf 'x\\n200\\n'  # 403 x"), Some(1));
    assert_eq!(judged("printf 'x\\n200\\n'"), Some(0));
    assert_eq!(judged("printf 'x\\n403\\n'"), Some(1));
}
