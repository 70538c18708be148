//! Finds the programs under test, built from the present sources.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The path of `vault-server` or `vault-cli`.
pub(crate) fn program(name: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(build).join(name)
}

/// The directory that everything is built in.
pub(crate) fn target() -> PathBuf {
    profile_directory().parent().unwrap().to_owned()
}

/// `target/<profile>`, of `target/<profile>/deps/<this test>`.
fn profile_directory() -> PathBuf {
    env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned()
}

/// Builds both with the profile and into the directory of this test, so that they are there and never stale; or takes those
/// in the directory `UDV_TEST_PROGRAMS`, built for release by whoever runs long tests.
fn build() -> PathBuf {
    if let Some(directory) = env::var_os("UDV_TEST_PROGRAMS") {
        return directory.into();
    }
    let directory = profile_directory();
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(other) => other,
        None => panic!("the test does not run from a target directory"),
    };
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into()));
    // What cargo tells this test about its package is no news about others: a build script that looks at it would be run
    // again, and all that depends on it built again, by every test run and by every build after it.
    let of_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in env::vars_os().filter(|(name, _)| of_package(&name.to_string_lossy())) {
        cargo.env_remove(name);
    }
    let status = cargo
        // With the features of the whole workspace, as this test is built: what is compiled by then is not compiled again.
        .args(["build", "--quiet", "--workspace", "--bin", "vault-server", "--bin", "vault-cli"])
        .args(["--profile", profile, "--target-dir"])
        .arg(target())
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .status()
        .unwrap();
    assert!(status.success(), "the programs under test do not build");
    directory
}

/// The first Python that has what the second checker needs: the one of the system may not be the first on the path.
pub(crate) fn able_python() -> Option<&'static str> {
    ["python3", "/usr/bin/python3"].into_iter().find(|python| {
        let probe = Command::new(python).args(["-c", "import cryptography"]).output();
        probe.is_ok_and(|output| output.status.success())
    })
}
