//! How many lookups a caller may make a minute, so that nobody enumerates phone numbers.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use prometheus_client::metrics::counter::Counter;
use vault_core::ids::CallerId;
use vault_core::vault::Caller;

use crate::problem::{Kind, Problem};

/// Callers beyond which those that spent nothing lately are forgotten.
const TIDY_AT: usize = 4096;

/// A token bucket for each caller, which holds what it may spend in one minute. In memory: a restart fills them all.
pub(crate) struct Budget {
    /// For a caller that has no budget of its own; 0 for none.
    a_minute: u32,
    spent: Mutex<HashMap<CallerId, Bucket>>,
    exhausted: Counter<u64, AtomicU64>,
}

/// What is left, and when that was so.
struct Bucket {
    left: f64,
    at: Instant,
    a_minute: u32,
}

impl Budget {
    /// A budget of `a_minute` units; `exhausted` counts what it refuses.
    pub(crate) fn new(a_minute: u32, exhausted: Counter<u64, AtomicU64>) -> Self {
        Self { a_minute, spent: Mutex::default(), exhausted }
    }

    /// Spends `units` of a caller's budget. More than a minute's worth is granted to who has spent nothing, and paid off by
    /// waiting for as long as it takes.
    ///
    /// # Errors
    /// 429, with the time after which there is enough; nothing is spent then.
    pub(crate) fn spend(&self, caller: &Caller, units: u32) -> Result<(), Problem> {
        self.spend_at(caller, units, Instant::now())
    }

    /// Gives back what of `units` that were spent was not `used` up.
    pub(crate) fn give_back(&self, caller: &Caller, units: u32, used: u32) {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = spent.get_mut(&caller.id) {
            bucket.give_back(units, used);
        }
    }

    fn spend_at(&self, caller: &Caller, units: u32, now: Instant) -> Result<(), Problem> {
        let a_minute = caller.lookups_per_minute.unwrap_or(self.a_minute);
        if a_minute == 0 {
            return Ok(());
        }
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if spent.len() >= TIDY_AT && !spent.contains_key(&caller.id) {
            spent.retain(|_, bucket| !bucket.is_full(now));
        }
        let bucket = spent.entry(caller.id).or_insert_with(|| Bucket::full(a_minute, now));
        bucket.spend(units, now).map_err(|seconds| {
            self.exhausted.inc();
            Problem::retry(Kind::RateLimited, seconds, "the lookups of this caller are spent for now: retry later")
        })
    }
}

impl Bucket {
    fn full(a_minute: u32, at: Instant) -> Self {
        Self { left: f64::from(a_minute), at, a_minute }
    }

    fn left_at(&self, now: Instant) -> f64 {
        let refilled = now.saturating_duration_since(self.at).as_secs_f64() * f64::from(self.a_minute) / 60.0;
        (self.left + refilled).min(f64::from(self.a_minute))
    }

    fn is_full(&self, now: Instant) -> bool {
        self.left_at(now) >= f64::from(self.a_minute)
    }

    /// An error is the seconds after which there is enough.
    fn spend(&mut self, units: u32, now: Instant) -> Result<(), u64> {
        let (left, needed) = (self.left_at(now), f64::from(units.min(self.a_minute)));
        (self.left, self.at) = (left, now);
        if left < needed {
            return Err(((needed - left) * 60.0 / f64::from(self.a_minute)).ceil().max(1.0) as u64);
        }
        self.left = left - f64::from(units);
        Ok(())
    }

    fn give_back(&mut self, units: u32, used: u32) {
        self.left = (self.left + f64::from(units.saturating_sub(used))).min(f64::from(self.a_minute));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;
    use vault_core::time::Timestamp;
    use vault_core::vault::Role;

    fn caller(id: u8, lookups_per_minute: Option<u32>) -> Caller {
        Caller {
            id: CallerId([id; 16]),
            name: "shop".to_owned(),
            role: Role::Service,
            purposes: [].into(),
            created_at: Timestamp(0),
            expires_at: None,
            previous_valid_until: None,
            last_used_at: None,
            lookups_per_minute,
        }
    }

    /// How many single units are granted of a hundred.
    fn granted(budget: &Budget, caller: &Caller, now: Instant) -> usize {
        (0..100).filter(|_| budget.spend_at(caller, 1, now).is_ok()).count()
    }

    #[test]
    fn a_minutes_worth_at_once_then_as_it_refills() {
        let (budget, now) = (Budget::new(30, Counter::default()), Instant::now());
        let (shop, other) = (caller(1, None), caller(2, Some(5)));
        assert_eq!(granted(&budget, &shop, now), 30);
        assert_eq!(granted(&budget, &other, now), 5, "a budget of its own");
        assert_eq!(granted(&budget, &caller(3, Some(0)), now), 100, "none at all");
        let refused = budget.spend_at(&shop, 1, now).unwrap_err();
        assert_eq!((refused.kind, refused.retry_after), (Kind::RateLimited, Some(2)));
        assert_eq!(budget.exhausted.get(), 70 + 95 + 1);
        assert_eq!(granted(&budget, &shop, now + Duration::from_secs(2)), 1);
        assert_eq!(granted(&budget, &shop, now + Duration::from_secs(12)), 5);
        assert_eq!(granted(&budget, &shop, now + Duration::from_secs(3600)), 30);
    }

    #[test]
    fn several_units_are_spent_together_or_not_at_all() {
        let (budget, now) = (Budget::new(3, Counter::default()), Instant::now());
        let shop = caller(1, None);
        budget.spend_at(&shop, 2, now).unwrap();
        assert_eq!(budget.spend_at(&shop, 2, now).unwrap_err().retry_after, Some(20));
        budget.spend_at(&shop, 1, now).unwrap();
        // More than a minute's worth is paid off, rather than never being granted.
        let later = now + Duration::from_secs(60);
        budget.spend_at(&shop, 63, later).unwrap();
        assert_eq!(budget.spend_at(&shop, 1, later).unwrap_err().retry_after, Some(61 * 20));
        assert!(budget.spend_at(&shop, 1, later + Duration::from_secs(1219)).is_err());
        budget.spend_at(&shop, 1, later + Duration::from_secs(1221)).unwrap();
    }

    #[test]
    fn no_default_is_no_budget() {
        let (budget, now) = (Budget::new(0, Counter::default()), Instant::now());
        assert_eq!(granted(&budget, &caller(1, None), now), 100);
        assert_eq!(granted(&budget, &caller(1, Some(1)), now), 1);
    }

    #[test]
    fn who_spent_nothing_lately_is_forgotten() {
        let (budget, now) = (Budget::new(60, Counter::default()), Instant::now());
        let numbered = |n: usize| Caller { id: CallerId((n as u128).to_be_bytes()), ..caller(0, None) };
        for n in 0..TIDY_AT {
            budget.spend_at(&numbered(n), 1, now).unwrap();
        }
        budget.spend_at(&numbered(TIDY_AT), 1, now + Duration::from_secs(1)).unwrap();
        assert_eq!(budget.spent.lock().unwrap().len(), 1);
    }

    #[test]
    fn what_was_not_used_up_is_given_back() {
        let (budget, now) = (Budget::new(30, Counter::default()), Instant::now());
        let shop = caller(1, None);
        budget.spend_at(&shop, 20, now).unwrap();
        budget.give_back(&shop, 20, 15);
        assert_eq!(granted(&budget, &shop, now), 15);
        // More than the whole: what was not good among it stays to be paid off.
        let other = caller(2, None);
        budget.spend_at(&other, 1000, now).unwrap();
        budget.give_back(&other, 1000, 500);
        assert_eq!(granted(&budget, &other, now), 0);
        let third = caller(3, None);
        budget.spend_at(&third, 1000, now).unwrap();
        budget.give_back(&third, 1000, 0);
        assert_eq!(granted(&budget, &third, now), 30);
    }
}
