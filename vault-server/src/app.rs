//! The HTTP service as a whole: its state, its routes, and what surrounds every request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Extensions, HeaderName, HeaderValue, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tower_http::catch_panic::CatchPanicLayer;
use vault_core::Error;
use vault_core::crypto::Random;
use vault_core::ids::ErasureId;
use vault_core::time::Timestamp;
use vault_core::vault::{Erasure, Vault};

use crate::auth::{self, AnsweredFor};
use crate::backups::Backups;
use crate::budget::Budget;
use crate::config::Limits;
use crate::logging::REQUESTS;
use crate::metrics::Metrics;
use crate::openapi;
use crate::problem::{Kind, Problem, RefusedBy};
use crate::throttle::{Attempt, Throttle};
use crate::trail::{OnTheWay, Trails};
use crate::unlock::{Gate, Source};

/// What every handler can reach; cheap to clone.
#[derive(Clone)]
pub(crate) struct App(Arc<Inner>);

/// The state behind an [`App`].
pub(crate) struct Inner {
    pub(crate) vault: Vault,
    /// How the vault unlocks without a passphrase being sent.
    pub(crate) unlock_source: Option<Source>,
    pub(crate) unlock_gate: Gate,
    pub(crate) started_at: Timestamp,
    pub(crate) metrics: Metrics,
    /// Of lookups, and of whatever else could be used to enumerate.
    pub(crate) budget: Budget,
    pub(crate) trails: Trails,
    pub(crate) backups: Arc<Backups>,
    /// Held while a backup is made: one at a time.
    pub(crate) backing_up: Arc<Semaphore>,
    /// Places for requests that only wait for something: they leave room for those that do something.
    waiting: Semaphore,
    /// Whether the server was told to stop.
    stopping: watch::Sender<bool>,
    throttle: Throttle,
    in_flight: AtomicUsize,
    unlocking: AtomicUsize,
    max_in_flight: usize,
    request_ids: RequestIds,
}

impl std::ops::Deref for App {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl App {
    /// A service of `vault` within these limits.
    pub(crate) fn new(vault: Vault, unlock_source: Option<Source>, limits: &Limits, backups: Backups) -> Self {
        let metrics = Metrics::new(vault.clone());
        Self(Arc::new(Inner {
            budget: Budget::new(limits.lookups_per_minute, metrics.budget_exhausted.clone()),
            trails: Trails::new(vault.clone()),
            throttle: Throttle::new(),
            backups: Arc::new(backups),
            backing_up: Arc::new(Semaphore::new(1)),
            waiting: Semaphore::new((limits.max_in_flight / WAITING_PART).max(1)),
            stopping: watch::Sender::new(false),
            metrics,
            vault,
            unlock_source,
            unlock_gate: Gate::default(),
            started_at: Timestamp::now(),
            in_flight: AtomicUsize::new(0),
            unlocking: AtomicUsize::new(0),
            max_in_flight: limits.max_in_flight,
            request_ids: RequestIds::new(),
        }))
    }

    /// A place for a request that waits, if there is one.
    pub(crate) fn place(&self) -> Option<SemaphorePermit<'_>> {
        self.waiting.try_acquire().ok()
    }

    /// Waits for an erasure that is refused to be final, at most so long, and no longer than the server serves; answers how it
    /// is then.
    pub(crate) async fn final_within(&self, id: ErasureId, limit: Duration) -> Result<Erasure, Error> {
        match self.served(Duration::ZERO, self.vault.wait_final(id, limit)).await {
            Some(erasure) => erasure,
            None => self.vault.erasure(id).await,
        }
    }

    /// Waits for `work` for as long as the server serves, and then for `more`; none if that was too short.
    pub(crate) async fn served<T>(&self, more: Duration, work: impl Future<Output = T>) -> Option<T> {
        let mut stopping = self.stopping.subscribe();
        let stops = async move {
            drop(stopping.wait_for(|stops| *stops).await);
            tokio::time::sleep(more).await;
        };
        tokio::select! {
            biased;
            worked = work => Some(worked),
            () = stops => None,
        }
    }

    /// Lets requests that only wait for something answer now.
    pub(crate) fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// The router with everything that surrounds it.
    pub(crate) fn router(self) -> Router {
        let (router, document) = openapi::assemble();
        router
            .route("/openapi.json", axum::routing::get(async move || document.clone()))
            .route_layer(from_fn_with_state(self.clone(), auth::guard))
            .fallback(not_found)
            .method_not_allowed_fallback(method_not_allowed)
            .layer(CatchPanicLayer::custom(|_| panicked().into_response()))
            .layer(from_fn_with_state(self.clone(), surround))
            .with_state(self)
    }
}

async fn not_found() -> Problem {
    Problem::new(Kind::NotFound, "there is no such path: /openapi.json lists them")
}

async fn method_not_allowed(path: Option<MatchedPath>) -> Response {
    let allowed = auth::methods(path.as_ref().map_or("", MatchedPath::as_str)).collect::<Vec<_>>().join(", ");
    let told = format!("this path takes {allowed}");
    let mut response = Problem::new(Kind::MethodNotAllowed, told).into_response();
    if let Ok(value) = HeaderValue::from_str(&allowed) {
        response.headers_mut().insert(header::ALLOW, value);
    }
    response
}

pub(crate) fn panicked() -> Problem {
    Problem::new(Kind::Internal, "an internal error; the log of the server names its place")
}

/// Bytes of a body that are read where nothing comes of it.
const DRAINED_MAX: usize = 64 * 1024;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Around every request: its id, the bound on how many run at once, its count and its line in the log.
async fn surround(State(app): State<App>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let method = known_method(request.method().as_str());
    let route = request.extensions().get::<MatchedPath>().map_or(UNMATCHED, |path| known_route(path.as_str()));
    let id = request.headers().get(REQUEST_ID).filter(|id| acceptable(id)).cloned();
    let id = id.unwrap_or_else(|| app.request_ids.next());

    let attempt = Attempt::of(&request);

    let response = match app.trails.begin(request.method(), route) {
        Ok(way) => match InFlight::enter(&app, route) {
            Some(held) => to_its_end(held, way, request, next).await,
            None => app.trails.conclude(&way, overloaded(), true).await,
        },
        Err(answer) => {
            // Otherwise the connection closes on who has not sent all of it yet, and he sees no answer.
            let _ = axum::body::to_bytes(request.into_body(), DRAINED_MAX).await;
            *answer
        }
    };
    // Out of flight by now: an answer that waits keeps out nobody.
    let mut response = app.throttle.pace(&attempt, response).await;

    response.headers_mut().insert(REQUEST_ID, id.clone());
    let (status, took) = (response.status().as_u16(), begun.elapsed());
    app.metrics.answered(method, route, status, took);
    if let Some(RefusedBy(rule)) = response.extensions().get() {
        app.metrics.refused(*rule);
    }
    log(method, route, status, took, &id, response.extensions());
    response
}

/// Runs a handler. One that changes something runs in a task of its own, for a caller who hangs up must not stop it half
/// way: after a commit, say, and before what follows from it.
async fn to_its_end(held: InFlight, way: OnTheWay, request: Request, next: Next) -> Response {
    if request.method().is_safe() {
        return on_its_way(held, way, request, next).await;
    }
    tokio::spawn(on_its_way(held, way, request, next)).await.unwrap_or_else(|_| panicked().into_response())
}

/// Runs a handler in the scope of its trail, and writes that down before the answer leaves.
async fn on_its_way(held: InFlight, way: OnTheWay, request: Request, next: Next) -> Response {
    let response = way.trail.follow(next.run(request)).await;
    let under_way = held.count().load(Ordering::Relaxed) > 1;
    held.app.trails.conclude(&way, response, under_way).await
}

fn overloaded() -> Response {
    Problem::retry(Kind::Overloaded, 1, "too many requests at once: retry shortly").into_response()
}

/// One line a request. The route is its template, so that no id and no query is in it.
fn log(method: &str, route: &str, status: u16, took: Duration, id: &HeaderValue, left: &Extensions) {
    let request_id = id.to_str().unwrap_or_default();
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let caller = left.get().map(|AnsweredFor(id)| tracing::field::display(*id));
    let rule = left.get().map(|RefusedBy(rule)| rule.as_str());
    tracing::info!(target: REQUESTS, method, route, status, micros, request_id, caller, rule, "request");
}

const UNMATCHED: &str = "unmatched";

fn known_route(template: &str) -> &'static str {
    auth::ROUTES.iter().find(|(_, known, ..)| *known == template).map_or(UNMATCHED, |(_, known, ..)| known)
}

/// A method is the caller's text, which belongs neither into a log nor into a label.
fn known_method(method: &str) -> &'static str {
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"].into_iter().find(|m| *m == method).unwrap_or("other")
}

/// An id that a caller may choose: up to 128 visible ASCII characters.
fn acceptable(id: &HeaderValue) -> bool {
    (1..=128).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
}

/// Of the requests that run at once, one in so many may be one that only waits.
const WAITING_PART: usize = 8;

/// The path that is open to who has no API token.
const UNLOCK: &str = "/v1/unlock";
/// Requests to unlock that are under way at once. They have a bound of their own, so that a stranger who sends them slowly
/// keeps out nobody else.
const UNLOCKING_MAX: usize = 16;

/// One of the requests that run at once; lets the next one in when it is dropped.
struct InFlight {
    app: App,
    unlocks: bool,
}

impl InFlight {
    fn enter(app: &App, route: &str) -> Option<Self> {
        let held = Self { app: app.clone(), unlocks: route == UNLOCK };
        app.metrics.in_flight.inc();
        let before = held.count().fetch_add(1, Ordering::Relaxed);
        let most = if held.unlocks { UNLOCKING_MAX } else { app.max_in_flight };
        // Who watches the server must get an answer just when it is busy.
        let watches = matches!(route, "/healthz" | "/readyz" | "/metrics");
        (before < most || watches).then_some(held)
    }

    fn count(&self) -> &AtomicUsize {
        if self.unlocks { &self.app.unlocking } else { &self.app.in_flight }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.count().fetch_sub(1, Ordering::Relaxed);
        self.app.metrics.in_flight.dec();
    }
}

/// Names requests that bring no name: a random prefix of this process, and a count.
struct RequestIds {
    prefix: String,
    count: AtomicU64,
}

impl RequestIds {
    fn new() -> Self {
        let prefix: [u8; 6] = Random::new(6).array();
        Self { prefix: hex::encode(prefix), count: AtomicU64::new(0) }
    }

    fn next(&self) -> HeaderValue {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        HeaderValue::from_str(&format!("{}-{count}", self.prefix)).unwrap_or(HeaderValue::from_static("unnamed"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;
    use std::sync::Mutex;
    use vault_core::policy::Rule;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_names_the_template_and_no_id() {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            let route = known_route("/v1/subjects/{id}/fields");
            let id = HeaderValue::from_static("r-1");
            let mut left = Extensions::new();
            log(known_method("JANE"), known_route("/v1/subjects/jane"), 404, Duration::ZERO, &id, &left);
            left.insert(RefusedBy(Rule::Restricted));
            log(known_method("GET"), route, 403, Duration::from_millis(2), &id, &left);
        });
        let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("/v1/subjects/{id}/fields") && text.contains("\"micros\":2000"));
        assert_eq!(text.matches("\"rule\":\"restricted\"").count(), 1, "{text}");
        assert!(!text.to_lowercase().contains("jane"));
    }

    #[test]
    fn request_ids_of_callers_are_bounded() {
        let id = |text: &str| acceptable(&HeaderValue::from_bytes(text.as_bytes()).unwrap());
        assert!(id("a-1") && id(&"x".repeat(128)));
        assert!(!id("") && !id("a b") && !id("é") && !id(&"x".repeat(129)));
        let ids = RequestIds::new();
        assert_ne!(ids.next(), ids.next());
    }
}
