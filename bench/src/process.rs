//! What the kernel tells of a process: processor time, memory, bytes written.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::Failure;

/// Clock ticks a second, in which the kernel tells processor time: 100 on every Linux that Rust runs on.
const TICKS: u64 = 100;

/// What a process has used so far.
#[derive(Clone, Copy, Default)]
pub(crate) struct Usage {
    /// Processor time of all its threads together.
    pub(crate) cpu: Duration,
    /// Bytes it handed to the kernel to be written, to files and to connections. What the kernel counts as written to the
    /// disk is no measure: it counts whole dirtied folios, of up to 2 MiB for a write of a few bytes.
    pub(crate) written: u64,
}

impl Usage {
    /// Of a process of ours.
    pub(crate) fn of(process: u32) -> Result<Usage, Failure> {
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        // The name, in parentheses, may hold anything; user and system time are the 12th and 13th field after it.
        let (_, fields) = stat.rsplit_once(") ").ok_or("a process has a name")?;
        let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        let written = number(&fs::read_to_string(format!("/proc/{process}/io"))?, "wchar:")?;
        Ok(Usage { cpu: Duration::from_micros(ticks * (1_000_000 / TICKS)), written })
    }

    /// What was used since `before`.
    pub(crate) fn since(self, before: Usage) -> Usage {
        Usage { cpu: self.cpu.saturating_sub(before.cpu), written: self.written.saturating_sub(before.written) }
    }
}

/// Bytes of memory a process has resident now.
pub(crate) fn resident(process: u32) -> Result<u64, Failure> {
    Ok(number(&fs::read_to_string(format!("/proc/{process}/status"))?, "VmRSS:")? * 1024)
}

/// Bytes that the files below `dir` take on the disk, without what an engine only keeps back for a full disk.
pub(crate) fn disk_bytes(dir: &Path) -> Result<u64, Failure> {
    use std::os::unix::fs::MetadataExt;

    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        bytes += match meta.is_dir() {
            true => disk_bytes(&entry.path())?,
            false if entry.file_name() == "reserve" => 0,
            false => meta.blocks() * 512,
        };
    }
    Ok(bytes)
}

fn number(text: &str, key: &str) -> Result<u64, Failure> {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let line = line.ok_or_else(|| format!("the kernel does not tell {key} of a process"))?;
    Ok(line.split_whitespace().next().unwrap_or_default().parse()?)
}
