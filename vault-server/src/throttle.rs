//! Failed authentications: an address that goes on failing is slowed down. Who has a valid API token is never refused
//! or delayed for what others at its address do.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, Request};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;

use crate::problem::{Kind, Problem};

/// Failures of one address that are answered at once.
const AT_ONCE: u32 = 20;
/// After how long one more is.
const EACH: Duration = Duration::from_secs(1);
/// How long one beyond that waits for its answer.
const PAUSE: Duration = Duration::from_secs(1);
/// Answers that wait at once; beyond that none waits.
const SLEEPERS_MAX: usize = 64;
/// Addresses that are remembered; the one that is known longest makes room.
const ADDRESSES_MAX: usize = 10_000;

/// Counts failed authentications by address.
pub(crate) struct Throttle {
    failures: Mutex<Failures>,
    sleepers: Semaphore,
}

/// The address of a request that shows an API token, or what it takes for one.
///
/// Who shows none guesses none, and is told at once that one is needed.
pub(crate) struct Attempt(Option<Origin>);

/// A host, or the network that is one customer's: /32 of IPv4, /64 of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Origin(IpAddr);

impl Throttle {
    pub(crate) fn new() -> Self {
        Self { failures: Mutex::default(), sleepers: Semaphore::new(SLEEPERS_MAX) }
    }

    /// Passes an answer on, unless it is one failure too many: that is answered late, and with 429.
    pub(crate) async fn pace(&self, attempt: &Attempt, response: Response) -> Response {
        let Some(origin) = attempt.0.filter(|_| response.status() == StatusCode::UNAUTHORIZED) else {
            return response;
        };
        if self.failures.lock().unwrap_or_else(PoisonError::into_inner).one_more(origin, Instant::now()) {
            return response;
        }
        if let Ok(_sleeper) = self.sleepers.try_acquire() {
            tokio::time::sleep(PAUSE).await;
        }
        let told = "too many requests with API tokens that are not valid came from this address: see to the API token, \
                    then retry";
        Problem::retry(Kind::RateLimited, EACH.as_secs(), told).into_response()
    }
}

impl Attempt {
    /// What is known of a request before it is handled.
    pub(crate) fn of(request: &Request) -> Self {
        let remote = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let shows = request.headers().contains_key(header::AUTHORIZATION);
        Self(remote.filter(|_| shows).map(|ConnectInfo(remote)| Origin::of(remote.ip())))
    }
}

impl Origin {
    fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
            host => host,
        })
    }
}

/// A leaky bucket for each address: each failure adds [`EACH`], and time takes away.
#[derive(Default)]
struct Failures {
    empty_at: HashMap<Origin, Instant>,
    /// In the order in which they came; each once.
    order: VecDeque<Origin>,
}

impl Failures {
    /// Counts a failure; `false` if it is one too many, which does not count.
    fn one_more(&mut self, origin: Origin, now: Instant) -> bool {
        if !self.empty_at.contains_key(&origin) {
            self.make_room(now);
            self.order.push_back(origin);
        }
        let empty_at = self.empty_at.entry(origin).or_insert(now);
        let next = (*empty_at).max(now) + EACH;
        let fits = next <= now + EACH * AT_ONCE;
        if fits {
            *empty_at = next;
        }
        fits
    }

    /// Forgets addresses whose bucket is empty, from the front, and the first one if there is no room for another.
    fn make_room(&mut self, now: Instant) {
        while let Some(first) = self.order.front() {
            let empty = self.empty_at.get(first).is_none_or(|at| *at <= now);
            if !empty && self.order.len() < ADDRESSES_MAX {
                return;
            }
            self.empty_at.remove(first);
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn origin(text: &str) -> Origin {
        Origin::of(text.parse().unwrap())
    }

    fn count(failures: &mut Failures, from: &str, now: Instant, attempts: u32) -> u32 {
        (0..attempts).map(|_| u32::from(failures.one_more(origin(from), now))).sum()
    }

    #[test]
    fn twenty_at_once_then_one_a_second() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        assert_eq!(count(&mut failures, "192.0.2.1", now, 100), 20);
        assert_eq!(count(&mut failures, "192.0.2.2", now, 100), 20, "another address has its own");
        assert_eq!(count(&mut failures, "192.0.2.1", now + Duration::from_millis(999), 100), 0);
        assert_eq!(count(&mut failures, "192.0.2.1", now + EACH, 100), 1);
        assert_eq!(count(&mut failures, "192.0.2.1", now + EACH * 4, 100), 3);
        assert_eq!(count(&mut failures, "192.0.2.1", now + EACH * 60, 100), 20, "and no more for having waited long");
    }

    #[test]
    fn a_network_of_ipv6_is_one_origin() {
        assert_eq!(origin("2001:db8:1:2::1"), origin("2001:db8:1:2:ffff::9"));
        assert_ne!(origin("2001:db8:1:2::1"), origin("2001:db8:1:3::1"));
        assert_eq!(origin("::ffff:192.0.2.1"), origin("192.0.2.1"));
        assert_ne!(origin("::ffff:192.0.2.1"), origin("192.0.2.2"));
    }

    #[test]
    fn memory_is_bounded() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        let address = |n: u32| Origin(IpAddr::V4(n.into()));
        for n in 0..ADDRESSES_MAX as u32 + 10 {
            assert!(failures.one_more(address(n), now));
            failures.one_more(address(n), now);
        }
        assert_eq!((failures.empty_at.len(), failures.order.len()), (ADDRESSES_MAX, ADDRESSES_MAX));
        assert!(!failures.empty_at.contains_key(&address(9)) && failures.empty_at.contains_key(&address(10)));
        failures.one_more(address(0), now + EACH * 2);
        assert_eq!((failures.empty_at.len(), failures.order.len()), (1, 1), "the others are empty by then");
    }

    fn attempt(from: &str) -> Attempt {
        Attempt(Some(origin(from)))
    }

    fn status(status: u16) -> Response {
        StatusCode::from_u16(status).unwrap().into_response()
    }

    #[tokio::test]
    async fn answers_beyond_the_bound_are_429() {
        let throttle = Throttle::new();
        // With as many as may wait already, nobody waits.
        let _all = throttle.sleepers.try_acquire_many(SLEEPERS_MAX as u32).unwrap();
        for _ in 0..AT_ONCE {
            assert_eq!(throttle.pace(&attempt("192.0.2.1"), status(401)).await.status(), 401);
        }
        let late = throttle.pace(&attempt("192.0.2.1"), status(401)).await;
        assert_eq!((late.status().as_u16(), &late.headers()["retry-after"]), (429, &"1".parse().unwrap()));
        for other in [200, 403, 410] {
            assert_eq!(throttle.pace(&attempt("192.0.2.1"), status(other)).await.status(), other);
        }
        assert_eq!(throttle.pace(&Attempt(None), status(401)).await.status(), 401);
    }
}
