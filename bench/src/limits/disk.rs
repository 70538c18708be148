//! The disk alone: how long it takes until 4 KiB that were overwritten are durable.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use crate::Failure;

/// How often it is tried.
const TRIES: usize = 300;
const BLOCK: [u8; 4096] = [0x5a; 4096];

/// The median time of a write and an `fdatasync`, in milliseconds.
pub(crate) fn sync_ms(dir: &Path) -> Result<f64, Failure> {
    let path = dir.join("fdatasync");
    let file = File::create(&path)?;
    file.write_all_at(&[0; 16 * BLOCK.len()], 0)?;
    file.sync_all()?;
    let mut times = Vec::with_capacity(TRIES);
    for at in 0..TRIES {
        let start = Instant::now();
        file.write_all_at(&BLOCK, (at % 16 * BLOCK.len()) as u64)?;
        file.sync_data()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    std::fs::remove_file(path)?;
    times.sort_by(f64::total_cmp);
    Ok(times[TRIES / 2])
}
