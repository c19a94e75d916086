use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::worker::finished::Cause;
use crate::worker::lease::LeaseKey;

/// How long a lease may come after its cancellation.
const LIFE: Duration = Duration::from_secs(30);
/// How many cancellations are remembered; the oldest make room.
const MOST: usize = 1024;

/// Cancellations that have overtaken their leases.
#[derive(Debug, Default)]
pub(super) struct EarlyCancels {
    /// With the time of their coming, oldest first.
    noted: VecDeque<(LeaseKey, Cause, Instant)>,
}

impl EarlyCancels {
    pub(super) fn note(&mut self, key: LeaseKey, cause: Cause, now: Instant) {
        self.noted.retain(|(other, _, at)| *other != key && now < *at + LIFE);
        if self.noted.len() >= MOST {
            self.noted.pop_front();
        }
        self.noted.push_back((key, cause, now));
    }

    /// Why a lease that has just come is not to begin, if it is not.
    pub(super) fn take(&mut self, key: &LeaseKey, now: Instant) -> Option<Cause> {
        let at = self.noted.iter().position(|(other, _, at)| other == key && now < *at + LIFE)?;
        self.noted.remove(at).map(|(_, cause, _)| cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_are_remembered_and_not_for_long() {
        let mut early = EarlyCancels::default();
        let now = Instant::now();
        let key = |number: i64| LeaseKey::new("e", number);
        for number in 0..=1024 {
            early.note(key(number), Cause::Cancelled, now);
        }
        assert_eq!((early.take(&key(0), now), early.noted.len()), (None, MOST));
        assert_eq!(early.take(&key(1), now), Some(Cause::Cancelled));
        assert_eq!(early.take(&key(1), now), None, "it is applied once");
        assert_eq!(early.take(&key(2), now + LIFE), None);
        early.note(key(2), Cause::TimedOut, now + LIFE);
        assert_eq!(early.noted.len(), 1);
    }
}
