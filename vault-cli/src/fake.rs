//! A stand-in HTTP server for unit tests: answers a fixed list in order and remembers what it was asked.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::profile::Connection;

/// Listens on a free port of this machine until the test process ends.
pub(crate) struct FakeVault {
    url: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl FakeVault {
    /// Gives these answers (status, JSON), one a connection.
    pub(crate) fn answering(answers: Vec<(u16, String)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound above"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        thread::spawn(move || {
            for (status, body) in answers {
                let (mut stream, _) = listener.accept().expect("a client");
                let request = read_request(&mut BufReader::new(&stream));
                log.lock().expect("no test panics holding it").push(request);
                let answer = format!(
                    "HTTP/1.1 {status} Answer\r\nContent-Type: application/json\r\nLocation: /elsewhere\r\n\
                     Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).expect("a client that reads");
            }
        });
        Self { url, seen }
    }

    pub(crate) fn connection(&self) -> Connection {
        Connection { url: self.url.clone(), token_file: None, ca: None }
    }

    /// Everything asked so far: head and body of each request.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.seen.lock().expect("no test panics holding it").clone()
    }
}

fn read_request(stream: &mut impl BufRead) -> String {
    let mut request = String::new();
    let mut length = 0;
    loop {
        let start = request.len();
        stream.read_line(&mut request).expect("a header line");
        let line = request[start..].to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).expect("the whole body");
    request.push_str(&String::from_utf8(body).expect("JSON is UTF-8"));
    request
}
