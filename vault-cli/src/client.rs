//! The HTTP client: one request, one answer, and every refusal turned into a failure with an exit code.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::{Request, Response, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};
use zeroize::Zeroizing;

use crate::address::checked_base;
use crate::exit::{Exit, Failure, Problem};
use crate::output::{Ui, printable};
use crate::profile::Connection;
use crate::secret;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Unlocking stretches a passphrase and a final removal waits for its root batch: seconds, not minutes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
const MAX_ANSWER: u64 = 64 * 1024 * 1024;
/// How often a request is repeated that the server was too busy to look at.
const PATIENCE: u32 = 5;
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Talks to one vault.
pub(crate) struct Client {
    agent: Agent,
    base: String,
    token: Option<Zeroizing<String>>,
}

/// What the server answered to a request it accepted.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The version of what was answered, as its ETag.
    pub(crate) etag: Option<String>,
    body: Zeroizing<Vec<u8>>,
}

impl Answer {
    /// Parses the body.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        // The parser's own message could quote a value.
        serde_json::from_slice(&self.body).map_err(|_| not_understood())
    }

    /// The body as it came, byte for byte.
    pub(crate) fn text(&self) -> Result<&str, Failure> {
        std::str::from_utf8(&self.body).map_err(|_| not_understood())
    }
}

fn not_understood() -> Failure {
    Failure::failed("the server's answer was not understood")
        .hint("is this a vault server, of the version of this program? see vault-cli --version")
}

impl Client {
    /// Prepares a client; nothing is sent yet.
    pub(crate) fn new(to: &Connection, ui: &Ui) -> Result<Self, Failure> {
        let token = match &to.token_file {
            Some(path) => Some(secret::read_token(path, ui)?),
            None => None,
        };
        Self::with_token(to, token)
    }

    /// As [`Client::new`], for requests that prove themselves by other means than an API token.
    pub(crate) fn anonymous(to: &Connection) -> Result<Self, Failure> {
        Self::with_token(to, None)
    }

    fn with_token(to: &Connection, token: Option<Zeroizing<String>>) -> Result<Self, Failure> {
        let base = checked_base(&to.url)?;
        let mut tls = TlsConfig::builder();
        if let Some(path) = &to.ca {
            tls = tls.root_certs(read_ca(path)?);
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // An API token goes to the vault and nowhere else: no proxies, no redirects.
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(ANSWER_TIMEOUT))
            .user_agent(concat!("vault-cli/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls.build())
            .build();
        Ok(Self { agent: config.new_agent(), base, token })
    }

    /// Where the vault is.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    pub(crate) fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.request("GET", path, None, &[])
    }

    /// A read on behalf of a purpose.
    pub(crate) fn get_for(&self, path: &str, purpose: Option<&str>) -> Result<Answer, Failure> {
        self.request("GET", path, None, &for_purpose(purpose))
    }

    /// A document as TOML.
    pub(crate) fn get_toml(&self, path: &str) -> Result<Answer, Failure> {
        self.request("GET", path, None, &[("Accept", TOML)])
    }

    /// Puts a document that is TOML, over the version of this ETag if one is named.
    pub(crate) fn put_toml(&self, path: &str, toml: &str, over: Option<&str>) -> Result<Answer, Failure> {
        let headers = [("Content-Type", TOML)].into_iter().chain(over.map(|etag| ("If-Match", etag)));
        self.request("PUT", path, Some(toml.as_bytes()), &headers.collect::<Vec<_>>())
    }

    pub(crate) fn put(&self, path: &str, body: &impl Serialize) -> Result<Answer, Failure> {
        self.request("PUT", path, Some(&encoded(body)?), &[])
    }

    pub(crate) fn delete(&self, path: &str) -> Result<Answer, Failure> {
        self.request("DELETE", path, None, &[])
    }

    /// Takes something back, and says more about it.
    pub(crate) fn delete_with(&self, path: &str, body: &impl Serialize) -> Result<Answer, Failure> {
        self.request("DELETE", path, Some(&encoded(body)?), &[])
    }

    pub(crate) fn post(&self, path: &str, body: &impl Serialize) -> Result<Answer, Failure> {
        self.request("POST", path, Some(&encoded(body)?), &[])
    }

    /// A read on behalf of a purpose that is asked for with a body.
    pub(crate) fn post_for(&self, path: &str, body: &impl Serialize, purpose: Option<&str>) -> Result<Answer, Failure> {
        self.request("POST", path, Some(&encoded(body)?), &for_purpose(purpose))
    }

    pub(crate) fn patch(&self, path: &str, body: &impl Serialize) -> Result<Answer, Failure> {
        self.request("PATCH", path, Some(&encoded(body)?), &[])
    }

    /// Posts JSON that is already written, so that values keep their spelling.
    pub(crate) fn post_text(&self, path: &str, json: &str, purpose: Option<&str>) -> Result<Answer, Failure> {
        self.request("POST", path, Some(json.as_bytes()), &for_purpose(purpose))
    }

    /// Patches with JSON that is already written.
    pub(crate) fn patch_text(&self, path: &str, json: &str) -> Result<Answer, Failure> {
        self.request("PATCH", path, Some(json.as_bytes()), &[])
    }

    /// Sends a request, again after a pause when the server had no time for it.
    fn request(
        &self,
        method: &str,
        path: &str,
        body: Option<&[u8]>,
        headers: &[(&str, &str)],
    ) -> Result<Answer, Failure> {
        let mut pause = Duration::from_millis(200);
        for _ in 1..PATIENCE {
            let response = self.send(method, path, body, headers)?;
            let asked = retry_after(&response);
            match self.judge(response) {
                Err(busy) if busy.was_not_looked_at() => {
                    thread::sleep(asked.unwrap_or(pause).min(LONGEST_PAUSE));
                    pause *= 2;
                }
                judged => return judged.map_err(|refusal| self.explain(refusal)),
            }
        }
        let response = self.send(method, path, body, headers)?;
        self.judge(response).map_err(|refusal| self.explain(refusal))
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<&[u8]>,
        headers: &[(&str, &str)],
    ) -> Result<Response<Body>, Failure> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            let bearer = Zeroizing::new(format!("Bearer {}", token.as_str()));
            let mut value = header::HeaderValue::from_str(&bearer)
                .map_err(|_| Failure::failed("the API token has characters no API token has"))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let typed = headers.iter().any(|(name, _)| *name == "Content-Type");
        let sent = match body {
            Some(body) => {
                if !typed {
                    request = request.header(header::CONTENT_TYPE, "application/json");
                }
                self.agent.run(request.body(body).map_err(bad_request)?)
            }
            None if method == "POST" => self.agent.run(request.body(&b""[..]).map_err(bad_request)?),
            None => self.agent.run(request.body(()).map_err(bad_request)?),
        };
        sent.map_err(|error| self.unreachable(&error))
    }

    /// Posts without a body.
    pub(crate) fn post_empty(&self, path: &str) -> Result<Answer, Failure> {
        self.request("POST", path, None, &[])
    }

    fn judge(&self, mut response: Response<Body>) -> Result<Answer, Refusal> {
        let status = response.status().as_u16();
        let body = response
            .body_mut()
            .with_config()
            .limit(MAX_ANSWER)
            .read_to_vec()
            .map(Zeroizing::new)
            .map_err(|error| Refusal::Broken(self.unreachable(&error)))?;
        if (200..300).contains(&status) {
            let etag = response.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
            return Ok(Answer { status, etag, body });
        }
        let problem = serde_json::from_slice(&body).unwrap_or_else(|_| Problem {
            detail: format!("the server answered {status} without saying why"),
            ..Problem::default()
        });
        Err(Refusal::Problem(status, problem))
    }

    fn explain(&self, refusal: Refusal) -> Failure {
        match refusal {
            Refusal::Broken(failure) => failure,
            Refusal::Problem(401, problem) if self.token.is_none() => Failure::refused(401, &problem)
                .hint("no API token was sent: give --token-file FILE or set UDV_TOKEN_FILE"),
            Refusal::Problem(status, problem) => Failure::refused(status, &problem),
        }
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        // A certificate that does not check out arrives as invalid data.
        let certificate = match error {
            ureq::Error::Rustls(_) | ureq::Error::Tls(_) => true,
            ureq::Error::Io(error) => error.kind() == ErrorKind::InvalidData,
            _ => false,
        };
        let hint = if certificate {
            "if a private authority signed the server's certificate, give it with --ca FILE"
        } else {
            "is the server running? start one with: vault-server dev, or name another with --url"
        };
        Failure::new(
            Exit::Unreachable,
            format!("cannot reach the vault at {}: {}", self.base, printable(&error.to_string())),
        )
        .hint(hint)
    }
}

/// A request the server did not carry out.
enum Refusal {
    Problem(u16, Problem),
    Broken(Failure),
}

impl Refusal {
    /// True when the server turned the request away before doing anything: repeating it is safe.
    fn was_not_looked_at(&self) -> bool {
        match self {
            Self::Problem(429, _) => true,
            Self::Problem(503, problem) => problem.code == "overloaded",
            _ => false,
        }
    }
}

const TOML: &str = "application/toml";

/// The header that names a purpose.
fn for_purpose(purpose: Option<&str>) -> Vec<(&'static str, &str)> {
    purpose.map(|purpose| ("Udv-Purpose", purpose)).into_iter().collect()
}

fn retry_after(response: &Response<Body>) -> Option<Duration> {
    let value = response.headers().get(header::RETRY_AFTER)?;
    value.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

fn encoded(body: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, Failure> {
    serde_json::to_vec(body)
        .map(Zeroizing::new)
        .map_err(|_| Failure::failed("the request could not be written as JSON"))
}

fn bad_request(_: ureq::http::Error) -> Failure {
    Failure::usage("the request cannot be sent: the URL or the purpose has characters not allowed there")
}

fn read_ca(path: &Path) -> Result<RootCerts, Failure> {
    let pem = fs::read(path).map_err(|error| Failure::failed(format!("cannot read {}: {error}", path.display())))?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(Failure::failed(format!("{} holds no PEM certificate", path.display())));
    }
    Ok(RootCerts::Specific(Arc::new(certificates)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::fake::FakeVault;

    fn client(fake: &FakeVault) -> Client {
        Client::with_token(&fake.connection(), Some(Zeroizing::new("udv_test".into()))).unwrap()
    }

    #[test]
    fn a_request_carries_the_token_the_purpose_and_the_body_as_written() {
        let fake = FakeVault::answering(vec![(200, "{\"ok\":1.50}".into())]);
        let answer =
            client(&fake).patch_text("/v1/subjects/a%2Fb/fields", "{\"fields\":{\"lat\":-47.76309000}}").unwrap();
        assert_eq!(answer.text().unwrap(), "{\"ok\":1.50}");
        let seen = fake.requests();
        assert!(seen[0].starts_with("PATCH /v1/subjects/a%2Fb/fields HTTP/1.1"), "{seen:?}");
        assert!(seen[0].to_lowercase().contains("authorization: bearer udv_test"));
        assert!(seen[0].ends_with("{\"fields\":{\"lat\":-47.76309000}}"));

        let fake = FakeVault::answering(vec![(200, "{}".into())]);
        client(&fake).get_for("/x", Some("delivery")).unwrap();
        assert!(fake.requests()[0].to_lowercase().contains("udv-purpose: delivery"));
    }

    #[test]
    fn a_problem_document_becomes_its_exit_code() {
        let problem = r#"{"status":410,"code":"shredded","detail":"this subject was shredded"}"#;
        let fake = FakeVault::answering(vec![(410, problem.into())]);
        let failure = client(&fake).get("/v1/subjects/x").map(drop).unwrap_err();
        assert_eq!(failure.exit, Exit::Shredded);
        assert_eq!(failure.message, "this subject was shredded");
    }

    #[test]
    fn an_overloaded_server_is_asked_again_a_locked_one_is_not() {
        let busy = r#"{"code":"overloaded","detail":"busy"}"#;
        let fake = FakeVault::answering(vec![(503, busy.into()), (200, "{}".into())]);
        assert!(client(&fake).post_empty("/v1/lock").is_ok());
        assert_eq!(fake.requests().len(), 2);

        let locked = r#"{"code":"locked","detail":"the vault is locked"}"#;
        let fake = FakeVault::answering(vec![(423, locked.into()), (200, "{}".into())]);
        let failure = client(&fake).get("/v1/keys").map(drop).unwrap_err();
        assert_eq!(failure.exit, Exit::Unreachable);
        assert_eq!(fake.requests().len(), 1);
    }

    #[test]
    fn a_redirect_is_not_followed_and_a_dead_server_is_unreachable() {
        let fake = FakeVault::answering(vec![(307, String::new())]);
        let failure = client(&fake).get("/v1/status").map(drop).unwrap_err();
        assert_eq!(failure.exit, Exit::Failed);

        let to = Connection { url: "http://127.0.0.1:1".into(), token_file: None, ca: None };
        let failure = Client::anonymous(&to).unwrap().get("/v1/status").map(drop).unwrap_err();
        assert_eq!(failure.exit, Exit::Unreachable);
        assert!(failure.hint.is_some());
    }

    #[test]
    fn without_a_token_a_401_says_how_to_give_one() {
        let fake = FakeVault::answering(vec![(401, r#"{"detail":"who are you"}"#.into())]);
        let failure = Client::anonymous(&fake.connection()).unwrap().get("/v1/status").map(drop).unwrap_err();
        assert_eq!(failure.exit as u8, 4);
        assert!(failure.hint.unwrap().contains("--token-file"));
    }
}
