//! An HTTP client that knows nothing of the vault but the contract.

use std::time::Duration;

use serde_json::Value;
use ureq::Agent;
use ureq::http::{HeaderMap, Request};

/// Talks to one server as one caller, or as nobody.
#[derive(Clone)]
pub(crate) struct Client {
    agent: Agent,
    url: String,
    token: Option<String>,
    purpose: Option<&'static str>,
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Client {
    pub(crate) fn new(url: &str, token: Option<&str>) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .timeout_global(Some(Duration::from_secs(60)));
        Self::with_agent(config.build().into(), url, token)
    }

    pub(crate) fn with_agent(agent: Agent, url: &str, token: Option<&str>) -> Self {
        Self { agent, url: url.to_owned(), token: token.map(str::to_owned), purpose: None }
    }

    /// The same with another API token, or none.
    pub(crate) fn with_token(&self, token: Option<&str>) -> Self {
        Self { token: token.map(str::to_owned), ..self.clone() }
    }

    /// The same, with a connection for each request.
    pub(crate) fn once(&self) -> Self {
        let token = self.token.clone();
        let config = Agent::config_builder().max_idle_connections(0).http_status_as_error(false).proxy(None);
        Self { purpose: self.purpose, ..Self::with_agent(config.build().into(), &self.url, token.as_deref()) }
    }

    /// The same, with connections that nobody else uses.
    pub(crate) fn alone(&self) -> Self {
        Self { purpose: self.purpose, ..Self::new(&self.url, self.token()) }
    }

    /// The API token that it sends.
    pub(crate) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// The same, reading for a purpose.
    pub(crate) fn for_purpose(&self, purpose: &'static str) -> Self {
        Self { purpose: Some(purpose), ..self.clone() }
    }

    /// One request; an error only if there was no answer.
    pub(crate) fn attempt(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Result<Answer, ureq::Error> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(purpose) = self.purpose {
            request = request.header("udv-purpose", purpose);
        }
        if body.is_some() && !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = match body {
            Some(body) => self.agent.run(request.body(body)?)?,
            None => self.agent.run(request.body(())?)?,
        };
        let body = response.body_mut().with_config().limit(64 << 20).read_to_vec()?;
        Ok(Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            // A backup is no text.
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }

    #[track_caller]
    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&str>) -> Answer {
        self.attempt(method, path, headers, body.map(str::as_bytes))
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], None)
    }

    #[track_caller]
    pub(crate) fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], None)
    }

    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, &[], Some(&body.to_string()))
    }

    #[track_caller]
    pub(crate) fn patch(&self, path: &str, body: &Value) -> Answer {
        self.send("PATCH", path, &[], Some(&body.to_string()))
    }

    #[track_caller]
    pub(crate) fn put(&self, path: &str, body: &Value) -> Answer {
        self.send("PUT", path, &[], Some(&body.to_string()))
    }

    /// Sets fields of a subject whose id needs no encoding.
    #[track_caller]
    pub(crate) fn set(&self, subject: &str, fields: &Value) -> Answer {
        self.patch(&format!("/v1/subjects/{subject}/fields"), &serde_json::json!({ "fields": fields }))
    }

    /// Reads one field in full.
    #[track_caller]
    pub(crate) fn field(&self, subject: &str, name: &str) -> Answer {
        self.for_purpose("account").get(&format!("/v1/subjects/{subject}/fields/{name}?view=full"))
    }

    /// The ids that a lookup finds.
    #[track_caller]
    pub(crate) fn find(&self, lookup: &Value) -> Vec<String> {
        let found = self.post("/v1/lookups", lookup).expect(200).json();
        found["subjects"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
    }
}

impl Answer {
    /// Asserts the status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Asserts a whole problem document of this status and code, and answers it.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}", self.body);
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["type"], format!("urn:udv:problem:{code}"), "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        for text in ["title", "detail"] {
            assert!(problem[text].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
        }
        problem
    }
}
