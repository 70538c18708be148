//! Stopping under load: SIGTERM ends it well, and what was acknowledged is there afterwards.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Vault, wait_for};

#[test]
fn a_stop_under_load_loses_nothing() {
    let vault = Vault::configured();
    let running = vault.start();
    let stopping = AtomicBool::new(false);
    let acknowledged: Vec<Vec<String>> = thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (client, stopping) = (running.admin.clone(), &stopping);
                scope.spawn(move || {
                    let mut done = Vec::new();
                    for number in 0.. {
                        let id = format!("w{writer}-{number}");
                        let body = json!({ "fields": { "name": id } }).to_string();
                        let path = format!("/v1/subjects/{id}/fields");
                        match client.attempt("PATCH", &path, &[], Some(body.as_bytes())) {
                            Ok(answer) if answer.status == 201 => done.push(id),
                            Ok(answer) => assert_eq!(answer.status, 503, "{}", answer.body),
                            Err(_) => {
                                assert!(
                                    stopping.load(Ordering::SeqCst),
                                    "the server is gone before it was asked to stop"
                                );
                                break;
                            }
                        }
                    }
                    done
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(700));
        stopping.store(true, Ordering::SeqCst);
        running.server.terminate();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let (status, log) = running.server.ended();
    assert!(status.success(), "{status}: {log}");
    let acknowledged: Vec<_> = acknowledged.into_iter().flatten().collect();
    assert!(acknowledged.len() > 20, "only {} writes before the stop", acknowledged.len());

    let running = vault.start();
    for id in acknowledged {
        assert_eq!(running.admin.field(&id, "name").expect(200).json()["value"], id);
    }
    running.stop();
    vault.verify().expect(0);
}

#[test]
fn an_idle_connection_does_not_hold_up_a_stop() {
    let vault = Vault::configured();
    let running = vault.start();
    let address = running.server.url.strip_prefix("http://").unwrap();
    let _idle: Vec<_> = (0..5).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    running.admin.get("/v1/status").expect(200);
    running.stop();
}

#[test]
fn who_waits_for_an_erasure_is_answered_when_the_server_stops() {
    let vault = Vault::configured();
    let running = vault.start();
    running.admin.set("a", &json!({ "name": "a" })).expect(201);
    std::fs::rename(vault.data().join("root.slot"), vault.data().join("away")).unwrap();
    let asked = json!({ "subjects": ["a"], "reason": "asked" });
    let erasure = running.admin.post("/v1/erasures", &asked).expect(201).json();
    let path = format!("/v1/erasures/{}?wait=10", erasure["id"].as_str().unwrap());
    let client = running.admin.alone();
    let waiting = thread::spawn(move || client.get(&path).expect(200).json());
    wait_for("the request that waits", || {
        // It and this one.
        let metrics = running.admin.get("/metrics").expect(200).body;
        metrics.lines().any(|line| line == "udv_http_in_flight 2").then_some(())
    });
    running.server.terminate();
    assert_eq!(waiting.join().unwrap()["state"], "refused");
    let (status, log) = running.server.ended();
    assert!(status.success(), "{status}: {log}");
}
