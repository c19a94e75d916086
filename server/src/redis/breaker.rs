//! Whether Redis is asked at all. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// Calls without an answer, one after the other, that open it.
const FAILURES: u32 = 3;
/// How long an open breaker waits before one probe is let through.
const REST: Duration = Duration::from_millis(400);

/// What a breaker lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Everything.
    Closed,
    /// One probe, whose outcome decides.
    HalfOpen,
    /// Nothing.
    Open,
}

/// Opens after [`FAILURES`] in a row, and is closed by a probe that goes well. It begins open: nothing is known of Redis yet.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    state: State,
    /// Whether Redis was there before, or its absence has been told already.
    told: bool,
}

#[derive(Debug)]
enum State {
    Closed { failures: u32 },
    HalfOpen,
    Open { until: Option<Instant> },
}

impl Default for State {
    fn default() -> Self {
        Self::Open { until: None }
    }
}

impl Breaker {
    pub(super) fn state(&self) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::HalfOpen => BreakerState::HalfOpen,
            State::Open { .. } => BreakerState::Open,
        }
    }

    /// A call went well.
    pub(super) fn succeeded(&mut self) {
        // An answer that comes after the breaker has opened is one of before; only a probe closes it.
        if let State::Closed { failures } = &mut self.state {
            *failures = 0;
        }
    }

    /// A call had no answer in time; `true` where that opened the breaker.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        match &mut self.state {
            State::Closed { failures } if *failures + 1 < FAILURES => {
                *failures += 1;
                false
            }
            State::Closed { .. } => self.open(Some(now + REST)),
            _ => false,
        }
    }

    /// The connection is lost; `true` where that opened the breaker. The first probe goes at once: it may be a restart.
    pub(super) fn lost(&mut self, now: Instant) -> bool {
        matches!(self.state, State::Closed { .. }) && self.open(Some(now))
    }

    fn open(&mut self, until: Option<Instant>) -> bool {
        self.state = State::Open { until };
        self.told = true;
        true
    }

    /// Whether the loop may look now. Where the breaker is open, that is the probe: nobody else looks until its outcome is known.
    pub(super) fn probes(&mut self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { until } if until.is_none_or(|until| until <= now) => {
                self.state = State::HalfOpen;
                true
            }
            State::Open { .. } | State::HalfOpen => false,
        }
    }

    /// The probe went well.
    pub(super) fn found(&mut self) {
        self.state = State::Closed { failures: 0 };
        self.told = false;
    }

    /// The probe failed; `true` the first time, so that it is told once.
    pub(super) fn not_found(&mut self, now: Instant) -> bool {
        let first = !self.told;
        self.open(Some(now + REST));
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed() -> Breaker {
        let mut breaker = Breaker::default();
        assert!(breaker.probes(Instant::now()));
        breaker.found();
        breaker
    }

    #[tokio::test]
    async fn failures_in_a_row_open_it_and_others_do_not() {
        let (mut breaker, now) = (closed(), Instant::now());
        for _ in 0..10 {
            assert!(!breaker.failed(now) && !breaker.failed(now));
            breaker.succeeded();
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert!(!breaker.failed(now) && !breaker.failed(now) && breaker.failed(now));
        assert_eq!(breaker.state(), BreakerState::Open);
        // Calls of before come in late.
        assert!(!breaker.failed(now));
        breaker.succeeded();
        assert_eq!(breaker.state(), BreakerState::Open);
    }

    #[tokio::test]
    async fn one_probe_at_a_time_decides() {
        let (mut breaker, now) = (closed(), Instant::now());
        for _ in 0..FAILURES {
            breaker.failed(now);
        }
        assert!(!breaker.probes(now), "it has not rested");
        assert!(breaker.probes(now + REST));
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        assert!(!breaker.probes(now + REST), "two probes at once");
        assert!(!breaker.not_found(now + REST), "told twice");
        assert!(!breaker.probes(now + REST));
        assert!(breaker.probes(now + REST * 2));
        breaker.found();
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[tokio::test]
    async fn a_lost_connection_opens_it_at_once_and_is_looked_after_at_once() {
        let (mut breaker, now) = (closed(), Instant::now());
        assert!(breaker.lost(now));
        assert!(!breaker.lost(now));
        assert!(breaker.probes(now));
    }

    #[tokio::test]
    async fn it_begins_open_and_absence_at_the_start_is_told_once() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        assert_eq!(breaker.state(), BreakerState::Open);
        assert!(breaker.probes(now));
        assert!(breaker.not_found(now));
        assert!(breaker.probes(now + REST));
        assert!(!breaker.not_found(now + REST));
    }
}
