//! Many callers at once: nothing acknowledged is lost while keys rotate, and versions keep writers apart.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::json;

use crate::harness::{Client, Vault, wait_for};

fn rotate(admin: &Client, layer: &str) {
    let started = admin.post("/v1/keys/rotations", &json!({ "layer": layer })).expect(202).json();
    let path = format!("/v1/keys/rotations/{}", started["id"].as_str().unwrap());
    wait_for("the rotation", || (admin.get(&path).expect(200).json()["state"] == "done").then_some(()));
}

#[test]
fn keys_rotate_while_callers_write_read_and_shred() {
    let vault = Vault::configured();
    let mut command = vault.command();
    command.env("UDV_LIMITS__LOOKUPS_PER_MINUTE", "0");
    let running = vault.start_with(command).unwrap_or_else(|refusal| panic!("{}", refusal.text));
    let done = AtomicBool::new(false);
    let work = |writer: usize| {
        let admin = running.admin.clone();
        let mut number = 0;
        while !done.load(Ordering::SeqCst) || number < 5 {
            let id = format!("w{writer}-{number}");
            let phone = format!("+97150{:07}", writer * 1_000_000 + number);
            let fields = json!({ "name": id, "phone": phone });
            admin.set(&id, &fields).expect(201);
            assert_eq!(admin.field(&id, "name").expect(200).json()["value"], id);
            assert_eq!(admin.find(&json!({ "field": "phone", "value": phone })), [id.as_str()]);
            if number % 5 == 4 {
                admin.delete(&format!("/v1/subjects/{id}")).expect(200);
                admin.get(&format!("/v1/subjects/{id}")).problem(410, "shredded");
            }
            number += 1;
        }
        number
    };
    let counts: Vec<usize> = thread::scope(|scope| {
        let writers: Vec<_> = (0..3).map(|writer| scope.spawn(move || work(writer))).collect();
        for _ in 0..4 {
            rotate(&running.admin, "root");
            rotate(&running.admin, "keks");
        }
        done.store(true, Ordering::SeqCst);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    running.stop();

    let running = vault.start();
    for (writer, count) in counts.into_iter().enumerate() {
        for number in 0..count {
            let id = format!("w{writer}-{number}");
            let read = running.admin.field(&id, "name");
            if number % 5 == 4 {
                read.problem(410, "shredded");
            } else {
                assert_eq!(read.expect(200).json()["value"], id);
            }
        }
    }
    running.stop();
    vault.verify().expect(0);
}

#[test]
fn of_writers_over_the_same_version_one_wins() {
    let vault = Vault::configured();
    let running = vault.start();
    let path = "/v1/subjects/counter/fields/nickname";
    running.admin.put(path, &json!({ "value": "0" })).expect(201);
    let increments: u64 = thread::scope(|scope| {
        let workers: Vec<_> = (0..6)
            .map(|_| {
                let admin = running.admin.for_purpose("account");
                scope.spawn(move || {
                    let mut won = 0;
                    while won < 5 {
                        let read = admin.get(&format!("{path}?view=full")).expect(200);
                        let tag = read.header("etag").unwrap().to_owned();
                        let next = read.json()["value"].as_str().unwrap().parse::<u64>().unwrap() + 1;
                        let body = json!({ "value": next.to_string() }).to_string();
                        match admin.send("PUT", path, &[("if-match", &tag)], Some(&body)).status {
                            200 => won += 1,
                            412 => {}
                            other => panic!("{other}"),
                        }
                    }
                    won
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    let read = running.admin.field("counter", "nickname").expect(200);
    assert_eq!(read.json()["value"], increments.to_string());
    assert_eq!(read.header("etag"), Some(format!("\"v{}\"", increments + 1).as_str()));
    running.stop();
}

#[test]
fn merges_of_different_fields_all_stay() {
    let vault = Vault::configured();
    let running = vault.start();
    let fields = ["name", "nickname", "email", "phone", "birth_date", "ip_address"];
    let values = ["n", "k", "a@example.org", "+971501238301", "1990-02-03", "214.3.10.24"];
    for round in 0..5 {
        thread::scope(|scope| {
            for (name, value) in fields.iter().zip(values) {
                let admin = running.admin.clone();
                scope.spawn(move || {
                    let answer = admin.set(&format!("jane{round}"), &json!({ *name: value }));
                    assert!([200, 201].contains(&answer.status), "{}", answer.body);
                });
            }
        });
        let reader = running.admin.for_purpose("account");
        let read = reader.get(&format!("/v1/subjects/jane{round}/fields?view=full")).expect(200).json();
        for (name, value) in fields.iter().zip(values) {
            assert_eq!(read["fields"][name], value, "{read}");
        }
    }
    running.stop();
}

#[test]
fn shreds_and_writes_of_one_subject_end_one_way_or_the_other() {
    let vault = Vault::configured();
    let running = vault.start();
    for round in 0..8 {
        let id = format!("jane{round}");
        running.admin.set(&id, &json!({ "name": "before", "phone": "+971501238301" })).expect(201);
        thread::scope(|scope| {
            for _ in 0..3 {
                let (admin, id) = (running.admin.clone(), id.clone());
                scope.spawn(move || {
                    let answer = admin.set(&id, &json!({ "name": "during", "phone": "+971501238302" }));
                    assert!([200, 410].contains(&answer.status), "{}", answer.body);
                });
            }
            running.admin.delete(&format!("/v1/subjects/{id}")).expect(200);
        });
        running.admin.get(&format!("/v1/subjects/{id}")).problem(410, "shredded");
        for phone in ["+971501238301", "+971501238302"] {
            assert_eq!(running.admin.find(&json!({ "field": "phone", "value": phone })), Vec::<String>::new());
        }
    }
    running.stop();
    vault.verify().expect(0);
}
