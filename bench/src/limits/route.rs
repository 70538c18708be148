//! The empty route: a server of the same axum, hyper and tokio in a process of its own, which authenticates nobody, reads
//! the body, and answers with as many bytes as it is asked for.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::header::CONTENT_TYPE;
use axum::routing::any;
use axum_server::accept::NoDelayAcceptor;

use crate::Failure;
use crate::http::{Connection, Endpoint, Request};

/// The largest answer.
const BODY_MAX: usize = 1 << 20;
/// As the vault's server has it.
const HEAD_ARRIVAL: Duration = Duration::from_secs(30);
const LISTENING: &str = "listening on ";

/// A running server of the empty route.
pub(crate) struct Route {
    child: Child,
    pub(crate) endpoint: Endpoint,
}

impl Route {
    /// Starts one.
    pub(crate) fn start() -> Result<Route, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("empty-route")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("the output was piped")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let Some(address) = line.trim().strip_prefix(LISTENING) else {
            return Err("the empty route did not start: is a port of 127.0.0.1 free?".into());
        };
        let address = address.parse()?;
        // As long as a token of the vault's: requests are of the same size.
        let token = format!("udv_{}", "x".repeat(43));
        Ok(Route { child, endpoint: Endpoint { address, token, tls: None } })
    }

    /// Its process.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// The path whose answer is as long as one of `bytes` bytes, head and body.
    pub(crate) async fn path(&self, bytes: usize) -> Result<String, Failure> {
        let mut connection: Connection = self.endpoint.connect().await?;
        connection.ask(&Request::get("/100")).await?;
        let head = connection.answer_bytes() - 100;
        Ok(format!("/{}", bytes.saturating_sub(head).min(BODY_MAX)))
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        // Nothing to do if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves until standard input ends, so that it never outlives who started it.
pub(crate) fn serve() -> Result<(), Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let body = Bytes::from(vec![b'x'; BODY_MAX]);
        let answer = async move |Path(bytes): Path<usize>, _asked: Bytes| {
            ([(CONTENT_TYPE, "application/json")], body.slice(..bytes.min(BODY_MAX)))
        };
        let router = Router::new().route("/{bytes}", any(answer));
        let mut server = axum_server::from_tcp(listener)?.acceptor(NoDelayAcceptor);
        server.http_builder().http1().header_read_timeout(HEAD_ARRIVAL);
        println!("{LISTENING}{address}");
        Ok(server.serve(router.into_make_service_with_connect_info::<SocketAddr>()).await?)
    })
}
