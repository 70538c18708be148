//! The Merkle tree over the entries, as RFC 6962 hashes it, kept in tiles of 256 hashes as C2SP `tlog-tiles` lays them out.
//!
//! Full tiles lie in files and never change; the hashes right of them are in memory.
//!
//! ```text
//! tile/<level>/<number>          256 hashes of 32 bytes: level 0 of entries, level n + 1 of whole tiles of level n
//! tile/entries/<number>          256 entries, each u16 length (big-endian) and its bytes
//! <number> = in groups of three digits, all but the last with an x before: 1234067 is x001/x234/067
//! ```

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use tlog_tiles::Tile;
use tlog_tiles::tlog::{self, Hash, HashReader, node_hash};

use super::files;

/// Hashes of a tile, and entries of a bundle.
pub const WIDTH: u64 = 256;
const HEIGHT: u8 = 8;

/// What a tree is told by, as RFC 6962 has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeHead {
    /// Its entries.
    pub size: u64,
    /// The root over them; of none it is not looked at.
    pub root: [u8; 32],
}

/// A tree of a certain size.
pub(super) struct Tree {
    dir: PathBuf,
    size: u64,
    /// By level: the hashes that do not fill a tile yet.
    edge: Vec<Vec<Hash>>,
    /// Full tiles that are not in their files yet, by level and number.
    unwritten: BTreeMap<(u8, u64), Vec<u8>>,
}

impl Tree {
    /// The tree over the first `size` entries, a multiple of [`WIDTH`], whose tiles lie in `dir`.
    ///
    /// # Errors
    /// The number of a tile that is missing or cut short, by its path.
    pub(super) fn open(dir: &Path, size: u64) -> Result<Self, String> {
        let mut tree = Self { dir: dir.to_owned(), size, edge: vec![Vec::new()], unwritten: BTreeMap::new() };
        let mut tiles = size / WIDTH;
        let mut level = 0;
        while tiles > 0 {
            // The hashes beyond the last full tile of the next level.
            let first = tiles / WIDTH * WIDTH;
            let edge: Result<Vec<Hash>, String> =
                (first..tiles).map(|number| Ok(root_of(&read_tile(dir, level, number)?))).collect();
            tree.edge.push(edge?);
            tiles /= WIDTH;
            level += 1;
        }
        Ok(tree)
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Adds the hash of an entry. Tiles that it fills wait for [`Tree::write`].
    pub(super) fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        self.size += 1;
        for level in 0..HEIGHT {
            let at = usize::from(level);
            if self.edge.len() <= at {
                self.edge.push(Vec::new());
            }
            self.edge[at].push(hash);
            if self.edge[at].len() < usize::try_from(WIDTH).expect("256") {
                break;
            }
            let bytes: Vec<u8> = self.edge[at].drain(..).flat_map(|hash| hash.0).collect();
            hash = root_of(&bytes);
            let number = (self.size >> (u32::from(HEIGHT) * (u32::from(level) + 1))) - 1;
            self.unwritten.insert((level, number), bytes);
        }
    }

    /// Writes full tiles into their files.
    pub(super) fn write(&mut self) -> io::Result<()> {
        while let Some((&(level, number), bytes)) = self.unwritten.first_key_value() {
            files::write(&tile_path(&self.dir, level, number), bytes)?;
            self.unwritten.pop_first();
        }
        Ok(())
    }

    pub(super) fn head(&self) -> Result<TreeHead, String> {
        Ok(TreeHead { size: self.size, root: self.root(self.size)? })
    }

    /// The root over the first `size` entries.
    pub(super) fn root(&self, size: u64) -> Result<[u8; 32], String> {
        self.within(size)?;
        tlog::tree_hash(size, self).map(|hash| hash.0).map_err(|error| error.to_string())
    }

    /// That the entry is among the first `size`.
    pub(super) fn inclusion(&self, index: u64, size: u64) -> Result<Vec<[u8; 32]>, String> {
        self.within(size)?;
        plain(tlog::prove_record(size, index, self))
    }

    /// That the first `from` entries are the beginning of the first `to`.
    pub(super) fn consistency(&self, from: u64, to: u64) -> Result<Vec<[u8; 32]>, String> {
        self.within(to)?;
        if from == 0 || from == to { Ok(Vec::new()) } else { plain(tlog::prove_tree(to, from, self)) }
    }

    /// Lets tiles go of which `there` says that they are in their files.
    pub(super) fn let_go(&mut self, mut there: impl FnMut(u8, u64, &[u8]) -> bool) {
        self.unwritten.retain(|&(level, number), bytes| !there(level, number, bytes));
    }

    /// The bytes of a tile of hashes as it is in a tree of `size`; none if there is no such tile.
    pub(super) fn tile(&self, level: u8, number: u64, width: u64, size: u64) -> Result<Option<Vec<u8>>, String> {
        let shift = u32::from(HEIGHT) * u32::from(level);
        let hashes = size.min(self.size).checked_shr(shift).unwrap_or(0);
        let end = number.checked_mul(WIDTH).and_then(|start| start.checked_add(width));
        if width == 0 || end.is_none_or(|end| end > hashes) {
            return Ok(None);
        }
        let mut bytes = self.hashes(level, number)?;
        bytes.truncate(usize::try_from(width).expect("at most 256") * 32);
        Ok(Some(bytes))
    }

    fn within(&self, size: u64) -> Result<(), String> {
        if size <= self.size { Ok(()) } else { Err("the log is shorter than that".to_owned()) }
    }

    /// The hashes of a tile, full or not.
    fn hashes(&self, level: u8, number: u64) -> Result<Vec<u8>, String> {
        let full = self.size >> (u32::from(HEIGHT) * (u32::from(level) + 1));
        if let Some(bytes) = self.unwritten.get(&(level, number)) {
            return Ok(bytes.clone());
        }
        if number < full {
            return read_tile(&self.dir, level, number);
        }
        let edge = self.edge.get(usize::from(level)).filter(|_| number == full);
        Ok(edge.into_iter().flatten().flat_map(|hash| hash.0).collect())
    }
}

impl HashReader for Tree {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, tlog::Error> {
        let mut hashes = Vec::with_capacity(indexes.len());
        let mut last: Option<(u8, u64, Vec<u8>)> = None;
        for &index in indexes {
            let tile = Tile::from_index(HEIGHT, index);
            let (level, number) = (tile.level(), tile.level_index());
            if last.as_ref().is_none_or(|(l, n, _)| (*l, *n) != (level, number)) {
                let bytes = self.hashes(level, number).map_err(tlog::Error::InvalidInput)?;
                last = Some((level, number, bytes));
            }
            let (_, _, bytes) = last.as_ref().expect("it was just read");
            hashes.push(tile.hash_at_index(bytes, index)?);
        }
        Ok(hashes)
    }
}

/// Where a full tile of hashes lies.
pub(super) fn tile_path(dir: &Path, level: u8, number: u64) -> PathBuf {
    dir.join("tile").join(level.to_string()).join(numbered(number))
}

/// Where a full bundle of entries lies.
pub(super) fn bundle_path(dir: &Path, number: u64) -> PathBuf {
    dir.join("tile").join("entries").join(numbered(number))
}

fn numbered(mut number: u64) -> PathBuf {
    let mut text = format!("{:03}", number % 1000);
    while number >= 1000 {
        number /= 1000;
        text = format!("x{:03}/{text}", number % 1000);
    }
    text.into()
}

/// Reads such a number, and the width of a partial tile behind it; the only way of writing it is taken.
pub(super) fn parse_number(text: &str) -> Option<(u64, u64)> {
    let (text, width) = match text.split_once(".p/") {
        Some((text, width)) => {
            let parsed = width.parse().ok().filter(|&parsed: &u64| (1..WIDTH).contains(&parsed))?;
            (text, (parsed.to_string() == width).then_some(parsed)?)
        }
        None => (text, WIDTH),
    };
    let mut number = 0_u64;
    for part in text.split('/') {
        let digits = part.trim_start_matches('x');
        number = number.checked_mul(1000)?.checked_add(digits.parse().ok().filter(|&part| part < 1000)?)?;
    }
    (numbered(number).to_str() == Some(text)).then_some((number, width))
}

fn read_tile(dir: &Path, level: u8, number: u64) -> Result<Vec<u8>, String> {
    let path = tile_path(dir, level, number);
    let bytes = files::read(&path, 32 * 256).map_err(|why| format!("{}: {why}", path.display()))?;
    if bytes.len() == 32 * 256 { Ok(bytes) } else { Err(format!("{} is cut short", path.display())) }
}

/// The root over a full tile, pair by pair.
fn root_of(bytes: &[u8]) -> Hash {
    let mut hashes: Vec<Hash> =
        bytes.chunks_exact(32).map(|hash| Hash(hash.try_into().expect("chunks of 32"))).collect();
    while hashes.len() > 1 {
        hashes = hashes.chunks_exact(2).map(|pair| node_hash(pair[0], pair[1])).collect();
    }
    hashes[0]
}

fn plain(hashes: Result<Vec<Hash>, tlog::Error>) -> Result<Vec<[u8; 32]>, String> {
    hashes.map(|hashes| hashes.into_iter().map(|hash| hash.0).collect()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tlog_tiles::tlog::{check_record, check_tree, record_hash, stored_hashes};

    struct All(Vec<Hash>);

    impl HashReader for All {
        fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, tlog::Error> {
            Ok(indexes.iter().map(|&index| self.0[usize::try_from(index).unwrap()]).collect())
        }
    }

    #[test]
    fn the_tree_is_that_of_rfc_6962_at_every_size() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = Tree::open(dir.path(), 0).unwrap();
        let mut all = All(Vec::new());
        let last = 66_000;
        for index in 0..last {
            let entry = format!("entry {index}");
            tree.push(record_hash(entry.as_bytes()));
            if index % 1000 == 999 {
                tree.write().unwrap();
            }
            let more = stored_hashes(index, entry.as_bytes(), &all).unwrap();
            all.0.extend(more);
            if index < 600 || index % 9973 == 0 || index + 1 == last {
                let size = index + 1;
                let root = tree.root(size).unwrap();
                assert_eq!(root, tlog::tree_hash(size, &all).unwrap().0, "{size}");
                let [of, from] = [size / 3, 1 + size / 2];
                let leaf = record_hash(format!("entry {of}").as_bytes());
                let proof = tree.inclusion(of, size).unwrap().into_iter().map(Hash).collect();
                check_record(&proof, size, Hash(root), of, leaf).unwrap();
                if from < size {
                    let proof = tree.consistency(from, size).unwrap().into_iter().map(Hash).collect();
                    check_tree(&proof, size, Hash(root), from, Hash(tree.root(from).unwrap())).unwrap();
                }
            }
        }
        tree.write().unwrap();
        // Opened again at a multiple of 256 it goes on alike.
        let size = last / WIDTH * WIDTH;
        let again = Tree::open(dir.path(), size).unwrap();
        assert_eq!(again.root(size).unwrap(), tree.root(size).unwrap());
        assert_eq!(again.tile(1, 0, 256, size).unwrap(), tree.tile(1, 0, 256, size).unwrap());
        assert_eq!(again.tile(1, 1, 3, size).unwrap(), None);
        assert_eq!(again.tile(2, 0, 1, size).unwrap().unwrap().len(), 32);
    }

    /// Leaves and roots of the well-known test tree of Certificate Transparency's reference implementation
    /// (github.com/google/certificate-transparency, merkletree tests).
    #[test]
    fn known_vectors() {
        let leaves =
            ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let dir = tempfile::tempdir().unwrap();
        let mut tree = Tree::open(dir.path(), 0).unwrap();
        for (leaf, root) in leaves.iter().zip(roots) {
            tree.push(record_hash(&hex::decode(leaf).unwrap()));
            assert_eq!(hex::encode(tree.root(tree.size()).unwrap()), root);
        }
    }

    #[test]
    fn numbers_have_one_way_of_writing() {
        for (text, parsed) in
            [("000", (0, 256)), ("x001/x234/067", (1_234_067, 256)), ("x001/000", (1000, 256)), ("005.p/17", (5, 17))]
        {
            assert_eq!(parse_number(text), Some(parsed));
        }
        for bad in ["", "0", "1000", "x000/001", "xx01/000", "x001/x000", "000.p/0", "000.p/256", "000.p/017", "../x"] {
            assert_eq!(parse_number(bad), None, "{bad}");
        }
    }
}
