//! Tables for people, as Markdown.

use std::fmt::Write;

use super::{Line, Report};
use crate::figures::quantile;

const MIB: f64 = (1 << 20) as f64;

/// The machine, and what belongs to no engine.
pub(super) fn machine(report: &Report) -> String {
    let machine = &report.machine;
    let (before, after) = machine.load;
    let debug = if cfg!(debug_assertions) { " NOT OPTIMISED: run with --release." } else { "" };
    format!(
        "\n{} processors ({}), {} MiB, Linux {}; load average {before} before, {after} after.{debug}\n\
         Alone, one core: {} fields sealed a second, {} opened. 4 KiB are durable after {:.2} ms.\n",
        machine.processors,
        machine.model,
        machine.memory_mib,
        machine.kernel,
        count(report.sealing.seals),
        count(report.sealing.opens),
        report.sync_ms,
    )
}

/// Every line. Rates and the first two latencies are of the closed loop, the other two of the loop at a fixed pace.
pub(super) fn figures(report: &Report) -> String {
    let heads = [
        "engine",
        "subjects",
        "work",
        "conn.",
        "a second",
        "±",
        "p50 ms",
        "p99 ms",
        "pace /s",
        "p50 ms",
        "p99 ms",
        "CPU µs",
        "written B",
        "limit",
        "of it",
        "p99 of its",
    ];
    let mut out = format!("| {} |\n|---|---:|---|", heads.join(" | "));
    out.push_str(&"---:|".repeat(heads.len() - 3));
    out.push('\n');
    for line in &report.lines {
        out.push_str(&row(line));
    }
    out
}

fn row(line: &Line) -> String {
    let figures = &line.figures;
    let (pace, p50, p99) = match &figures.paced {
        Some((pace, latencies)) => (count(*pace), ms(quantile(latencies, 0.5)), ms(quantile(latencies, 0.99))),
        None => Default::default(),
    };
    let limit = line.limit.as_ref().map(|limit| format!("{}: {}", limit.name, count(limit.rate))).unwrap_or_default();
    let cells = [
        line.engine.to_string(),
        line.subjects.to_string(),
        line.name(),
        line.connections.to_string(),
        format!("{} {}", count(figures.rate()), line.work.unit().0),
        format!("{:.0} %", figures.spread() * 50.0),
        ms(quantile(&figures.closed, 0.5)),
        ms(quantile(&figures.closed, 0.99)),
        pace,
        p50,
        p99,
        format!("{:.0}", figures.cpu_each()),
        count(figures.written_each()),
        limit,
        line.of_limit().map(ratio).unwrap_or_default(),
        line.p99_of_limit().map(ratio).unwrap_or_default(),
    ];
    format!("| {} |\n", cells.join(" | "))
}

/// Rotations, sizes and memory.
pub(super) fn beside(report: &Report) -> String {
    let mut out = String::new();
    let mut add = |text: String| writeln!(out, "- {text}").expect("a string takes all that is written to it");
    for rotated in &report.rotations {
        add(format!(
            "{}, {} subjects: rotating {} page keys takes {:.2} s; reads at {} a second have a p99 of {} ms meanwhile, {} ms \
             without",
            rotated.engine,
            rotated.subjects,
            count(rotated.pages as f64),
            rotated.median_seconds(),
            count(rotated.pace),
            ms(quantile(&rotated.meanwhile, 0.99)),
            ms(quantile(&rotated.idle, 0.99)),
        ));
    }
    for size in &report.sizes {
        let each = |bytes: u64| count(bytes as f64 / size.living.max(1) as f64);
        add(format!(
            "{}, {} subjects: {} bytes each on the disk, {} when compacted",
            size.engine,
            size.living,
            each(size.grown),
            each(size.compacted)
        ));
    }
    for memory in &report.memory {
        add(format!(
            "{}, {} subjects: {:.0} MiB resident once they are enrolled, {:.0} MiB at most under load",
            memory.engine,
            memory.subjects,
            memory.enrolled as f64 / MIB,
            memory.most as f64 / MIB
        ));
    }
    out
}

/// What the personas saw: operations a second, and latencies of the closed loop that they are.
pub(super) fn personas(report: &Report) -> String {
    let Some(personas) = &report.personas else { return String::new() };
    let mut out = "| persona | keys | records | asked | operations a second | p50 ms | p99 ms |\n".to_owned();
    out.push_str("|---|---|---:|---|---:|---:|---:|\n");
    for seen in &personas.seen {
        let cells = [
            seen.persona.as_str().to_owned(),
            seen.choice.as_str().to_owned(),
            count(seen.records as f64),
            seen.asked.to_string(),
            count(seen.rate()),
            ms(quantile(&seen.latencies, 0.5)),
            ms(quantile(&seen.latencies, 0.99)),
        ];
        out.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    if let Some(why) = &personas.skipped {
        out.push_str(&format!("\nPostgreSQL: skipped: {why}\n"));
    }
    out
}

/// A number with its thousands apart.
pub(super) fn count(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Milliseconds, to as many places as mean something.
pub(super) fn ms(value: f64) -> String {
    match value {
        ..1.0 => format!("{value:.3}"),
        ..10.0 => format!("{value:.2}"),
        _ => format!("{value:.1}"),
    }
}

pub(super) fn ratio(value: f64) -> String {
    format!("{value:.2}")
}
