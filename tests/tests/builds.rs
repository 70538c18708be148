//! What is built for one program is not built again for another: their crates have the same features.

use std::collections::BTreeMap;
use std::env;
use std::path::Path;
use std::process::Command;

use crate::harness::run;

/// The features of each crate, by its name and version, when these packages are built.
fn crates(selection: &[&str], edges: &str) -> BTreeMap<String, String> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into()));
    cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap());
    cargo.args(["tree", "--quiet", "--offline", "--prefix", "none", "--format", "{p}|{f}", "--edges", edges]);
    cargo.args(selection);
    let listed = run(cargo);
    assert_eq!(listed.code, Some(0), "{}", listed.err);
    let lines = listed.out.lines().filter_map(|line| line.trim_end_matches(" (*)").split_once('|'));
    lines.map(|(name, features)| (name.to_owned(), features.to_owned())).collect()
}

#[test]
fn programs_and_benchmarks_are_built_from_the_same_crates() {
    let (normal, tests) = ("normal,build", "normal,build,dev");
    let of = |package| ["--package", package];
    // Each is built after the other, by the CI, by these tests or by a benchmark.
    for (before, after) in [
        (crates(&[], normal), crates(&of("vault-instructions"), normal)),
        (crates(&["--workspace"], tests), crates(&["--workspace"], normal)),
        (
            crates(&of("vault-bench"), normal),
            crates(&["--package", "vault-server", "--package", "vault-bench"], normal),
        ),
    ] {
        assert!(after.keys().any(|name| name.starts_with("vault-core ")), "{after:?}");
        for (name, features) in after {
            let Some(known) = before.get(&name) else { continue };
            assert_eq!(features, *known, "{name} is built twice: name the difference in Cargo.toml");
        }
    }
}
