//! As much of HTTP/1.1 as the server's answers need: one keep-alive connection, one request at a time.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Failure;

/// A connection to the server.
pub(super) struct Connection {
    stream: TcpStream,
    authorization: String,
    out: Vec<u8>,
    input: Vec<u8>,
}

/// What to ask.
pub(super) struct Request {
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) body: String,
}

impl Connection {
    /// Connects; every request then carries the API token.
    pub(super) async fn open(address: SocketAddr, token: &str) -> Result<Connection, Failure> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let authorization = format!("Host: {address}\r\nAuthorization: Bearer {token}\r\nUdv-Purpose: account\r\n");
        Ok(Connection { stream, authorization, out: Vec::new(), input: Vec::with_capacity(64 * 1024) })
    }

    /// Sends `request` and gives the status and the body of the answer.
    pub(super) async fn ask(&mut self, request: &Request) -> Result<(u16, &[u8]), Failure> {
        let Request { method, path, body } = request;
        self.out.clear();
        self.out.extend_from_slice(format!("{method} {path} HTTP/1.1\r\n{}", self.authorization).as_bytes());
        if !body.is_empty() {
            let head = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
            self.out.extend_from_slice(head.as_bytes());
        }
        self.out.extend_from_slice(b"\r\n");
        self.out.extend_from_slice(body.as_bytes());
        self.stream.write_all(&self.out).await?;
        self.answer().await
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
        let end = body + content_length(head)?;
        while self.input.len() < end {
            self.more().await?;
        }
        Ok((status, &self.input[body..end]))
    }

    async fn more(&mut self) -> Result<(), Failure> {
        match self.stream.read_buf(&mut self.input).await? {
            0 => Err("the server closed a connection".into()),
            _ => Ok(()),
        }
    }
}

fn content_length(head: &str) -> Result<usize, Failure> {
    let mut headers = head.lines().filter_map(|line| line.split_once(':'));
    let length = headers.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let (_, length) = length.ok_or("an answer without Content-Length, which this client does not read")?;
    Ok(length.trim().parse()?)
}
