//! One denial a minute of each caller who makes too many calls; the others are counted, and told with the next one. Pure.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Denial;

/// How often there may be one of each caller.
const PERIOD: Duration = Duration::from_secs(60);
/// Callers of whom one was let through in the last minute.
const CALLERS: usize = 1024;

/// A denial, and how many calls it stands for.
pub(super) type Counted = (Denial, u64);

/// Lets one denial of each caller through in a minute.
#[derive(Default)]
pub(super) struct Throttle {
    callers: HashMap<String, Held>,
    /// Of more callers than are known at once.
    beyond: u64,
}

struct Held {
    /// When the next one may be let through.
    until: Instant,
    waiting: Option<Counted>,
}

impl Throttle {
    /// Lets a denial through, or counts it for later.
    pub(super) fn admit(&mut self, caller: &str, denial: Denial, now: Instant) -> Option<Denial> {
        let (until, is_full) = (now + PERIOD, self.callers.len() >= CALLERS);
        match self.callers.get_mut(caller) {
            Some(Held { waiting: Some((_, calls)), .. }) => *calls += 1,
            Some(held) if held.until > now => held.waiting = Some((denial, 1)),
            Some(held) => {
                held.until = until;
                return Some(denial);
            }
            None if !is_full => {
                self.callers.insert(caller.to_owned(), Held { until, waiting: None });
                return Some(denial);
            }
            None => self.beyond += 1,
        }
        None
    }

    /// What was counted of those whose minute is over. The next one begins for them; who has made no further call is forgotten.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Counted> {
        let mut due = Vec::new();
        self.callers.retain(|_, held| {
            if held.until > now {
                return true;
            }
            held.until = now + PERIOD;
            let waited = held.waiting.take();
            let goes_on = waited.is_some();
            due.extend(waited);
            goes_on
        });
        due
    }

    /// When there is something due at the earliest.
    pub(super) fn next(&self) -> Option<Instant> {
        self.callers.values().map(|held| held.until).min()
    }

    /// All that was counted, whether its minute is over or not: this is the end.
    pub(super) fn rest(&mut self) -> Vec<Counted> {
        self.callers.drain().filter_map(|(_, held)| held.waiting).collect()
    }

    /// How many calls were of more callers than are known at once, since this was asked the last time.
    pub(super) fn beyond(&mut self) -> u64 {
        std::mem::take(&mut self.beyond)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::tests::denial;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn one_of_each_caller_is_let_through_in_a_minute_and_the_others_are_counted() {
        let (mut throttle, mut now) = (Throttle::default(), Instant::now());
        let begin = now;
        let (mut through, mut counted) = (0, Vec::new());
        // A hundred a second for two and a half minutes, of either of two.
        for n in 0..15_000_u64 {
            let caller = if n.is_multiple_of(2) { "a" } else { "b" };
            through += u64::from(throttle.admit(caller, denial(n % 2), now).is_some());
            now += Duration::from_millis(10);
            counted.extend(throttle.due(now).into_iter().map(|(denial, calls)| (denial.author.id, calls)));
        }
        assert_eq!(through, 2, "the first ones");
        assert_eq!(counted.len(), 4, "{counted:?}");
        let rest = throttle.rest();
        assert_eq!(rest.len(), 2);
        let told = counted.iter().map(|(_, calls)| calls).chain(rest.iter().map(|(_, calls)| calls)).sum::<u64>();
        assert_eq!(through + told, 15_000);
        assert!(now - begin >= 150 * SECOND);
    }

    #[test]
    fn who_calls_no_more_is_forgotten_and_told_of_when_it_comes_again() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        assert!(throttle.admit("a", denial(1), now).is_some());
        assert_eq!(throttle.next(), Some(now + PERIOD));
        assert_eq!(throttle.due(now + PERIOD), []);
        assert_eq!(throttle.next(), None);
        assert!(throttle.admit("a", denial(1), now + PERIOD).is_some());
        // Also where nobody has asked for what is due since.
        assert!(throttle.admit("a", denial(1), now + 2 * PERIOD).is_some());
        assert!(throttle.admit("a", denial(1), now + 3 * PERIOD - SECOND).is_none());
    }

    #[test]
    fn what_is_known_of_callers_is_bounded() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        let through = (0..5000).filter(|n| throttle.admit(&n.to_string(), denial(*n), now).is_some()).count();
        assert_eq!((through, throttle.beyond(), throttle.beyond()), (CALLERS, 5000 - CALLERS as u64, 0));
        assert!(throttle.admit("0", denial(0), now).is_none());
        throttle.due(now + PERIOD);
        assert!(throttle.admit("4999", denial(0), now + PERIOD).is_some());
    }
}
