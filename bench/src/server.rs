//! The server under measurement: built by the cargo that runs us, on a vault of its own made by `init`, ended with us.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};
use rustls::{ClientConfig, RootCertStore};
use vault_core::store::EngineName;

use crate::Failure;
use crate::http::Endpoint;

/// Where the built server is.
pub(crate) struct Program(PathBuf);

impl Program {
    /// Builds it, as optimised as we are, without building this program anew, which runs.
    pub(crate) fn build() -> Result<Program, Failure> {
        let own = std::env::current_exe()?;
        let directory = own.parent().ok_or("a program lies in a directory")?;
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        // Along with ours, so that both are of the same crates with the same features.
        command.args([
            "build",
            "--quiet",
            "--package",
            "vault-server",
            "--package",
            "vault-bench",
            "--bin",
            "vault-server",
        ]);
        if !cfg!(debug_assertions) {
            command.arg("--release");
        }
        match command.status() {
            Ok(status) if status.success() => Ok(Program(directory.join("vault-server"))),
            Ok(_) => Err("the server does not build: see above".into()),
            Err(why) => Err(format!("cargo, which builds the server, does not start: {why}").into()),
        }
    }

    /// A call of it that the caller's own settings do not touch.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.0);
        let variables = std::env::vars_os().map(|(name, _)| name);
        for name in variables.filter(|name| name.to_string_lossy().starts_with("UDV_")) {
            command.env_remove(name);
        }
        command
    }

    /// Runs it to its end.
    fn call(&self, args: &[&str], config: &Path) -> Result<(), Failure> {
        let output = self.command().args(args).arg("--config").arg(config).output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("vault-server {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr)).into())
    }
}

/// A vault in a directory of its own.
pub(crate) struct Vault<'a> {
    program: &'a Program,
    dir: PathBuf,
}

impl<'a> Vault<'a> {
    /// Makes one: everything as the server has it by itself, but for the engine, the port, and lookups without bound.
    pub(crate) fn make(program: &'a Program, dir: PathBuf, engine: EngineName) -> Result<Vault<'a>, Failure> {
        fs::create_dir(&dir)?;
        let config = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[store]\nengine = \"{engine}\"\ndir = \"store\"\n\
             [slots]\nfiles = [\"root.slot\"]\n[unlock]\nkey_file = \"unlock.key\"\n\
             [limits]\nlookups_per_minute = 0\n"
        );
        fs::write(dir.join("vault.toml"), config)?;
        let vault = Vault { program, dir };
        let (key, token) = (vault.dir.join("unlock.key"), vault.dir.join("admin.token"));
        let (key, token) = (key.display().to_string(), token.display().to_string());
        program.call(&["init", "--no-passphrase", "--key-file", &key, "--token-out", &token], &vault.config())?;
        Ok(vault)
    }

    /// The same in a copy of its directory; its server must have stopped.
    pub(crate) fn copy(&self, dir: PathBuf) -> Result<Vault<'a>, Failure> {
        copy_dir(&self.dir, &dir)?;
        Ok(Vault { program: self.program, dir })
    }

    /// Gives back the space of what was removed; its server must have stopped.
    pub(crate) fn compact(&self) -> Result<(), Failure> {
        self.program.call(&["compact", "--no-progress", "--remove"], &self.config())
    }

    /// Where its engine's files are.
    pub(crate) fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    fn config(&self) -> PathBuf {
        self.dir.join("vault.toml")
    }

    /// Starts its server, with these keys of the configuration in place of those of the file. The log goes to a file.
    pub(crate) fn start(&self, overrides: &[(&str, String)]) -> Result<Server, Failure> {
        let log = self.dir.join("server.log");
        let mut child = self
            .program
            .command()
            .arg("run")
            .arg("--config")
            .arg(self.config())
            .envs(overrides.iter().map(|(key, value)| (key, value)))
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()?;
        let stdout = child.stdout.take().ok_or("the server's output was piped")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let Some((_, address)) = line.trim().strip_prefix("listening on ").and_then(|url| url.split_once("://")) else {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("the server did not start: {}", fs::read_to_string(&log)?).into());
        };
        let token = fs::read_to_string(self.dir.join("admin.token"))?.trim().to_owned();
        let endpoint = Endpoint { address: address.parse()?, token, tls: None };
        Ok(Server { child, endpoint })
    }

    /// The same over TLS, with a certificate made for it.
    pub(crate) fn start_with_tls(&self) -> Result<Server, Failure> {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        fs::write(self.dir.join("cert.pem"), made.cert.pem())?;
        fs::write(self.dir.join("key.pem"), made.signing_key.serialize_pem())?;
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let keys = [("UDV_TLS__CERT", "cert.pem".to_owned()), ("UDV_TLS__KEY", "key.pem".to_owned())];
        let mut server = self.start(&keys)?;
        server.endpoint.tls = Some(Arc::new(config));
        Ok(server)
    }
}

/// A running server.
pub(crate) struct Server {
    child: Child,
    pub(crate) endpoint: Endpoint,
}

impl Server {
    /// Its process.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) fn stop(mut self) -> Result<(), Failure> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        match self.child.wait()? {
            status if status.success() => Ok(()),
            status => Err(format!("the server stopped with {status}").into()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing to do if it has ended already, as it usually has.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn copy_dir(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_dir(&entry.path(), &target)?,
            false => fs::copy(entry.path(), target).map(drop)?,
        }
    }
    Ok(())
}
