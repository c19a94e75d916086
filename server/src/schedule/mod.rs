//! When a job fires: cron expressions, fixed intervals, single instants. Everything here is pure.
//!
//! `Schedule` answers which instants are fires. `plan` decides, for a job whose planning stands at a cursor, which fires
//! become executions and which are left out and why. Nothing here reads a clock.

mod cron_schedule;
mod dst;
mod error;
mod explain;
mod expression;
mod field;
mod fire_range;
mod interval;
mod misfire;
mod plan;
mod preview;
mod zone;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};

use self::cron_schedule::CronSchedule;
use self::interval::Interval;
use self::zone::Zone;

pub use self::dst::{DstGap, DstOverlap, DstPolicy};
pub use self::error::ScheduleError;
pub use self::explain::explain;
pub use self::fire_range::{FireRange, fires_between};
pub use self::misfire::{Misfire, MisfirePolicy, Omission, OmissionReason};
pub use self::plan::{Plan, PlanInput, plan};
pub use self::preview::{DstNote, Preview};

/// How a job fires. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Schedule {
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Cron(Arc<CronSchedule>),
    Every(Interval),
    Once(DateTime<Utc>),
}

impl Schedule {
    /// A cron expression on the wall clock of an IANA zone, such as `Europe/Berlin`.
    ///
    /// # Errors
    ///
    /// When the expression or the zone cannot be read, or when the expression has no fire since 2025. Whether a fire is
    /// still to come is for [`Schedule::require_fire_after`], so that a job that has had its last fire can be loaded.
    pub fn cron(expression: &str, zone: &str, dst: DstPolicy) -> Result<Self, ScheduleError> {
        let schedule = CronSchedule::parse(expression, zone, dst)?;
        Ok(Self { kind: Kind::Cron(Arc::new(schedule)) })
    }

    /// Fires at `anchor` and every `interval` after it, never before it. Both are cut to whole microseconds.
    ///
    /// # Errors
    ///
    /// When the interval is shorter than 100 ms.
    pub fn every(interval: Duration, anchor: DateTime<Utc>) -> Result<Self, ScheduleError> {
        Ok(Self { kind: Kind::Every(Interval::new(interval, anchor)?) })
    }

    /// Fires once, at `at`, cut to whole microseconds.
    #[must_use]
    pub fn once(at: DateTime<Utc>) -> Self {
        Self { kind: Kind::Once(at.trunc_subsecs(6)) }
    }

    /// The first fire strictly after `after`; `None` when there is none. Cron fires lie between 1970 and 4999.
    #[must_use]
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match &self.kind {
            Kind::Cron(cron) => cron.next_after(after),
            Kind::Every(interval) => interval.next_after(after),
            Kind::Once(at) => (*at > after).then_some(*at),
        }
    }

    /// The last fire strictly before `before`; `None` when there is none.
    #[must_use]
    pub fn previous_before(&self, before: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match &self.kind {
            Kind::Cron(cron) => cron.previous_before(before),
            Kind::Every(interval) => interval.previous_before(before),
            Kind::Once(at) => (*at < before).then_some(*at),
        }
    }

    /// The first fire at or after `from`.
    #[must_use]
    pub fn next_from(&self, from: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match from.checked_sub_signed(TimeDelta::nanoseconds(1)) {
            Some(before) => self.next_after(before),
            None => self.next_after(from),
        }
    }

    /// The last fire at or before `to`.
    #[must_use]
    pub fn previous_to(&self, to: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match to.checked_add_signed(TimeDelta::nanoseconds(1)) {
            Some(after) => self.previous_before(after),
            None => self.previous_before(to),
        }
    }

    /// Refuses a schedule that has no fire after `now`, such as one of a past year.
    ///
    /// # Errors
    ///
    /// [`ScheduleError::NeverFires`].
    pub fn require_fire_after(&self, now: DateTime<Utc>) -> Result<(), ScheduleError> {
        match self.next_after(now) {
            Some(_) => Ok(()),
            None => Err(ScheduleError::NeverFires { expression: self.describe(), after: now }),
        }
    }

    fn describe(&self) -> String {
        match &self.kind {
            Kind::Cron(cron) => cron.expression.text().to_owned(),
            Kind::Every(_) => "the fixed interval".to_owned(),
            Kind::Once(at) => at.to_rfc3339(),
        }
    }

    fn zone(&self) -> Zone {
        match &self.kind {
            Kind::Cron(cron) => cron.zone,
            Kind::Every(_) | Kind::Once(_) => Zone::UTC,
        }
    }
}
