//! What is in the server's memory: an image of the process is searched for keys and values, after a shred and after `lock`.
//!
//! Each search has its control: the same one, before, finds them.

mod image;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use self::image::Wanted;
use crate::harness::{CUSTOMERS, Client, Keys, Running, Vault, customers, engine, skip, wait_for};

/// The threads that answered last go to rest, or the server has taken in what was sent.
const REST: Duration = Duration::from_secs(2);
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

/// Texts of these values that are in nothing else.
fn texts() -> Vec<String> {
    let values = values();
    let whole = ["name", "nickname", "email", "phone"].iter().map(|name| values[name].as_str().unwrap().to_owned());
    whole.chain(["Straße der Spürbaren 77", "Upper Traceability", SHREDDED].map(str::to_owned)).collect()
}

/// What is noted of the subject beside its values.
const NOTES: [&str; 2] = ["form 3301/b", "reason-to-hold-3301"];

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
    admin.put(&format!("{path}/consents/marketing"), &json!({ "version": "v1", "source": NOTES[0] })).expect(200);
    admin.put(&format!("{path}/holds/case_3301"), &json!({ "reason": NOTES[1] })).expect(200);
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

/// The sockets that a server has.
fn sockets(running: &Running) -> usize {
    let handles = std::fs::read_dir(format!("/proc/{}/fd", running.server.id())).unwrap();
    let links = handles.filter_map(|handle| std::fs::read_link(handle.unwrap().path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
}

/// An image of a server that has no connection.
fn image(running: &Running, at_rest: usize, scratch: &Path) -> Vec<u8> {
    wait_for("all connections to be closed", || (sockets(running) <= at_rest).then_some(()));
    std::thread::sleep(REST);
    image::take(running.server.id(), scratch)
}

/// Asserts that each of `names` begins what something that was found is called.
#[track_caller]
fn has(found: &BTreeMap<String, usize>, names: &[&str]) {
    for name in names {
        assert!(found.keys().any(|known| known.starts_with(name)), "{name} is not there, only {found:?}");
    }
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

    // While it lives, with a request that is under way.
    let before = Keys::with_those_of_items(&vault, engine());
    let request = begin_to_write(&running);
    std::thread::sleep(REST);
    let alive = image::take(running.server.id(), &scratch);
    end(request);

    admin.delete(&format!("/v1/subjects/{SHREDDED}")).expect(200);
    admin.get(&format!("/v1/subjects/{SHREDDED}")).problem(410, "shredded");
    let after = Keys::with_those_of_items(&vault, engine());
    assert!(!after.subjects.contains_key(SHREDDED));
    let shredded = image(&running, at_rest, &scratch);
    admin.send("POST", "/v1/lock", &[], None).expect(200);
    let locked = image(&running, at_rest, &scratch);
    running.stop();

    let gone = gone(&before, &after, &value_token);
    let living = living(&after, admin.token().unwrap());
    // The controls: the same search finds what is there.
    let found = gone.count(&alive);
    has(&found, &["the root key before", "the key of a page", "the DEK of profile", "the DEK of system"]);
    texts().iter().for_each(|text| {
        assert!(Wanted::names_of(text).any(|name| found.contains_key(&name)), "{text}: {found:?}");
    });
    has(&living.count(&shredded), &["the root key", "a page key", "the DEK of profile", "`cust-00001`"]);

    assert_eq!(gone.count(&shredded), BTreeMap::new(), "left of who was shredded");
    assert_eq!(gone.count(&locked), BTreeMap::new(), "left of who was shredded, once locked");
    assert_eq!(living.count(&locked), BTreeMap::new(), "left of the living, once locked");
}

/// What a shred took away: the subject's keys and texts, the keys of the pages on the way to it, and the root key.
fn gone(before: &Keys, after: &Keys, value_token: &str) -> Wanted {
    let mut gone = Wanted::default();
    let own = &before.subjects[SHREDDED];
    let sealed_with = own.iter().filter(|(_, name)| name.starts_with("the key of an item of profile")).count();
    assert_eq!(sealed_with, 1 + 6, "the manifest's and each field's");
    own.iter().for_each(|(key, name)| gone.key(key, name));
    texts().iter().for_each(|text| gone.text(text));
    NOTES.iter().chain([&value_token]).for_each(|text| gone.text(text));
    let pages: Vec<_> = before.pages.difference(&after.pages).collect();
    assert!(pages.len() >= 4, "the keys on its way were replaced: {}", pages.len());
    pages.iter().for_each(|key| gone.key(key, "the key of a page"));
    assert_ne!(before.root, after.root);
    gone.key(&before.root, "the root key before");
    gone
}

/// What a vault holds, and who may call it.
fn living(keys: &Keys, token: &str) -> Wanted {
    let mut living = Wanted::default();
    living.key(&keys.root, "the root key");
    keys.pages.iter().for_each(|key| living.key(key, "a page key"));
    keys.subjects.values().flatten().for_each(|(key, name)| living.key(key, name));
    for customer in customers() {
        [customer.id.clone(), customer.text("email"), customer.text("name")].iter().for_each(|text| living.text(text));
    }
    living.text(token);
    living
}

/// A line of a file of `/proc` about a server.
fn line(running: &Running, file: &str, start: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{}/{file}", running.server.id())).unwrap();
    text.lines().find_map(|line| line.strip_prefix(start)).unwrap().trim().to_owned()
}

/// The server with at most 64 KiB of locked memory, and without the right to exceed that.
fn limited(vault: &Vault, lock_memory: &str) -> Command {
    let server = vault.command();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -l 64 && exec setpriv --bounding-set=-ipc_lock \"$@\"", "sh"]);
    command.arg(server.get_program()).args(server.get_args()).env("NO_COLOR", "1");
    command.env("UDV_PROCESS__LOCK_MEMORY", lock_memory);
    command
}

#[test]
fn core_dumps_are_off_and_memory_is_locked_where_the_system_allows() {
    if !Command::new("setpriv").arg("--version").output().is_ok_and(|output| output.status.success()) {
        return skip("there is no setpriv: install util-linux");
    }
    let vault = Vault::configured();
    let start = |command| vault.start_with(command).unwrap_or_else(|refusal| panic!("{}", refusal.text));
    let required = |lock_memory| {
        let mut command = vault.command();
        command.env("UDV_PROCESS__LOCK_MEMORY", lock_memory);
        command
    };
    let off = start(required("off"));
    let core = line(&off, "limits", "Max core file size");
    assert_eq!(core.split_whitespace().take(2).collect::<Vec<_>>(), ["0", "0"]);
    assert_eq!(line(&off, "status", "VmLck:"), "0 kB");
    off.stop();
    // The limit is obeyed: nothing is locked, and nothing fails for that.
    let within = start(limited(&vault, "auto"));
    assert_eq!(line(&within, "status", "VmLck:"), "0 kB");
    within.admin.set("jane", &json!({ "name": "x".repeat(8000) })).expect(201);
    let told = within.stop();
    assert!(told.contains("memory is not locked"), "{told}");
    vault.start_with(limited(&vault, "required")).err().unwrap().says("LimitMEMLOCK=infinity");

    match vault.start_with(required("required")) {
        Ok(running) => {
            assert_ne!(line(&running, "status", "VmLck:"), "0 kB");
            assert!(running.stop().contains("memory is locked"));
        }
        Err(refusal) => skip(&format!("this machine locks no memory: {}", refusal.text)),
    }
}
