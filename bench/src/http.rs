//! As much of HTTP/1.1 as the server's answers need: one keep-alive connection, one request at a time, with TLS or without.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::Failure;

/// Where a server listens, and how it is spoken to.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    /// The API token that every request carries.
    pub(crate) token: String,
    /// Whom a client trusts; without it, it speaks plain HTTP.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

/// What to ask.
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) body: String,
    /// Why: what is read for.
    pub(crate) purpose: Option<String>,
}

impl Request {
    /// A request; without a body if that is empty.
    pub(crate) fn new(method: &'static str, path: impl Into<String>, body: impl Into<String>) -> Request {
        Request { method, path: path.into(), body: body.into(), purpose: None }
    }

    /// A request without a body.
    pub(crate) fn get(path: impl Into<String>) -> Request {
        Request::new("GET", path, "")
    }

    /// A request with one.
    pub(crate) fn post(path: impl Into<String>, body: impl Into<String>) -> Request {
        Request::new("POST", path, body)
    }

    /// The same for another purpose than `account`.
    pub(crate) fn with_purpose(self, purpose: String) -> Request {
        Request { purpose: Some(purpose), ..self }
    }
}

/// What a connection runs over.
trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// After this the server soon closes a connection that asks nothing.
const IDLE: Duration = Duration::from_secs(20);

/// A connection to a server.
pub(crate) struct Connection {
    endpoint: Endpoint,
    stream: Box<dyn Stream>,
    /// When the last answer was there.
    answered: Instant,
    /// The headers that every request has.
    headers: String,
    out: Vec<u8>,
    input: Vec<u8>,
}

impl Endpoint {
    /// Connects.
    pub(crate) async fn connect(&self) -> Result<Connection, Failure> {
        let Endpoint { address, token, .. } = self;
        let headers = format!("Host: {address}\r\nAuthorization: Bearer {token}\r\n");
        Ok(Connection {
            endpoint: self.clone(),
            stream: self.stream().await?,
            answered: Instant::now(),
            headers,
            out: Vec::new(),
            input: Vec::with_capacity(64 * 1024),
        })
    }

    async fn stream(&self) -> Result<Box<dyn Stream>, Failure> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some(config) => {
                let name = ServerName::IpAddress(self.address.ip().into());
                Ok(Box::new(TlsConnector::from(Arc::clone(config)).connect(name, stream).await?))
            }
        }
    }

    /// Connects as often as told.
    pub(crate) async fn connect_all(&self, connections: u16) -> Result<Vec<Connection>, Failure> {
        let mut all = Vec::new();
        for _ in 0..connections {
            all.push(self.connect().await?);
        }
        Ok(all)
    }
}

impl Connection {
    /// Sends `request` and gives the status and the body of the answer.
    pub(crate) async fn ask(&mut self, request: &Request) -> Result<(u16, &[u8]), Failure> {
        let Request { method, path, body, purpose } = request;
        let purpose = purpose.as_deref().unwrap_or("account");
        self.out.clear();
        let head = format!("{method} {path} HTTP/1.1\r\n{}Udv-Purpose: {purpose}\r\n", self.headers);
        self.out.extend_from_slice(head.as_bytes());
        if !body.is_empty() {
            let head = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
            self.out.extend_from_slice(head.as_bytes());
        }
        self.out.extend_from_slice(b"\r\n");
        self.out.extend_from_slice(body.as_bytes());
        // It rested while something else was measured.
        if self.answered.elapsed() > IDLE {
            self.stream = self.endpoint.stream().await?;
        }
        self.stream.write_all(&self.out).await?;
        self.stream.flush().await?;
        self.answer().await
    }

    /// The same, of a request that must succeed: the body as JSON.
    pub(crate) async fn expect(&mut self, request: &Request) -> Result<serde_json::Value, Failure> {
        let (status, body) = self.ask(request).await?;
        if (200..300).contains(&status) {
            return Ok(serde_json::from_slice(body)?);
        }
        let told = String::from_utf8_lossy(&body[..body.len().min(300)]);
        Err(format!("{} {}: the server answered {status} {told}", request.method, request.path).into())
    }

    /// Bytes of the last answer, head and body.
    pub(crate) fn answer_bytes(&self) -> usize {
        self.input.len()
    }

    async fn answer(&mut self) -> Result<(u16, &[u8]), Failure> {
        self.input.clear();
        let body = loop {
            if let Some(end) = self.input.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            self.more().await?;
        };
        let head = std::str::from_utf8(&self.input[..body])?;
        let status = head.get(9..12).ok_or("an answer without a status")?.parse()?;
        let end = body + content_length(head, status)?;
        while self.input.len() < end {
            self.more().await?;
        }
        self.answered = Instant::now();
        Ok((status, &self.input[body..end]))
    }

    async fn more(&mut self) -> Result<(), Failure> {
        match self.stream.read_buf(&mut self.input).await? {
            0 => Err("the server closed a connection: did it stop, or did another program end it?".into()),
            _ => Ok(()),
        }
    }
}

fn content_length(head: &str, status: u16) -> Result<usize, Failure> {
    let mut headers = head.lines().filter_map(|line| line.split_once(':'));
    match headers.find(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
        Some((_, length)) => Ok(length.trim().parse()?),
        None if status == 204 => Ok(0),
        None => Err("an answer without Content-Length, which this client does not read".into()),
    }
}
