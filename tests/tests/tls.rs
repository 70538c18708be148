//! TLS: 1.3 with a certificate from PEM files, nothing older, and read again on request.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::harness::{Client, Running, Vault, wait_for};

/// Writes a self-signed certificate for this machine, and answers it as PEM.
fn certify(vault: &Vault) -> String {
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    fs::write(vault.data().join("cert.pem"), made.cert.pem()).unwrap();
    fs::write(vault.data().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    made.cert.pem()
}

fn with_tls() -> (Vault, String) {
    let vault = Vault::configured();
    let pem = certify(&vault);
    let text = fs::read_to_string(vault.config()).unwrap();
    fs::write(vault.config(), format!("{text}[tls]\ncert = \"cert.pem\"\nkey = \"key.pem\"\n")).unwrap();
    (vault, pem)
}

/// A client that trusts this certificate alone.
fn trusting(vault: &Vault, running: &Running, pem: &str) -> Client {
    let roots = RootCerts::new_with_certs(&[Certificate::from_pem(pem.as_bytes()).unwrap()]);
    let tls = TlsConfig::builder().root_certs(roots).build();
    let config = Agent::config_builder().http_status_as_error(false).proxy(None).tls_config(tls);
    let config = config.timeout_global(Some(Duration::from_secs(30)));
    let token = fs::read_to_string(vault.token_file()).unwrap();
    Client::with_agent(config.build().into(), &running.server.url, Some(token.trim()))
}

#[test]
fn a_vault_is_served_over_tls() {
    let (vault, pem) = with_tls();
    let running = vault.start();
    assert!(running.server.url.starts_with("https://127.0.0.1:"), "{}", running.server.url);
    let client = trusting(&vault, &running, &pem);
    client.set("jane", &json!({ "name": "Jane" })).expect(201);
    assert_eq!(client.field("jane", "name").expect(200).json()["value"], "Jane");
    assert!(running.admin.attempt("GET", "/v1/status", &[], None).is_err(), "nobody else trusts it");

    let ca = vault.data().join("cert.pem");
    let shown = running.cli(&["--ca", ca.to_str().unwrap(), "status"]).expect(0);
    assert!(shown.out.contains("unlocked"), "{}", shown.out);
    assert_ne!(running.cli(&["status"]).code, Some(0));

    // Plain HTTP on the same port is no way in.
    let plain = Client::new(&running.server.url.replace("https://", "http://"), None);
    let answer = plain.attempt("GET", "/healthz", &[], None);
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == 400));
    running.stop();
}

/// The first flight of a client that can do TLS 1.2, and 1.3 as well if `modern`.
fn client_hello(modern: bool) -> Vec<u8> {
    let mut extensions = Vec::new();
    let mut extension = |kind: u16, body: &[u8]| {
        extensions.extend_from_slice(&kind.to_be_bytes());
        extensions.extend_from_slice(&(body.len() as u16).to_be_bytes());
        extensions.extend_from_slice(body);
    };
    extension(0x000a, &[0, 4, 0x00, 0x1d, 0x00, 0x17]); // groups: x25519, secp256r1
    extension(0x000b, &[1, 0]); // points: uncompressed
    extension(0x000d, &[0, 6, 0x04, 0x03, 0x08, 0x04, 0x08, 0x07]); // signatures
    if modern {
        extension(0x002b, &[2, 0x03, 0x04]); // versions: 1.3
        let share = [&[0, 36, 0x00, 0x1d, 0, 32][..], &[9; 32]].concat();
        extension(0x0033, &share);
    }
    let mut hello = vec![0x03, 0x03];
    hello.extend_from_slice(&[7; 32]);
    hello.push(0);
    hello.extend_from_slice(&[0, 8, 0xc0, 0x2b, 0xc0, 0x2f, 0xcc, 0xa9, 0x13, 0x01]);
    hello.extend_from_slice(&[1, 0]);
    hello.extend_from_slice(&(extensions.len() as u16).to_be_bytes());
    hello.extend_from_slice(&extensions);
    let mut handshake = vec![1, 0];
    handshake.extend_from_slice(&(hello.len() as u16).to_be_bytes());
    handshake.extend_from_slice(&hello);
    let mut record = vec![0x16, 0x03, 0x01];
    record.extend_from_slice(&(handshake.len() as u16).to_be_bytes());
    record.extend_from_slice(&handshake);
    record
}

/// The first bytes a server answers.
fn answer_to(running: &Running, hello: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(running.server.url.strip_prefix("https://").unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(hello).unwrap();
    let mut first = vec![0; 7];
    stream.read_exact(&mut first).unwrap();
    first
}

#[test]
fn older_tls_is_refused() {
    let (vault, _) = with_tls();
    let running = vault.start();
    const ALERT: u8 = 0x15;
    const HANDSHAKE: u8 = 0x16;
    const PROTOCOL_VERSION: u8 = 70;
    let refused = answer_to(&running, &client_hello(false));
    assert_eq!((refused[0], refused[6]), (ALERT, PROTOCOL_VERSION), "{refused:02x?}");
    let control = answer_to(&running, &client_hello(true));
    assert_eq!(control[0], HANDSHAKE, "{control:02x?}");
    running.stop();
}

#[test]
fn a_renewed_certificate_is_read_on_hangup() {
    let (vault, old) = with_tls();
    let running = vault.start();
    trusting(&vault, &running, &old).get("/healthz").expect(200);
    let new = certify(&vault);
    running.server.hang_up();
    wait_for("the new certificate", || {
        let answer = trusting(&vault, &running, &new).attempt("GET", "/healthz", &[], None);
        answer.is_ok_and(|answer| answer.status == 200).then_some(())
    });
    assert!(trusting(&vault, &running, &old).attempt("GET", "/healthz", &[], None).is_err());
    // A broken one is not taken, and the server goes on with what it has.
    fs::write(vault.data().join("cert.pem"), "no certificate").unwrap();
    running.server.hang_up();
    std::thread::sleep(Duration::from_millis(300));
    trusting(&vault, &running, &new).get("/healthz").expect(200);
    running.stop();
}

#[test]
fn without_tls_a_hangup_ends_nothing() {
    let vault = Vault::configured();
    let running = vault.start();
    running.server.hang_up();
    std::thread::sleep(Duration::from_millis(300));
    running.admin.get("/v1/status").expect(200);
    running.stop();
}

#[test]
fn certificates_that_do_not_serve_are_told_at_the_start() {
    let (vault, _) = with_tls();
    let [cert, key] = [vault.data().join("cert.pem"), vault.data().join("key.pem")];
    let kept = fs::read(&key).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    fs::write(&key, other.signing_key.serialize_pem()).unwrap();
    vault.refusal().says("key.pem");
    fs::write(&key, "no key").unwrap();
    vault.refusal().says("key.pem");
    fs::remove_file(&key).unwrap();
    vault.refusal().says("key.pem");
    fs::write(&key, kept).unwrap();
    fs::write(&cert, "no certificate").unwrap();
    vault.refusal().says("cert.pem");
}
