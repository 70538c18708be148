//! Backups and restores from outside: the living come back, the shredded do not, and what is not whole or not current is
//! refused.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Finished, Running, Vault, copy_dir, files_under, run, server_command, skip, wait_for};

/// An age identity and its recipient, made with `age-keygen` for tests alone.
const IDENTITY: &str = "AGE-SECRET-KEY-1CFUMK54QNFP5NE03LCA42M7FW4CKHKV3RHXJ3L2UHGU25V6D3QQQ4UD367";
const RECIPIENT: &str = "age1jw3f2f3gu0ctl2dmj9a3y30vuzes0zg8ytf5xl4rjhx8ejq5yykq8t8ltn";
const OTHER: &str = "AGE-SECRET-KEY-1JGLJSRKENSPDCYYY3T3FN7XRCHP6WCWQ3EEHQKVV4XS5EPQW09ESJ6GE4J";

/// A vault, and where its archives go.
struct Bed {
    vault: Vault,
}

impl Bed {
    fn new() -> Self {
        let bed = Self { vault: Vault::dev() };
        fs::create_dir(bed.out()).unwrap();
        fs::write(bed.identity(), format!("# a comment\n{IDENTITY}\n")).unwrap();
        bed
    }

    fn out(&self) -> PathBuf {
        self.vault.root().join("out")
    }

    fn identity(&self) -> PathBuf {
        self.vault.root().join("identity.txt")
    }

    fn store(&self) -> PathBuf {
        self.vault.data().join("store")
    }

    /// The server's program on this vault, stopped.
    fn offline(&self, what: &str, arguments: &[&str]) -> Finished {
        let mut command = server_command();
        command.args([what, "--no-progress", "--data"]).arg(self.vault.data()).args(arguments);
        run(command)
    }

    /// Asks the running server for a backup.
    fn online(&self, running: &Running, arguments: &[&str]) -> Finished {
        let mut command = server_command();
        command.args(["backup", "--no-progress", "--url", &running.server.url, "--token-file"]);
        command.arg(self.vault.token_file()).arg("--out").arg(self.out());
        run(with_recipient(command, arguments))
    }

    fn backup(&self, arguments: &[&str]) -> Finished {
        let out = self.out();
        let always = ["--out", out.to_str().unwrap(), "--recipient", RECIPIENT];
        self.offline("backup", &[&always, arguments].concat())
    }

    fn restore(&self, arguments: &[&str]) -> Finished {
        let identity = self.identity();
        self.offline("restore", &[&["--identity", identity.to_str().unwrap()], arguments].concat())
    }

    fn restore_newest(&self, arguments: &[&str]) -> Finished {
        let out = self.out();
        self.restore(&[&["--from", out.to_str().unwrap()], arguments].concat())
    }

    /// Archives of a kind, oldest first.
    fn archives(&self, kind: &str) -> Vec<PathBuf> {
        let mut found = files_under(&self.out());
        found.retain(|path| path.file_name().unwrap().to_str().unwrap().contains(&format!("-{kind}-")));
        found.sort_by_key(|path| id_of(path));
        found
    }

    fn newest(&self, kind: &str) -> String {
        self.archives(kind).pop().unwrap().to_str().unwrap().to_owned()
    }
}

fn with_recipient(mut command: Command, arguments: &[&str]) -> Command {
    command.args(["--recipient", RECIPIENT]).args(arguments);
    command
}

fn id_of(archive: &Path) -> String {
    archive.file_stem().unwrap().to_str().unwrap().rsplit('-').next().unwrap().to_owned()
}

fn phone(number: usize) -> String {
    format!("+9715012{number:05}")
}

fn enrol(running: &Running, subjects: std::ops::Range<usize>) {
    let item = |n| json!({ "subject": format!("s{n}"), "fields": { "name": format!("n{n}"), "phone": phone(n) } });
    let items: Vec<Value> = subjects.map(item).collect();
    running.admin.post("/v1/batch/write", &json!({ "items": items })).expect(200);
}

fn shred(running: &Running, subjects: &[&str]) -> Value {
    let made = running.admin.post("/v1/erasures", &json!({ "subjects": subjects, "reason": "asked to" }));
    let made = made.expect(201).json();
    running.admin.get(&erasure(&made)).expect(200).json()
}

fn erasure(made: &Value) -> String {
    format!("/v1/erasures/{}", made["id"].as_str().unwrap())
}

fn until_final(running: &Running, made: &Value) -> Value {
    wait_for("a final shred", || {
        let shown = running.admin.get(&erasure(made)).expect(200).json();
        (shown["state"] == "final").then_some(shown)
    })
}

fn lives(running: &Running, number: usize) {
    assert_eq!(running.admin.field(&format!("s{number}"), "name").expect(200).json()["value"], format!("n{number}"));
    assert_eq!(running.admin.find(&json!({ "field": "phone", "value": phone(number) })), [format!("s{number}")]);
}

fn is_dead(running: &Running, number: usize) {
    running.admin.field(&format!("s{number}"), "name").problem(410, "shredded");
    let found = running.admin.find(&json!({ "field": "phone", "value": phone(number) }));
    assert_eq!(found, Vec::<String>::new());
}

fn told(running: &Running, what: &str) -> usize {
    let entries = running.admin.get("/v1/audit/entries?from=0&limit=1000").expect(200).json();
    entries["data"].as_array().unwrap().iter().filter(|item| item["entry"]["what"] == what).count()
}

#[test]
fn an_old_data_plane_and_todays_key_plane_serve_the_living_and_no_one_else() {
    let bed = Bed::new();
    let running = bed.vault.start();
    enrol(&running, 0..30);
    bed.online(&running, &[]).expect(0);
    let (data, keys_then) = (bed.newest("data"), bed.newest("keys"));
    // The control's slot: as it was before anybody was shredded.
    let slot_then = fs::read(bed.vault.data().join("root.slot")).unwrap();
    until_final(&running, &shred(&running, &["s3", "s4"]));
    bed.online(&running, &["--plane", "keys"]).expect(0);
    // The data plane, the key plane, what changed meanwhile, and the key plane once more.
    assert_eq!(told(&running, "backup"), 4);
    running.stop();

    // Today's key plane: first as a drill, beside which nothing changes.
    let slot = fs::read(bed.vault.data().join("root.slot")).unwrap();
    let planes = ["--data-plane", &data, "--key-plane", &bed.newest("keys")];
    let scratch = bed.vault.root().join("scratch");
    fs::create_dir(&scratch).unwrap();
    let drill = [&planes[..], &["--drill", "--scratch", scratch.to_str().unwrap()]].concat();
    let report = bed.restore(&drill).expect(0).out;
    assert!(report.contains("restored: 28 subjects") && report.contains("2 rows left out"), "{report}");
    assert!(report.contains("2 shredded subjects answer so") && report.contains("2 old rows"), "{report}");
    assert_eq!(files_under(&scratch), Vec::<PathBuf>::new());
    assert_eq!(slot, fs::read(bed.vault.data().join("root.slot")).unwrap());

    bed.restore(&planes).refused(1, "the store is not empty");
    fs::rename(bed.store(), bed.vault.root().join("lost")).unwrap();
    // The key plane from before the shred is too old for this slot.
    let old = ["--data-plane", &data, "--key-plane", &keys_then];
    bed.restore(&old).refused(1, "older than the root slot");
    bed.restore(&planes).expect(0);
    bed.vault.verify().expect(0);
    let running = bed.vault.start();
    lives(&running, 0);
    lives(&running, 29);
    is_dead(&running, 3);
    is_dead(&running, 4);
    assert_eq!(told(&running, "restore"), 1);
    enrol(&running, 50..51);
    lives(&running, 50);
    running.stop();
    bed.vault.verify().expect(0);

    // The control: with the slot from before the shred, the key plane of that time brings them back.
    fs::remove_dir_all(bed.store()).unwrap();
    fs::write(bed.vault.data().join("root.slot"), slot_then).unwrap();
    fs::remove_dir_all(bed.vault.data().join("audit")).unwrap();
    bed.restore(&old).expect(0);
    let running = bed.vault.start();
    lives(&running, 3);
    running.stop();
}

#[test]
fn increments_hold_what_changed_and_follow_their_whole() {
    let bed = Bed::new();
    let running = bed.vault.start();
    enrol(&running, 0..200);
    // Without one before it, an increment is a whole.
    bed.online(&running, &["--incremental"]).expect(0);
    enrol(&running, 200..201);
    bed.online(&running, &["--incremental"]).expect(0);
    running.stop();
    // The same from the stopped vault.
    let running = bed.vault.start();
    running.admin.set("s0", &json!({ "name": "n0", "email": "n0@example.org" })).expect(200);
    until_final(&running, &shred(&running, &["s1"]));
    running.stop();
    bed.backup(&["--incremental"]).expect(0);
    let (whole, parts) = (bed.archives("data"), bed.archives("increment"));
    // Behind each key plane of a vault that runs comes what changed meanwhile.
    assert_eq!((whole.len(), parts.len(), bed.archives("keys").len()), (1, 4, 3));
    let size = |path: &Path| fs::metadata(path).unwrap().len();
    assert!(parts.iter().all(|part| size(part) * 5 < size(&whole[0])), "{whole:?} {parts:?}");

    fs::remove_dir_all(bed.store()).unwrap();
    let keys = bed.newest("keys");
    let [first, second] = [&parts[0], &parts[2]].map(|path| path.to_str().unwrap());
    let skipped = ["--data-plane", whole[0].to_str().unwrap(), "--data-plane", second, "--key-plane", &keys];
    bed.restore(&skipped).refused(1, "does not follow the one before it");
    bed.restore(&["--data-plane", first, "--key-plane", &keys]).refused(1, "does not follow the one before it");
    // The log is lost as well: a new one begins, and the erasure is not missed in it.
    fs::remove_dir_all(bed.vault.data().join("audit")).unwrap();
    assert!(bed.restore_newest(&[]).expect(0).err.contains("there is no audit log"));
    bed.vault.verify().expect(0);
    let running = bed.vault.start();
    lives(&running, 200);
    is_dead(&running, 1);
    assert_eq!(running.admin.field("s0", "email").expect(200).json()["value"], "n0@example.org");
    running.stop();
}

#[test]
fn archives_that_are_cut_changed_or_for_others_are_refused() {
    let bed = Bed::new();
    let running = bed.vault.start();
    enrol(&running, 0..20);
    bed.online(&running, &[]).expect(0);
    running.stop();
    let (data, keys) = (bed.newest("data"), bed.newest("keys"));
    fs::remove_dir_all(bed.store()).unwrap();
    let broken = bed.vault.root().join("broken.age");
    let named = broken.to_str().unwrap();
    for plane in [&data, &keys] {
        let whole = fs::read(plane).unwrap();
        let ends = [0, 150, whole.len() - 1];
        let cut = ends.map(|end| whole[..end].to_vec());
        let flipped = (0..whole.len()).step_by(whole.len().div_ceil(5)).chain([whole.len() - 1]).map(|at| {
            let mut changed = whole.clone();
            changed[at] ^= 4;
            changed
        });
        for bytes in cut.into_iter().chain(flipped) {
            fs::write(&broken, bytes).unwrap();
            let planes = match *plane == data {
                true => ["--data-plane", named, "--key-plane", &keys],
                false => ["--data-plane", &data, "--key-plane", named],
            };
            bed.restore(&planes).refused(1, "broken.age");
            assert!(!bed.store().join("conf").exists() || bed.vault.verify().code != Some(0), "something was restored");
        }
    }
    bed.restore(&["--data-plane", &keys, "--key-plane", &data]).refused(1, "is a data plane");
    bed.restore(&["--data-plane", &keys, "--key-plane", &keys]).refused(1, "is a keys plane");
    fs::write(bed.identity(), OTHER).unwrap();
    bed.restore_newest(&[]).refused(1, "not encrypted to any of these identities");
    fs::write(bed.identity(), "AGE-SECRET-KEY-1").unwrap();
    bed.restore_newest(&[]).refused(1, "holds no age identity");
    fs::write(bed.identity(), IDENTITY).unwrap();

    // Of another vault: its slots open none of it.
    let other = Bed::new();
    other.vault.start().stop();
    other.backup(&[]).expect(0);
    let foreign = [&other.newest("data")[..], &other.newest("keys")[..]];
    bed.restore(&["--data-plane", foreign[0], "--key-plane", &keys]).refused(1, "another vault");
    bed.restore(&["--data-plane", &data, "--key-plane", foreign[1]]).refused(1, "root.slot");

    // After all of that, the right ones are restored.
    bed.restore_newest(&[]).expect(0);
    let running = bed.vault.start();
    lives(&running, 19);
    running.stop();
}

#[test]
fn what_is_sealed_anew_behind_the_key_plane_does_not_cost_the_living_their_data() {
    let bed = Bed::new();
    let running = bed.vault.start();
    enrol(&running, 0..4);
    bed.online(&running, &["--plane", "data"]).expect(0);
    bed.online(&running, &["--plane", "keys", "--retain"]).expect(0);
    // Forgetting one field seals the others under a new key; with a root retained that is not final.
    let waits = running.admin.delete("/v1/subjects/s1/fields/phone").expect(202).json();
    assert_eq!(waits["final"], false);
    assert!(waits["waiting_for"].as_str().unwrap().contains("key plane"), "{waits}");
    assert!(running.admin.get("/v1/status").expect(200).json()["waits_for_backup"].is_string());
    assert!(running.cli(&["status"]).expect(0).out.contains("back up the key plane"));
    let consent = json!({ "version": "1", "source": "form" });
    running.admin.put("/v1/subjects/s2/consents/marketing", &consent).expect(200);
    bed.online(&running, &["--plane", "data", "--incremental"]).expect(0);
    running.stop();
    fs::remove_dir_all(bed.store()).unwrap();
    let told = bed.restore_newest(&[]).expect(0).out;
    assert!(told.contains("1 consent") && told.contains("1 write") && told.contains("audit export --from"), "{told}");
    let running = bed.vault.start();
    (0..4).for_each(|number| lives(&running, number));
    // From here on it is final at once.
    running.admin.delete("/v1/subjects/s1/fields/phone").expect(204);
    running.stop();
    bed.vault.verify().expect(0);
}

#[test]
fn a_final_write_is_not_final_while_a_root_is_retained_and_says_so() {
    let bed = Bed::new();
    let running = bed.vault.start();
    enrol(&running, 0..1);
    bed.online(&running, &["--plane", "keys", "--retain"]).expect(0);
    let joan = json!({ "fields": { "name": "Joan" } });
    let patch = |subject: &str| running.admin.patch(&format!("/v1/subjects/{subject}/fields?final=true"), &joan);
    let put =
        |query: &str| running.admin.put(&format!("/v1/subjects/s0/fields/name{query}"), &json!({ "value": "Jo" }));
    let waits = patch("s0").expect(202).json();
    assert_eq!((&waits["final"], &waits["fields"]["name"]["version"]), (&json!(false), &json!(2)));
    assert!(waits["waiting_for"].as_str().unwrap().contains("key plane"), "{waits}");
    assert_eq!(put("?final=true").expect(202).header("etag"), Some("\"v3\""));
    assert_eq!(put("").expect(200).json().get("final"), None, "nothing final was asked for");
    assert_eq!(patch("new").expect(201).json().get("final"), None, "nothing was replaced");
    let told = running.cli(&["subject", "put", "s0", "name=Joe", "--final"]).expect(0);
    assert!(told.err.contains("key plane"), "{}", told.err);
    running.admin.delete("/v1/backups/retained").expect(200);
    assert_eq!(patch("s0").expect(200).json().get("final"), None);
    running.stop();
}

#[test]
fn a_restore_leaves_a_vault_alone_that_is_served() {
    let bed = Bed::new();
    let running = bed.vault.start();
    enrol(&running, 0..2);
    bed.online(&running, &[]).expect(0);
    // Another configuration with the same slot.
    let other = bed.vault.root().join("other");
    fs::create_dir(&other).unwrap();
    let slot = bed.vault.data().join("root.slot");
    let key = bed.vault.data().join("unlock.key");
    let config = format!("[store]\ndir = \"store\"\n[slots]\nfiles = [{slot:?}]\n[unlock]\nkey_file = {key:?}\n");
    fs::write(other.join("vault.toml"), config).unwrap();
    let mut command = server_command();
    command.args(["restore", "--no-progress", "--from"]).arg(bed.out()).arg("--identity").arg(bed.identity());
    command.arg("--config").arg(other.join("vault.toml"));
    run(command).refused(1, "root.slot is in use by another process");
    running.stop();
    let running = bed.vault.start();
    lives(&running, 1);
    running.stop();
}

#[test]
fn a_list_of_refusals_that_is_not_whole_is_not_taken_for_one() {
    let bed = Bed::new();
    let running = bed.vault.start();
    enrol(&running, 0..4);
    bed.online(&running, &["--retain"]).expect(0);
    let made = shred(&running, &["s1"]);
    // Until its root batch ran, the vault itself still knows that it was refused.
    wait_for("the root batch", || {
        let epoch = running.admin.get("/v1/status").expect(200).json()["epoch"].as_u64();
        epoch.is_some_and(|epoch| epoch > 1).then_some(())
    });
    assert_eq!(running.admin.get(&erasure(&made)).expect(200).json()["state"], "refused");
    running.stop();
    let list = bed.vault.data().join("root.slot.1.refusals");
    let whole = fs::read(&list).unwrap();
    let before = bed.vault.root().join("before");
    copy_dir(&bed.vault.data(), &before);
    let back = || {
        fs::remove_dir_all(bed.vault.data()).unwrap();
        copy_dir(&before, &bed.vault.data());
    };
    let mut flipped = whole.clone();
    flipped[20] ^= 1;
    for changed in [&whole[..whole.len() - 1], &flipped[..], b"udvrefs"] {
        back();
        fs::write(&list, changed).unwrap();
        fs::remove_dir_all(bed.store()).unwrap();
        bed.restore_newest(&[]).refused(1, "it is not known who was refused");
    }
    // A vault that is unlocked without it lets go of the root: nobody comes back by it.
    for changed in [None, Some(&flipped[..])] {
        back();
        fs::remove_file(&list).unwrap();
        changed.iter().for_each(|bytes| fs::write(&list, bytes).unwrap());
        let running = bed.vault.start();
        until_final(&running, &made);
        running.stop();
        assert!(!list.exists());
        fs::remove_dir_all(bed.store()).unwrap();
        bed.restore_newest(&[]).refused(1, "older than the root slot");
    }
    back();
    fs::remove_dir_all(bed.store()).unwrap();
    bed.restore_newest(&[]).expect(0);
    let running = bed.vault.start();
    is_dead(&running, 1);
    running.stop();
}

#[test]
fn a_shred_waits_for_the_key_plane_whose_root_is_retained() {
    let bed = Bed::new();
    let running = bed.vault.start();
    enrol(&running, 0..10);
    bed.online(&running, &["--retain"]).expect(0);
    let retained = running.admin.get("/v1/backups").expect(200).json();
    assert_eq!(retained["retained"]["backup"], json!(id_of(&bed.archives("keys")[0])));
    let made = shred(&running, &["s2"]);
    is_dead(&running, 2);
    assert_eq!(made["state"], "refused", "{made}");
    assert!(made["waiting_for"].to_string().contains("key plane backup"), "{made}");
    let copy = bed.vault.root().join("copy");
    copy_dir(&bed.vault.data(), &copy);

    // The key plane that lags restores all the same; who was refused since is refused again.
    let lagging = bed.restore_newest(&["--drill"]).expect(0).out;
    assert!(lagging.contains("1 subjects and compartments refused again"), "{lagging}");
    assert!(lagging.contains("1 shredded subjects answer so"), "{lagging}");

    // The next one lets it go.
    bed.online(&running, &["--retain", "--plane", "keys"]).expect(0);
    until_final(&running, &made);
    let made = shred(&running, &["s3"]);
    assert_eq!(made["state"], "refused");
    running.stop();

    let running = bed.vault.start();
    assert_eq!(running.admin.get(&erasure(&made)).expect(200).json()["state"], "refused");
    let mut release = server_command();
    release.args(["backup", "--release", "--url", &running.server.url, "--token-file"]).arg(bed.vault.token_file());
    run(release).expect(0);
    until_final(&running, &made);
    assert_eq!(running.admin.get("/v1/backups").expect(200).json()["retained"], Value::Null);
    running.stop();
    // By then no key plane is current.
    bed.restore_newest(&["--drill"]).refused(1, "older than the root slot");
    bed.backup(&["--plane", "keys", "--retain"]).expect(0);
    assert!(bed.restore_newest(&["--drill"]).expect(0).out.contains("restored: 8 subjects"));
    bed.offline("backup", &["--release"]).expect(0);

    // Who was refused is not known without the file beside the slot: that is told, and can be accepted.
    fs::remove_dir_all(bed.vault.data()).unwrap();
    copy_dir(&copy, &bed.vault.data());
    fs::remove_dir_all(bed.store()).unwrap();
    for path in files_under(&bed.vault.data()).iter().filter(|path| path.extension().is_some_and(|e| e == "refusals")) {
        fs::remove_file(path).unwrap();
    }
    let first = bed.archives("keys")[0].to_str().unwrap().to_owned();
    let data = bed.newest("data");
    let planes = ["--key-plane", &first, "--data-plane", &data];
    bed.restore(&planes).refused(1, "it is not known who was refused");
    let accepted = bed.restore(&[&planes[..], &["--accept-unknown-refusals"]].concat()).expect(0).out;
    assert!(accepted.contains("not known who was refused"), "{accepted}");
    let running = bed.vault.start();
    // The control: without the refusals, the retained root opens what was refused.
    lives(&running, 2);
    running.stop();
}

#[test]
fn a_backup_is_asked_for_by_who_may_and_one_that_breaks_off_is_none() {
    let bed = Bed::new();
    let running = bed.vault.start();
    enrol(&running, 0..3);
    running.caller("service", &[]).post("/v1/backups", &json!({ "plane": "data" })).problem(403, "forbidden");
    let security = running.caller("security", &[]);
    let both = json!({ "plane": "data", "recipients": [RECIPIENT] });
    let made = security.post("/v1/backups", &both).expect(200);
    assert_eq!(made.header("content-type"), Some("application/octet-stream"));
    assert_eq!(made.header("udv-backup").map(str::len), Some(32));
    for (wrong, field) in [
        (json!({ "plane": "both", "recipients": [RECIPIENT] }), "plane"),
        (json!({ "plane": "data" }), "recipients"),
        (json!({ "plane": "data", "recipients": ["age1xyz"] }), "recipients"),
        (json!({ "plane": "data", "recipients": [RECIPIENT], "retain": true }), "retain"),
        (json!({ "plane": "keys", "recipients": [RECIPIENT], "since": "00" }), "since"),
    ] {
        assert_eq!(security.post("/v1/backups", &wrong).problem(422, "invalid_value")["field"], field, "{wrong}");
    }
    let unknown = json!({ "plane": "data", "recipients": [RECIPIENT], "since": "00".repeat(16) });
    security.post("/v1/backups", &unknown).problem(404, "not_found");
    security.post(&format!("/v1/backups/{}/keep", "00".repeat(16)), &json!({})).problem(404, "not_found");
    running.admin.send("POST", "/v1/lock", &[], None).expect(200);
    security.post("/v1/backups", &json!({ "plane": "keys", "recipients": [RECIPIENT] })).problem(423, "locked");
    running.stop();

    let identity = bed.identity();
    let out = bed.out();
    let (out, identity) = (out.to_str().unwrap(), identity.to_str().unwrap());
    bed.offline("backup", &["--out", out]).refused(1, "name at least one recipient");
    bed.offline("backup", &["--out", out, "--recipient", "age1abc"]).refused(1, "no age recipient");
    bed.offline("backup", &["--out", "/no/such/place", "--recipient", RECIPIENT]).refused(1, "/no/such/place");
    bed.offline("restore", &["--from", out, "--identity", identity]).refused(1, "there is no key plane");
    assert_eq!(files_under(&bed.out()), Vec::<PathBuf>::new());

    // A server that hangs up in the middle.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        for answer in [
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 27\r\n\r\n{\"retained\":null,\"data\":[]}".to_owned(),
            format!(
                "HTTP/1.1 200 OK\r\nudv-backup: {}\r\ntransfer-encoding: chunked\r\n\r\n3\r\nage\r\n",
                "ab".repeat(16)
            ),
        ] {
            let mut stream = listener.accept().unwrap().0;
            let mut request = [0; 4096];
            // The head is enough to answer.
            let _ = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let mut command = server_command();
    command
        .args(["backup", "--plane", "data", "--out", out, "--url", &url, "--token-file"])
        .arg(bed.vault.token_file());
    run(with_recipient(command, &[])).refused(1, "broke off");
    server.join().unwrap();
    assert_eq!(files_under(&bed.out()), Vec::<PathBuf>::new());
}

#[test]
fn peoples_own_tools_open_an_archive() {
    let age = Command::new("age").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if age.is_err() {
        return skip("the program age is not installed");
    }
    let bed = Bed::new();
    bed.vault.start().stop();
    bed.backup(&[]).expect(0);
    let tar = bed.vault.root().join("archive.tar");
    let mut open = Command::new("age");
    open.arg("-d").arg("-i").arg(bed.identity()).arg("-o").arg(&tar).arg(bed.newest("keys"));
    run(open).expect(0);
    let mut list = Command::new("tar");
    list.arg("-tf").arg(&tar);
    let names = run(list).expect(0).out;
    assert!(names.starts_with("udv-backup.json\n") && names.ends_with("manifest.json\n"), "{names}");
}
