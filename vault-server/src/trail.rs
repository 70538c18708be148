//! Every request leaves its entry in the audit log before its answer leaves; strangers cannot fill the log.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::Method;
use axum::response::{IntoResponse, Response};
use vault_core::Error;
use vault_core::audit::{Action, Entry, Outcome, Trail};
use vault_core::policy::Rule;
use vault_core::vault::Vault;

use crate::auth;
use crate::problem::{Problem, RefusedBy};

/// Entries that requests without a valid API token leave at once, and after how long there is room for one more.
const AT_ONCE: u32 = 100;
const EACH: Duration = Duration::from_millis(100);

/// What requests are logged with.
pub(crate) struct Trails {
    vault: Vault,
    strangers: Strangers,
}

/// A request on its way.
#[derive(Clone)]
pub(crate) struct OnTheWay {
    pub(crate) trail: Trail,
    /// Whether an answer that is no refusal is logged as well.
    told: bool,
    /// Whether it may change something.
    changes: bool,
}

impl Trails {
    pub(crate) fn new(vault: Vault) -> Self {
        Self { vault, strangers: Strangers::default() }
    }

    /// The trail of a request, or the answer to it if nothing can be logged: then it is not begun.
    pub(crate) fn begin(&self, method: &Method, route: &str) -> Result<OnTheWay, Box<Response>> {
        let action = auth::action(method, route);
        let reads = matches!(action, Some(Action::Read | Action::Lookup | Action::TokenResolve | Action::Accesses));
        let trail = Trail::new(action.unwrap_or(Action::Other));
        let way = OnTheWay { trail, told: action.is_some(), changes: !(reads || method.is_safe()) };
        let writes = matches!(action, Some(Action::Write | Action::TokenCreate)) && method != Method::DELETE;
        let works = self.vault.log_works().and_then(|()| if writes { self.vault.log_has_room() } else { Ok(()) });
        match works {
            // What is locked cannot be read: that waits for no disk, though it is not acknowledged then.
            Err(error) if way.told && action != Some(Action::Lock) => Err(Box::new(refusal(error))),
            _ => Ok(way),
        }
    }

    /// Writes what a request did, along with others that end now if there are some `under_way`. The answer, or another one if
    /// that cannot be written: then this one does not leave.
    pub(crate) async fn conclude(&self, way: &OnTheWay, answer: Response, under_way: bool) -> Response {
        let status = answer.status().as_u16();
        if !(way.told || matches!(status, 401 | 403 | 429)) {
            return answer;
        }
        match self.write(way, status, rule_of(&answer), under_way).await {
            Ok(()) => answer,
            Err(error) => {
                let mut problem = Problem::from(error);
                if way.changes && status < 400 {
                    problem
                        .detail
                        .to_mut()
                        .push_str(". What was asked is done already, or may be: look before you repeat it");
                }
                problem.into_response()
            }
        }
    }

    async fn write(&self, way: &OnTheWay, status: u16, rule: Option<Rule>, under_way: bool) -> Result<(), Error> {
        let stranger = way.trail.by().is_none() && status >= 400;
        if stranger && !self.strangers.admit(Instant::now()) {
            return Ok(());
        }
        self.vault.conclude(&way.trail, status, rule, under_way).await?;
        match self.strangers.untold() {
            Some(entry) => self.vault.log(&[entry]).await,
            None => Ok(()),
        }
    }

    /// Writes what is only counted so far, and that the server stops.
    pub(crate) async fn stop(&self) -> Result<(), Error> {
        let mut entries: Vec<Entry> = self.strangers.untold().into_iter().collect();
        entries.push(Entry::new(Action::Stop, Outcome::Done));
        self.vault.log(&entries).await
    }
}

fn rule_of(answer: &Response) -> Option<Rule> {
    answer.extensions().get().map(|RefusedBy(rule)| *rule)
}

fn refusal(error: Error) -> Response {
    Problem::from(error).into_response()
}

/// Bounds the entries of requests without a valid API token: beyond that they are counted, and one entry tells how many.
#[derive(Default)]
struct Strangers(Mutex<Bucket>);

#[derive(Default)]
struct Bucket {
    /// When it is empty again.
    empty_at: Option<Instant>,
    /// Requests that left no entry of their own.
    counted: u64,
}

impl Strangers {
    /// Whether one more leaves an entry of its own.
    fn admit(&self, now: Instant) -> bool {
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = bucket.empty_at.map_or(now, |at| at.max(now)) + EACH;
        let fits = next <= now + EACH * AT_ONCE;
        match fits {
            true => bucket.empty_at = Some(next),
            false => bucket.counted += 1,
        }
        fits
    }

    /// The entry of those that were only counted since the last one.
    fn untold(&self) -> Option<Entry> {
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = std::mem::take(&mut bucket.counted);
        (counted > 0).then(|| Entry { count: Some(counted), ..Entry::new(Action::Other, Outcome::Refused) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_beyond_the_bound_share_an_entry() {
        let (strangers, now) = (Strangers::default(), Instant::now());
        let admitted = |at| (0..1000).filter(|_| strangers.admit(at)).count();
        assert_eq!(admitted(now), 100);
        assert_eq!(strangers.untold().and_then(|entry| entry.count), Some(900));
        assert_eq!(strangers.untold(), None, "told once");
        assert_eq!(admitted(now + EACH * 2), 2);
        assert_eq!(admitted(now + Duration::from_secs(60)), 100, "and no more for having waited long");
    }
}
