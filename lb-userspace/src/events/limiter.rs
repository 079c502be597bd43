//! How many Events a Service gets: pure.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::index::ServiceName;

/// Events of one Service in a row, and the time after which it gets one more: as client-go's spam filter
/// (`defaultSpamBurst`, `defaultSpamQPS` in `tools/record/events_cache.go`).
const BURST: u32 = 25;
const REFILL: Duration = Duration::from_secs(300);
/// Services that are remembered; beyond it the one that was heard of longest ago is forgotten.
const SERVICES: usize = 4_096;

/// What a Service has left.
#[derive(Clone, Copy, Debug)]
struct Budget {
    left: u32,
    since: Instant,
}

/// Lets Events through.
#[derive(Debug, Default)]
pub(super) struct Limiter(BTreeMap<ServiceName, Budget>);

impl Limiter {
    /// Whether one more Event about the Service may be sent.
    pub(super) fn admit(&mut self, service: &ServiceName, now: Instant) -> bool {
        if self.0.len() >= SERVICES && !self.0.contains_key(service) {
            let oldest = self.0.iter().min_by_key(|(_, budget)| budget.since);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                self.0.remove(&oldest);
            }
        }
        let full = Budget {
            left: BURST,
            since: now,
        };
        let budget = self.0.entry(service.clone()).or_insert(full);
        let intervals = now.saturating_duration_since(budget.since).as_secs() / REFILL.as_secs();
        if intervals > 0 {
            let refilled = u64::from(budget.left).saturating_add(intervals).min(BURST.into());
            budget.left = u32::try_from(refilled).unwrap_or(BURST);
            budget.since = now;
        }
        let admitted = budget.left > 0;
        budget.left = budget.left.saturating_sub(1);
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ServiceName {
        ServiceName {
            namespace: "ns".into(),
            name: name.into(),
        }
    }

    #[test]
    fn a_service_gets_a_burst_and_then_one_in_five_minutes() {
        let begin = Instant::now();
        let mut limiter = Limiter::default();
        let admitted = (0..100).filter(|_| limiter.admit(&name("a"), begin)).count();
        assert_eq!(admitted, BURST as usize);
        assert!(limiter.admit(&name("b"), begin), "others are not held back");
        assert!(!limiter.admit(&name("a"), begin + REFILL - Duration::from_secs(1)));
        assert!(limiter.admit(&name("a"), begin + REFILL));
        assert!(!limiter.admit(&name("a"), begin + REFILL));
    }

    #[test]
    fn only_so_many_services_are_remembered() {
        let begin = Instant::now();
        let mut limiter = Limiter::default();
        for number in 0..2 * SERVICES {
            let later = begin + Duration::from_millis(number as u64);
            assert!(limiter.admit(&name(&number.to_string()), later));
        }
        assert_eq!(limiter.0.len(), SERVICES);
    }
}
