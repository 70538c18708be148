//! `erase`: shreds subjects and waits until that is final; shows erasure requests.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Context, certificate};
use crate::address::segment;
use crate::args::{EraseArgs, EraseCommand};
use crate::client::{Answer, Client};
use crate::exit::{Exit, Failure};
use crate::output::{Ui, printable};
use crate::progress;

mod ids;
#[cfg(test)]
mod tests;

const ERASURES: &str = "/v1/erasures";
/// Subjects in one request, and bytes of their ids; more are split.
const MAX_SUBJECTS: usize = 100_000;
const MAX_BYTES: usize = 6 * 1024 * 1024;
/// Held subjects that are told one by one.
const HELD_TOLD: usize = 20;
const FIRST_LOOK: Duration = Duration::from_millis(100);
const SLOWEST_LOOK: Duration = Duration::from_secs(2);
/// How long an answer may wait for the end, so that what it tells of the way there is seen as well.
const SECONDS_AWAITED: u64 = 1;

#[derive(Serialize)]
struct NewErasure<'a> {
    subjects: &'a [String],
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compartment: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    refuse_now: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<&'a str>,
}

/// An erasure request as the server tells it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Erasure {
    id: String,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compartment: Option<String>,
    created_at: String,
    state: String,
    counts: Counts,
    total: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    deadline: String,
    late: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    f0_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    f1_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    f2_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    f3_at: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    waiting_for: Vec<String>,
    /// What is told of single subjects.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    items: Vec<Item>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Item {
    subject: String,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hold: Option<String>,
}

/// How many subjects are in which state, by the API's names: final, refused, unknown, shredded, held, pending.
type Counts = BTreeMap<String, u64>;

#[derive(Deserialize)]
struct DryRun {
    counts: Counts,
    total: u64,
}

#[derive(Deserialize)]
struct Page {
    data: Vec<Erasure>,
    next: Option<String>,
}

/// What came of one `erase`, over all its requests.
#[derive(Default, Serialize)]
struct Outcome {
    total: u64,
    counts: Counts,
    erasures: Vec<Erasure>,
}

impl Outcome {
    fn add(&mut self, total: u64, counts: &Counts) {
        self.total += total;
        for (state, count) in counts {
            *self.counts.entry(state.clone()).or_default() += count;
        }
    }

    fn count(&self, state: &str) -> u64 {
        self.counts.get(state).copied().unwrap_or(0)
    }

    fn exit(&self) -> Exit {
        let (unknown, before, held) = (self.count("unknown"), self.count("shredded"), self.count("held"));
        match self.total {
            0 => Exit::Done,
            total if unknown == total => Exit::NotFound,
            total if before == total => Exit::Shredded,
            total if held == total => Exit::Conflict,
            _ if unknown + held > 0 => Exit::Partial,
            _ => Exit::Done,
        }
    }
}

/// Runs `erase` or one of its subcommands.
pub(crate) fn run(args: &EraseArgs, context: &Context) -> Result<Exit, Failure> {
    match &args.command {
        Some(EraseCommand::List { state }) => list(state.as_deref(), context),
        Some(EraseCommand::Cancel { erasure }) => {
            shown(&context.client()?.delete(&place(erasure))?, context)?;
            Ok(Exit::Done)
        }
        Some(EraseCommand::Approve { erasure }) => {
            let path = format!("{}/approve", place(erasure));
            shown(&context.client()?.post(&path, &serde_json::json!({}))?, context)?;
            Ok(Exit::Done)
        }
        Some(EraseCommand::Show { erasure }) => show(erasure, context),
        Some(EraseCommand::Certificate { erasure, subject, file, out }) => {
            let subjects = match (subject.is_empty(), file) {
                (true, None) => Vec::new(),
                _ => ids::collect(subject, file.as_deref(), true)?,
            };
            certificate::print(erasure, &subjects, out.as_deref(), context)
        }
        Some(EraseCommand::Check { files, log_key }) => certificate::check(files, log_key.as_deref(), &context.ui),
        None => erase(args, context),
    }
}

fn erase(args: &EraseArgs, context: &Context) -> Result<Exit, Failure> {
    let escaped = std::env::args_os().any(|word| word == "--");
    let subjects = ids::collect(&args.ids, args.file.as_deref(), escaped)?;
    let client = context.client()?;
    if args.dry_run {
        return dry_run(args, &subjects, &client, context);
    }
    context.ui.confirm(&question(&subjects, args.compartment.as_deref()))?;
    let begun = begin(args, &subjects, &client)?;
    let erasures = if args.no_wait { begun } else { wait(begun, &client, &context.ui)? };
    if let Some(erasure) = erasures.iter().find(|erasure| erasure.state == "awaiting_approval") {
        let told = "a second person has to approve it: vault-cli erase approve";
        context.ui.warn(&format!("{told} {}", printable(&erasure.id)));
    }
    if let Some(dir) = &args.certificates {
        let mut written = 0;
        for erasure in erasures.iter().filter(|erasure| erasure.counts.get("final").is_some_and(|&n| n > 0)) {
            written += certificate::save(dir, &erasure.id, &subjects, &client, &context.ui)?;
        }
        context.ui.note(&format!("{written} certificates are in {}", dir.display()));
    }
    conclude(erasures, context)
}

/// The subjects, as many to a request as it may have.
fn parts(subjects: &[String]) -> Vec<&[String]> {
    let mut parts = Vec::new();
    let (mut begin, mut bytes) = (0, 0);
    for (at, subject) in subjects.iter().enumerate() {
        // Quotes, a comma, and twice as much for what has to be escaped.
        let size = 2 * subject.len() + 3;
        if at - begin == MAX_SUBJECTS || bytes + size > MAX_BYTES {
            parts.push(&subjects[begin..at]);
            (begin, bytes) = (at, 0);
        }
        bytes += size;
    }
    parts.push(&subjects[begin..]);
    parts
}

fn question(subjects: &[String], compartment: Option<&str>) -> String {
    let whom = match subjects {
        [one] => format!("subject {}", printable(one)),
        many => format!("{} subjects", many.len()),
    };
    let what = compartment.map_or(whom.clone(), |name| format!("compartment {} of {whom}", printable(name)));
    format!("Shred {what}? The data can never be brought back.")
}

fn request<'a>(args: &'a EraseArgs, subjects: &'a [String]) -> NewErasure<'a> {
    NewErasure {
        subjects,
        reason: &args.reason,
        reference: args.reference.as_deref(),
        compartment: args.compartment.as_deref(),
        dry_run: args.dry_run,
        not_before: args.not_before.as_deref(),
        refuse_now: args.refuse_now,
        deadline: args.deadline.as_deref(),
    }
}

fn dry_run(args: &EraseArgs, subjects: &[String], client: &Client, context: &Context) -> Result<Exit, Failure> {
    let mut outcome = Outcome::default();
    for some in parts(subjects) {
        let counted: DryRun = client.post(ERASURES, &request(args, some))?.json()?;
        outcome.add(counted.total, &counted.counts);
    }
    if context.ui.wants_json() {
        context.ui.json(&serde_json::json!({
            "dry_run": true, "total": outcome.total, "counts": outcome.counts
        }))?;
        return Ok(Exit::Done);
    }
    let columns = [
        ("WOULD BE SHREDDED", outcome.count("pending")),
        ("HELD", outcome.count("held")),
        ("ALREADY REFUSED", outcome.count("refused")),
        ("UNKNOWN", outcome.count("unknown")),
        ("SHREDDED BEFORE", outcome.count("shredded")),
        ("TOTAL", outcome.total),
    ];
    let row = columns.iter().map(|(_, n)| n.to_string()).collect();
    context.ui.table(&columns.map(|(name, _)| name), &[row])?;
    context.ui.note("nothing was changed");
    Ok(Exit::Done)
}

fn begin(args: &EraseArgs, subjects: &[String], client: &Client) -> Result<Vec<Erasure>, Failure> {
    let mut begun: Vec<Erasure> = Vec::new();
    let (parts, mut taken) = (parts(subjects), 0);
    for some in &parts {
        let answer = client.post(ERASURES, &request(args, some)).and_then(|answer| answer.json());
        match answer {
            Ok(erasure) => begun.push(erasure),
            // Holds keep all of these, and the ones after them may still go.
            Err(failure) if failure.code == "held" && parts.len() > 1 => begun.push(all_held(args, some)),
            Err(failure) if begun.is_empty() => return Err(failure),
            Err(failure) => {
                let ids: Vec<_> = begun.iter().map(|e| printable(&e.id)).collect();
                return Err(failure.hint(format!(
                    "{} of {} ids were taken before that, in erasures {}; asking for all again is safe",
                    taken,
                    subjects.len(),
                    ids.join(", ")
                )));
            }
        }
        taken += some.len();
    }
    Ok(begun)
}

/// What the server makes no erasure of, for there is nothing to do.
fn all_held(args: &EraseArgs, subjects: &[String]) -> Erasure {
    let held = subjects.len() as u64;
    Erasure {
        id: "-".into(),
        state: "held".into(),
        reason: args.reason.clone(),
        reference: args.reference.clone(),
        counts: [("held".to_owned(), held)].into(),
        total: held,
        ..Erasure::default()
    }
}

/// Looks at each erasure until nothing of it is merely refused.
fn wait(begun: Vec<Erasure>, client: &Client, ui: &Ui) -> Result<Vec<Erasure>, Failure> {
    let of = |erasure: &Erasure, state| erasure.counts.get(state).copied().unwrap_or(0);
    let shredding = begun.iter().map(|e| of(e, "final") + of(e, "refused")).sum();
    let bar = progress::counting(ui, "shredding", shredding);
    let mut ended = Vec::new();
    let mut before = 0;
    let mut told = false;
    for mut erasure in begun {
        let mut pause = FIRST_LOOK;
        loop {
            bar.set_position(before + of(&erasure, "final"));
            // Pending, held, or waiting for somebody: that can take days.
            if erasure.state != "refused" {
                break;
            }
            if !told && !erasure.waiting_for.is_empty() {
                told = true;
                let why = printable(&erasure.waiting_for.join("; "));
                bar.suspend(|| {
                    ui.warn(&format!(
                        "reads are refused, but not final yet; waiting for {why}. It becomes final by itself: \
                         this command may be interrupted, and `vault-cli erase show {}` tells",
                        printable(&erasure.id)
                    ));
                });
            }
            let asked = Instant::now();
            erasure = client.get(&format!("{}?wait={SECONDS_AWAITED}", place(&erasure.id)))?.json()?;
            if erasure.state == "refused" {
                // It may have answered at once.
                thread::sleep(pause.saturating_sub(asked.elapsed()));
                pause = (pause * 2).min(SLOWEST_LOOK);
            }
        }
        before += of(&erasure, "final");
        erasure.items.retain(|item| item.state == "held");
        ended.push(erasure);
    }
    bar.finish_and_clear();
    Ok(ended)
}

fn conclude(erasures: Vec<Erasure>, context: &Context) -> Result<Exit, Failure> {
    let mut outcome = Outcome::default();
    for erasure in &erasures {
        outcome.add(erasure.total, &erasure.counts);
    }
    outcome.erasures = erasures;
    for line in held_lines(&outcome) {
        context.ui.warn(&line);
    }
    if context.ui.wants_json() {
        context.ui.json(&outcome)?;
    } else {
        let rows: Vec<_> = outcome.erasures.iter().map(row).collect();
        context.ui.table(&HEADER, &rows)?;
        context.ui.note(&format!(
            "{} of {} shredded for good, {} not due yet, {} held, {} still refused, {} unknown, {} shredded before",
            outcome.count("final"),
            outcome.total,
            outcome.count("pending"),
            outcome.count("held"),
            outcome.count("refused"),
            outcome.count("unknown"),
            outcome.count("shredded")
        ));
    }
    Ok(outcome.exit())
}

/// Which holds keep what was left alone.
fn held_lines(outcome: &Outcome) -> Vec<String> {
    let items = outcome.erasures.iter().flat_map(|erasure| &erasure.items);
    let held = items.filter_map(|item| Some((&item.subject, item.hold.as_ref()?)));
    let mut lines: Vec<_> = held
        .take(HELD_TOLD)
        .map(|(subject, hold)| {
            format!("{} is left alone: the legal hold {} keeps it", printable(subject), printable(hold))
        })
        .collect();
    let more = outcome.count("held").saturating_sub(lines.len() as u64);
    if more > 0 {
        lines.push(format!("{more} more are held: vault-cli hold list"));
    }
    lines
}

const HEADER: [&str; 11] =
    ["ERASURE", "STATE", "DUE", "DEADLINE", "FINAL", "PENDING", "HELD", "REFUSED", "UNKNOWN", "BEFORE", "REASON"];

fn row(erasure: &Erasure) -> Vec<String> {
    let count = |state| erasure.counts.get(state).copied().unwrap_or(0).to_string();
    let reason = match &erasure.reference {
        Some(reference) => format!("{} ({reference})", erasure.reason),
        None => erasure.reason.clone(),
    };
    vec![
        erasure.id.clone(),
        if erasure.late { format!("{} LATE", erasure.state) } else { erasure.state.clone() },
        erasure.not_before.clone().unwrap_or_else(|| "-".to_owned()),
        erasure.deadline.clone(),
        count("final"),
        count("pending"),
        count("held"),
        count("refused"),
        count("unknown"),
        count("shredded"),
        reason,
    ]
}

fn list(state: Option<&str>, context: &Context) -> Result<Exit, Failure> {
    let client = context.client()?;
    let mut erasures = Vec::new();
    let wanted = state.map(|state| format!("&state={}", segment(state))).unwrap_or_default();
    let mut path = format!("{ERASURES}?limit=200{wanted}");
    loop {
        let page: Page = client.get(&path)?.json()?;
        erasures.extend(page.data);
        match page.next {
            Some(next) => path = format!("{ERASURES}?limit=200{wanted}&after={}", segment(&next)),
            None => break,
        }
    }
    // RFC 3339 times in UTC sort as text.
    erasures.sort_by(|a, b| b.created_at.cmp(&a.created_at));
    if context.ui.wants_json() {
        context.ui.json(&erasures)?;
        return Ok(Exit::Done);
    }
    let rows: Vec<_> = erasures.iter().map(row).collect();
    context.ui.table(&HEADER, &rows)?;
    Ok(Exit::Done)
}

fn show(id: &str, context: &Context) -> Result<Exit, Failure> {
    shown(&context.client()?.get(&place(id))?, context)?;
    Ok(Exit::Done)
}

fn shown(answer: &Answer, context: &Context) -> Result<(), Failure> {
    if context.ui.wants_json() {
        return context.ui.line(answer.text()?);
    }
    let erasure: Erasure = answer.json()?;
    context.ui.table(&HEADER, &[row(&erasure)])?;
    let deadline = (!erasure.deadline.is_empty()).then(|| erasure.deadline.clone());
    let times = [
        ("not before", &erasure.not_before),
        (if erasure.late { "LATE: should have been done by" } else { "should be done by" }, &deadline),
        ("refused (F0) since", &erasure.f0_at),
        ("final (F1) since", &erasure.f1_at),
        ("slot-final (F2) since", &erasure.f2_at),
        ("backup-final (F3) since", &erasure.f3_at),
    ];
    for (what, time) in times {
        if let Some(time) = time {
            context.ui.line(&format!("{what} {}", printable(time)))?;
        }
    }
    for slot in &erasure.waiting_for {
        context.ui.line(&format!("waiting for {}", printable(slot)))?;
    }
    for item in erasure.items.iter().filter(|item| item.hold.is_some()) {
        let hold = printable(item.hold.as_deref().unwrap_or_default());
        context.ui.line(&format!("{} waits: the legal hold {hold} keeps it", printable(&item.subject)))?;
    }
    Ok(())
}

fn place(id: &str) -> String {
    format!("{ERASURES}/{}", segment(id))
}

/// Shreds one subject and waits until that is final.
pub(crate) fn shred_one(client: &Client, subject: &str, ui: &Ui) -> Result<(), Failure> {
    let begun: Erasure = client
        .post(
            ERASURES,
            &NewErasure {
                subjects: &[subject.to_owned()],
                reason: "demo",
                reference: None,
                compartment: None,
                dry_run: false,
                not_before: None,
                refuse_now: false,
                deadline: None,
            },
        )?
        .json()?;
    let ended = wait(vec![begun], client, ui)?;
    let shredded: u64 = ended.iter().filter_map(|e| e.counts.get("final")).sum();
    if shredded == 1 { Ok(()) } else { Err(Failure::failed("the server did not shred the subject")) }
}
