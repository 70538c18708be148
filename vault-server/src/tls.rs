//! TLS 1.3 from PEM files, which SIGHUP reads again.

use std::path::Path;
use std::sync::Arc;

use axum_server::tls_rustls::RustlsConfig;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::commands::Failure;

/// Reads a certificate with its chain and its private key.
///
/// # Errors
/// Names the file that cannot be read or does not fit.
pub(crate) fn load(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, Failure> {
    let told = |path: &Path, why: String| Failure::failed(format!("TLS: {}: {why}", path.display()));
    let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|e| told(cert, format!("is not a PEM file of certificates ({e})")))?;
    if chain.is_empty() {
        return Err(told(cert, "holds no certificate: it takes the server's certificate, then its chain".to_owned()));
    }
    let secret = PrivateKeyDer::from_pem_file(key);
    let secret = secret.map_err(|e| told(key, format!("is not a PEM file of a private key ({e})")))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
    let builder = builder.map_err(|e| told(cert, e.to_string()))?.with_no_client_auth();
    let mut config = builder
        .with_single_cert(chain, secret)
        .map_err(|e| told(cert, format!("does not go with {} ({e})", key.display())))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Reads both files again at every SIGHUP; what does not load leaves the present certificate in use.
///
/// # Errors
/// If the signal cannot be listened to.
pub(crate) fn reload_on_hangup(live: RustlsConfig, cert: &Path, key: &Path) -> Result<(), Failure> {
    let mut hangups = hangups()?;
    let (cert, key) = (cert.to_owned(), key.to_owned());
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            match load(&cert, &key) {
                Ok(config) => {
                    live.reload_from_config(config);
                    tracing::info!("the TLS certificate was read again");
                }
                Err(failure) => tracing::error!("the TLS certificate stays as it was: {failure}"),
            }
        }
    });
    Ok(())
}

/// Without TLS there is nothing to read again at SIGHUP, and whoever sends it does not mean to end the server.
pub(crate) fn outlive_hangup() -> Result<(), Failure> {
    let mut hangups = hangups()?;
    tokio::spawn(async move { while hangups.recv().await.is_some() {} });
    Ok(())
}

fn hangups() -> Result<Signal, Failure> {
    signal(SignalKind::hangup()).map_err(|e| Failure::failed(format!("the signal SIGHUP cannot be listened to: {e}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_pair_loads_and_a_mismatch_names_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["a", "b"] {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            std::fs::write(path(&format!("{name}.cert")), made.cert.pem()).unwrap();
            std::fs::write(path(&format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
        }
        assert!(load(&path("a.cert"), &path("a.key")).is_ok());
        for (cert, key, named) in [
            ("a.cert", "b.key", "a.cert"),
            ("a.key", "a.key", "a.key"),
            ("a.cert", "a.cert", "a.cert"),
            ("missing", "a.key", "missing"),
        ] {
            let failure = load(&path(cert), &path(key)).unwrap_err().to_string();
            assert!(failure.contains(named), "{failure}");
        }
    }
}
