//! The fires to come, as shown to a person.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::cron_schedule::CronSchedule;
use super::dst::Passes;
use super::zone::Local;
use super::{Kind, Schedule};

/// One fire to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preview {
    /// The instant.
    pub at: DateTime<Utc>,
    /// RFC 3339 with the offset of the schedule's zone at that instant.
    pub local: String,
    /// What a clock change does to this fire.
    pub note: Option<DstNote>,
}

/// What a clock change does to a fire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DstNote {
    /// One or more times that do not exist that day were moved to this instant, the gap's end.
    MovedToGapEnd,
    /// The wall clock shows this time twice; only this first pass fires.
    FirstPassOnly,
    /// The wall clock shows this time twice; only this second pass fires.
    SecondPassOnly,
    /// The wall clock shows this time twice; both passes fire, and this is the first.
    FirstOfBothPasses,
    /// The wall clock shows this time twice; both passes fire, and this is the second.
    SecondOfBothPasses,
}

impl Schedule {
    /// The first `count` fires after `after`, or fewer when the schedule ends. The caller bounds `count`.
    #[must_use]
    pub fn preview(&self, after: DateTime<Utc>, count: usize) -> Vec<Preview> {
        std::iter::successors(self.next_after(after), |at| self.next_after(*at))
            .take(count)
            .map(|at| Preview { at, local: self.zone().format(at), note: self.note(at) })
            .collect()
    }

    fn note(&self, fire: DateTime<Utc>) -> Option<DstNote> {
        match &self.kind {
            Kind::Cron(cron) => cron.note(fire),
            Kind::Every(_) | Kind::Once(_) => None,
        }
    }
}

impl CronSchedule {
    fn note(&self, fire: DateTime<Utc>) -> Option<DstNote> {
        let wall = self.zone.local(fire);
        if let Local::Overlap { first, .. } = self.zone.resolve(wall)? {
            return Some(match self.passes {
                Passes::First => DstNote::FirstPassOnly,
                Passes::Second => DstNote::SecondPassOnly,
                Passes::Both if fire == first => DstNote::FirstOfBothPasses,
                Passes::Both => DstNote::SecondOfBothPasses,
            });
        }
        let second = TimeDelta::seconds(1);
        let gap = self.zone.gap(wall - second)?;
        let moved = self.expression.next_after(gap.start - second)? < gap.stop;
        (self.fires_at_gap_end && gap.end == fire && moved).then_some(DstNote::MovedToGapEnd)
    }
}
