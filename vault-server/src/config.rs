//! The configuration file: one TOML document, checked as a whole, secrets only as paths to files.
//!
//! `UDV_SECTION__KEY` in the environment overrides a key, `UDV_SERVER__LISTEN` for example. Relative paths, wherever they
//! are given, are relative to the file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};
use vault_core::backup::Recipients;
use vault_core::root::HsmPlace;
use vault_core::store::EngineName;
use vault_core::vault::{KeyPolicy, RATE_MAX};

use crate::logging::LogFormat;

/// Everything that can be configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) server: Server,
    pub(crate) store: Store,
    pub(crate) slots: Slots,
    pub(crate) unlock: Unlock,
    pub(crate) tls: Tls,
    pub(crate) cache: Cache,
    pub(crate) limits: Limits,
    pub(crate) retention: Retention,
    pub(crate) rotation: Rotation,
    pub(crate) erasure: Erasure,
    pub(crate) audit: Audit,
    pub(crate) backup: Backup,
    pub(crate) process: Process,
    pub(crate) log: Log,
}

/// `[server]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Server {
    /// Address and port to listen on.
    pub(crate) listen: SocketAddr,
}

/// `[store]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Store {
    /// `sled` or `fjall`.
    pub(crate) engine: EngineName,
    /// The engine's directory.
    pub(crate) dir: PathBuf,
    /// The engine's own cache, in MiB.
    pub(crate) cache_mib: u64,
    /// Writes are refused when less than this is free, in MiB.
    pub(crate) min_free_mib: u64,
    /// Kept back for shredding on a full disk, in MiB.
    pub(crate) reserve_mib: u64,
}

/// `[slots]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Slots {
    /// Root slots in files that the unlock key opens. All slots must agree.
    pub(crate) files: Vec<PathBuf>,
    /// Root slots in hardware: each is opened by its own HSM token alone.
    pub(crate) pkcs11: Vec<HardwareSlot>,
    /// How old the key of a slot in hardware gets before it is replaced and destroyed, in seconds; 0 for on demand only.
    pub(crate) rotation_seconds: u64,
}

/// `[[slots.pkcs11]]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HardwareSlot {
    /// The slot's file.
    pub(crate) file: PathBuf,
    /// The PKCS#11 module.
    pub(crate) module: PathBuf,
    /// The token, by its label or its serial number.
    pub(crate) token: String,
    /// A file with its PIN.
    pub(crate) pin_file: PathBuf,
}

impl HardwareSlot {
    /// Where its key is.
    pub(crate) fn hsm(&self) -> HsmPlace {
        HsmPlace { module: self.module.clone(), token: self.token.clone(), pin_file: self.pin_file.clone() }
    }
}

/// An HSM token that opens slots in files.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HsmUnlock {
    /// The PKCS#11 module.
    pub(crate) module: PathBuf,
    /// The token, by its label or its serial number.
    pub(crate) token: String,
    /// A file with its PIN.
    pub(crate) pin_file: PathBuf,
}

impl HsmUnlock {
    /// Where the key is.
    pub(crate) fn hsm(&self) -> HsmPlace {
        HsmPlace { module: self.module.clone(), token: self.token.clone(), pin_file: self.pin_file.clone() }
    }
}

/// `[unlock]`: how the vault unlocks by itself; nothing means that it starts locked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Unlock {
    /// A key file written by `init --key-file`.
    pub(crate) key_file: Option<PathBuf>,
    /// A file with the passphrase.
    pub(crate) passphrase_file: Option<PathBuf>,
    /// An HSM token; see `init --pkcs11`.
    pub(crate) pkcs11: Option<HsmUnlock>,
}

/// `[tls]`: both or none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Tls {
    /// PEM: the certificate and its chain.
    pub(crate) cert: Option<PathBuf>,
    /// PEM: its private key.
    pub(crate) key: Option<PathBuf>,
}

/// `[cache]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Cache {
    /// Opened pages kept in memory, in MiB.
    pub(crate) pages_mib: usize,
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    /// Requests answered at once; more are told to retry.
    pub(crate) max_in_flight: usize,
    /// How long a shredded id answers 410 before it is unknown again, in days.
    pub(crate) tombstone_days: u64,
    /// Lookups that a caller may make a minute, unless it has a number of its own; 0 for any number.
    pub(crate) lookups_per_minute: u32,
}

/// `[retention]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Retention {
    /// How often values whose time is over are looked for and forgotten for good, in seconds.
    pub(crate) sweep_seconds: u64,
}

/// `[rotation]`: how old the keys of each layer may get, in days; any age where nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Rotation {
    /// What opens the root slots; only told, for only a person can replace it.
    pub(crate) unlock_days: Option<u64>,
    pub(crate) root_days: Option<u64>,
    pub(crate) keks_days: Option<u64>,
    pub(crate) deks_days: Option<u64>,
    pub(crate) lookups_days: Option<u64>,
    /// Shreds that one key of lookups may see.
    pub(crate) lookups_shreds: Option<u64>,
    /// What is done about a layer that is due.
    pub(crate) when_due: WhenDue,
    /// How fast a rotation is that begins by itself, in pages or subjects a second; without it, as fast as it goes.
    pub(crate) rate: Option<u32>,
}

/// What is done about keys that are too old.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WhenDue {
    /// The log, the metrics and `key status` tell.
    #[default]
    Warn,
    /// Their rotation begins by itself.
    Rotate,
}

impl Rotation {
    /// The same for the vault.
    pub(crate) fn policy(&self) -> KeyPolicy {
        let seconds = |days: Option<u64>| days.map(|days| days.saturating_mul(24 * 3600));
        KeyPolicy {
            unlock: seconds(self.unlock_days),
            root: seconds(self.root_days),
            keks: seconds(self.keks_days),
            deks: seconds(self.deks_days),
            lookups: seconds(self.lookups_days),
            lookups_shreds: self.lookups_shreds,
            rotates: self.when_due == WhenDue::Rotate,
            rate: self.rate,
        }
    }

    fn has_a_nought(&self) -> bool {
        let ages = [self.unlock_days, self.root_days, self.keks_days, self.deks_days, self.lookups_days];
        ages.contains(&Some(0)) || self.lookups_shreds == Some(0) || self.rate == Some(0)
    }
}

/// `[erasure]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Erasure {
    /// How long an erasure may take if it does not say so itself, in days.
    pub(crate) deadline_days: u64,
    /// Erasures of more subjects wait for a second person; 0 for none.
    pub(crate) approve_above: u64,
}

/// `[audit]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Audit {
    /// Where the audit log is; `audit` beside the store's directory by default.
    pub(crate) dir: PathBuf,
    /// `interval` or `entry`.
    pub(crate) sync: AuditSync,
    /// How often it is made durable, in milliseconds.
    pub(crate) interval_ms: u64,
}

/// When entries of the audit log are made durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AuditSync {
    /// Every now and then; a power loss can cost what came after.
    #[default]
    Interval,
    /// Each before its answer leaves.
    Entry,
}

/// `[backup]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Backup {
    /// Whom archives are encrypted to (`age1…`), unless a backup names others.
    pub(crate) recipients: Vec<String>,
    /// Where the indexes are that increments are made against; `backups` beside the store's directory by default.
    pub(crate) index_dir: PathBuf,
}

/// `[process]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Process {
    /// `auto`, `required` or `off`.
    pub(crate) lock_memory: LockMemory,
}

/// Whether the server's memory is kept out of swap space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LockMemory {
    /// Where the system allows.
    #[default]
    Auto,
    /// Or the server does not start.
    Required,
    /// It is not.
    Off,
}

/// `[log]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    /// `text` or `json`.
    pub(crate) format: LogFormat,
}

impl Default for Slots {
    fn default() -> Self {
        Self { files: Vec::new(), pkcs11: Vec::new(), rotation_seconds: 3600 }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8250)) }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self { engine: EngineName::default(), dir: PathBuf::new(), cache_mib: 128, min_free_mib: 128, reserve_mib: 64 }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self { pages_mib: 256 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_in_flight: 1024, tombstone_days: 365, lookups_per_minute: 3000 }
    }
}

impl Default for Erasure {
    fn default() -> Self {
        Self { deadline_days: 30, approve_above: 0 }
    }
}

impl Default for Audit {
    fn default() -> Self {
        Self { dir: PathBuf::new(), sync: AuditSync::default(), interval_ms: 100 }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self { sweep_seconds: 3600 }
    }
}

/// Why a configuration is not taken; says where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("the configuration file {path} cannot be read ({why}): give its path with --config")]
    Unreadable { path: String, why: String },
    #[error("{path}, line {line}: {why}")]
    File { path: String, line: usize, why: String },
    #[error("the environment variable {variable}: {why}")]
    Variable { variable: String, why: String },
    #[error("{path}: {why}")]
    Whole { path: String, why: &'static str },
}

impl Config {
    /// Reads `path`, applies the overrides among `variables`, and checks the result.
    ///
    /// # Errors
    /// [`ConfigError`], with the line or the variable that is wrong.
    pub(crate) fn load(
        path: &Path,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| ConfigError::Unreadable { path: path.display().to_string(), why: e.to_string() })?;
        let base = std::path::absolute(path).ok().and_then(|path| path.parent().map(Path::to_owned));
        let config = Self::parse(&text, &path.display().to_string(), &base.unwrap_or_default(), variables)?;
        config.check().map_err(|why| ConfigError::Whole { path: path.display().to_string(), why })?;
        Ok(config)
    }

    fn parse(
        text: &str,
        path: &str,
        base: &Path,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        // The text is read on its own first, so that what is wrong with it is told with its line.
        let mut config: Self = toml::from_str(text).map_err(|error| located(path, text, &error))?;
        let mut table: Table = toml::from_str(text).map_err(|error| located(path, text, &error))?;
        for (variable, value) in variables {
            if let Some((section, key)) = variable.strip_prefix("UDV_").and_then(|rest| rest.split_once("__")) {
                config = replace(&mut table, &section.to_lowercase(), &key.to_lowercase(), &value)
                    .map_err(|why| ConfigError::Variable { variable, why })?;
            }
        }
        config.each_path(|path| {
            if !path.as_os_str().is_empty() {
                *path = base.join(&*path);
            }
        });
        Ok(config)
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.store.dir.as_os_str().is_empty() {
            return Err("the store has no directory: add `dir = \"…\"` under [store]");
        }
        if self.slots.files.is_empty() && self.slots.pkcs11.is_empty() {
            return Err(
                "there is no root slot: add `files = [\"…\"]` under [slots], best on another disk than the store",
            );
        }
        let Unlock { key_file, passphrase_file, pkcs11 } = &self.unlock;
        if [key_file.is_some(), passphrase_file.is_some(), pkcs11.is_some()].into_iter().filter(|&is| is).count() > 1 {
            return Err("[unlock] has more than one of key_file, passphrase_file and pkcs11: keep one of them");
        }
        if self.slots.files.is_empty() && self.unlock != Unlock::default() {
            return Err("[unlock] opens slots in files, and there are none: slots in hardware have their own tokens");
        }
        if self.tls.cert.is_some() != self.tls.key.is_some() {
            return Err("[tls] takes cert and key together: give both, or neither");
        }
        if self.tls.cert.is_none() && !self.server.listen.ip().is_loopback() {
            return Err("listen is not a loopback address and there is no TLS: add [tls] with cert and key, \
                        or listen on 127.0.0.1");
        }
        if self.rotation.rate.is_some_and(|rate| rate > RATE_MAX) {
            return Err("[rotation] rate is more than 1,000,000: leave it out for as fast as it goes");
        }
        if self.rotation.has_a_nought() {
            return Err("a number under [rotation] is 0: give it at least 1, or leave it out for no bound");
        }
        if self.retention.sweep_seconds == 0 {
            return Err("sweep_seconds under [retention] is 0: give it at least 1");
        }
        if !(1..=60_000).contains(&self.audit.interval_ms) {
            return Err("interval_ms under [audit] is not 1 to 60000");
        }
        if !self.backup.recipients.is_empty() && Recipients::parse(&self.backup.recipients).is_err() {
            return Err(
                "recipients under [backup] has one that is none: each starts with age1, as age-keygen prints it",
            );
        }
        if self.limits.max_in_flight == 0 {
            return Err("max_in_flight under [limits] is 0: give it at least 1");
        }
        Ok(())
    }

    fn each_path(&mut self, mut change: impl FnMut(&mut PathBuf)) {
        change(&mut self.store.dir);
        change(&mut self.audit.dir);
        change(&mut self.backup.index_dir);
        self.slots.files.iter_mut().for_each(&mut change);
        self.unlock.key_file.iter_mut().for_each(&mut change);
        self.unlock.passphrase_file.iter_mut().for_each(&mut change);
        let hardware = self.slots.pkcs11.iter_mut().flat_map(|s| [&mut s.file, &mut s.module, &mut s.pin_file]);
        hardware.for_each(&mut change);
        self.unlock.pkcs11.iter_mut().flat_map(|hsm| [&mut hsm.module, &mut hsm.pin_file]).for_each(&mut change);
        self.tls.cert.iter_mut().for_each(&mut change);
        self.tls.key.iter_mut().for_each(&mut change);
    }
}

/// Replaces one key. A value from the environment is text; where the key takes a number or a list, it is read as TOML.
fn replace(table: &mut Table, section: &str, key: &str, value: &str) -> Result<Config, String> {
    let as_toml = toml::from_str::<Table>(&format!("value = {value}")).ok().and_then(|mut table| table.remove("value"));
    let mut why = String::new();
    for candidate in [Some(Value::String(value.to_owned())), as_toml].into_iter().flatten() {
        let mut changed = table.clone();
        let section = changed.entry(section).or_insert_with(|| Value::Table(Table::new()));
        section.as_table_mut().ok_or("it names no section of the configuration")?.insert(key.to_owned(), candidate);
        match changed.clone().try_into() {
            Ok(config) => {
                *table = changed;
                return Ok(config);
            }
            Err(error) => why = error.message().to_owned(),
        }
    }
    Err(why)
}

fn located(path: &str, text: &str, error: &toml::de::Error) -> ConfigError {
    let line = error.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
    ConfigError::File { path: path.to_owned(), line, why: error.message().to_owned() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const GOOD: &str = "[store]\ndir = \"store\"\n[slots]\nfiles = [\"root.slot\", \"/media/usb/root.slot\"]\n";

    const HARDWARE: &str =
        "[store]\ndir = \"s\"\n[[slots.pkcs11]]\nfile = \"h.slot\"\nmodule = \"/m.so\"\npin_file = \"p\"\n";
    const HSM: &str = "[unlock.pkcs11]\nmodule = \"m.so\"\ntoken = \"t\"\npin_file = \"p\"\n";

    fn parse(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::parse(text, "vault.toml", Path::new("/etc/udv"), variables)
    }

    #[test]
    fn unknown_keys_are_refused_with_their_line() {
        for (text, line) in [
            ("[server]\nlisten = \"127.0.0.1:1\"\nlisten_on = 1\n", 3),
            ("\n\n[severs]\nlisten = \"127.0.0.1:1\"\n", 3),
            ("[store]\ndir = 3\n", 2),
            ("[store]\ndir = \n", 2),
            ("[unlock]\n\npassphrase = \"correct horse\"\n", 3),
        ] {
            let error = parse(text, &[]).unwrap_err();
            assert!(matches!(&error, ConfigError::File { line: at, .. } if *at == line), "{text}: {error}");
            assert!(!error.to_string().contains("correct horse"));
        }
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let config = parse(GOOD, &[("UDV_UNLOCK__KEY_FILE", "key")]).unwrap();
        assert_eq!(config.store.dir, Path::new("/etc/udv/store"));
        assert_eq!(config.slots.files, [Path::new("/etc/udv/root.slot"), Path::new("/media/usb/root.slot")]);
        assert_eq!(config.unlock.key_file.as_deref(), Some(Path::new("/etc/udv/key")));
        assert_eq!(config.check(), Ok(()));
    }

    #[test]
    fn slots_in_hardware_have_a_place_of_their_own() {
        let config = parse(&format!("{HARDWARE}token = \"t\"\n"), &[]).unwrap();
        assert_eq!(config.slots.pkcs11[0].file, Path::new("/etc/udv/h.slot"));
        let hsm = config.slots.pkcs11[0].hsm();
        assert_eq!((hsm.module.as_path(), hsm.token.as_str()), (Path::new("/m.so"), "t"));
        assert_eq!((hsm.pin_file.as_path(), config.slots.rotation_seconds), (Path::new("/etc/udv/p"), 3600));
        assert!(parse(HARDWARE, &[]).is_err(), "no token");
    }

    #[test]
    fn the_environment_overrides() {
        let variables = [
            ("UDV_SERVER__LISTEN", "127.0.0.1:9"),
            ("UDV_STORE__CACHE_MIB", "7"),
            ("UDV_STORE__ENGINE", "fjall"),
            ("UDV_SLOTS__FILES", "[\"a\"]"),
            ("UDV_LOG__FORMAT", "json"),
            ("UDV_PROCESS__LOCK_MEMORY", "required"),
            ("UDV_TLS__CERT", "c.pem"),
            ("UDV_LOG", "debug"),
            ("PATH", "/bin"),
        ];
        let config = parse(GOOD, &variables).unwrap();
        assert_eq!((config.server.listen.port(), config.store.cache_mib), (9, 7));
        assert_eq!(
            (config.store.engine, parse(GOOD, &[]).unwrap().store.engine),
            (EngineName::Fjall, EngineName::Sled)
        );
        assert_eq!(config.slots.files, [Path::new("/etc/udv/a")]);
        assert_eq!((config.log.format, config.process.lock_memory), (LogFormat::Json, LockMemory::Required));
        assert!(config.check().is_err(), "a certificate without its key");
        for (name, value) in [
            ("UDV_SERVER__LISTEN", "here"),
            ("UDV_SERVER__PORT", "1"),
            ("UDV_NOWHERE__X", "1"),
            ("UDV_STORE__ENGINE", "rocksdb"),
            ("UDV_PROCESS__LOCK_MEMORY", "maybe"),
        ] {
            let error = parse(GOOD, &[(name, value)]).unwrap_err();
            assert!(matches!(error, ConfigError::Variable { variable, .. } if variable == name));
        }
    }

    #[test]
    fn what_is_missing_or_unsafe_is_refused() {
        for (text, refused) in [
            (GOOD.to_owned(), false),
            (String::new(), true),
            ("[store]\ndir = \"s\"\n".to_owned(), true),
            (format!("{GOOD}[server]\nlisten = \"0.0.0.0:8250\"\n"), true),
            (format!("{GOOD}[server]\nlisten = \"0.0.0.0:8250\"\n[tls]\ncert = \"c\"\nkey = \"k\"\n"), false),
            (format!("{GOOD}[unlock]\nkey_file = \"k\"\npassphrase_file = \"p\"\n"), true),
            (format!("{GOOD}[limits]\nmax_in_flight = 0\n"), true),
            (format!("{HARDWARE}token = \"t\"\n"), false),
            (format!("{HARDWARE}token = \"t\"\n{HSM}"), true),
            (format!("{GOOD}{HSM}"), false),
            (format!("{GOOD}[unlock]\nkey_file = \"k\"\n{HSM}"), true),
            (format!("{GOOD}[rotation]\ndeks_days = 0\n"), true),
            (format!("{GOOD}[rotation]\nrate = 1000001\n"), true),
            (format!("{GOOD}[rotation]\nlookups_shreds = 9\nroot_days = 30\nwhen_due = \"rotate\"\n"), false),
            (format!("{GOOD}[retention]\nsweep_seconds = 0\n"), true),
            (format!("{GOOD}[retention]\nsweep_seconds = 60\n"), false),
        ] {
            assert_eq!(parse(&text, &[]).unwrap().check().is_err(), refused, "{text}");
        }
    }

    #[test]
    fn the_example_is_the_configuration_of_a_vault() {
        let config = parse(include_str!("../../docs/vault.example.toml"), &[]).unwrap();
        assert_eq!(config.check(), Ok(()));
    }

    #[test]
    fn any_text_is_a_configuration_or_says_why_it_is_none() {
        use crate::fuzz::{Dice, cases, corpus, fire};

        let run = |bytes: &[u8]| {
            let text = std::str::from_utf8(bytes).unwrap_or_default();
            match parse(text, &[]) {
                Ok(config) => {
                    let _ = config.check();
                    true
                }
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    false
                }
            }
        };
        let taken = fire("config", &corpus("config"), cases(3000), &mut Dice::of_run(), run);
        assert!(taken > 0);
    }
}
