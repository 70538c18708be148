//! The keys of a vault, read from a copy of its store and its slot with the unlock key: written from `docs/format.md`
//! alone, as somebody would who looks for them in an image of the process.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;

use hkdf::Hkdf;
use sha2::Sha256;
use vault_core::crypto::keys::{PageKey, RootKey};
use vault_core::crypto::page::{self, PagePlace};
use vault_core::crypto::passphrase::parse_key_file;
use vault_core::ids::VaultId;
use vault_core::root::{FileSlot, RootSlot, Unlock};
use vault_core::store::{DiskOptions, DiskStore, EngineName, Store};

/// A key, by its bytes.
pub(crate) type Key = [u8; 32];

/// The keys that lead to everything in a vault.
pub(crate) struct Keys {
    pub(crate) root: Key,
    /// Page keys, and what pages are sealed with.
    pub(crate) pages: BTreeSet<Key>,
    /// By subject id: its keys, each with what it is.
    pub(crate) subjects: BTreeMap<String, Vec<(Key, String)>>,
}

/// The subtrees of the header, as far as they are needed.
struct Subtree {
    kind: u8,
    generation: u32,
    root: Option<Key>,
}

const DIRECTORY: u8 = 1;

impl Keys {
    /// All keys of the vault in `directory`, which nobody has open.
    pub(crate) fn of(directory: &Path, engine: EngineName) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Self::read(directory, engine))
    }

    async fn read(directory: &Path, engine: EngineName) -> Self {
        let slot = FileSlot::open(&directory.join("root.slot")).unwrap();
        let key = parse_key_file(&std::fs::read_to_string(directory.join("unlock.key")).unwrap()).unwrap();
        slot.unlock(&Unlock::KeyFile(key)).unwrap();
        let root = slot.read().await.unwrap().entries.pop().unwrap().key;
        let options = DiskOptions { cache_bytes: 16 << 20, reserve_bytes: 0, min_free_bytes: 0 };
        let store = DiskStore::open(engine, &directory.join("store"), options).unwrap();
        let rows: BTreeMap<_, _> = store.scan(&[], None, usize::MAX).await.unwrap().into_iter().collect();
        store.close().await.unwrap();
        Self::follow(&root, slot.vault(), &rows)
    }

    fn follow(root: &RootKey, vault: VaultId, rows: &BTreeMap<Vec<u8>, Vec<u8>>) -> Self {
        let header_key = root.header_key();
        let mut keys = Self { root: *root.expose(), pages: BTreeSet::new(), subjects: BTreeMap::new() };
        let header = keys.open(&header_key, &PagePlace { vault, subtree: 0, generation: 0, path: &[] }, rows);
        for subtree in subtrees(&header) {
            let mut ahead: VecDeque<(Key, Vec<u8>)> = subtree.root.map(|key| (key, Vec::new())).into_iter().collect();
            while let Some((key, path)) = ahead.pop_front() {
                let place = PagePlace { vault, subtree: subtree.kind, generation: subtree.generation, path: &path };
                let bytes = keys.open(&PageKey::from_slice(&key).unwrap(), &place, rows);
                match bytes[0] {
                    1 if subtree.kind == DIRECTORY => keys.entries(&bytes[7..], rows),
                    1 => {}
                    _ => ahead.extend(children(&bytes, &path)),
                }
            }
        }
        keys
    }

    /// Opens a page, and keeps its key and the one that it is sealed with.
    fn open(&mut self, key: &PageKey, place: &PagePlace<'_>, rows: &BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<u8> {
        self.pages.insert(*key.expose());
        self.pages.insert(expand(key.expose(), b"uv1/page/seal"));
        let row = [b"p".as_slice(), &key.address()].concat();
        page::open(key, place, &rows[&row]).unwrap().to_vec()
    }

    /// The subjects among the entries of a leaf of the directory.
    fn entries(&mut self, mut leaf: &[u8], rows: &BTreeMap<Vec<u8>, Vec<u8>>) {
        while !leaf.is_empty() {
            let length = usize::from(u16::from_be_bytes([leaf[32], leaf[33]]));
            let (payload, rest) = leaf[34..].split_at(length);
            leaf = rest;
            let mut reader = Reader(payload);
            // The codec's version, then which entry it is: a subject is the first.
            if reader.take(5) != [1, 0, 0, 0, 0] {
                continue;
            }
            let uuid = reader.take(16).to_vec();
            let subject = reader.0;
            let (id, keys) = subject_keys(subject, &uuid, rows);
            self.subjects.insert(id, keys);
        }
    }
}

/// The subject's id, and its keys: of each compartment the DEK, and what each item of its row is sealed with.
///
/// `state ‖ enrolled ‖ id ‖ audit key ‖ … ‖ compartments`: the compartments are found by their names, so that what lies
/// between is of no account.
fn subject_keys(mut record: &[u8], uuid: &[u8], rows: &BTreeMap<Vec<u8>, Vec<u8>>) -> (String, Vec<(Key, String)>) {
    let state = u32::from_le_bytes(record[..4].try_into().unwrap());
    assert_eq!(state, 0, "no subject is on its way to be shredded");
    record = &record[4 + 8..];
    let mut reader = Reader(record);
    let length = reader.length();
    let id = String::from_utf8(reader.take(length).to_vec()).unwrap();
    let audit_key: Key = reader.take(32).try_into().unwrap();
    let mut keys = vec![(audit_key, "the audit key".to_owned())];
    for compartment in ["profile", "system"] {
        let name = [&(compartment.len() as u64).to_le_bytes(), compartment.as_bytes()].concat();
        let Some(at) = reader.0.windows(name.len()).position(|window| window == name) else { continue };
        let mut own = Reader(&reader.0[at + name.len()..]);
        let ordinal = u16::from_le_bytes(own.take(2).try_into().unwrap());
        own.take(4);
        let dek: Key = own.take(32).try_into().unwrap();
        keys.push((dek, format!("the DEK of {compartment}")));
        let row = [b"d".as_slice(), uuid, &ordinal.to_be_bytes()].concat();
        if let Some(row) = rows.get(&row) {
            let sealed_with = field_keys(&dek, row, uuid, compartment);
            assert!(!sealed_with.is_empty(), "the DEK of {compartment} is not where it was looked for");
            keys.extend(sealed_with.into_iter().map(|key| (key, format!("the key of an item of {compartment}"))));
        }
    }
    (id, keys)
}

/// What the items of a row are sealed with, of those that the DEK opens under a name that is known here.
fn field_keys(dek: &Key, row: &[u8], uuid: &[u8], compartment: &str) -> Vec<Key> {
    let names = ["#manifest", "#metadata", "name", "nickname", "phone", "email", "home_address", "birth_date"];
    let mut found = Vec::new();
    let mut items = Reader(&row[1 + 8..]);
    let count = u16::from_be_bytes(items.take(2).try_into().unwrap());
    for _ in 0..count {
        let length = u32::from_be_bytes(items.take(4).try_into().unwrap()) as usize;
        let item = items.take(length);
        for name in names {
            let mut info = [b"uv1/field".as_slice(), &item[..8]].concat();
            for part in [b"default".as_slice(), uuid, compartment.as_bytes(), name.as_bytes()] {
                info.extend((part.len() as u32).to_be_bytes());
                info.extend(part);
            }
            info.extend(&item[8..32]);
            let mut derived = [0; 64];
            Hkdf::<Sha256>::from_prk(dek).unwrap().expand(&info, &mut derived).unwrap();
            if derived[32..] == item[32..64] {
                found.push(derived[..32].try_into().unwrap());
            }
        }
    }
    found
}

fn subtrees(header: &[u8]) -> Vec<Subtree> {
    let mut reader = Reader(&header[93..]);
    let count = reader.take(1)[0];
    let subtree = |reader: &mut Reader<'_>| {
        let kind = reader.take(1)[0];
        let generation = u32::from_be_bytes(reader.take(4).try_into().unwrap());
        reader.take(1 + 8 + 32);
        let has_root = reader.take(1)[0] == 1;
        let key: Key = reader.take(32).try_into().unwrap();
        Subtree { kind, generation, root: has_root.then_some(key) }
    };
    (0..count).map(|_| subtree(&mut reader)).collect()
}

/// The children of an inner page: their keys and paths.
fn children(page: &[u8], path: &[u8]) -> Vec<(Key, Vec<u8>)> {
    let mut reader = Reader(&page[5..]);
    let skip = usize::from(reader.take(1)[0]);
    let skip = reader.take(skip).to_vec();
    let bitmap = u16::from_be_bytes(reader.take(2).try_into().unwrap());
    let nibbles = (0..16u8).filter(|nibble| bitmap >> nibble & 1 == 1);
    nibbles.map(|nibble| (reader.take(32).try_into().unwrap(), [path, &skip, &[nibble]].concat())).collect()
}

fn expand(key: &Key, info: &[u8]) -> Key {
    let mut derived = [0; 32];
    Hkdf::<Sha256>::from_prk(key).unwrap().expand(info, &mut derived).unwrap();
    derived
}

struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, length: usize) -> &'b [u8] {
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }

    fn length(&mut self) -> usize {
        u64::from_le_bytes(self.take(8).try_into().unwrap()).try_into().unwrap()
    }
}
