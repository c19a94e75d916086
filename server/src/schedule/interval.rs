//! Fires at equal distances.

use std::time::Duration;

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};

use super::error::ScheduleError;

/// The shortest interval allowed.
const LEAST: Duration = Duration::from_millis(100);
const NANOS_PER_SECOND: i128 = 1_000_000_000;

/// Fires at `anchor`, and every `step` nanoseconds after it.
///
/// Both are whole microseconds, so that an instant read back from a database is the instant that was planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Interval {
    anchor: DateTime<Utc>,
    step: i128,
}

impl Interval {
    pub(super) fn new(interval: Duration, anchor: DateTime<Utc>) -> Result<Self, ScheduleError> {
        if interval < LEAST {
            return Err(ScheduleError::IntervalTooShort { millis: interval.as_millis(), least: LEAST.as_millis() });
        }
        let micros = i128::try_from(interval.as_micros()).unwrap_or(i128::MAX / 1000);
        Ok(Self { anchor: anchor.trunc_subsecs(6), step: micros * 1000 })
    }

    /// The first fire strictly after `after`; the very first is the anchor.
    pub(super) fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.fire(self.since_anchor(after).div_euclid(self.step) + 1)
            .or_else(|| (after < self.anchor).then_some(self.anchor))
    }

    /// The last fire strictly before `before`.
    pub(super) fn previous_before(&self, before: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.fire((self.since_anchor(before) - 1).div_euclid(self.step))
    }

    /// The number of fires from the fire `first` up to the fire `last`, both counted.
    pub(super) fn count(&self, first: DateTime<Utc>, last: DateTime<Utc>) -> u64 {
        let steps = (self.since_anchor(last) - self.since_anchor(first)) / self.step;
        u64::try_from(steps + 1).unwrap_or(0)
    }

    fn fire(&self, index: i128) -> Option<DateTime<Utc>> {
        if index < 0 {
            return None;
        }
        let offset = index.checked_mul(self.step)?;
        let seconds = i64::try_from(offset / NANOS_PER_SECOND).ok()?;
        let nanos = u32::try_from(offset % NANOS_PER_SECOND).ok()?;
        self.anchor.checked_add_signed(TimeDelta::new(seconds, nanos)?)
    }

    /// Nanoseconds from the anchor to `at`.
    fn since_anchor(&self, at: DateTime<Utc>) -> i128 {
        let delta = at - self.anchor;
        i128::from(delta.num_seconds()) * NANOS_PER_SECOND + i128::from(delta.subsec_nanos())
    }
}
