use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::execution::Execution;
use crate::store::Claimed;

/// How long it counts what a claim has seen, while nobody is free for another one: what comes from elsewhere is not noted here meanwhile.
const COUNTS: Duration = Duration::from_millis(250);

/// What the newest claim has seen. In all lanes but the drained ones something may wait: nobody is free for it, or it was more than was claimed.
#[derive(Default)]
pub(crate) struct Looked {
    /// Lanes of which it has taken all that it could.
    pub(super) drained: HashSet<i64>,
    /// The least priority that it has taken, where more waits in other lanes: what waits there has no greater one.
    floor: Option<i32>,
    /// Whether something waits still, in the drained lanes too.
    pub(super) left: bool,
    /// From when on it counts no more.
    until: Option<Instant>,
}

impl Looked {
    /// All that could be taken of these lanes is taken; something of them may be left that could not.
    pub(crate) fn through(lanes: impl IntoIterator<Item = i64>, left: bool) -> Self {
        Self { drained: lanes.into_iter().collect(), left, ..Self::default() }
    }

    /// Somebody else was at what waits.
    fn nowhere() -> Self {
        Self { left: true, ..Self::default() }
    }

    /// Nobody is free for another claim.
    pub(super) fn nobody_is_free(&mut self, now: Instant) {
        self.left = true;
        self.until.get_or_insert(now + COUNTS);
    }

    /// A claim of these lanes.
    pub(crate) fn of(claimed: &Claimed, lanes: Vec<i64>) -> Self {
        if !claimed.more {
            return Self::through(lanes, claimed.left);
        }
        match claimed.grants.iter().map(|grant| grant.execution.priority).min() {
            Some(floor) => Self { floor: Some(floor), ..Self::through(claimed.drained.iter().copied(), claimed.left) },
            None => Self::nowhere(),
        }
    }

    /// Something waits in a lane that no claim has seen yet. While all else goes out as it is made, a claim is about to take it, and nothing has to
    /// wait behind it meanwhile: at a steady rate there would be one such claim after the other, for ever.
    pub(super) fn waits(&mut self, lane: i64) {
        if self.floor.is_some() || self.until.is_some() {
            self.drained.remove(&lane);
        }
    }

    /// Whether nothing that waits is to go before an execution which is made now.
    pub(super) fn is_next(&self, execution: &Execution, now: Instant) -> bool {
        self.drained.contains(&execution.lane_id)
            && self.floor.is_none_or(|floor| execution.priority >= floor)
            && self.until.is_none_or(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::execution;
    use super::*;

    #[test]
    fn while_nobody_is_free_a_look_gets_old() {
        let made = Execution { lane_id: 1, ..execution(9) };
        let mut looked = Looked::through([1], false);
        let now = Instant::now();
        assert!(looked.is_next(&made, now + 100 * COUNTS), "what comes is announced, and looked at");
        looked.nobody_is_free(now);
        looked.nobody_is_free(now + COUNTS / 2);
        assert!(looked.left && looked.is_next(&made, now + COUNTS / 2));
        assert!(!looked.is_next(&made, now + COUNTS));
    }
}
