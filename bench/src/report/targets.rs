//! What the vault is to reach on two cores with the load generator on them, and whether it did.

use vault_core::schema::View;
use vault_core::store::EngineName;

use super::table::{count, ms, ratio};
use super::{Limit, Line, Report, Setting};
use crate::figures::quantile;
use crate::personas::Persona;
use crate::settings::Workload;
use crate::work::Work;

/// Subjects for which the aims of memory and rotation are set.
const MILLION: u64 = 1_000_000;
/// How many times as many subjects the aims of growth are set for.
const GROWTH: u64 = 100;

/// What a cell says.
enum Cell {
    /// The figure, and whether it is good enough.
    Seen(String, bool),
    /// The figure, which says nothing of an aim that is set for more subjects.
    Smaller(String),
    /// What it would be held against is not there.
    Skipped(String),
    /// The run says nothing of it.
    Absent,
}

impl Cell {
    fn text(&self) -> String {
        match self {
            Cell::Seen(figure, true) => format!("{figure} met"),
            Cell::Seen(figure, false) => format!("{figure} MISSED"),
            Cell::Skipped(why) => format!("skipped: {why}"),
            Cell::Smaller(figure) => format!("{figure}; long form"),
            Cell::Absent => "long form".to_owned(),
        }
    }
}

/// An aim: the work, what is aimed at, and the cell of an engine.
struct Target {
    of: Workload,
    work: &'static str,
    aim: &'static str,
    cell: fn(&OfEngine<'_>) -> Cell,
}

/// What one engine showed.
struct OfEngine<'a> {
    report: &'a Report,
    engine: EngineName,
}

const ONE_FIELD: Work = Work::Read { fields: 1, view: View::Full };
const NEW: Work = Work::New { batch: 1 };

/// Every aim.
const TARGETS: &[Target] = &[
    Target {
        of: Workload::Reads,
        work: "read one field, hot, 64 connections",
        aim: "≥ 0.70 of the empty route",
        cell: |seen| seen.share(ONE_FIELD, 64, 0.70),
    },
    Target {
        of: Workload::Reads,
        work: "",
        aim: "p99 ≤ 3 × its p99 at the same pace",
        cell: |seen| seen.line(ONE_FIELD, 64, |line| Some(at_most(line.p99_of_limit()?, 3.0))),
    },
    Target {
        of: Workload::Writes,
        work: "new subject, 64 connections, durable",
        aim: "≥ 6,000/s sled, 9,000/s fjall",
        cell: |seen| seen.rate(NEW, 64, seen.of_engines(6_000.0, 9_000.0)),
    },
    Target {
        of: Workload::Writes,
        work: "",
        aim: "≥ 0.6 of the bare engine's group commit",
        cell: |seen| seen.share(NEW, 64, 0.6),
    },
    Target {
        of: Workload::Writes,
        work: "field update, 64 connections, durable",
        aim: "≥ 10,000/s sled, 15,000/s fjall",
        cell: |seen| seen.rate(Work::Update, 64, seen.of_engines(10_000.0, 15_000.0)),
    },
    Target {
        of: Workload::Batches,
        work: "batch write of 100 new subjects, fields",
        aim: "≥ 45,000/s sled, 60,000/s fjall",
        cell: |seen| {
            let aim = seen.of_engines(45_000.0, 60_000.0);
            seen.line(Work::New { batch: 100 }, 8, |line| {
                let fields = line.figures.rate() * crate::customers::FIELDS as f64;
                Some(Cell::Seen(format!("{}/s", count(fields)), fields >= aim))
            })
        },
    },
    Target {
        of: Workload::Batches,
        work: "batch read of 100, fields",
        aim: "≥ 400,000/s",
        cell: |seen| seen.rate(Work::ReadBatch { batch: 100 }, 8, 400_000.0),
    },
    Target {
        of: Workload::Lookups,
        work: "lookup, 64 connections",
        aim: "≥ 0.6 of the empty route",
        cell: |seen| seen.share(Work::Lookup, 64, 0.6),
    },
    Target {
        of: Workload::Shreds,
        work: "final shred, one request, p50",
        aim: "≤ 4 fdatasync + 1 ms",
        cell: |seen| {
            let aim = 4.0 * seen.report.sync_ms + 1.0;
            seen.line(Work::Shred { batch: 1 }, 1, |line| {
                let p50 = quantile(&line.figures.closed, 0.5);
                Some(Cell::Seen(format!("{} ms of {} ms", ms(p50), ms(aim)), p50 <= aim))
            })
        },
    },
    Target {
        of: Workload::Shreds,
        work: "final shred, erasures of 1,000",
        aim: "≥ 5,000/s",
        cell: |seen| seen.rate(Work::Shred { batch: 1000 }, 4, 5_000.0),
    },
    Target {
        of: Workload::Rotation,
        work: "rekey every page key, 10^6 subjects",
        aim: "≤ 5 s",
        cell: |seen| {
            let rotated = seen.report.rotations.iter().filter(|of| of.engine == seen.engine);
            let Some(rotated) = rotated.max_by_key(|of| of.subjects) else { return Cell::Absent };
            let seconds = rotated.median_seconds();
            let figure = format!("{seconds:.2} s at {}", count(rotated.subjects as f64));
            if rotated.subjects < MILLION { Cell::Smaller(figure) } else { Cell::Seen(figure, seconds <= 5.0) }
        },
    },
    Target {
        of: Workload::Rotation,
        work: "",
        aim: "read p99 meanwhile ≤ 2 × idle",
        cell: |seen| {
            let rotated = seen.report.rotations.iter().filter(|of| of.engine == seen.engine);
            let Some(rotated) = rotated.max_by_key(|of| of.subjects) else { return Cell::Absent };
            at_most(quantile(&rotated.meanwhile, 0.99) / quantile(&rotated.idle, 0.99), 2.0)
        },
    },
    Target {
        of: Workload::Writes,
        work: "memory at 10^6 subjects, caches of 256 MiB",
        aim: "≤ 1 GiB (10^7: 1.5 GiB)",
        cell: |seen| seen.memory(),
    },
    Target {
        of: Workload::Reads,
        work: "growth to 100 times the subjects",
        aim: "read ≤ 1.3 × time",
        cell: |seen| seen.growth(ONE_FIELD, 64, 1.3, |line| 1.0 / line.figures.rate()),
    },
    Target {
        of: Workload::Writes,
        work: "",
        aim: "new subject ≤ 1.5 × time",
        cell: |seen| seen.growth(NEW, 64, 1.5, |line| 1.0 / line.figures.rate()),
    },
    Target {
        of: Workload::Shreds,
        work: "",
        aim: "bytes written a shred ≤ 2 ×",
        cell: |seen| seen.growth(Work::Shred { batch: 1 }, 1, 2.0, |line| line.figures.written_each()),
    },
    Target {
        of: Workload::Size,
        work: "store size a customer, compacted",
        aim: "≤ 2,048 bytes",
        cell: |seen| {
            let sizes = seen.report.sizes.iter().filter(|of| of.engine == seen.engine);
            let Some(size) = sizes.max_by_key(|of| of.subjects) else { return Cell::Absent };
            let each = size.compacted as f64 / size.living.max(1) as f64;
            Cell::Seen(count(each), each <= 2048.0)
        },
    },
    Target {
        of: Workload::Personas,
        work: "GDPRbench: processor, uniform and zipfian",
        aim: "faster than PostgreSQL",
        cell: |seen| seen.persona(Persona::Processor),
    },
    Target {
        of: Workload::Personas,
        work: "GDPRbench: regulator",
        aim: "faster than PostgreSQL",
        cell: |seen| seen.persona(Persona::Regulator),
    },
    Target {
        of: Workload::Personas,
        work: "GDPRbench: customer",
        aim: "faster than PostgreSQL",
        cell: |seen| seen.persona(Persona::Customer),
    },
    Target {
        of: Workload::Personas,
        work: "GDPRbench: controller",
        aim: "faster than PostgreSQL",
        cell: |seen| seen.persona(Persona::Controller),
    },
];

/// The aims of what was measured, as a table.
pub(super) fn table(report: &Report) -> String {
    let engines = report.engines.iter();
    let heads: Vec<_> = engines.clone().map(|engine| engine.as_str()).collect();
    let mut out = format!("| work | aim | {} |\n|---|---|{}\n", heads.join(" | "), "---:|".repeat(heads.len()));
    for target in TARGETS.iter().filter(|target| report.workloads.contains(&target.of)) {
        let cell = |engine: &EngineName| (target.cell)(&OfEngine { report, engine: *engine }).text();
        let cells: Vec<_> = engines.clone().map(cell).collect();
        out.push_str(&format!("| {} | {} | {} |\n", target.work, target.aim, cells.join(" | ")));
    }
    out
}

impl OfEngine<'_> {
    fn of_engines(&self, sled: f64, fjall: f64) -> f64 {
        if self.engine == EngineName::Sled { sled } else { fjall }
    }

    /// Of the smallest number of subjects, for which the aims of rates are set.
    fn line(&self, work: Work, connections: u16, cell: impl FnOnce(&Line) -> Option<Cell>) -> Cell {
        self.lines(work, connections).min_by_key(|line| line.subjects).and_then(cell).unwrap_or(Cell::Absent)
    }

    fn lines(&self, work: Work, connections: u16) -> impl Iterator<Item = &Line> {
        let usual = self.report.lines.iter().filter(|line| line.setting == Setting::Hot);
        let own = usual.filter(|line| line.engine == self.engine);
        own.filter(move |line| line.work == work && line.connections == connections)
    }

    fn rate(&self, work: Work, connections: u16, aim: f64) -> Cell {
        self.line(work, connections, |line| {
            let rate = line.figures.rate();
            Some(Cell::Seen(format!("{}/s", count(rate)), rate >= aim))
        })
    }

    fn share(&self, work: Work, connections: u16, aim: f64) -> Cell {
        self.line(work, connections, |line| {
            let limit: &Limit = line.limit.as_ref()?;
            let share = line.figures.rate() / limit.rate;
            let figure = format!("{} ({} of {}/s)", ratio(share), count(line.figures.rate()), count(limit.rate));
            Some(Cell::Seen(figure, share >= aim))
        })
    }

    fn memory(&self) -> Cell {
        let memory = self.report.memory.iter().filter(|of| of.engine == self.engine);
        let Some(memory) = memory.max_by_key(|of| of.subjects) else { return Cell::Absent };
        let mib = memory.most >> 20;
        let figure = format!("{} MiB at {}", mib, count(memory.subjects as f64));
        match memory.subjects {
            ..MILLION => Cell::Smaller(figure),
            MILLION..10_000_000 => Cell::Seen(figure, mib <= 1024),
            _ => Cell::Seen(figure, mib <= 1536),
        }
    }

    fn persona(&self, persona: Persona) -> Cell {
        let Some(personas) = &self.report.personas else { return Cell::Absent };
        if let Some(why) = &personas.skipped {
            return Cell::Skipped(why.clone());
        }
        let times: Vec<f64> = personas.of_postgres(self.engine, persona).into_iter().map(|(_, times)| times).collect();
        if times.is_empty() {
            return Cell::Absent;
        }
        let figures: Vec<_> = times.iter().map(|times| format!("{} ×", ratio(*times))).collect();
        Cell::Seen(figures.join(", "), times.iter().all(|times| *times > 1.0))
    }

    /// From the fewest subjects to the most.
    fn growth(&self, work: Work, connections: u16, aim: f64, of: fn(&Line) -> f64) -> Cell {
        let fewest = self.lines(work, connections).min_by_key(|line| line.subjects);
        let most = self.lines(work, connections).max_by_key(|line| line.subjects);
        let (Some(fewest), Some(most)) = (fewest, most) else { return Cell::Absent };
        if fewest.subjects == most.subjects {
            return Cell::Absent;
        }
        let (grown, times) = (of(most) / of(fewest), most.subjects / fewest.subjects);
        let figure = format!("{} × at {times} times", ratio(grown));
        if times < GROWTH { Cell::Smaller(figure) } else { Cell::Seen(figure, grown <= aim) }
    }
}

fn at_most(seen: f64, aim: f64) -> Cell {
    Cell::Seen(ratio(seen), seen <= aim)
}
