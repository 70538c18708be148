//! What is counted: the steps that most requests are made of, and two whole requests through the router.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::hint::black_box;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt;
use vault_core::audit::Log;
use vault_core::crypto::field::{self, NONCE_LEN, Place, SealedField};
use vault_core::crypto::passphrase::new_key_file;
use vault_core::crypto::{Dek, Random, RootKey};
use vault_core::ids::{SubjectUuid, VaultId};
use vault_core::root::NewUnlock;
use vault_core::store::{Batch, MemoryStore, Store};
use vault_core::time::Timestamp;
use vault_core::trie::{Applied, Edits, EntryKey, Header, Kind, Mode, Pages, Payload, apply};
use vault_core::vault::{NewCaller, Role, Vault, VaultOptions};

/// Something that is done so many times, and how many instructions one time is expected to take.
pub(crate) struct Work {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) times: u32,
    /// Counted with Rust 1.95, release profile, valgrind 3.19.
    pub(crate) expected: u64,
    pub(crate) run: fn(u32) -> Result<(), String>,
}

pub(crate) const WORKS: &[Work] = &[
    Work { name: "seal", what: "sealing a field of 16 bytes", times: 200, expected: 34_950, run: seal },
    Work { name: "open", what: "opening it", times: 200, expected: 35_040, run: open },
    Work { name: "insert", what: "a subject into a trie of 10,000", times: 100, expected: 331_900, run: insert },
    Work { name: "shred", what: "a subject out of it", times: 100, expected: 880_200, run: shred },
    Work { name: "read", what: "a request that reads a field", times: 100, expected: 209_900, run: read },
    Work {
        name: "write",
        what: "a request that enrols a subject of 6 fields",
        times: 50,
        expected: 843_700,
        run: write,
    },
];

/// What happens in here is counted, on the thread that calls it.
#[inline(never)]
fn measured<T>(work: impl FnOnce() -> T) -> T {
    black_box(work())
}

const PLACE: Place<'static> = Place { subject: SubjectUuid([7; 16]), compartment: "profile", field: "home_address" };
const VALUE: &[u8; 16] = b"some sixteen B. ";

fn seal(times: u32) -> Result<(), String> {
    let dek = Dek::draw(&mut Random::for_keys(1));
    let sealing = || black_box(field::seal(&dek, 1, 1, &PLACE, black_box(VALUE), &mut Random::new(NONCE_LEN)));
    drop(sealing());
    measured(|| (0..times).for_each(|_| drop(sealing())));
    Ok(())
}

fn open(times: u32) -> Result<(), String> {
    let dek = Dek::draw(&mut Random::for_keys(1));
    let sealed = field::seal(&dek, 1, 1, &PLACE, VALUE, &mut Random::new(NONCE_LEN));
    let opening = || SealedField::parse(black_box(&sealed)).ok()?.open(&dek, &PLACE).ok();
    if opening().is_none_or(|opened| opened[..] != VALUE[..]) {
        return Err("a field does not open".to_owned());
    }
    measured(|| (0..times).for_each(|_| drop(black_box(opening()))));
    Ok(())
}

/// A trie of subjects on the engine in memory.
struct Bed {
    runtime: Runtime,
    pages: Pages,
    store: Arc<MemoryStore>,
    header: Header,
    root: RootKey,
}

const SUBJECTS: u64 = 10_000;

impl Bed {
    fn filled() -> Result<Self, String> {
        let (vault, mut random) = (VaultId([5; 16]), Random::for_keys(8));
        let store = Arc::new(MemoryStore::new());
        let mut bed = Self {
            runtime: runtime()?,
            pages: Pages::new(store.clone(), vault, 256 << 20),
            store,
            header: Header::new(vault, Timestamp(0), &mut random),
            root: RootKey::draw(&mut random),
        };
        for first in (0..SUBJECTS).step_by(1000) {
            let mut edits = Edits::new();
            (first..first + 1000).for_each(|number| insert_into(&mut edits, number));
            let mut applied = bed.apply(edits, Mode::Data { root: &bed.root })?;
            let (put, delete) = (std::mem::take(&mut applied.put), std::mem::take(&mut applied.delete));
            let batch = Batch { put, delete, ..Batch::default() };
            bed.runtime.block_on(bed.store.commit(batch)).map_err(|e| e.to_string())?;
            bed.pages.publish(&applied);
            bed.header = applied.header;
        }
        Ok(bed)
    }

    /// The batch is thrown away, so that every one finds the same trie.
    fn apply(&self, edits: Edits, mode: Mode<'_>) -> Result<Applied, String> {
        self.runtime.block_on(apply(&self.pages, &self.header, edits, mode)).map_err(|e| e.to_string())
    }
}

fn insert(times: u32) -> Result<(), String> {
    let bed = Bed::filled()?;
    let inserting = |number| {
        let mut edits = Edits::new();
        insert_into(&mut edits, number);
        bed.apply(edits, Mode::Data { root: &bed.root })
    };
    inserting(SUBJECTS)?;
    measured(|| (1..=u64::from(times)).try_for_each(|n| inserting(SUBJECTS + n).map(drop)))
}

fn shred(times: u32) -> Result<(), String> {
    let bed = Bed::filled()?;
    let next = RootKey::draw(&mut Random::for_keys(1));
    let shredding = |number| {
        let mut edits = Edits::new();
        let [directory, lookups @ ..] = entries(number);
        edits.remove(Kind::Directory, directory);
        lookups.into_iter().for_each(|key| edits.remove(Kind::Lookups, key));
        bed.apply(edits, Mode::Root { next: &next, rekey: None, renew: false, now: Timestamp(1) })
    };
    shredding(0)?;
    measured(|| (1..=u64::from(times)).try_for_each(|n| shredding(n * 97).map(drop)))
}

fn insert_into(edits: &mut Edits, number: u64) {
    let [directory, lookups @ ..] = entries(number);
    edits.insert(Kind::Directory, directory, Payload::new(vec![number as u8; 190]));
    lookups.into_iter().for_each(|key| edits.insert(Kind::Lookups, key, Payload::default()));
}

/// The keys of a subject's entries: always the same ones, and as even as tags are.
fn entries(number: u64) -> [EntryKey; 3] {
    let half = |which: u64| {
        let part = |part: u64| {
            // Without a seed of its own.
            let mut hasher = DefaultHasher::new();
            (number, which, part).hash(&mut hasher);
            hasher.finish().to_be_bytes()
        };
        [part(0), part(1)].concat()
    };
    let key = |tag: u64, discriminator: Vec<u8>| {
        let mut key = [0; 32];
        key[..16].copy_from_slice(&half(tag));
        key[16..].copy_from_slice(&discriminator);
        key
    };
    [key(0, vec![0; 16]), key(1, half(0)), key(2, half(0))]
}

fn runtime() -> Result<Runtime, String> {
    Builder::new_current_thread().enable_all().build().map_err(|e| format!("no runtime: {e}"))
}

/// The router over a vault on the engine in memory, with its audit log on disk.
struct Site {
    runtime: Runtime,
    router: Router,
    token: String,
    _dir: TempDir,
}

impl Site {
    fn new() -> Result<Self, String> {
        let told = |e: &dyn std::fmt::Display| e.to_string();
        let (runtime, dir) = (runtime()?, tempfile::tempdir().map_err(|e| told(&e))?);
        let log = Log::open(&dir.path().join("audit")).map_err(|e| told(&e))?;
        let slots = [dir.path().join("root.slot").into()];
        let made = runtime.block_on(async {
            let options = VaultOptions { log: Some(log), ..VaultOptions::default() };
            let unlocks = vec![NewUnlock::KeyFile(new_key_file().0)];
            let vault = Vault::create(Arc::new(MemoryStore::new()), &slots, unlocks, options).await?;
            let admin = NewCaller {
                name: "admin".to_owned(),
                role: Role::Admin,
                purposes: [].into(),
                expires_at: None,
                lookups_per_minute: None,
            };
            let token = vault.create_caller(admin, None).await?.1.to_string();
            Ok::<_, vault_core::error::Error>((vault_server::router(vault), token))
        });
        let (router, token) = made.map_err(|e| told(&e))?;
        Ok(Self { runtime, router, token, _dir: dir })
    }

    fn send(&self, method: &str, path: &str, body: String) -> Result<(), String> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .header("udv-purpose", "account")
            .body(Body::from(body))
            .map_err(|e| e.to_string())?;
        self.runtime.block_on(async {
            let Ok(response) = self.router.clone().oneshot(request).await;
            let status = response.status();
            let body = to_bytes(response.into_body(), 1 << 20).await.map_err(|e| e.to_string())?;
            match status.is_success() {
                true => Ok(()),
                false => Err(format!("{method} {path}: {status} {}", String::from_utf8_lossy(&body))),
            }
        })
    }

    fn enrol(&self, number: u32) -> Result<(), String> {
        let fields = serde_json::json!({ "fields": {
            "name": format!("Jane {number}"),
            "email": format!("jane{number}@example.org"),
            "phone": format!("+97150{:07}", 1_000_000 + number),
            "nickname": "browny",
            "birth_date": "1990-02-28",
            "device": { "model": "Pixel 9" },
        } });
        self.send("PATCH", &format!("/v1/subjects/s{number}/fields"), fields.to_string())
    }
}

fn read(times: u32) -> Result<(), String> {
    let site = Site::new()?;
    site.enrol(0)?;
    let reading = || site.send("GET", "/v1/subjects/s0/fields/phone?view=full", String::new());
    (0..5).try_for_each(|_| reading())?;
    measured(|| (0..times).try_for_each(|_| reading()))
}

fn write(times: u32) -> Result<(), String> {
    let site = Site::new()?;
    (0..200).try_for_each(|number| site.enrol(number))?;
    measured(|| (200..200 + times).try_for_each(|number| site.enrol(number)))
}
