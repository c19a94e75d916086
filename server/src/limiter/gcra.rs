//! The generic cell rate algorithm: a budget that fills evenly, kept as one instant. Pure.

use std::time::Duration;

/// So many in a minute, which may come at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quota {
    per_minute: u32,
}

impl Quota {
    /// `None` for 0.
    pub(super) fn per_minute(per_minute: u32) -> Option<Self> {
        (per_minute > 0).then_some(Self { per_minute })
    }

    pub(super) fn most_per_minute(&self) -> u32 {
        self.per_minute
    }

    /// The time in which the budget grows by one.
    pub(super) fn emission(&self) -> Duration {
        Duration::from_secs(60) / self.per_minute
    }

    /// How far ahead of now the budget may be full again.
    pub(super) fn burst(&self) -> Duration {
        self.emission() * self.per_minute
    }

    /// How many may come at once, where the budget is full so much ahead of now.
    pub(super) fn remaining(&self, ahead: Duration) -> u32 {
        let free = self.burst().saturating_sub(ahead);
        u32::try_from(free.as_nanos() / self.emission().as_nanos().max(1)).unwrap_or(u32::MAX)
    }

    /// Takes one at `now` from a budget that is full at `full`, both counted from anywhere: when it is full again.
    ///
    /// # Errors
    /// How long to wait, where the budget is used up.
    pub(super) fn admit(&self, full: Duration, now: Duration) -> Result<Duration, Duration> {
        let full = full.max(now) + self.emission();
        let latest = now + self.burst();
        if full > latest { Err(full - latest) } else { Ok(full) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of calls at these milliseconds are admitted.
    fn admitted(per_minute: u32, at: impl IntoIterator<Item = u64>) -> usize {
        let quota = Quota::per_minute(per_minute).unwrap();
        let mut full = Duration::ZERO;
        let mut count = 0;
        for ms in at {
            if let Ok(next) = quota.admit(full, Duration::from_millis(ms)) {
                full = next;
                count += 1;
            }
        }
        count
    }

    #[test]
    fn the_budget_may_come_at_once_and_fills_evenly() {
        assert_eq!(admitted(60, [5; 100]), 60);
        assert_eq!(admitted(60, (0..100).map(|_| 0).chain([999])), 60);
        assert_eq!(admitted(60, (0..100).map(|_| 0).chain([1000])), 61);
        // At the pace of the budget nobody is ever refused.
        assert_eq!(admitted(60, (0..1000).map(|n| n * 1000)), 1000);
        // In an hour at full speed: the budget of an hour, and that of the first minute.
        assert_eq!(admitted(60, (0..36_000).map(|n| n * 100)), 60 + 3599);
    }

    #[test]
    fn what_remains_is_what_may_still_come() {
        let quota = Quota::per_minute(7).unwrap();
        let (now, mut full) = (Duration::from_secs(100), Duration::ZERO);
        for left in (0..7).rev() {
            full = quota.admit(full, now).unwrap();
            assert_eq!(quota.remaining(full - now), left);
        }
        assert_eq!(quota.remaining(full - now - quota.emission()), 1);
    }

    #[test]
    fn the_wait_is_enough() {
        let quota = Quota::per_minute(7).unwrap();
        let mut full = Duration::ZERO;
        let now = Duration::from_secs(100);
        while let Ok(next) = quota.admit(full, now) {
            full = next;
        }
        let wait = quota.admit(full, now).unwrap_err();
        assert!(quota.admit(full, now + wait - Duration::from_nanos(1)).is_err());
        assert!(quota.admit(full, now + wait).is_ok());
    }
}
