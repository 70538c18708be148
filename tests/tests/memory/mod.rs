//! What is in the server's memory: an image of the process is searched for keys and values, after a shred and after `lock`.
//!
//! Each search has its control: the same one, before, finds them.

mod image;
mod keys;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use serde_json::{Value, json};

use self::image::Wanted;
use self::keys::Keys;
use crate::harness::{CUSTOMERS, Client, Running, Vault, copy_dir, customers, engine, skip, wait_for};

const SHREDDED: &str = "traceable-subject-3301";

/// What is known of the subject that is shredded; some of it is spelled in more than one way in JSON.
fn values() -> Value {
    json!({
        "name": "Zoë \"Traceable\" Quintessence",
        "nickname": "nick-of-the-traceable",
        "email": "traceable.3301@example.org",
        "phone": "+971501233301",
        "home_address": "Straße der Spürbaren 77\nUpper Traceability",
        "birth_date": "1971-03-29",
    })
}

/// Texts that give the subject away, of those that are in nothing else.
fn texts() -> Vec<String> {
    let mut texts: Vec<String> =
        ["name", "nickname", "email", "phone"].iter().map(|name| values()[name].as_str().unwrap().to_owned()).collect();
    texts.extend(
        ["Straße der Spürbaren 77", "Upper Traceability", "971501233301", "reason-to-hold-3301", "form 3301/b"]
            .map(str::to_owned),
    );
    texts.push(SHREDDED.to_owned());
    texts
}

/// Uses the subject in every way there is.
fn live(admin: &Client) -> String {
    let path = format!("/v1/subjects/{SHREDDED}");
    let admin = &admin.for_purpose("account");
    admin.set(SHREDDED, &values()).expect(201);
    admin.put(&format!("{path}/fields/nickname"), &json!({ "value": values()["nickname"] })).expect(200);
    for query in ["view=full", "view=masked", "view=full&form=normal", "view=last4"] {
        admin.get(&format!("{path}/fields?{query}")).expect(200);
    }
    admin.get(&path).expect(200);
    admin.field(SHREDDED, "phone").expect(200);
    assert_eq!(admin.find(&json!({ "field": "phone", "value": values()["phone"] })), [SHREDDED]);
    assert_eq!(admin.find(&json!({ "field": "email", "value": values()["email"] })), [SHREDDED]);
    let items = json!({ "items": [{ "subject": SHREDDED, "view": "full" }] });
    admin.post("/v1/batch/read", &items).expect(200);
    let made = admin.post("/v1/tokens", &json!({ "items": [{ "subject": SHREDDED, "field": "email" }] })).expect(200);
    let token = made.json()["results"][0]["token"].as_str().unwrap().to_owned();
    admin.post("/v1/tokens/resolve", &json!({ "token": token, "view": "full" })).expect(200);
    admin.put(&format!("{path}/consents/marketing"), &json!({ "version": "v1", "source": "form 3301/b" })).expect(200);
    admin.put(&format!("{path}/holds/case_3301"), &json!({ "reason": "reason-to-hold-3301" })).expect(200);
    admin.get(&format!("{path}/export")).expect(200);
    admin.get(&format!("{path}/accesses")).expect(200);
    admin.delete(&format!("{path}/holds/case_3301")).expect(204);
    token
}

/// A request that is under way: its body has not come to its end.
fn begin_to_write(running: &Running) -> TcpStream {
    let body = json!({ "fields": values() }).to_string();
    let mut stream = TcpStream::connect(running.server.url.trim_start_matches("http://")).unwrap();
    let token = running.admin.token().unwrap();
    write!(
        stream,
        "PATCH /v1/subjects/{SHREDDED}/fields HTTP/1.1\r\nhost: vault\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len() + 1
    )
    .unwrap();
    stream
}

fn end(mut stream: TcpStream) {
    stream.write_all(b" ").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// The keys of a running vault to which nobody writes.
fn keys(vault: &Vault, scratch: &Path) -> Keys {
    let copy = scratch.join("copy");
    copy_dir(&vault.data(), &copy);
    let keys = Keys::of(&copy, engine());
    std::fs::remove_dir_all(&copy).unwrap();
    keys
}

/// The sockets that a server has.
fn sockets(running: &Running) -> usize {
    let handles = std::fs::read_dir(format!("/proc/{}/fd", running.server.id())).unwrap();
    let links = handles.filter_map(|handle| std::fs::read_link(handle.unwrap().path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
}

/// An image of a server that has no connection.
fn image(running: &Running, at_rest: usize, scratch: &Path) -> Vec<u8> {
    wait_for("all connections to be closed", || (sockets(running) <= at_rest).then_some(()));
    // The threads that answered last go to rest.
    std::thread::sleep(std::time::Duration::from_millis(300));
    image::take(running.server.id(), scratch)
}

#[test]
fn memory_holds_nothing_of_who_was_shredded_and_nothing_at_all_once_locked() {
    if !image::can_be_taken() {
        return skip("there is no gcore: install gdb");
    }
    let vault = Vault::configured();
    let scratch = vault.root().to_owned();
    let running = vault.start();
    let at_rest = sockets(&running);
    running.cli(&["subject", "import", CUSTOMERS]).expect(0);
    let admin = running.admin.once();
    let value_token = live(&admin);

    let before = keys(&vault, &scratch);
    let own = &before.subjects[SHREDDED];
    assert!(own.len() >= 3 + 5, "an audit key, two DEKs, and what the rows' items are sealed with: {}", own.len());
    let mut dead = Wanted::default();
    own.iter().enumerate().for_each(|(n, key)| dead.key(key, &format!("key {n} of the subject")));
    texts().iter().for_each(|text| dead.text(text));
    dead.text(&value_token);

    // The control: while it lives, the search finds its keys, and in a request that is under way every value.
    let request = begin_to_write(&running);
    std::thread::sleep(std::time::Duration::from_millis(300));
    let found = dead.count(&image::take(running.server.id(), &scratch));
    println!("CONTROL {found:#?}");
    assert!(found.keys().any(|name| name.starts_with("key 1")), "{found:?}");
    end(request);

    admin.delete(&format!("/v1/subjects/{SHREDDED}")).expect(200);
    admin.get(&format!("/v1/subjects/{SHREDDED}")).problem(410, "shredded");
    let after = keys(&vault, &scratch);
    assert!(!after.subjects.contains_key(SHREDDED));
    let gone: Vec<_> = before.pages.difference(&after.pages).collect();
    assert!(gone.len() >= 4, "the keys of its pages were replaced");
    gone.iter().for_each(|key| dead.key(key, "key of a page that was replaced"));
    assert_ne!(before.root, after.root);
    dead.key(&before.root, "the root key before");

    let mut living = Wanted::default();
    after.pages.iter().for_each(|key| living.key(key, "page key"));
    after.subjects.values().flatten().for_each(|key| living.key(key, "key of a subject"));
    living.key(&after.root, "root key");
    customers().iter().for_each(|customer| living.text(&customer.text("email")));
    customers().iter().for_each(|customer| living.text(&customer.id));
    living.text(admin.token().unwrap());

    let shredded = image(&running, at_rest, &scratch);
    println!("AFTER SHRED {:#?}", dead.count(&shredded));
    let found = living.count(&shredded);
    println!("CONTROL LIVING {:?}", found);
    admin.send("POST", "/v1/lock", &[], None).expect(200);
    let locked = image(&running, at_rest, &scratch);
    println!("LOCKED DEAD {:#?}", dead.count(&locked));
    println!("LOCKED LIVING {:#?}", living.count(&locked));
    running.stop();
}
