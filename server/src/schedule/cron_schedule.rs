//! A cron expression on the wall clock of a zone.
//!
//! croner has a policy of its own for clock changes, and it differs from ours: a list of hours counts as an interval
//! job, a time in a gap is lost where the gap's end is another matching day, and gaps longer than two hours end the
//! search. So croner only reads the pattern on a clock that never jumps, and the way from wall clock to instant is
//! walked here.
//!
//! Two functions lead from a wall-clock time to an instant: one takes the first pass of a repeated hour, the other the
//! second; both take a time in a gap to the gap's end. Each of them never decreases, so the next fire on one pass is
//! found from the next wall-clock match. Firing on both passes is the union of the two.

use chrono::{DateTime, NaiveDateTime, SubsecRound, TimeDelta, Utc};

use super::dst::{DstPolicy, Passes};
use super::error::ScheduleError;
use super::expression::Expression;
use super::zone::{Local, Overlap, Zone};

const SECOND: TimeDelta = TimeDelta::seconds(1);
const NANOSECOND: TimeDelta = TimeDelta::nanoseconds(1);

/// No cron job fires before this instant.
const EARLIEST: DateTime<Utc> = DateTime::UNIX_EPOCH;
/// No cron job fires at or after this instant, 4999-12-30T00:00:00Z; croner ends with the year 5000.
const LATEST: DateTime<Utc> = match DateTime::from_timestamp(95_617_411_200, 0) {
    Some(at) => at,
    None => DateTime::<Utc>::MAX_UTC,
};
/// An expression without a fire after this instant, 2025-01-01T00:00:00Z, is refused: it lies before any job of ours.
const FIRST_USE: DateTime<Utc> = match DateTime::from_timestamp(1_735_689_600, 0) {
    Some(at) => at,
    None => EARLIEST,
};

/// A cron job's fires.
#[derive(Debug)]
pub(super) struct CronSchedule {
    pub(super) expression: Expression,
    pub(super) zone: Zone,
    pub(super) fires_at_gap_end: bool,
    pub(super) passes: Passes,
}

/// A pass of a repeated hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    First,
    Second,
}

impl CronSchedule {
    /// Reads an expression; refuses one that has no fire since 2025.
    pub(super) fn parse(text: &str, zone: &str, dst: DstPolicy) -> Result<Self, ScheduleError> {
        let expression = Expression::parse(text)?;
        let schedule = Self {
            zone: Zone::parse(zone)?,
            fires_at_gap_end: dst.fires_at_gap_end(expression.is_fixed_time()),
            passes: dst.passes(expression.is_fixed_time()),
            expression,
        };
        match schedule.next_after(FIRST_USE) {
            Some(_) => Ok(schedule),
            None => Err(ScheduleError::NeverFires { expression: text.to_owned(), after: FIRST_USE }),
        }
    }

    /// The first fire strictly after `after`.
    pub(super) fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let after = after.max(EARLIEST - NANOSECOND);
        if after >= LATEST {
            return None;
        }
        let overlap = self.zone.overlap(after);
        match self.passes {
            Passes::First => self.next_on(Pass::First, after, overlap),
            Passes::Second => self.next_on(Pass::Second, after, overlap),
            // Outside an overlap both passes lead to the same wall-clock match, and its first instant is the sooner.
            Passes::Both if overlap.is_none() => self.next_on(Pass::First, after, overlap),
            Passes::Both => {
                let first = self.next_on(Pass::First, after, overlap);
                let second = self.next_on(Pass::Second, after, overlap);
                first.into_iter().chain(second).min()
            }
        }
    }

    /// The last fire strictly before `before`.
    pub(super) fn previous_before(&self, before: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let before = before.min(LATEST);
        if before <= EARLIEST {
            return None;
        }
        let overlap = self.zone.overlap(before);
        match self.passes {
            Passes::First => self.previous_on(Pass::First, before, overlap),
            Passes::Second => self.previous_on(Pass::Second, before, overlap),
            Passes::Both if overlap.is_none() => self.previous_on(Pass::Second, before, overlap),
            Passes::Both => {
                let first = self.previous_on(Pass::First, before, overlap);
                let second = self.previous_on(Pass::Second, before, overlap);
                first.into_iter().chain(second).max()
            }
        }
    }

    fn next_on(&self, pass: Pass, after: DateTime<Utc>, overlap: Option<Overlap>) -> Option<DateTime<Utc>> {
        let mut wall = match (pass, overlap) {
            // Every first-pass instant of the overlap has passed.
            (Pass::First, Some(overlap)) if overlap.in_second => overlap.stop - SECOND,
            // Every second-pass instant of the overlap is still to come.
            (Pass::Second, Some(overlap)) if !overlap.in_second => overlap.start - SECOND,
            _ => self.zone.local(after),
        };
        loop {
            wall = self.expression.next_after(wall)?;
            let at = match self.zone.resolve(wall)? {
                Local::Gap(gap) if !self.fires_at_gap_end => {
                    wall = gap.stop - SECOND;
                    continue;
                }
                local => instant(local, pass),
            };
            if at > after {
                return (at < LATEST).then_some(at);
            }
        }
    }

    fn previous_on(&self, pass: Pass, before: DateTime<Utc>, overlap: Option<Overlap>) -> Option<DateTime<Utc>> {
        let mut wall = match (pass, overlap) {
            (Pass::First, Some(overlap)) if overlap.in_second => overlap.stop,
            (Pass::Second, Some(overlap)) if !overlap.in_second => overlap.start,
            _ => ceil_second(self.zone.local(before)),
        };
        loop {
            wall = self.expression.previous_before(wall)?;
            let at = match self.zone.resolve(wall)? {
                Local::Gap(gap) if !self.fires_at_gap_end || gap.end >= before => {
                    wall = gap.start;
                    continue;
                }
                local => instant(local, pass),
            };
            if at < before {
                return (at >= EARLIEST).then_some(at);
            }
        }
    }
}

fn instant(local: Local, pass: Pass) -> DateTime<Utc> {
    match (local, pass) {
        (Local::Single(at), _) => at,
        (Local::Overlap { first, .. }, Pass::First) => first,
        (Local::Overlap { second, .. }, Pass::Second) => second,
        (Local::Gap(gap), _) => gap.end,
    }
}

/// croner drops the fraction of a second, which backwards would lose the second itself.
fn ceil_second(wall: NaiveDateTime) -> NaiveDateTime {
    let floor = wall.trunc_subsecs(0);
    if floor == wall { wall } else { floor + SECOND }
}
