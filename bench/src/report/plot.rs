//! Two plots: rates as shares of their limits, and latencies at a fixed pace.

use vault_core::store::EngineName;

use super::svg::{Anchor, Svg};
use super::table::count;
use super::{Line, Report};
use crate::drive::Latencies;
use crate::figures::quantile;

const GREY: &str = "#999999";
const PALE: &str = "#dddddd";
/// One for each curve of a panel; told apart by most eyes (Okabe and Ito 2008).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000"];

/// A bar for each line that has a limit: how much of it was reached.
pub(super) fn rates(report: &Report) -> String {
    const ROW: f64 = 20.0;
    const LEFT: f64 = 380.0;
    const FULL: f64 = 420.0;
    let lines: Vec<_> = report.lines.iter().filter_map(|line| Some((line, line.of_limit()?))).collect();
    let height = 60.0 + ROW * lines.len() as f64;
    let mut svg = Svg::new(LEFT + FULL + 300.0, height);
    svg.text((LEFT, 20.0), Anchor::Start, "Rate as a share of its limit, which was measured in the same run");
    for tenth in [0, 2, 4, 6, 8, 10] {
        let x = LEFT + FULL * f64::from(tenth) / 10.0;
        svg.line(&[(x, 40.0), (x, height - 10.0)], PALE, false);
        svg.text((x, 36.0), Anchor::Middle, &format!("{:.1}", f64::from(tenth) / 10.0));
    }
    for (at, (line, share)) in lines.into_iter().enumerate() {
        let y = 45.0 + ROW * at as f64;
        let label = format!("{} · {} · {} conn.", line.engine, line.name(), line.connections);
        svg.text((LEFT - 8.0, y + 13.0), Anchor::End, &label);
        let (width, colour) = (FULL * share.min(1.05), colour(line.engine));
        svg.bar((LEFT, y + 2.0), width, ROW - 5.0, colour);
        let limit =
            line.limit.as_ref().map(|limit| format!("{} {}", limit.name, count(limit.rate))).unwrap_or_default();
        let told = format!("{share:.2} · {}/s of {limit}", count(line.figures.rate()));
        svg.text((LEFT + width + 6.0, y + 13.0), Anchor::Start, &told);
    }
    svg.finish()
}

/// A panel for each engine: every line that was driven at a fixed pace, and its limit at the same pace, dashed.
pub(super) fn latencies(report: &Report) -> String {
    const PANEL: f64 = 420.0;
    let engines = [EngineName::Sled, EngineName::Fjall];
    let engines: Vec<_> = engines.into_iter().filter(|engine| paced(report, *engine).next().is_some()).collect();
    let mut svg = Svg::new(PANEL * engines.len().max(1) as f64 + 40.0, 560.0);
    for (at, engine) in engines.into_iter().enumerate() {
        Panel { left: 60.0 + PANEL * at as f64 }.draw(&mut svg, report, engine);
    }
    svg.finish()
}

fn paced(report: &Report, engine: EngineName) -> impl Iterator<Item = (&Line, &(f64, Latencies))> {
    let fewest = report.lines.iter().map(|line| line.subjects).min();
    let lines = report.lines.iter().filter(move |line| line.engine == engine && Some(line.subjects) == fewest);
    lines.filter_map(|line| Some((line, line.figures.paced.as_ref()?)))
}

/// Percentiles to the right, each step a tenth of the requests before; milliseconds upwards, each step ten times as many.
struct Panel {
    left: f64,
}

impl Panel {
    const TOP: f64 = 50.0;
    const WIDTH: f64 = 340.0;
    const HEIGHT: f64 = 300.0;
    /// Powers of ten of the milliseconds at the bottom and at the top.
    const DECADES: (f64, f64) = (-2.0, 3.0);

    fn draw(&self, svg: &mut Svg, report: &Report, engine: EngineName) {
        let title = format!("{engine}: latency in ms at half of the highest rate, from when it was due");
        svg.text((self.left, 20.0), Anchor::Start, &title);
        for (nines, label) in [(0.3, "50 %"), (1.0, "90 %"), (2.0, "99 %"), (3.0, "99.9 %")] {
            let x = self.x(nines);
            svg.line(&[(x, Self::TOP), (x, Self::TOP + Self::HEIGHT)], PALE, false);
            svg.text((x, Self::TOP + Self::HEIGHT + 16.0), Anchor::Middle, label);
        }
        for (decade, label) in [(-2.0, "0.01"), (-1.0, "0.1"), (0.0, "1"), (1.0, "10"), (2.0, "100"), (3.0, "1000")] {
            let y = self.y(10f64.powf(decade));
            svg.line(&[(self.left, y), (self.left + Self::WIDTH, y)], PALE, false);
            svg.text((self.left - 6.0, y + 4.0), Anchor::End, label);
        }
        for (at, (line, (pace, latencies))) in paced(report, engine).enumerate() {
            let colour = COLOURS[at % COLOURS.len()];
            if let Some(limit) = line.limit.as_ref().and_then(|limit| limit.paced.as_ref()) {
                svg.line(&self.curve(limit), colour, true);
            }
            svg.line(&self.curve(latencies), colour, false);
            let y = Self::TOP + Self::HEIGHT + 42.0 + 18.0 * at as f64;
            svg.line(&[(self.left, y - 4.0), (self.left + 24.0, y - 4.0)], colour, false);
            let limit = line.limit.as_ref().filter(|limit| limit.paced.is_some());
            let limit = limit.map(|limit| format!(" (dashed: {})", limit.name)).unwrap_or_default();
            svg.text((self.left + 30.0, y), Anchor::Start, &format!("{}, {}/s{limit}", line.name(), count(*pace)));
        }
        svg.line(
            &[
                (self.left, Self::TOP),
                (self.left, Self::TOP + Self::HEIGHT),
                (self.left + Self::WIDTH, Self::TOP + Self::HEIGHT),
            ],
            GREY,
            false,
        );
    }

    fn curve(&self, latencies: &Latencies) -> Vec<(f64, f64)> {
        let steps = (0..=60).map(|step| 3.0 * f64::from(step) / 60.0);
        steps.map(|nines| (self.x(nines), self.y(quantile(latencies, 1.0 - 10f64.powf(-nines))))).collect()
    }

    fn x(&self, nines: f64) -> f64 {
        self.left + Self::WIDTH * nines / 3.0
    }

    fn y(&self, ms: f64) -> f64 {
        let (bottom, top) = Self::DECADES;
        let share = (ms.max(1e-3).log10().clamp(bottom, top) - bottom) / (top - bottom);
        Self::TOP + Self::HEIGHT * (1.0 - share)
    }
}

fn colour(engine: EngineName) -> &'static str {
    if engine == EngineName::Sled { COLOURS[0] } else { COLOURS[1] }
}
