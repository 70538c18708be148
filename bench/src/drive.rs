//! Keeps workers busy: in a closed loop, which finds the rate, or at a fixed pace, which finds latencies.
//!
//! A closed loop sends a request when the one before is answered, so a server that stops for a second is asked less during
//! that second, and its percentiles look better than a caller would find them: "coordinated omission". A paced loop decides
//! beforehand when each request is due, sends it as soon as its connection is free, and counts its latency from when it
//! was due: whatever had to wait counts with its waiting.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::LocalSet;

use crate::Failure;
use crate::alarm::Alarm;

/// Latencies in microseconds, to three digits.
pub(crate) type Latencies = Histogram<u64>;

/// The longest latency that is told apart from longer ones, in microseconds: ten minutes.
const LONGEST: u64 = 600_000_000;

/// What a loop saw.
pub(crate) struct Round {
    pub(crate) requests: u64,
    /// From the first request to the last answer.
    pub(crate) took: Duration,
    pub(crate) latencies: Latencies,
}

/// No latency yet.
pub(crate) fn no_latencies() -> Latencies {
    Histogram::new_with_bounds(1, LONGEST, 3).expect("bounds and digits are those of a histogram")
}

/// When a paced loop ends: set at its start, or later by who knows.
pub(crate) type End = Rc<Cell<Option<Instant>>>;

/// Lets every worker do `once` over and over for `time`.
pub(crate) async fn closed<W, F>(workers: &mut Vec<W>, time: Duration, once: &Rc<F>) -> Result<Round, Failure>
where
    W: 'static,
    F: AsyncFn(&mut W) -> Result<(), Failure> + 'static,
{
    let deadline = Instant::now() + time;
    side_by_side(
        workers,
        async move |_, worker: &mut W, seen: &RefCell<Latencies>, once: &F| {
            loop {
                let begun = Instant::now();
                if begun >= deadline {
                    return Ok(());
                }
                once(worker).await?;
                note(seen, begun);
            }
        },
        once,
    )
    .await
}

/// Lets the workers together do `once` at `rate` a second, evenly spread, until `end`.
pub(crate) async fn paced<W, F>(workers: &mut Vec<W>, rate: f64, end: &End, once: &Rc<F>) -> Result<Round, Failure>
where
    W: 'static,
    F: AsyncFn(&mut W) -> Result<(), Failure> + 'static,
{
    let (count, start, end) = (workers.len(), Instant::now(), Rc::clone(end));
    let interval = Duration::from_secs_f64(count as f64 / rate.max(1.0));
    side_by_side(
        workers,
        async move |number: usize, worker: &mut W, seen: &RefCell<Latencies>, once: &F| {
            let alarm = Alarm::new()?;
            let mut due = start + interval.mul_f64(number as f64 / count as f64);
            while end.get().is_none_or(|end| due < end) {
                alarm.at(due).await?;
                once(worker).await?;
                note(seen, due);
                due += interval;
            }
            Ok(())
        },
        once,
    )
    .await
}

/// Runs `work` for every worker on this thread; the workers are there again afterwards.
async fn side_by_side<W, F, G>(workers: &mut Vec<W>, work: G, once: &Rc<F>) -> Result<Round, Failure>
where
    W: 'static,
    F: 'static,
    G: AsyncFn(usize, &mut W, &RefCell<Latencies>, &F) -> Result<(), Failure> + 'static,
{
    let (local, start) = (LocalSet::new(), Instant::now());
    let (seen, work) = (Rc::new(RefCell::new(no_latencies())), Rc::new(work));
    let tasks: Vec<_> = std::mem::take(workers)
        .into_iter()
        .enumerate()
        .map(|(number, mut worker)| {
            let (seen, work, once) = (Rc::clone(&seen), Rc::clone(&work), Rc::clone(once));
            local.spawn_local(async move {
                let done = work(number, &mut worker, &seen, &once).await;
                done.map(|()| worker)
            })
        })
        .collect();
    local.await;
    let took = start.elapsed();
    for task in tasks {
        workers.push(task.await??);
    }
    let latencies = seen.borrow().clone();
    Ok(Round { requests: latencies.len(), took, latencies })
}

fn note(seen: &RefCell<Latencies>, begun: Instant) {
    let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    seen.borrow_mut().saturating_record(micros);
}
