//! Counting fires without listing them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Kind, Schedule};

/// A run of fires, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FireRange {
    /// The first fire.
    pub from: DateTime<Utc>,
    /// The last fire.
    pub to: DateTime<Utc>,
    /// How many fires; a lower bound where `capped`.
    pub count: u64,
    /// Whether counting stopped at the cap before reaching `to`.
    pub capped: bool,
}

/// The fires after `from_exclusive` up to `to_inclusive`, counted up to `cap`; `None` when there are none.
///
/// `to` is the last of them even where the count was capped. The work is bounded by `cap`.
#[must_use]
pub fn fires_between(
    schedule: &Schedule,
    from_exclusive: DateTime<Utc>,
    to_inclusive: DateTime<Utc>,
    cap: u64,
) -> Option<FireRange> {
    let first = schedule.next_after(from_exclusive)?;
    let last = schedule.previous_to(to_inclusive)?;
    if first > last {
        return None;
    }
    let counted = schedule.count(first, last, cap);
    Some(FireRange { from: first, to: last, count: counted.count, capped: counted.to < last })
}

/// How far a count got.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    pub(super) count: u64,
    /// The last fire counted.
    pub(super) to: DateTime<Utc>,
}

impl Schedule {
    /// Counts the fires from the fire `first` up to the fire `last`, at least one, at most `cap` of a cron job.
    pub(super) fn count(&self, first: DateTime<Utc>, last: DateTime<Utc>, cap: u64) -> Counted {
        if let Kind::Every(interval) = &self.kind {
            let count = interval.count(first, last);
            return Counted { count, to: last };
        }
        let mut counted = Counted { count: 1, to: first };
        while counted.count < cap && counted.to < last {
            match self.next_after(counted.to) {
                Some(next) if next <= last => counted = Counted { count: counted.count + 1, to: next },
                _ => break,
            }
        }
        counted
    }
}
