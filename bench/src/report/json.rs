//! The report for programs.

use serde_json::{Value, json};

use super::{Line, Report, Setting};
use crate::drive::Latencies;
use crate::figures::quantile;

/// Everything, latencies as percentiles.
pub(super) fn report(report: &Report) -> String {
    let machine = &report.machine;
    let rotations = report.rotations.iter().map(|of| {
        json!({
            "engine": of.engine.as_str(), "subjects": of.subjects, "pages": of.pages, "seconds": of.seconds,
            "reads_per_second": of.pace, "idle_ms": percentiles(&of.idle), "meanwhile_ms": percentiles(&of.meanwhile),
        })
    });
    let sizes = report.sizes.iter().map(|of| {
        json!({
            "engine": of.engine.as_str(), "subjects": of.living, "bytes": of.grown, "compacted_bytes": of.compacted,
        })
    });
    let memory = report.memory.iter().map(|of| {
        json!({
            "engine": of.engine.as_str(), "subjects": of.subjects,
            "enrolled_bytes": of.enrolled, "most_bytes": of.most,
        })
    });
    let personas = report.personas.as_ref().map(|personas| {
        let seen = personas.seen.iter().map(|seen| {
            json!({
                "persona": seen.persona.as_str(), "keys": seen.choice.as_str(), "records": seen.records,
                "asked": seen.asked.to_string(), "per_second": seen.rate(), "rounds_per_second": seen.rates,
                "latency_ms": percentiles(&seen.latencies),
            })
        });
        json!({ "seen": seen.collect::<Vec<_>>(), "skipped": personas.skipped })
    });
    let document = json!({
        "optimised": !cfg!(debug_assertions),
        "quick": report.quick,
        "took_seconds": report.begun.elapsed().as_secs(),
        "machine": {
            "processors": machine.processors, "model": machine.model, "kernel": machine.kernel,
            "memory_mib": machine.memory_mib, "load_before": machine.load.0, "load_after": machine.load.1,
        },
        "limits": {
            "seals_per_second": report.sealing.seals, "opens_per_second": report.sealing.opens,
            "durable_4k_ms": report.sync_ms,
        },
        "lines": report.lines.iter().map(line).collect::<Vec<_>>(),
        "rotations": rotations.collect::<Vec<_>>(),
        "sizes": sizes.collect::<Vec<_>>(),
        "memory": memory.collect::<Vec<_>>(),
        "personas": personas,
    });
    format!("{document:#}\n")
}

fn line(line: &Line) -> Value {
    let figures = &line.figures;
    let paced = figures
        .paced
        .as_ref()
        .map(|(pace, latencies)| json!({ "requests_per_second": pace, "latency_ms": percentiles(latencies) }));
    let limit = line.limit.as_ref().map(|limit| {
        json!({
            "name": limit.name,
            "per_second": limit.rate,
            "paced_latency_ms": limit.paced.as_ref().map(percentiles),
        })
    });
    let setting = match line.setting {
        Setting::Hot => "hot",
        Setting::Cold => "cold",
        Setting::Tls => "tls",
    };
    json!({
        "engine": line.engine.as_str(),
        "subjects": line.subjects,
        "work": line.work.name(),
        "setting": setting,
        "connections": line.connections,
        "unit": line.work.unit().0,
        "per_second": figures.rate(),
        "rounds_per_second": figures.rates(),
        "closed_latency_ms": percentiles(&figures.closed),
        "paced": paced,
        "cpu_micros_each": figures.cpu_each(),
        "written_bytes_each": figures.written_each(),
        "resident_bytes": figures.resident,
        "limit": limit,
        "of_limit": line.of_limit(),
    })
}

fn percentiles(latencies: &Latencies) -> Value {
    let at = |share| quantile(latencies, share);
    json!({
        "requests": latencies.len(), "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999), "most": at(1.0),
    })
}
