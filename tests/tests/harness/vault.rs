//! Vaults in temporary directories, and servers that run on them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;
use vault_core::store::EngineName;

use super::{Client, Finished, Refusal, Server, program, run};

/// A place for one vault, gone when dropped. The directory `data` in it is laid out as `vault-server dev` does.
pub(crate) struct Vault {
    root: TempDir,
    how: How,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Dev,
    Configured,
}

/// A server on a vault, and its admin.
pub(crate) struct Running {
    pub(crate) server: Server,
    pub(crate) admin: Client,
    token_file: PathBuf,
}

/// Small limits, so that many vaults fit one disk.
const SMALL: &str = "[server]\nlisten = \"127.0.0.1:0\"\n[store]\ndir = \"store\"\ncache_mib = 16\nmin_free_mib = 1\n\
                     reserve_mib = 1\n[slots]\nfiles = [\"root.slot\"]\n[cache]\npages_mib = 16\n";
/// The engine that vaults which `vault-server init` makes are kept by: `UDV_TEST_ENGINE=fjall` tries another than the
/// default.
pub(crate) fn engine() -> EngineName {
    std::env::var("UDV_TEST_ENGINE").map_or_else(|_| EngineName::default(), |name| name.parse().unwrap())
}

impl Vault {
    /// Unlocks by a key file.
    pub(crate) const KEY_FILE: &str = "[unlock]\nkey_file = \"unlock.key\"\n";

    /// A vault for `vault-server dev`, which makes it at its first start.
    pub(crate) fn dev() -> Self {
        Self { root: tempfile::tempdir().unwrap(), how: How::Dev }
    }

    /// A vault that a key file unlocks, made with `vault-server init`.
    pub(crate) fn configured() -> Self {
        Self::configured_in(tempfile::tempdir().unwrap(), engine())
    }

    /// The same in a directory that is given, kept by a given engine.
    pub(crate) fn configured_in(root: TempDir, engine: EngineName) -> Self {
        let vault = Self::unmade_in(root, engine, Self::KEY_FILE);
        run(vault.init_command_for_key_file()).expect(0);
        vault
    }

    /// One that lies in a directory already, configured.
    pub(crate) fn placed(root: TempDir) -> Self {
        Self { root, how: How::Configured }
    }

    /// A configuration without a vault; `more` is added to it.
    pub(crate) fn unmade(more: &str) -> Self {
        Self::unmade_in(tempfile::tempdir().unwrap(), engine(), more)
    }

    pub(crate) fn unmade_in(root: TempDir, engine: EngineName, more: &str) -> Self {
        let vault = Self { root, how: How::Configured };
        fs::create_dir(vault.data()).unwrap();
        fs::write(vault.config(), format!("{SMALL}{more}")).unwrap();
        vault.set_engine(engine);
        vault
    }

    /// Configures an engine; the store stays as it is.
    pub(crate) fn set_engine(&self, engine: EngineName) {
        let text = fs::read_to_string(self.config()).unwrap();
        let without: String =
            text.lines().filter(|line| !line.starts_with("engine = ")).map(|line| format!("{line}\n")).collect();
        fs::write(self.config(), without.replace("[store]\n", &format!("[store]\nengine = \"{engine}\"\n"))).unwrap();
    }

    /// Adds to the configuration.
    pub(crate) fn configure(&self, more: &str) {
        let text = fs::read_to_string(self.config()).unwrap();
        fs::write(self.config(), format!("{text}{more}")).unwrap();
    }

    /// Configures which key file, beside the configuration, unlocks it.
    pub(crate) fn set_key_file(&self, name: &str) {
        let text = fs::read_to_string(self.config()).unwrap();
        let line = |line: &str| match line.starts_with("key_file = ") {
            true => format!("key_file = \"{name}\"\n"),
            false => format!("{line}\n"),
        };
        fs::write(self.config(), text.lines().map(line).collect::<String>()).unwrap();
    }

    /// The key file that is configured, beside the configuration.
    pub(crate) fn key_file(&self) -> String {
        let text = fs::read_to_string(self.config()).unwrap();
        text.lines().find_map(|line| line.strip_prefix("key_file = \"")?.strip_suffix('"')).unwrap().to_owned()
    }

    /// Leaves the vault where it is when it is dropped, for who wants to see what became of it.
    pub(crate) fn keep(&mut self) {
        self.root.disable_cleanup(true);
    }

    /// Runs `vault-server init`, which writes the admin's API token to its usual place.
    pub(crate) fn init(&self, arguments: &[&str]) -> Finished {
        run(self.init_command(arguments))
    }

    fn init_command(&self, arguments: &[&str]) -> Command {
        let mut command = server_command();
        command.args(["init", "--config"]).arg(self.config()).args(arguments);
        command.arg("--token-out").arg(self.token_file());
        command
    }

    /// The same, unlocked by a key file that it makes, to be run.
    pub(crate) fn init_command_for_key_file(&self) -> Command {
        let key = self.data().join("unlock.key");
        self.init_command(&["--no-passphrase", "--key-file", key.to_str().unwrap()])
    }

    /// Scratch space beside the vault.
    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.data().join("vault.toml")
    }

    pub(crate) fn token_file(&self) -> PathBuf {
        self.data().join("admin.token")
    }

    /// The command that serves this vault.
    pub(crate) fn command(&self) -> Command {
        let mut command = server_command();
        match self.how {
            How::Dev => command.args(["dev", "--listen", "127.0.0.1:0", "--data"]).arg(self.data()),
            How::Configured => command.args(["run", "--config"]).arg(self.config()),
        };
        command
    }

    pub(crate) fn try_start(&self) -> Result<Running, Refusal> {
        self.start_with(self.command())
    }

    pub(crate) fn start_with(&self, command: Command) -> Result<Running, Refusal> {
        let server = Server::start(command)?;
        let token = fs::read_to_string(self.token_file()).unwrap();
        let admin = Client::new(&server.url, Some(token.trim()));
        Ok(Running { server, admin, token_file: self.token_file() })
    }

    #[track_caller]
    pub(crate) fn start(&self) -> Running {
        self.try_start().unwrap_or_else(|refusal| panic!("{}: {}", refusal.status, refusal.text))
    }

    /// A start that must not succeed.
    #[track_caller]
    pub(crate) fn refusal(&self) -> Refusal {
        match self.try_start() {
            Ok(_) => panic!("the server serves"),
            Err(refusal) => refusal,
        }
    }

    /// Checks the stopped vault.
    pub(crate) fn verify(&self) -> Finished {
        self.verify_with(&[])
    }

    pub(crate) fn verify_with(&self, arguments: &[&str]) -> Finished {
        let mut command = server_command();
        command.args(["verify", "--no-progress", "--data"]).arg(self.data()).args(arguments);
        run(command)
    }

    /// Checks the stopped vault as it is configured, which another key file may unlock than the usual one.
    pub(crate) fn verify_as_configured(&self) -> Finished {
        let mut command = server_command();
        command.args(["verify", "--no-progress", "--config"]).arg(self.config());
        run(command)
    }
}

/// The server's program, deaf to the settings of whoever runs the tests.
pub(crate) fn server_command() -> Command {
    quiet(Command::new(program("vault-server")))
}

fn quiet(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("UDV_") {
            command.env_remove(name);
        }
    }
    command.env_remove("CREDENTIALS_DIRECTORY").env("NO_COLOR", "1");
    command
}

impl Running {
    /// The command line's program, as the admin.
    pub(crate) fn cli_command(&self, arguments: &[&str]) -> Command {
        let mut command = quiet(Command::new(program("vault-cli")));
        command.env("UDV_URL", &self.server.url).env("UDV_TOKEN_FILE", &self.token_file);
        command.env("XDG_CONFIG_HOME", self.token_file.with_file_name("no-such-config")).args(arguments);
        command
    }

    pub(crate) fn cli(&self, arguments: &[&str]) -> Finished {
        run(self.cli_command(arguments))
    }

    /// Creates a caller of a role and answers a client for it.
    #[track_caller]
    pub(crate) fn caller(&self, role: &str, purposes: &[&str]) -> Client {
        let body = json!({ "name": format!("a {role}"), "role": role, "purposes": purposes });
        let made = self.admin.post("/v1/callers", &body).expect(201).json();
        self.admin.with_token(made["token"].as_str())
    }

    pub(crate) fn nobody(&self) -> Client {
        self.admin.with_token(None)
    }

    pub(crate) fn stop(self) -> String {
        self.server.stop()
    }
}

/// Copies a directory with all that is in it.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// Every file in a directory and below.
pub(crate) fn files_under(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_under(&path)) } else { files.push(path) }
    }
    files
}
