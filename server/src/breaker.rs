//! Whether somebody who may be away is asked at all. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Calls without an answer, one after the other, that open it.
    pub failures: u32,
    /// How long an open breaker waits before one probe is let through.
    pub rest: Duration,
}

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

/// Opens after some failures in a row, and is closed by a probe that goes well.
#[derive(Debug)]
pub struct Breaker {
    patience: Patience,
    state: State,
    /// Whether the other side was there before, or its absence has been told already.
    told: bool,
}

#[derive(Debug)]
enum State {
    Closed { failures: u32 },
    HalfOpen,
    Open { until: Option<Instant> },
}

impl Breaker {
    /// One that begins open: nothing is known of the other side yet.
    pub fn open(patience: Patience) -> Self {
        Self { patience, state: State::Open { until: None }, told: false }
    }

    /// One that begins closed: the other side is asked.
    pub fn closed(patience: Patience) -> Self {
        Self { patience, state: State::Closed { failures: 0 }, told: false }
    }

    /// What it lets through.
    pub fn state(&self) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::HalfOpen => BreakerState::HalfOpen,
            State::Open { .. } => BreakerState::Open,
        }
    }

    /// A call went well.
    pub fn succeeded(&mut self) {
        // An answer that comes after the breaker has opened is one of before; only a probe closes it.
        if let State::Closed { failures } = &mut self.state {
            *failures = 0;
        }
    }

    /// A call had no answer in time; `true` where that opened the breaker.
    pub fn failed(&mut self, now: Instant) -> bool {
        match &mut self.state {
            State::Closed { failures } if *failures + 1 < self.patience.failures => {
                *failures += 1;
                false
            }
            State::Closed { .. } => self.trip(Some(now + self.patience.rest)),
            _ => false,
        }
    }

    /// The connection is lost; `true` where that opened the breaker. The first probe goes at once: it may be a restart.
    pub fn lost(&mut self, now: Instant) -> bool {
        matches!(self.state, State::Closed { .. }) && self.trip(Some(now))
    }

    fn trip(&mut self, until: Option<Instant>) -> bool {
        self.state = State::Open { until };
        self.told = true;
        true
    }

    /// Whether somebody may look now. Where the breaker is open, that is the probe: nobody else looks until its outcome is known.
    pub fn probes(&mut self, now: Instant) -> bool {
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
    pub fn found(&mut self) {
        self.state = State::Closed { failures: 0 };
        self.told = false;
    }

    /// The probe failed; `true` the first time, so that it is told once.
    pub fn not_found(&mut self, now: Instant) -> bool {
        let first = !self.told;
        self.trip(Some(now + self.patience.rest));
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILURES: u32 = 3;
    const REST: Duration = Duration::from_millis(400);
    const PATIENCE: Patience = Patience { failures: FAILURES, rest: REST };

    fn closed() -> Breaker {
        let mut breaker = Breaker::open(PATIENCE);
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
        let (mut breaker, now) = (Breaker::open(PATIENCE), Instant::now());
        assert_eq!(breaker.state(), BreakerState::Open);
        assert!(breaker.probes(now));
        assert!(breaker.not_found(now));
        assert!(breaker.probes(now + REST));
        assert!(!breaker.not_found(now + REST));
    }
}
