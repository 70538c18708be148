//! An image of a process's memory, as root can take it of any process, and what is found in it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::keys::Key;
use crate::harness::{Finished, run};

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
        let escaped: String = text.chars().map(spelled).collect();
        let quoted = serde_json::to_string(text).unwrap();
        let json = quoted.trim_matches('"').to_owned();
        for spelling in [text.to_owned(), escaped, json] {
            self.bytes(spelling.clone().into_bytes(), format!("`{spelling}`"));
        }
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
        for at in 0..image.len().saturating_sub(4) {
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

/// Characters that are not ASCII as `\uXXXX`.
fn spelled(character: char) -> String {
    if character.is_ascii() {
        return character.to_string();
    }
    let mut units = [0; 2];
    character.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect()
}

/// Takes an image of a process; its memory must say no more to whoever is not root.
pub(crate) fn take(process: u32, scratch: &Path) -> Vec<u8> {
    let mut command = Command::new("gcore");
    command.arg("-o").arg(scratch.join("image")).arg(process.to_string());
    let Finished { code, out, err } = run(command);
    let path = scratch.join(format!("image.{process}"));
    assert!(code == Some(0) && path.exists(), "gcore took no image: {out}{err}");
    let image = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    image
}
