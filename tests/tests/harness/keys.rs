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

use super::{Vault, copy_dir};

/// A key, by its bytes.
pub(crate) type Key = [u8; 32];

/// The keys that lead to everything in a vault.
pub(crate) struct Keys {
    pub(crate) root: Key,
    /// What lookups are made with.
    pub(crate) lookups: Key,
    /// Page keys, and what pages are sealed with.
    pub(crate) pages: BTreeSet<Key>,
    /// By subject id: its keys, each with what it is. One whose shred is under way is left out.
    pub(crate) subjects: BTreeMap<String, Vec<(Key, String)>>,
}

/// The subtrees of the header, as far as they are needed.
struct Subtree {
    kind: u8,
    generation: u32,
    duty: u8,
    tag_key: Key,
    root: Option<Key>,
}

const DIRECTORY: u8 = 1;
const LOOKUPS: u8 = 2;
const SERVES: u8 = 0;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

impl Keys {
    /// All keys of a vault to which nobody writes, as it is configured, and those that the items of its rows are sealed with.
    pub(crate) fn with_those_of_items(vault: &Vault, engine: EngineName) -> Self {
        Self::of_copy(vault, engine, true)
    }

    /// All but those of single items, which are many.
    pub(crate) fn of(vault: &Vault, engine: EngineName) -> Self {
        Self::of_copy(vault, engine, false)
    }

    fn of_copy(vault: &Vault, engine: EngineName, items: bool) -> Self {
        let copy = vault.root().join("copy-for-keys");
        copy_dir(&vault.data(), &copy);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let keys = runtime.block_on(Self::read(&copy, &vault.key_file(), engine, items));
        std::fs::remove_dir_all(&copy).unwrap();
        keys
    }

    /// What is still in use of an earlier vault's keys: how many of each layer, and no layer of which there is none.
    pub(crate) fn left_of(&self, earlier: &Self) -> BTreeMap<&'static str, usize> {
        let old = BTreeSet::from_iter(earlier.deks());
        let left = [
            ("root", usize::from(self.root == earlier.root)),
            ("keks", self.pages.intersection(&earlier.pages).count()),
            ("deks", self.deks().filter(|dek| old.contains(dek)).count()),
            ("lookups", usize::from(self.lookups == earlier.lookups)),
        ];
        left.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// The present data keys of all subjects.
    pub(crate) fn deks(&self) -> impl Iterator<Item = &Key> {
        self.subjects.values().flatten().filter(|(_, name)| name.starts_with("the DEK of ")).map(|(key, _)| key)
    }

    async fn read(directory: &Path, key_file: &str, engine: EngineName, items: bool) -> Self {
        let slot = FileSlot::open(&directory.join("root.slot")).unwrap();
        let key = parse_key_file(&std::fs::read_to_string(directory.join(key_file)).unwrap()).unwrap();
        slot.unlock(&Unlock::KeyFile(key)).unwrap();
        let options = DiskOptions { cache_bytes: 16 << 20, reserve_bytes: 0, min_free_bytes: 0 };
        let store = DiskStore::open(engine, &directory.join("store"), options).unwrap();
        let rows: Rows = store.scan(&[], None, usize::MAX).await.unwrap().into_iter().collect();
        store.close().await.unwrap();
        // A root that was only staged when the server was killed leads to no header.
        let roots = slot.read().await.unwrap().entries;
        let root = roots.iter().rfind(|entry| rows.contains_key(&row(&entry.key.header_key()))).unwrap();
        Self::follow(&root.key, slot.vault(), &rows, items)
    }

    fn follow(root: &RootKey, vault: VaultId, rows: &Rows, items: bool) -> Self {
        let header_key = root.header_key();
        let (pages, subjects) = (BTreeSet::new(), BTreeMap::new());
        let mut keys = Self { root: *root.expose(), lookups: [0; 32], pages, subjects };
        let header = keys.open(&header_key, &PagePlace { vault, subtree: 0, generation: 0, path: &[] }, rows);
        for subtree in subtrees(&header) {
            if (subtree.kind, subtree.duty) == (LOOKUPS, SERVES) {
                keys.lookups = subtree.tag_key;
            }
            let mut ahead: VecDeque<(Key, Vec<u8>)> = subtree.root.map(|key| (key, Vec::new())).into_iter().collect();
            while let Some((key, path)) = ahead.pop_front() {
                let place = PagePlace { vault, subtree: subtree.kind, generation: subtree.generation, path: &path };
                let bytes = keys.open(&PageKey::from_slice(&key).unwrap(), &place, rows);
                match bytes[0] {
                    1 if subtree.kind == DIRECTORY => keys.entries(&bytes[7..], rows, items),
                    1 => {}
                    _ => ahead.extend(children(&bytes, &path)),
                }
            }
        }
        assert_ne!(keys.lookups, [0; 32], "lookups have a key");
        keys
    }

    /// Opens a page, and keeps its key and the one that it is sealed with.
    fn open(&mut self, key: &PageKey, place: &PagePlace<'_>, rows: &Rows) -> Vec<u8> {
        self.pages.insert(*key.expose());
        self.pages.insert(expand(key.expose(), b"uv1/page/seal"));
        page::open(key, place, &rows[&row(key)]).unwrap().to_vec()
    }

    /// The subjects among the entries of a leaf of the directory.
    fn entries(&mut self, mut leaf: &[u8], rows: &Rows, items: bool) {
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
            // Then whether its shred is under way.
            if reader.take(4) == [0; 4] {
                let (id, keys) = subject_keys(reader.0, &uuid, items.then_some(rows));
                self.subjects.insert(id, keys);
            }
        }
    }
}

/// The key of the row that a page lies in.
fn row(key: &PageKey) -> Vec<u8> {
    [b"p".as_slice(), &key.address()].concat()
}

/// The subject's id, and its keys: of each compartment the DEK, and, given the rows, what each item of its row is sealed with.
///
/// `enrolled ‖ id ‖ audit key ‖ … ‖ compartments`: the compartments are found by their names, so that what lies
/// between is of no account.
fn subject_keys(record: &[u8], uuid: &[u8], rows: Option<&Rows>) -> (String, Vec<(Key, String)>) {
    let mut reader = Reader(&record[8..]);
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
        if let Some(row) = rows.and_then(|rows| rows.get(&row)) {
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
        let duty = reader.take(1)[0];
        reader.take(8);
        let tag_key: Key = reader.take(32).try_into().unwrap();
        let has_root = reader.take(1)[0] == 1;
        let key: Key = reader.take(32).try_into().unwrap();
        Subtree { kind, generation, duty, tag_key, root: has_root.then_some(key) }
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
