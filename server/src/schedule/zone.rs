//! A time zone: from wall clock to instants and back.

use chrono::{DateTime, MappedLocalTime, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::{GapInfo, Tz};

use super::error::ScheduleError;

/// One IANA zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Zone(Tz);

/// Where a wall-clock time lies on the line of instants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Local {
    /// It exists once.
    Single(DateTime<Utc>),
    /// A backward jump repeats it.
    Overlap { first: DateTime<Utc>, second: DateTime<Utc> },
    /// A forward jump leaves it out.
    Gap(Gap),
}

/// A range of wall-clock times that does not exist, `start` inclusive, `stop` exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) start: NaiveDateTime,
    pub(super) stop: NaiveDateTime,
    /// The instant of the jump.
    pub(super) end: DateTime<Utc>,
}

/// A range of wall-clock times that exists twice, `start` inclusive, `stop` exclusive, seen from an instant inside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overlap {
    pub(super) start: NaiveDateTime,
    pub(super) stop: NaiveDateTime,
    /// Whether the instant is on the second pass.
    pub(super) in_second: bool,
}

impl Zone {
    pub(super) const UTC: Self = Self(Tz::UTC);

    /// The zone of an IANA name; the case of the letters counts.
    pub(super) fn parse(name: &str) -> Result<Self, ScheduleError> {
        name.parse().map(Self).map_err(|_| ScheduleError::UnknownZone { zone: name.to_owned() })
    }

    /// The wall clock at an instant.
    pub(super) fn local(self, at: DateTime<Utc>) -> NaiveDateTime {
        at.with_timezone(&self.0).naive_local()
    }

    /// RFC 3339 with the zone's offset.
    pub(super) fn format(self, at: DateTime<Utc>) -> String {
        at.with_timezone(&self.0).to_rfc3339()
    }

    /// The instants that show `wall` on the wall clock, or the gap around it.
    /// `None` where the zone's table has no answer, which does not happen in real zones.
    pub(super) fn resolve(self, wall: NaiveDateTime) -> Option<Local> {
        Some(match self.0.from_local_datetime(&wall) {
            MappedLocalTime::Single(at) => Local::Single(at.to_utc()),
            MappedLocalTime::Ambiguous(first, second) => {
                Local::Overlap { first: first.to_utc(), second: second.to_utc() }
            }
            MappedLocalTime::None => Local::Gap(self.gap(wall)?),
        })
    }

    /// The gap around `wall`, if it lies in one.
    pub(super) fn gap(self, wall: NaiveDateTime) -> Option<Gap> {
        let info = GapInfo::new(&wall, &self.0)?;
        let (start, _) = info.begin?;
        let end = info.end?;
        Some(Gap { start, stop: end.naive_local(), end: end.to_utc() })
    }

    /// The overlap that `at` lies in, on either pass.
    pub(super) fn overlap(self, at: DateTime<Utc>) -> Option<Overlap> {
        let Local::Overlap { first, second } = self.resolve(self.local(at))? else {
            return None;
        };
        let jump = self.jump_between(first, second);
        Some(Overlap {
            start: self.wall_at_offset_of(second, jump),
            stop: self.wall_at_offset_of(first, jump),
            in_second: at == second,
        })
    }

    /// The first whole second after `first`, up to `second`, whose offset is not that of `first`.
    fn jump_between(self, first: DateTime<Utc>, second: DateTime<Utc>) -> DateTime<Utc> {
        let before = self.offset(first);
        let (mut low, mut high) = (first.timestamp(), second.timestamp());
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            let moved = DateTime::from_timestamp(middle, 0).is_some_and(|at| self.offset(at) != before);
            if moved {
                high = middle;
            } else {
                low = middle;
            }
        }
        DateTime::from_timestamp(high, 0).unwrap_or(second)
    }

    fn wall_at_offset_of(self, at: DateTime<Utc>, shown: DateTime<Utc>) -> NaiveDateTime {
        shown.naive_utc() + self.offset(at)
    }

    fn offset(self, at: DateTime<Utc>) -> TimeDelta {
        let seconds = self.0.offset_from_utc_datetime(&at.naive_utc()).fix();
        TimeDelta::seconds(i64::from(seconds.local_minus_utc()))
    }
}
