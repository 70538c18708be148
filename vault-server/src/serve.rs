//! From an open vault to answered connections, and back: accept, drain, close.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use axum_server::accept::NoDelayAcceptor;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use axum_server::{Handle, Server};
use tokio::signal::unix::{SignalKind, signal};
use vault_core::audit::{Action, Entry, Outcome};
use vault_core::vault::Vault;

use crate::app::App;
use crate::commands::Failure;

/// How long requests that are under way may take once the server is asked to stop.
const DRAIN: Duration = Duration::from_secs(7);
/// How long the vault may take to close after that.
const CLOSE: Duration = Duration::from_millis(2500);
/// How long the head of a request may take to arrive.
const HEAD_ARRIVAL: Duration = Duration::from_secs(30);

/// Takes the address to listen on, before anything slow is done.
///
/// # Errors
/// If it is in use, or not an address of this machine.
pub(crate) fn bind(listen: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(listen).map_err(|why| match why.kind() {
        std::io::ErrorKind::AddrInUse => {
            let told = "is in use by another process: stop that, or choose another address to listen on";
            Failure::failed(format!("{listen} {told}"))
        }
        _ => Failure::failed(format!("{listen} cannot be listened on ({why}): choose another address")),
    })
}

/// Serves until a signal asks to stop, or the engine fails. `announce` is called once connections are accepted.
///
/// # Errors
/// If the engine failed, so that the process must be started again.
pub(crate) async fn serve(
    vault: Vault,
    app: App,
    listener: TcpListener,
    tls: Option<RustlsConfig>,
    announce: impl FnOnce(SocketAddr),
) -> Result<(), Failure> {
    let failed = |why: std::io::Error| Failure::failed(format!("the server cannot start ({why})"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    // A limit on the size of files makes writes fail then, as a full disk does, and does not end the process.
    let _too_large = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw())).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let handle = Handle::new();
    let server = axum_server::from_tcp(listener).map_err(failed)?.handle(handle.clone());
    vault.log(&[Entry::new(Action::Start, Outcome::Done)]).await?;
    let mut serving = tokio::spawn(accept(server, app.clone(), tls));
    announce(address);

    let engine_failed = tokio::select! {
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
        () = vault.failed() => true,
        ended = &mut serving => {
            return Err(Failure::failed(format!("the server stopped by itself: {ended:?}")));
        }
    };
    tracing::info!("stopping");
    app.stop();
    handle.graceful_shutdown(Some(DRAIN));
    let _ = serving.await;
    if let Err(error) = app.trails.stop().await {
        tracing::error!(%error, "that the server stops is not in the audit log");
    }
    close(&vault).await;
    if engine_failed {
        let told = "the storage engine failed and the server has stopped: nothing that was acknowledged is lost; see to the \
                    cause in the log, then start it again";
        return Err(Failure::failed(told));
    }
    Ok(())
}

async fn accept(mut server: Server<SocketAddr>, app: App, tls: Option<RustlsConfig>) -> std::io::Result<()> {
    server.http_builder().http1().header_read_timeout(HEAD_ARRIVAL);
    let service = app.router().into_make_service_with_connect_info::<SocketAddr>();
    match tls {
        Some(config) => server.acceptor(RustlsAcceptor::new(config).acceptor(NoDelayAcceptor)).serve(service).await,
        None => server.acceptor(NoDelayAcceptor).serve(service).await,
    }
}

/// What was acknowledged is durable already; closing spares the next start the work of recovery.
async fn close(vault: &Vault) {
    match tokio::time::timeout(CLOSE, vault.close()).await {
        Ok(Ok(())) => tracing::info!("stopped"),
        Ok(Err(error)) => tracing::warn!("the vault did not close cleanly and recovers at the next start: {error}"),
        Err(_) => tracing::warn!("the vault did not close in time and recovers at the next start"),
    }
    vault.close_log();
}

/// Tells where the server listens, for people and for programs that wait for it.
pub(crate) fn say(lines: &str) {
    // Whoever started the server may have closed its end already: that is no reason to stop.
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{lines}").and_then(|()| out.flush());
}
