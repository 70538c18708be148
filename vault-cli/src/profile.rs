//! Which vault to talk to: flags first, then a named profile, the environment, the default profile, and what `vault-server dev` uses.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::args::Globals;
use crate::exit::Failure;

const DEFAULT_URL: &str = "http://127.0.0.1:8250";
const DEFAULT_TOKEN_FILE: &str = "vault-data/admin.token";
const DEFAULT_PROFILE: &str = "default";

/// Where the vault is and how to prove who asks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    pub(crate) url: String,
    pub(crate) token_file: Option<PathBuf>,
    /// PEM file of the certificate authority that signed the server's certificate.
    pub(crate) ca: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    #[serde(default)]
    profiles: BTreeMap<String, Profile>,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    url: Option<String>,
    token_file: Option<PathBuf>,
    ca: Option<PathBuf>,
}

/// The process environment, as far as it matters here.
#[derive(Debug, Default)]
struct Surroundings {
    url: Option<String>,
    token_file: Option<PathBuf>,
    config: Option<PathBuf>,
    default_token_exists: bool,
}

/// Resolves flags, profile and environment.
pub(crate) fn resolve(globals: &Globals) -> Result<Connection, Failure> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let config_dir =
        set("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| set("HOME").map(|home| Path::new(&home).join(".config")));
    resolve_in(
        globals,
        Surroundings {
            url: set("UDV_URL").map(|url| url.to_string_lossy().into_owned()),
            token_file: set("UDV_TOKEN_FILE").map(PathBuf::from),
            config: config_dir.map(|dir| dir.join("udv").join("config.toml")),
            default_token_exists: Path::new(DEFAULT_TOKEN_FILE).exists(),
        },
    )
}

fn resolve_in(globals: &Globals, around: Surroundings) -> Result<Connection, Failure> {
    let profiles = match &around.config {
        Some(path) => read_profiles(path)?,
        None => BTreeMap::new(),
    };
    let named = match &globals.profile {
        Some(name) => profiles.get(name).cloned().ok_or_else(|| unknown_profile(name, around.config.as_deref()))?,
        None => Profile::default(),
    };
    let fallback = match &globals.profile {
        Some(_) => Profile::default(),
        None => profiles.get(DEFAULT_PROFILE).cloned().unwrap_or_default(),
    };
    let local = around.default_token_exists.then(|| PathBuf::from(DEFAULT_TOKEN_FILE));
    Ok(Connection {
        url: globals
            .url
            .clone()
            .or(named.url)
            .or(around.url)
            .or(fallback.url)
            .unwrap_or_else(|| DEFAULT_URL.to_owned()),
        token_file: globals
            .token_file
            .clone()
            .or(named.token_file)
            .or(around.token_file)
            .or(fallback.token_file)
            .or(local),
        ca: globals.ca.clone().or(named.ca).or(fallback.ca),
    })
}

fn unknown_profile(name: &str, config: Option<&Path>) -> Failure {
    let place = config.map_or("the configuration directory".to_owned(), |path| path.display().to_string());
    Failure::usage(format!("there is no profile {name} in {place}"))
        .hint(format!("add [profiles.{name}] with url, token_file and, for a private authority, ca"))
}

/// Reads the profiles; paths in the file are relative to the file. No file means no profiles.
fn read_profiles(path: &Path) -> Result<BTreeMap<String, Profile>, Failure> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => {
            return Err(Failure::failed(format!("cannot read {}: {error}", path.display())));
        }
    };
    let mut file: ConfigFile = toml::from_str(&text)
        .map_err(|error| Failure::usage(format!("{}: {}", path.display(), error.to_string().trim_end())))?;
    let dir = path.parent().unwrap_or(Path::new(""));
    for profile in file.profiles.values_mut() {
        for place in [&mut profile.token_file, &mut profile.ca] {
            *place = place.take().map(|relative| dir.join(relative));
        }
    }
    Ok(file.profiles)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const CONFIG: &str = r#"
[profiles.default]
url = "https://default.example"
[profiles.live]
url = "https://vault.example"
token_file = "live.token"
ca = "/etc/udv/ca.pem"
"#;

    fn with_config(text: &str) -> (tempfile::TempDir, Surroundings) {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.toml");
        fs::write(&config, text).unwrap();
        let around = Surroundings {
            url: Some("https://env.example".into()),
            token_file: Some("env.token".into()),
            config: Some(config),
            default_token_exists: true,
        };
        (dir, around)
    }

    #[test]
    fn nothing_given_means_the_local_development_vault() {
        let found =
            resolve_in(&Globals::default(), Surroundings { default_token_exists: true, ..Surroundings::default() })
                .unwrap();
        assert_eq!(found.url, DEFAULT_URL);
        assert_eq!(found.token_file.as_deref(), Some(Path::new(DEFAULT_TOKEN_FILE)));
        let bare = resolve_in(&Globals::default(), Surroundings::default()).unwrap();
        assert_eq!(bare.token_file, None);
    }

    #[test]
    fn a_named_profile_beats_the_environment_and_a_flag_beats_both() {
        let (dir, around) = with_config(CONFIG);
        let mut globals = Globals { profile: Some("live".into()), ..Globals::default() };
        let found = resolve_in(&globals, around).unwrap();
        assert_eq!(found.url, "https://vault.example");
        assert_eq!(found.token_file, Some(dir.path().join("live.token")));
        assert_eq!(found.ca, Some(PathBuf::from("/etc/udv/ca.pem")));

        let (_dir, around) = with_config(CONFIG);
        globals.url = Some("https://flag.example".into());
        assert_eq!(resolve_in(&globals, around).unwrap().url, "https://flag.example");
    }

    #[test]
    fn the_environment_beats_the_default_profile() {
        let (_dir, around) = with_config(CONFIG);
        let found = resolve_in(&Globals::default(), around).unwrap();
        assert_eq!(found.url, "https://env.example");
        let (_dir, around) = with_config(CONFIG);
        let unset = Surroundings { url: None, ..around };
        let found = resolve_in(&Globals::default(), unset).unwrap();
        assert_eq!(found.url, "https://default.example");
    }

    #[test]
    fn unknown_keys_and_profiles_are_usage_errors() {
        let (_dir, around) = with_config("[profiles.live]\nurll = \"x\"\n");
        let failure = resolve_in(&Globals::default(), around).unwrap_err();
        assert_eq!(failure.exit as u8, 2);
        assert!(failure.message.contains("urll"), "{failure}");

        let (_dir, around) = with_config(CONFIG);
        let globals = Globals { profile: Some("nowhere".into()), ..Globals::default() };
        assert_eq!(resolve_in(&globals, around).unwrap_err().exit as u8, 2);
    }
}
