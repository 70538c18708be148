//! The figures of one measurement: several rounds of a closed loop, and one at a fixed pace.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::drive::{Latencies, closed, no_latencies, paced};
use crate::process::{Usage, resident};

/// What is measured: workers, what each repeats, how many units that is, and whose processor it takes.
pub(crate) struct Bench<W, F> {
    pub(crate) workers: Vec<W>,
    pub(crate) once: Rc<F>,
    pub(crate) units: u64,
    pub(crate) process: u32,
}

/// How long and how often.
#[derive(Clone, Copy)]
pub(crate) struct Pattern {
    pub(crate) rounds: u32,
    pub(crate) round: Duration,
    pub(crate) warm_up: Duration,
    /// How long the loop at a fixed pace runs.
    pub(crate) paced: Duration,
}

/// What was seen.
pub(crate) struct Figures {
    /// Units a second, in each round.
    rates: Vec<f64>,
    /// Of the closed loop.
    pub(crate) closed: Latencies,
    /// Of the paced loop, and its requests a second.
    pub(crate) paced: Option<(f64, Latencies)>,
    pub(crate) units: u64,
    usage: Usage,
    /// Bytes resident after the last round.
    pub(crate) resident: u64,
}

impl Figures {
    fn none() -> Figures {
        Figures {
            rates: Vec::new(),
            closed: no_latencies(),
            paced: None,
            units: 0,
            usage: Usage::default(),
            resident: 0,
        }
    }

    /// Units a second: the median of the rounds.
    pub(crate) fn rate(&self) -> f64 {
        let mut rates = self.rates.clone();
        rates.sort_by(f64::total_cmp);
        let middle = rates.len() / 2;
        match rates.len() {
            0 => 0.0,
            even if even % 2 == 0 => f64::midpoint(rates[middle - 1], rates[middle]),
            _ => rates[middle],
        }
    }

    /// How far the rounds lie apart, as a share of the median.
    pub(crate) fn spread(&self) -> f64 {
        let most = self.rates.iter().copied().fold(0.0, f64::max);
        let least = self.rates.iter().copied().fold(f64::MAX, f64::min);
        if self.rates.is_empty() { 0.0 } else { (most - least) / self.rate() }
    }

    /// Units a second, in each round.
    pub(crate) fn rates(&self) -> &[f64] {
        &self.rates
    }

    /// Microseconds of processor time a unit.
    pub(crate) fn cpu_each(&self) -> f64 {
        self.usage.cpu.as_secs_f64() * 1e6 / self.units.max(1) as f64
    }

    /// Bytes handed to the kernel to be written, a unit.
    pub(crate) fn written_each(&self) -> f64 {
        self.usage.written as f64 / self.units.max(1) as f64
    }
}

/// The latency in milliseconds that `share` of the requests do not exceed.
pub(crate) fn quantile(latencies: &Latencies, share: f64) -> f64 {
    latencies.value_at_quantile(share) as f64 / 1e3
}

impl<W, F> Bench<W, F>
where
    W: 'static,
    F: AsyncFn(&mut W) -> Result<(), Failure> + 'static,
{
    /// Measures this alone.
    pub(crate) async fn alone(mut self, pattern: Pattern) -> Result<Figures, Failure> {
        let mut figures = Figures::none();
        self.warm_up(pattern).await?;
        for _ in 0..pattern.rounds {
            self.round(pattern, &mut figures).await?;
        }
        let pace = figures.rate() / self.units as f64 / 2.0;
        self.pace(pattern, pace, &mut figures).await?;
        Ok(figures)
    }

    /// Measures this and its limit in turns, so that what else the machine does falls on both. Both are paced alike: at
    /// half of what this one reached.
    pub(crate) async fn beside<V, G>(
        mut self,
        mut limit: Bench<V, G>,
        pattern: Pattern,
    ) -> Result<(Figures, Figures), Failure>
    where
        V: 'static,
        G: AsyncFn(&mut V) -> Result<(), Failure> + 'static,
    {
        let (mut figures, mut limits) = (Figures::none(), Figures::none());
        self.warm_up(pattern).await?;
        limit.warm_up(pattern).await?;
        for _ in 0..pattern.rounds {
            self.round(pattern, &mut figures).await?;
            limit.round(pattern, &mut limits).await?;
        }
        let pace = figures.rate() / self.units as f64 / 2.0;
        self.pace(pattern, pace, &mut figures).await?;
        limit.pace(pattern, pace, &mut limits).await?;
        Ok((figures, limits))
    }

    /// Reads at `pace` until `end` is set and over: the latencies.
    pub(crate) async fn paced_until(&mut self, pace: f64, end: &crate::drive::End) -> Result<Latencies, Failure> {
        Ok(paced(&mut self.workers, pace, end, &self.once).await?.latencies)
    }

    /// Requests a second in one closed loop.
    pub(crate) async fn rate(&mut self, pattern: Pattern) -> Result<f64, Failure> {
        let round = closed(&mut self.workers, pattern.round, &self.once).await?;
        Ok(round.requests as f64 / round.took.as_secs_f64())
    }

    /// A closed loop that nobody counts.
    pub(crate) async fn warm_up(&mut self, pattern: Pattern) -> Result<(), Failure> {
        closed(&mut self.workers, pattern.warm_up, &self.once).await.map(drop)
    }

    async fn round(&mut self, pattern: Pattern, figures: &mut Figures) -> Result<(), Failure> {
        let before = Usage::of(self.process)?;
        let round = closed(&mut self.workers, pattern.round, &self.once).await?;
        let used = Usage::of(self.process)?.since(before);
        let units = round.requests * self.units;
        figures.rates.push(units as f64 / round.took.as_secs_f64());
        figures.closed += round.latencies;
        figures.units += units;
        figures.usage.cpu += used.cpu;
        figures.usage.written += used.written;
        figures.resident = resident(self.process)?;
        Ok(())
    }

    async fn pace(&mut self, pattern: Pattern, pace: f64, figures: &mut Figures) -> Result<(), Failure> {
        if pattern.paced.is_zero() {
            return Ok(());
        }
        let end = Rc::new(Cell::new(Some(Instant::now() + pattern.paced)));
        figures.paced = Some((pace, self.paced_until(pace, &end).await?));
        Ok(())
    }
}
