use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Dispatch, HandOver, Looked, Reservations};
use crate::config::Limits;
use crate::reconcile::{Backoff, Pace, Signals};
use crate::store::{Candidate, Claim, Claimed, DynStore, Grant, StoreError};

/// The most that one claim takes, so that its transaction stays short.
const A_ROUND: usize = 1000;

/// How many of the newest lanes are asked for again each time.
const LANES_AGAIN: usize = 64;

/// How long the last places are kept for what goes out as it is made. Then a claim takes them: nothing that waits is to do so beside somebody free.
const KEPT_FOR: Duration = Duration::from_millis(250);

/// How often new lanes are looked for: while there is enough to do in those that are known, and while there is not.
const LANES_BUSY: Duration = Duration::from_millis(50);
const LANES_IDLE: Duration = Duration::from_millis(20);

/// How long to wait for rows that somebody else has locked, and how often.
const LOCKED_PAUSE: Duration = Duration::from_millis(3);
const LOCKED_TRIES: u32 = 5;

/// Grants pending executions to this coordinator's agents.
pub struct Dispatcher {
    pub store: DynStore,
    pub dispatch: Arc<Dispatch>,
    pub hand_over: HandOver,
    pub signals: Arc<Signals>,
    pub limits: Arc<Limits>,
}

/// What of one series of claims matters to the next one.
#[derive(Default)]
struct Times {
    /// When lanes were looked for.
    lanes_at: Option<Instant>,
    /// Until when the last places are kept.
    kept_until: Option<Instant>,
}

impl Times {
    /// How many a claim takes of what is free, of which some are to be kept for a while. With a backlog, what is free is gone as soon as it is; without
    /// these a tenant that has nothing waiting would always come when nobody is.
    fn places(&mut self, (free, kept): (usize, usize), now: Instant) -> usize {
        if free > 0 && free <= kept {
            let until = *self.kept_until.get_or_insert(now + KEPT_FOR);
            return if now < until { 0 } else { free };
        }
        self.kept_until = None;
        free.saturating_sub(kept)
    }
}

/// What came of a series of claims.
struct Round {
    /// Whether anything waited.
    found: bool,
    /// When to look for new lanes at the latest, where that was put off.
    again: Option<Instant>,
}

impl Dispatcher {
    /// Grants until the end.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut times = Times::default();
        let (mut backoff, mut pace) = (Backoff::default(), Pace::default());
        loop {
            let next = match self.rounds(&mut times).await {
                Ok(looked) => {
                    backoff.reset();
                    let paced = Instant::now() + pace.after(looked.found);
                    looked.again.map_or(paced, |again| again.min(paced))
                }
                Err(error) => {
                    tracing::warn!(%error, source = ?std::error::Error::source(&error), "claiming failed; trying again");
                    Instant::now() + backoff.next()
                }
            };
            if !self.rest(next, &shutdown).await {
                return;
            }
        }
    }

    /// Sleeps until there may be something to claim, an instant, or the end; `false` at the end.
    async fn rest(&self, until: Instant, shutdown: &CancellationToken) -> bool {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return false,
                () = self.signals.work.notified() => return true,
                // Its permit is kept while a claim is under way, so that it is held against what that claim has left.
                () = self.signals.room.notified() => if self.dispatch.may_wait() { return true },
                () = tokio::time::sleep_until(until) => return true,
            }
        }
    }

    /// Claims until there is nothing more to claim, or nobody to take it. While a claim is under way, what the one before it has granted is
    /// sent.
    async fn rounds(&self, times: &mut Times) -> Result<Round, StoreError> {
        let (mut locked, mut found) = (0, false);
        let mut ready = None;
        loop {
            let places = times.places(self.dispatch.free_and_kept(), Instant::now());
            if places == 0 {
                self.dispatch.nobody_is_free();
                self.give(ready).await;
                return Ok(Round { found, again: times.kept_until });
            }
            let reserved = self.dispatch.reservations();
            let (claimed, ()) = tokio::join!(self.claim(places.min(A_ROUND), &reserved), self.give(ready.take()));
            let claimed = claimed?;
            let (granted, more) = (claimed.grants.len(), claimed.more);
            self.dispatch.set_backlog(more);
            found |= granted > 0 || more;
            if granted > 0 {
                self.dispatch.claimed(granted);
                ready = Some((claimed.grants, reserved));
            }
            if !more {
                self.give(ready.take()).await;
            }
            let pause = if more { LANES_BUSY } else { LANES_IDLE };
            let due = times.lanes_at.map_or_else(Instant::now, |at| at + pause);
            let has_news = if due <= Instant::now() || self.dispatch.misses_lane() {
                let ((), news) = tokio::join!(self.give(ready.take()), look_for_lanes(&self.store, &self.dispatch));
                times.lanes_at = Some(Instant::now());
                news?
            } else {
                false
            };
            if !more && !has_news {
                return Ok(Round { found, again: Some(due).filter(|due| *due > Instant::now()) });
            } else if more && granted == 0 {
                // Others are at these rows, a planner or another coordinator, and will be done in a moment.
                locked += 1;
                if locked > LOCKED_TRIES {
                    return Ok(Round { found, again: None });
                }
                tokio::time::sleep(LOCKED_PAUSE).await;
            }
        }
    }

    /// Claims as much, of what waits in lanes that somebody free serves.
    async fn claim(&self, limit: usize, reserved: &Reservations) -> Result<Claimed, StoreError> {
        let lanes = self.dispatch.lock().pool.open_lanes();
        if lanes.is_empty() {
            self.dispatch.looked(Looked::default());
            return Ok(Claimed::default());
        }
        let tenant_limit = self.limits.tenant_max_concurrent;
        let claim = Claim { lanes: &lanes, limit, tenant_limit, timeouts: self.limits.timeouts() };
        let assign = |candidates: &[Candidate<'_>]| {
            // It may be called again, where the transaction is retried.
            reserved.release();
            reserved.reserve_all(candidates.iter().map(|candidate| candidate.execution.lane_id))
        };
        let claimed = self.store.claim(&claim, &assign).await?;
        self.dispatch.looked(Looked::of(&claimed, lanes));
        Ok(claimed)
    }

    async fn give(&self, ready: Option<(Vec<Grant>, Reservations)>) {
        if let Some((grants, reserved)) = ready {
            self.hand_over.give(grants, reserved).await;
        }
    }
}

/// Looks for lanes that are not known yet. `true` where there are some.
pub(super) async fn look_for_lanes(store: &DynStore, dispatch: &Dispatch) -> Result<bool, StoreError> {
    // Ids are handed out before they are committed: a lane may appear below one that is known already, but not for long.
    let newest = {
        let mut registry = dispatch.lock();
        registry.lane_missed = false;
        registry.pool.nth_newest(LANES_AGAIN).unwrap_or(0)
    };
    let lanes = store.lanes_after(newest).await?;
    Ok(dispatch.learn(lanes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_places_are_kept_for_a_while_only() {
        let (mut times, now) = (Times::default(), Instant::now());
        assert_eq!(times.places((2000, 31), now), 1969);
        assert_eq!(times.places((31, 31), now), 0);
        assert_eq!(times.kept_until, Some(now + KEPT_FOR));
        assert_eq!(times.places((7, 31), now + KEPT_FOR / 2), 0);
        assert_eq!(times.places((7, 31), now + KEPT_FOR), 7, "nobody has asked for them");
        assert_eq!(times.places((0, 31), now + KEPT_FOR), 0);
        assert_eq!((times.kept_until, times.places((5, 0), now)), (None, 5));
    }
}
