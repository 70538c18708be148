//! The figures as a table for people and as JSON for programs.

use serde_json::{Value, json};

use super::engine::Shape;
use super::runner::Figures;
use super::work::Work;
use crate::LoadArgs;

/// All that was measured.
pub(super) struct Report {
    settings: Value,
    shape: Shape,
    lines: Vec<Line>,
}

struct Line {
    work: Work,
    engine: bool,
    connections: u16,
    figures: Figures,
}

impl Report {
    /// A report without figures.
    pub(super) fn new(args: &LoadArgs) -> Report {
        let processors = std::thread::available_parallelism().map_or(0, usize::from);
        let settings = json!({
            "processors": processors,
            "connections": args.connections,
            "batch_connections": args.batch_connections,
            "seconds": args.seconds,
            "repeat": args.repeat,
            "optimised": !cfg!(debug_assertions),
        });
        Report { settings, shape: Shape::default(), lines: Vec::new() }
    }

    /// Notes what the vault's store held in the end.
    pub(super) fn shape(&mut self, shape: &Shape) {
        self.shape = *shape;
    }

    /// Notes a measurement of the server.
    pub(super) fn add(&mut self, work: Work, connections: u16, figures: Figures) {
        self.note(Line { work, engine: false, connections, figures });
    }

    /// Notes a measurement of the bare engine.
    pub(super) fn add_engine(&mut self, work: Work, connections: u16, figures: Figures) {
        self.note(Line { work, engine: true, connections, figures });
    }

    fn note(&mut self, line: Line) {
        eprintln!("{}: {:.0} {}/s", line.name(), line.figures.rate(), line.work.unit().0);
        self.lines.push(line);
    }

    /// Prints the table.
    pub(super) fn print(&self) {
        let Shape { data_rows, data_bytes, page_rows, page_bytes } = self.shape;
        println!("\nstore in the end: {data_rows} data rows of {data_bytes} B, {page_rows} pages of {page_bytes} B\n");
        let heads = ["", "connections", "a second", "", "p50 ms", "p99 ms", "of limit", "CPU µs each"];
        println!("| {} |\n|---|---:|---:|---|---:|---:|---:|---:|", heads.join(" | "));
        for line in &self.lines {
            let figures = &line.figures;
            let ratio = self.ratio(line).map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
            println!(
                "| {} | {} | {:.0} | {} | {:.2} | {:.2} | {ratio} | {:.1} |",
                line.name(),
                line.connections,
                figures.rate(),
                line.work.unit().0,
                figures.quantile(0.5),
                figures.quantile(0.99),
                figures.cpu_a_unit(),
            );
        }
    }

    /// The same as JSON.
    pub(super) fn json(&self) -> String {
        let lines = self.lines.iter().map(|line| {
            let figures = &line.figures;
            json!({
                "name": line.name(),
                "connections": line.connections,
                "unit": line.work.unit().0,
                "per_second": figures.rate(),
                "requests": figures.latencies.len(),
                "p50_ms": figures.quantile(0.5),
                "p99_ms": figures.quantile(0.99),
                "of_limit": self.ratio(line),
                "cpu_micros_each": figures.cpu_a_unit(),
            })
        });
        let Shape { data_rows, data_bytes, page_rows, page_bytes } = self.shape;
        let store = json!({
            "data_rows": data_rows, "data_row_bytes": data_bytes, "pages": page_rows, "page_bytes": page_bytes,
        });
        let report = json!({ "settings": self.settings, "store": store, "figures": lines.collect::<Vec<_>>() });
        format!("{report:#}\n")
    }

    /// A rate as a share of the limit's, where there is one: the engine for what writes, the empty route for requests
    /// that read.
    fn ratio(&self, line: &Line) -> Option<f64> {
        let (work, engine) = match line.work {
            work @ (Work::Enrol { .. } | Work::Update) => (work, true),
            Work::Read { batch: 1 } | Work::ReadWide { .. } | Work::Lookup => (Work::Health, false),
            Work::Health | Work::Read { .. } | Work::Shred { .. } => return None,
        };
        let limit = self.lines.iter().find(|other| other.work == work && other.engine == engine)?;
        (!line.engine).then(|| line.figures.rate() / limit.figures.rate())
    }
}

impl Line {
    fn name(&self) -> String {
        let what = self.work.name();
        if self.engine { format!("limit: bare engine, rows of {what}") } else { what.to_owned() }
    }
}
