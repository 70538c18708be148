//! An image of a process's memory, as root can take it of any process, and what is found in it.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use crate::harness::{Finished, Key, run};

const PAGE: usize = 4096;

/// Whether the tool that takes images is there.
pub(crate) fn can_be_taken() -> bool {
    Command::new("gcore").arg("-h").output().is_ok_and(|output| !output.stdout.is_empty() || !output.stderr.is_empty())
}

/// What is looked for: bytes, and what they are called.
#[derive(Default)]
pub(crate) struct Wanted {
    by_start: BTreeMap<[u8; 4], Vec<(Vec<u8>, String)>>,
}

impl Wanted {
    pub(crate) fn key(&mut self, key: &Key, name: &str) {
        self.bytes(key.to_vec(), name.to_owned());
    }

    /// A text as it is and as JSON may spell it.
    pub(crate) fn text(&mut self, text: &str) {
        for spelling in spellings(text) {
            self.bytes(spelling.clone().into_bytes(), format!("`{spelling}`"));
        }
    }

    /// What the spellings of a text are called.
    pub(crate) fn names_of(text: &str) -> impl Iterator<Item = String> {
        spellings(text).into_iter().map(|spelling| format!("`{spelling}`"))
    }

    fn bytes(&mut self, bytes: Vec<u8>, name: String) {
        assert!(bytes.len() >= 6, "{name} is in any image");
        let same = self.by_start.entry(bytes[..4].try_into().unwrap()).or_default();
        if !same.iter().any(|(known, _)| *known == bytes) {
            same.push((bytes, name));
        }
    }

    /// How often each of them is in an image; what is not there is not named.
    pub(crate) fn count(&self, image: &[u8]) -> BTreeMap<String, usize> {
        let mut starts = vec![false; 1 << 16];
        self.by_start.keys().for_each(|start| starts[usize::from(u16::from_le_bytes([start[0], start[1]]))] = true);
        let mut counts = BTreeMap::new();
        for at in 0..image.len().saturating_sub(3) {
            if starts[usize::from(u16::from_le_bytes([image[at], image[at + 1]]))] {
                let start: [u8; 4] = image[at..at + 4].try_into().unwrap();
                for (bytes, name) in self.by_start.get(&start).into_iter().flatten() {
                    if image[at..].starts_with(bytes) {
                        *counts.entry(name.clone()).or_default() += 1;
                    }
                }
            }
        }
        counts
    }
}

/// A text as it is, in JSON, and in JSON of ASCII alone.
fn spellings(text: &str) -> [String; 3] {
    let quoted = serde_json::to_string(text).unwrap();
    let json = quoted[1..quoted.len() - 1].to_owned();
    let ascii = json.chars().map(spelled).collect();
    [text.to_owned(), json, ascii]
}

/// Characters that are not ASCII as `\uXXXX`.
fn spelled(character: char) -> String {
    if character.is_ascii() {
        return character.to_string();
    }
    let mut units = [0; 2];
    character.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect()
}

/// Takes an image of a process, without its pages of zeros.
pub(crate) fn take(process: u32, scratch: &Path) -> Vec<u8> {
    let mut command = Command::new("gcore");
    command.arg("-o").arg(scratch.join("image")).arg(process.to_string());
    let Finished { code, out, err } = run(command);
    let path = scratch.join(format!("image.{process}"));
    assert!(code == Some(0) && path.exists(), "gcore took no image: {out}{err}");
    let image = without_zeros(&path);
    std::fs::remove_file(&path).unwrap();
    image
}

/// What an image holds, without its pages of zeros, which are most of it; one is left between what does not lie together.
fn without_zeros(path: &Path) -> Vec<u8> {
    let mut file = std::io::BufReader::with_capacity(1 << 20, std::fs::File::open(path).unwrap());
    let (mut image, mut page) = (Vec::new(), Vec::with_capacity(PAGE));
    let mut after_zeros = true;
    while file.by_ref().take(PAGE as u64).read_to_end(&mut page).unwrap() > 0 {
        let zeros = page == [0; PAGE][..page.len()];
        if !(zeros && after_zeros) {
            image.append(&mut page);
        }
        after_zeros = zeros;
        page.clear();
    }
    image
}
