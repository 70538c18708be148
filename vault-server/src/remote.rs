//! Asking a server that runs, for commands that would otherwise need its store.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args as ClapArgs;
use serde_json::Value;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, http};
use vault_core::ids::BackupId;
use zeroize::Zeroizing;

use crate::commands::Failure;
use crate::files;
use crate::routes::backups::BACKUP_ID;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// An HSM may take its time.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);
const ANSWER_MAX: u64 = 16 * 1024 * 1024;

/// How to prove oneself to a running server.
#[derive(Debug, ClapArgs)]
pub(crate) struct RemoteArgs {
    /// A file with the API token of an admin or of security, for --url.
    #[arg(long, value_name = "FILE", requires = "url")]
    pub(crate) token_file: Option<PathBuf>,
    /// The private certificate authority that the server's certificate is from, for --url.
    #[arg(long, value_name = "FILE", requires = "url")]
    pub(crate) ca: Option<PathBuf>,
}

/// A running server.
pub(crate) struct Remote {
    agent: Agent,
    base: String,
    token: Zeroizing<String>,
}

impl Remote {
    /// Prepares to ask the server at `url`; nothing is sent yet.
    ///
    /// # Errors
    /// If the URL would send the API token in the clear, or a file cannot be read.
    pub(crate) fn new(url: &str, args: &RemoteArgs) -> Result<Self, Failure> {
        let base = url.trim_end_matches('/').to_owned();
        if !base.starts_with("https://") && !is_loopback(&base) {
            let told = "is no URL that an API token may be sent to: use https://, or http:// on 127.0.0.1";
            return Err(Failure::usage(format!("{base} {told}")));
        }
        let path = args.token_file.as_ref().ok_or_else(|| Failure::usage("--url needs --token-file, too"))?;
        let unreadable = |path: &PathBuf, why: std::io::Error| {
            Failure::failed(format!("{} cannot be read ({why}): correct its path", path.display()))
        };
        let text = files::read_secret(path).map_err(|why| unreadable(path, why))?;
        let token = Zeroizing::new(text.trim().to_owned());
        let mut tls = TlsConfig::builder();
        if let Some(path) = &args.ca {
            let pem = std::fs::read(path).map_err(|why| unreadable(path, why))?;
            tls = tls.root_certs(certificates(&pem));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // An API token goes to the vault and nowhere else: no proxies, no redirects.
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT_LIMIT))
            .timeout_recv_response(Some(ANSWER_LIMIT))
            .tls_config(tls.build());
        Ok(Self { agent: config.build().new_agent(), base, token })
    }

    /// # Errors
    /// If there is no answer, or it is a problem.
    pub(crate) fn get(&self, path: &str) -> Result<Value, Failure> {
        let request = self.agent.get(format!("{}{path}", self.base));
        self.judge(request.header("authorization", &self.bearer()[..]).call())
    }

    /// # Errors
    /// As [`Remote::get`].
    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let request = self.agent.post(format!("{}{path}", self.base));
        self.judge(request.header("authorization", &self.bearer()[..]).send_json(body))
    }

    /// # Errors
    /// As [`Remote::get`].
    pub(crate) fn delete(&self, path: &str) -> Result<Value, Failure> {
        let request = self.agent.delete(format!("{}{path}", self.base));
        self.judge(request.header("authorization", &self.bearer()[..]).call())
    }

    /// Asks for an archive: its id, and its bytes as they come. An error while they are read means that it broke off.
    ///
    /// # Errors
    /// As [`Remote::get`].
    pub(crate) fn receive(&self, path: &str, body: &Value) -> Result<(BackupId, impl Read + use<>), Failure> {
        let request = self.agent.post(format!("{}{path}", self.base));
        let answer = request.header("authorization", &self.bearer()[..]).send_json(body);
        let answer = match answer {
            Ok(answer) if answer.status().is_success() => answer,
            other => return Err(self.judge(other).err().unwrap_or_else(|| Failure::failed("no archive came"))),
        };
        let id = answer.headers().get(BACKUP_ID).and_then(|id| BackupId::parse(id.to_str().ok()?).ok());
        let id = id.ok_or_else(|| Failure::failed(format!("{} sent no backup: is it a vault server?", self.base)))?;
        Ok((id, answer.into_body().into_with_config().limit(u64::MAX).reader()))
    }

    fn bearer(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("Bearer {}", self.token.as_str()))
    }

    fn judge(&self, answer: Result<http::Response<Body>, ureq::Error>) -> Result<Value, Failure> {
        let unanswered = |why: ureq::Error| Failure::failed(format!("{} does not answer: {why}", self.base));
        let mut answer = answer.map_err(unanswered)?;
        let status = answer.status();
        let body: Value = answer.body_mut().with_config().limit(ANSWER_MAX).read_json().unwrap_or(Value::Null);
        if status.is_success() {
            return Ok(body);
        }
        let told = body["detail"].as_str().unwrap_or("it does not say why: is it a vault server?");
        Err(Failure::failed(format!("the server refused ({status}): {told}")))
    }
}

fn certificates(pem: &[u8]) -> RootCerts {
    let certificates = parse_pem(pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    RootCerts::new_with_certs(&certificates.collect::<Vec<_>>())
}

fn is_loopback(base: &str) -> bool {
    let Some(rest) = base.strip_prefix("http://") else { return false };
    let authority = rest.split('/').next().unwrap_or_default();
    ["127.0.0.1", "localhost", "[::1]"]
        .iter()
        .any(|host| authority.strip_prefix(host).is_some_and(|port| port.is_empty() || port.starts_with(':')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_tokens_are_not_sent_in_the_clear() {
        for (url, loopback) in [
            ("http://127.0.0.1:8250", true),
            ("http://localhost", true),
            ("http://[::1]:1/x", true),
            ("http://127.0.0.1.example.org", false),
            ("http://vault.example.org:8250", false),
        ] {
            assert_eq!(is_loopback(url), loopback, "{url}");
        }
        let args = RemoteArgs { token_file: None, ca: None };
        assert!(Remote::new("http://vault.example.org", &args).is_err());
    }
}
