//! Root slots in hardware, from outside: a vault that needs no passphrase, one that an HSM opens as well, slots added and
//! removed, and what an operator meets when the HSM is not as it should be.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Finished, Running, Vault, run, server_command, skip, wait_for};

const MODULES: [&str; 4] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
];
const PIN: &str = "4711";

/// A vault that is not made yet, and a software HSM beside it with a token `hsm`.
struct Site {
    vault: Vault,
    module: PathBuf,
}

impl Site {
    fn new(config: &str) -> Option<Self> {
        let named = std::env::var_os("SOFTHSM2_MODULE").map(PathBuf::from);
        let module = named.into_iter().chain(MODULES.map(PathBuf::from)).find(|path| path.exists());
        let util = Command::new("softhsm2-util").arg("--version").output();
        let (Some(module), Ok(_)) = (module, util) else {
            skip("SoftHSM (libsofthsm2.so, softhsm2-util) is not installed");
            return None;
        };
        let site = Self { vault: Vault::unmade(""), module };
        fs::create_dir(site.tokens()).unwrap();
        let conf = format!("directories.tokendir = {}\nobjectstore.backend = file\n", site.tokens().display());
        fs::write(site.vault.root().join("softhsm2.conf"), conf).unwrap();
        fs::write(site.pin_file(), format!("{PIN}\n")).unwrap();
        let mut make = Command::new("softhsm2-util");
        make.args(["--init-token", "--free", "--label", "hsm", "--pin", PIN, "--so-pin", "12345678"]);
        assert!(site.with_hsm(make).code == Some(0));
        let hsm = format!("module = {:?}\ntoken = \"hsm\"\npin_file = {:?}\n", site.module, site.pin_file());
        let small = "[server]\nlisten = \"127.0.0.1:0\"\n[store]\ndir = \"store\"\ncache_mib = 16\nmin_free_mib = 1\n\
                     reserve_mib = 1\n[cache]\npages_mib = 16\n";
        fs::write(site.vault.config(), format!("{small}{}", config.replace("HSM\n", &hsm))).unwrap();
        Some(site)
    }

    fn tokens(&self) -> PathBuf {
        self.vault.root().join("tokens")
    }

    fn pin_file(&self) -> PathBuf {
        self.vault.root().join("hsm.pin")
    }

    fn env(&self, mut command: Command) -> Command {
        command.env("SOFTHSM2_CONF", self.vault.root().join("softhsm2.conf"));
        command
    }

    fn with_hsm(&self, command: Command) -> Finished {
        run(self.env(command))
    }

    fn server(&self, arguments: &[&str]) -> Finished {
        let mut command = server_command();
        command.args(arguments);
        self.with_hsm(command)
    }

    fn init(&self, arguments: &[&str]) -> Finished {
        let config = self.vault.config();
        let token = self.vault.token_file();
        let always = ["init", "--config", config.to_str().unwrap(), "--token-out", token.to_str().unwrap()];
        self.server(&[&always, arguments].concat())
    }

    /// `vault-server slots`, on the stopped vault.
    fn slots(&self, what: &str, arguments: &[&str]) -> Finished {
        let config = self.vault.config();
        self.server(&[&["slots", what, "--config", config.to_str().unwrap()], arguments].concat())
    }

    fn start(&self) -> Running {
        let started = self.vault.start_with(self.env(self.vault.command()));
        started.unwrap_or_else(|refusal| panic!("{}: {}", refusal.status, refusal.text))
    }

    fn refused(&self, words: &str) {
        match self.vault.start_with(self.env(self.vault.command())) {
            Ok(_) => panic!("the server serves"),
            Err(refusal) => drop(refusal.says("hardware.slot").says(words)),
        }
    }

    /// Adds lines to the configuration.
    fn configure(&self, lines: &str) {
        let text = fs::read_to_string(self.vault.config()).unwrap();
        fs::write(self.vault.config(), format!("{text}{lines}")).unwrap();
    }
}

fn only_slot(running: &Running) -> Value {
    let slots = running.admin.get("/v1/slots").expect(200).json();
    assert_eq!(slots["data"].as_array().unwrap().len(), 1, "{slots}");
    slots["data"][0].clone()
}

const HARDWARE: &str = "[[slots.pkcs11]]\nfile = \"hardware.slot\"\nHSM\n";

#[test]
fn a_vault_in_hardware_needs_no_passphrase() {
    let Some(site) = Site::new(&format!("[slots]\nrotation_seconds = 1\n{HARDWARE}")) else { return };
    let key = site.vault.root().join("useless.key");
    site.init(&["--key-file", key.to_str().unwrap()]).refused(2, "every root slot is in hardware");
    site.init(&[]).expect(0);
    let running = site.start();
    running.admin.set("jane", &json!({ "name": "Jane" })).expect(201);
    running.admin.send("POST", "/v1/lock", &[], None).expect(200);
    let guess = json!({ "passphrase": "correct horse" });
    running.nobody().post("/v1/unlock", &guess).problem(409, "conflict");
    running.nobody().post("/v1/unlock", &json!({})).problem(401, "unauthenticated");
    assert_eq!(running.admin.get("/v1/status").expect(200).json()["state"], "locked");
    assert_eq!(running.admin.post("/v1/unlock", &json!({})).expect(200).json()["state"], "unlocked");
    running.stop();

    let running = site.start();
    assert_eq!(running.admin.field("jane", "name").expect(200).json()["value"], "Jane");
    let made = only_slot(&running);
    assert_eq!((&made["final"], &made["state"]), (&json!("F2"), &json!("ok")));
    wait_for("a rotation by the clock", || (only_slot(&running)["rotated_at"] != made["rotated_at"]).then_some(()));
    let rotated = running.admin.post("/v1/slots/rotate", &json!({})).expect(200).json();
    assert_eq!(rotated["final"], "F2", "{rotated}");
    let auditor = running.caller("auditor", &[]);
    auditor.get("/v1/slots").problem(403, "forbidden");
    auditor.post("/v1/slots/rotate", &json!({})).problem(403, "forbidden");
    let shown = running.cli(&["key", "slots", "--rotate"]).expect(0).out;
    assert!(shown.contains("hardware.slot") && shown.contains("F2"), "{shown}");
    let token = site.vault.token_file();
    let to = ["--url", &running.server.url, "--token-file", token.to_str().unwrap()];
    for what in ["list", "check", "rotate"] {
        let told = site.server(&[&["slots", what], &to[..]].concat()).expect(0).out;
        assert!(told.contains("hardware.slot") && told.contains("final: F2"), "{told}");
    }
    running.stop();
    let told = site.slots("check", &[]).expect(0).out;
    assert!(told.contains("epoch") && told.contains("1 root slots are in order"), "{told}");
    site.slots("rotate", &[]).expect(0);
    let told = site.slots("list", &[]).expect(0).out;
    assert!(told.contains("hardware (F2), opened by: HSM"), "{told}");
}

#[test]
fn what_is_wrong_with_the_hsm_is_said_and_repaired() {
    let Some(site) = Site::new(&format!("[slots]\nrotation_seconds = 1\n{HARDWARE}")) else { return };
    site.init(&[]).expect(0);
    let running = site.start();
    running.admin.set("jane", &json!({ "name": "Jane" })).expect(201);
    let away = site.vault.root().join("away");
    fs::rename(site.tokens(), &away).unwrap();
    fs::create_dir(site.tokens()).unwrap();
    // It runs on, and says what waits.
    let told =
        wait_for("the rotation to wait", || only_slot(&running)["rotation_waits_for"].as_str().map(str::to_owned));
    assert!(told.contains("hardware.slot") && told.contains("`hsm`"), "{told}");
    let status = running.cli(&["status"]).expect(0).out;
    assert!(status.contains("its rotation waits"), "{status}");
    running.admin.set("joe", &json!({ "name": "Joe" })).expect(201);
    let erasure = json!({ "subjects": ["joe"], "reason": "asked" });
    let asked = running.admin.post("/v1/erasures", &erasure).json();
    wait_for("F1", || {
        let erasure = running.admin.get(&format!("/v1/erasures/{}", asked["id"].as_str().unwrap())).expect(200).json();
        (erasure["counts"]["final"] == 1).then_some(())
    });
    running.admin.post("/v1/slots/rotate", &json!({})).problem(503, "slot_unavailable");
    running.stop();
    site.refused("there is no HSM token `hsm`");
    site.slots("check", &[]).refused(8, "1 of 1 root slots have a problem");

    fs::remove_dir(site.tokens()).unwrap();
    fs::rename(&away, site.tokens()).unwrap();
    fs::write(site.pin_file(), "1234\n").unwrap();
    site.refused("refused the PIN");
    fs::remove_file(site.pin_file()).unwrap();
    site.refused("PIN file");
    fs::write(site.pin_file(), PIN).unwrap();
    let running = site.start();
    assert_eq!(running.admin.field("jane", "name").expect(200).json()["value"], "Jane");
    wait_for("the rotation", || only_slot(&running)["rotation_waits_for"].is_null().then_some(()));
    let log = running.stop();
    assert!(!log.contains(PIN), "{log}");

    // Somebody else's token of the same name.
    fs::rename(site.tokens(), &away).unwrap();
    fs::create_dir(site.tokens()).unwrap();
    let mut other = Command::new("softhsm2-util");
    other.args(["--init-token", "--free", "--label", "hsm", "--pin", PIN, "--so-pin", "12345678"]);
    assert_eq!(site.with_hsm(other).code, Some(0));
    site.refused("is not in the HSM token");
    let config = fs::read_to_string(site.vault.config()).unwrap();
    fs::write(site.vault.config(), config.replace(site.module.to_str().unwrap(), "/no/such/module.so")).unwrap();
    site.refused("does not load");
}

#[test]
fn slots_are_added_and_removed_and_an_hsm_is_one_unlock_key_of_several() {
    let unlock = "[unlock.pkcs11]\nHSM\n[slots]\nfiles = [\"root.slot\"]\n";
    let Some(site) = Site::new(unlock) else { return };
    let key = site.vault.root().join("unlock.key");
    site.init(&["--pkcs11", "--no-passphrase", "--key-file", key.to_str().unwrap()]).expect(0);
    let running = site.start();
    running.admin.set("jane", &json!({ "name": "Jane" })).expect(201);
    let keys = running.admin.get("/v1/slots").expect(200).json();
    assert_eq!((&keys["methods"], &keys["final"]), (&json!(["pkcs11", "key-file"]), &json!("F1")), "{keys}");
    running.admin.post("/v1/slots/rotate", &json!({})).problem(409, "conflict");
    let hardware = site.vault.data().join("hardware.slot");
    let (file, module, pin) = (hardware.to_str().unwrap(), site.module.to_str().unwrap(), site.pin_file());
    let in_hardware = [file, "--module", module, "--token", "hsm", "--pin-file", pin.to_str().unwrap()];
    site.slots("add", &in_hardware).refused(1, "Stop the server");
    running.stop();

    let first = site.vault.data().join("root.slot");
    site.slots("remove", &[first.to_str().unwrap()]).refused(1, "it is the last root slot");
    let added = site.slots("add", &in_hardware).expect(0).out;
    site.slots("add", &in_hardware).refused(1, "exists");
    site.configure(&added[added.find("[[slots.pkcs11]]").unwrap()..]);
    let told = site.slots("check", &[]).expect(0);
    assert!(told.out.contains("2 root slots are in order"), "{}", told.out);
    assert!(told.err.contains("do not reach F2") && told.err.contains("shares its disk"), "{}", told.err);

    site.slots("remove", &["/no/such.slot"]).refused(1, "is no root slot of this configuration");
    site.slots("remove", &[first.to_str().unwrap()]).expect(0);
    assert!(!Path::new(&first).exists());
    let config = fs::read_to_string(site.vault.config()).unwrap();
    let (_, hardware_only) = config.split_once("[[slots.pkcs11]]").unwrap();
    let kept = config.split_once("[unlock.pkcs11]").unwrap().0;
    fs::write(site.vault.config(), format!("{kept}[[slots.pkcs11]]{hardware_only}")).unwrap();
    let running = site.start();
    assert_eq!(running.admin.field("jane", "name").expect(200).json()["value"], "Jane");
    assert_eq!(running.admin.get("/v1/slots").expect(200).json()["final"], "F2");
    running.stop();
}
