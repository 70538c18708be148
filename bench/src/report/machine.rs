//! The machine and how busy it was with other things.

use std::fs;

/// What can be told of it.
pub(super) struct Machine {
    pub(super) processors: usize,
    pub(super) model: String,
    pub(super) kernel: String,
    pub(super) memory_mib: u64,
    /// The load averages of one minute, before and after. Before, it is what others do.
    pub(super) load: (f64, f64),
}

impl Machine {
    /// As it is before a run.
    pub(super) fn now() -> Machine {
        let value = |file: &str, key: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.split_once(':').map(|(_, value)| value));
            line.map_or_else(|| "unknown".to_owned(), |value| value.trim().to_owned())
        };
        let memory = value("/proc/meminfo", "MemTotal");
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Machine {
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            model: value("/proc/cpuinfo", "model name"),
            kernel: kernel.trim().to_owned(),
            memory_mib: memory.trim_end_matches(" kB").parse::<u64>().unwrap_or_default() / 1024,
            load: (load(), 0.0),
        }
    }

    /// Notes how busy it is in the end.
    pub(super) fn ended(&mut self) {
        self.load.1 = load();
    }
}

fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or_default()
}
