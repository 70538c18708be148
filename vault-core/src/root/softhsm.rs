//! A software HSM for tests: each test has a process of its own, for a module is configured once in a process.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use super::HsmPlace;

const MODULES: [&str; 4] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
];
/// Names the directory of the HSM to the process of a test.
const DIR: &str = "UDV_TEST_SOFTHSM_DIR";
const PIN: &str = "4711";

/// The HSM of one test.
pub(crate) struct SoftHsm {
    dir: PathBuf,
    module: PathBuf,
}

/// Runs a test, named as the test runner names it, with an HSM; or says why not. Call it first in the test.
pub(crate) fn with_softhsm<F: Future<Output = ()>>(test: &str, body: impl FnOnce(SoftHsm) -> F) {
    let Some(module) = find_module() else {
        let required = std::env::var("UDV_TEST_REQUIRE").is_ok_and(|value| value == "all");
        assert!(!required, "a test that must run cannot: SoftHSM (libsofthsm2.so, softhsm2-util) is not installed");
        eprintln!("SKIPPED: SoftHSM (libsofthsm2.so, softhsm2-util) is not installed");
        return;
    };
    if let Some(dir) = std::env::var_os(DIR) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        return runtime.block_on(body(SoftHsm { dir: dir.into(), module }));
    }
    let dir = tempfile::tempdir().unwrap();
    let hsm = SoftHsm { dir: dir.path().to_owned(), module };
    std::fs::create_dir(hsm.tokens()).unwrap();
    hsm.configure(&hsm.tokens());
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args([test, "--exact", "--nocapture", "--test-threads=1"]);
    let done = child.env(DIR, dir.path()).env("SOFTHSM2_CONF", hsm.configuration()).output().unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success() && told.contains("1 passed"), "{test} in a process of its own: {told}");
}

fn find_module() -> Option<PathBuf> {
    let named = std::env::var_os("SOFTHSM2_MODULE").map(PathBuf::from);
    let module = named.into_iter().chain(MODULES.map(PathBuf::from)).find(|path| path.exists())?;
    Command::new("softhsm2-util").arg("--version").output().ok().map(|_| module)
}

impl SoftHsm {
    fn configuration(&self) -> PathBuf {
        self.dir.join("softhsm2.conf")
    }

    fn tokens(&self) -> PathBuf {
        self.dir.join("tokens")
    }

    /// What a module finds when it is started next.
    fn configure(&self, tokens: &Path) {
        let text =
            format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", tokens.display());
        std::fs::write(self.configuration(), text).unwrap();
    }

    /// A directory for what else the test keeps.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A new token and its PIN.
    pub(crate) fn token(&self, label: &str) -> HsmPlace {
        let mut make = Command::new("softhsm2-util");
        make.args(["--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "12345678"]);
        let made = make.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let pin_file = self.dir.join(format!("{label}.pin"));
        std::fs::write(&pin_file, format!("{PIN}\n")).unwrap();
        HsmPlace { module: self.module.clone(), token: label.to_owned(), pin_file }
    }

    /// Takes all tokens away.
    pub(crate) fn unplug(&self) {
        std::fs::rename(self.tokens(), self.dir.join("unplugged")).unwrap();
        std::fs::create_dir(self.tokens()).unwrap();
    }

    /// Brings them back.
    pub(crate) fn plug_in(&self) {
        std::fs::remove_dir(self.tokens()).unwrap();
        std::fs::rename(self.dir.join("unplugged"), self.tokens()).unwrap();
    }

    /// Keeps the tokens as they are now: an HSM that can be copied, as a real one cannot.
    pub(crate) fn image(&self, name: &str) -> PathBuf {
        let image = self.dir.join(name);
        let copied = Command::new("cp").arg("-r").arg(self.tokens()).arg(&image).status().unwrap();
        assert!(copied.success());
        image
    }

    /// The token of an image, through a second copy of the module that knows nothing of the first. From here on modules that
    /// are started find this image.
    pub(crate) fn of_image(&self, image: &Path, place: &HsmPlace) -> HsmPlace {
        let module = image.with_extension("so");
        std::fs::copy(&self.module, &module).unwrap();
        self.configure(image);
        HsmPlace { module, ..place.clone() }
    }
}
