//! A rotation of every page key while readers go on: how long it takes, and what they notice.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use vault_core::store::EngineName;

use crate::Failure;
use crate::drive::{End, Latencies, no_latencies};
use crate::figures::{Bench, Pattern};
use crate::http::{Connection, Request};
use crate::server::Server;

/// How long to wait before asking again how far it is.
const POLL: Duration = Duration::from_millis(20);
/// Reads a second: as a share of what a closed loop reaches, low enough that one rotation leaves room for them on two cores.
const SHARE: f64 = 0.25;

/// What was seen.
pub(crate) struct Rotated {
    pub(crate) engine: EngineName,
    pub(crate) subjects: u64,
    /// Seconds that each rotation took.
    pub(crate) seconds: Vec<f64>,
    pub(crate) pages: u64,
    /// Reads a second meanwhile.
    pub(crate) pace: f64,
    pub(crate) idle: Latencies,
    pub(crate) meanwhile: Latencies,
}

impl Rotated {
    /// The median of what the rotations took.
    pub(crate) fn median_seconds(&self) -> f64 {
        let mut all = self.seconds.clone();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or_default()
    }
}

/// Reads at a fixed pace, in turns with a rotation and without.
pub(crate) async fn measure<F>(
    mut reads: Bench<Connection, F>,
    server: &Server,
    pattern: Pattern,
    engine: EngineName,
    subjects: u64,
) -> Result<Rotated, Failure>
where
    F: AsyncFn(&mut Connection) -> Result<(), Failure> + 'static,
{
    reads.warm_up(pattern).await?;
    let pace = reads.rate(pattern).await? * SHARE;
    let mut rotated = Rotated {
        engine,
        subjects,
        seconds: Vec::new(),
        pages: 0,
        pace,
        idle: no_latencies(),
        meanwhile: no_latencies(),
    };
    for _ in 0..pattern.rounds {
        let end = Rc::new(Cell::new(Some(Instant::now() + pattern.round)));
        rotated.idle += reads.paced_until(pace, &end).await?;

        let end: End = Rc::default();
        let local = tokio::task::LocalSet::new();
        let (connection, ended) = (server.endpoint.connect().await?, Rc::clone(&end));
        let rotation = local.spawn_local(rotate(connection, ended));
        rotated.meanwhile += local.run_until(reads.paced_until(pace, &end)).await?;
        let (seconds, pages) = local.run_until(rotation).await??;
        rotated.seconds.push(seconds);
        rotated.pages = pages;
    }
    Ok(rotated)
}

/// Rotates, and sets `end` when that is done or has failed.
async fn rotate(mut connection: Connection, end: End) -> Result<(f64, u64), Failure> {
    let done = rotate_to_end(&mut connection).await;
    end.set(Some(Instant::now()));
    done
}

async fn rotate_to_end(connection: &mut Connection) -> Result<(f64, u64), Failure> {
    let start = Instant::now();
    let asked = connection.expect(&Request::post("/v1/keys/rotations", r#"{"layer":"keks"}"#)).await?;
    let id = asked["id"].as_str().ok_or("a rotation without an id")?;
    let path = format!("/v1/keys/rotations/{id}");
    loop {
        let rotation = connection.expect(&Request::get(path.as_str())).await?;
        match rotation["state"].as_str() {
            Some("done") => return Ok((start.elapsed().as_secs_f64(), rotation["done"].as_u64().unwrap_or_default())),
            Some("queued" | "running") => tokio::time::sleep(POLL).await,
            _ => return Err(format!("a rotation did not end well: {rotation}").into()),
        }
    }
}
