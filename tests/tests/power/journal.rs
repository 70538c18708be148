//! What a program changed in a directory, in order, as `watch.c` wrote it down.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// One change, or what made changes durable.
#[derive(Debug)]
pub(super) enum Event {
    /// Opened, and made if it was not there.
    Open {
        inode: u64,
        path: PathBuf,
        truncate: bool,
    },
    /// `data` lies in the journal.
    Write {
        inode: u64,
        at: u64,
        data: Range<usize>,
    },
    Truncate {
        inode: u64,
        len: u64,
    },
    /// Room was taken up to `len`.
    Allocate {
        inode: u64,
        len: u64,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Unlink {
        path: PathBuf,
    },
    MakeDir {
        path: PathBuf,
    },
    RemoveDir {
        path: PathBuf,
    },
    /// Of a file or a directory; it covers what stood in the journal before `began`.
    Sync {
        inode: u64,
        path: PathBuf,
        began: usize,
    },
    /// `sync_file_range`, which starts the writing and waits for it, but makes nothing durable.
    SyncRange,
}

/// A record: where it ends, and what it tells.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) end: usize,
    pub(super) event: Event,
}

/// A journal that was read.
pub(super) struct Journal {
    bytes: Vec<u8>,
    pub(super) records: Vec<Record>,
}

/// The tracer, compiled when it is first asked for.
fn watch() -> &'static Path {
    static WATCH: OnceLock<PathBuf> = OnceLock::new();
    WATCH.get_or_init(|| {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/power/watch.c");
        let (program, fresh) = (temporary("watch"), temporary(&format!("watch.{}", std::process::id())));
        let cc = Command::new("cc").args(["-O1", "-o"]).arg(&fresh).arg(source).status().unwrap();
        assert!(cc.success(), "the tracer does not compile");
        fs::rename(fresh, &program).unwrap();
        program
    })
}

fn temporary(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// The same command, with all that it changes in `directory` added to a journal.
pub(super) fn watched(command: &Command, journal: &Path, directory: &Path) -> Command {
    let mut watched = Command::new(watch());
    watched.arg(journal).arg(directory.canonicalize().unwrap()).arg(command.get_program()).args(command.get_args());
    if let Some(place) = command.get_current_dir() {
        watched.current_dir(place);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => watched.env(name, value),
            None => watched.env_remove(name),
        };
    }
    watched
}

/// How long a journal is now.
pub(super) fn length(journal: &Path) -> usize {
    fs::metadata(journal).map_or(0, |found| found.len() as usize)
}

/// The next `n` bytes.
fn take<'a>(bytes: &mut &'a [u8], n: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(n);
    *bytes = rest;
    taken
}

fn number(bytes: &mut &[u8]) -> u64 {
    u64::from_le_bytes(take(bytes, 8).try_into().unwrap())
}

impl Journal {
    /// Reads a journal of changes in `directory`; the paths it tells are those below it.
    pub(super) fn read(journal: &Path, directory: &Path) -> Self {
        let directory = directory.canonicalize().unwrap();
        let bytes = fs::read(journal).unwrap();
        let (mut records, mut at) = (Vec::new(), 0);
        while at + 4 <= bytes.len() {
            let len = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
            let end = at + 4 + len;
            if end > bytes.len() {
                // The tracer was killed.
                break;
            }
            records.push(Record { end, event: event(&bytes[at + 4..end], end, &directory) });
            at = end;
        }
        Self { bytes, records }
    }

    pub(super) fn data(&self, range: &Range<usize>) -> &[u8] {
        &self.bytes[range.clone()]
    }
}

fn event(mut rest: &[u8], end: usize, directory: &Path) -> Event {
    let rest = &mut rest;
    let kind = take(rest, 1)[0];
    let [inode, a, b] = [number(rest), number(rest), number(rest)];
    let mut path = || {
        let len = u16::from_le_bytes(take(rest, 2).try_into().unwrap());
        let path = String::from_utf8(take(rest, len.into()).to_vec()).unwrap();
        match Path::new(&path).strip_prefix(directory) {
            Ok(below) => below.to_owned(),
            Err(_) => PathBuf::from(path),
        }
    };
    let (path, to) = (path(), path());
    match kind {
        b'O' => Event::Open { inode, path, truncate: a == 1 },
        b'W' => Event::Write { inode, at: a, data: end - rest.len()..end },
        b'T' => Event::Truncate { inode, len: a },
        b'A' => Event::Allocate { inode, len: a },
        b'R' => Event::Rename { from: path, to },
        b'U' => Event::Unlink { path },
        b'D' => Event::MakeDir { path },
        b'E' => Event::RemoveDir { path },
        b'S' => Event::Sync { inode, path, began: a as usize },
        b'G' => Event::SyncRange,
        b'X' => panic!("system call {a} on {}: the model of a disk knows nothing of it", path.display()),
        _ => panic!("no record: {kind} {a} {b}"),
    }
}
