//! Totals of finished executions, and which periods make up a range.

use chrono::{DateTime, TimeDelta, Utc};
use orrery_proto::v1::{ErrorType, ExecutionStatus};

use super::Stats;
use super::histogram::{Histogram, nearest};
use crate::execution::{Execution, Outcome};

/// Widths in seconds of the periods that a tenant's tallies are kept by, the narrowest first.
pub(super) const OF_TENANT: &[i32] = &[60, 3600, 86_400];
/// Those of a job. None by the minute: of thousands of jobs, few have more than one execution in it.
pub(super) const OF_JOB: &[i32] = &[3600, 86_400];

/// Totals that can be added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) completed: i64,
    pub(super) failed: i64,
    pub(super) cancelled: i64,
    pub(super) timed_out: i64,
    pub(super) retried: i64,
    /// Of those that started, as what follows.
    pub(super) total_ms: i64,
    pub(super) max_ms: i64,
    pub(super) durations: Histogram,
}

impl Tally {
    /// Counts one execution by its end.
    pub(super) fn count(&mut self, execution: &Execution, outcome: &Outcome) {
        match outcome.status {
            ExecutionStatus::Completed => self.completed += 1,
            ExecutionStatus::Failed => self.failed += 1,
            ExecutionStatus::Cancelled => self.cancelled += 1,
            _ => {}
        }
        self.timed_out += i64::from(outcome.error_type == Some(ErrorType::Timeout));
        self.retried += i64::from(execution.retries() > 0);
        if let (Some(_), Some(ms)) = (outcome.started_at, outcome.duration_ms) {
            self.total_ms = self.total_ms.saturating_add(ms);
            self.max_ms = self.max_ms.max(ms);
            self.durations.add(ms);
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.sum(other, 1);
        self.max_ms = self.max_ms.max(other.max_ms);
    }

    /// Takes away what was counted before. Where the longest may have been among it, the longest of the rest is known as its bucket is.
    pub(super) fn subtract(&mut self, other: &Self) {
        self.sum(other, -1);
        let (longest, left) = (nearest(self.max_ms), self.durations.percentile(1.0));
        if other.durations.count() > 0 && (nearest(other.max_ms) == longest || longest != left) {
            self.max_ms = left;
        }
    }

    fn sum(&mut self, other: &Self, times: i64) {
        self.completed += other.completed * times;
        self.failed += other.failed * times;
        self.cancelled += other.cancelled * times;
        self.timed_out += other.timed_out * times;
        self.retried += other.retried * times;
        self.total_ms = self.total_ms.saturating_add(other.total_ms.saturating_mul(times));
        self.durations.merge(&other.durations, times);
    }

    /// The statistics of what is over.
    pub(super) fn stats(&self) -> Stats {
        let measured = self.durations.count();
        let percentile = |share| self.durations.percentile(share).min(self.max_ms) as f64;
        Stats {
            completed: self.completed,
            failed: self.failed,
            cancelled: self.cancelled,
            timed_out: self.timed_out,
            retried: self.retried,
            average_ms: if measured > 0 { self.total_ms as f64 / measured as f64 } else { 0.0 },
            p50_ms: percentile(0.5),
            p95_ms: percentile(0.95),
            p99_ms: percentile(0.99),
            max_ms: self.max_ms as f64,
            ..Stats::default()
        }
    }
}

/// A range of instants: from the first, to before the second.
pub(super) type Span = (DateTime<Utc>, DateTime<Utc>);

/// How to make up a range of periods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cover {
    /// Whole periods: their width, and from where to where.
    pub(super) periods: Vec<(i32, Span)>,
    /// What is to be read from history and added.
    pub(super) add: Vec<Span>,
    /// What is to be read from history and taken away: it lies in the periods, and is the smaller part of one that the range cuts.
    pub(super) subtract: Vec<Span>,
}

impl Cover {
    /// Of what is scheduled in `from..to`. Nearly nothing that is over is scheduled after `now`, so that what lies beyond counts as short.
    pub(super) fn of((from, to): Span, now: DateTime<Utc>, widths: &[i32]) -> Self {
        let mut cover = Self::default();
        let Some(fine) = widths.first().copied() else { return cover };
        if to <= from {
            return cover;
        }
        let (mut first, mut last) = (floor(from, fine), floor(to, fine));
        if first == last && first < from {
            cover.add.push((from, to));
            return cover;
        }
        let weight = |from: DateTime<Utc>, to: DateTime<Utc>| (to.min(now) - from).max(TimeDelta::zero());
        if first < from {
            let next = ceil(from, fine);
            if weight(first, from) < weight(from, next) {
                cover.subtract.push((first, from));
            } else {
                cover.add.push((from, next));
                first = next;
            }
        }
        if last < to {
            let next = ceil(to, fine);
            if weight(to, next) < weight(last, to) {
                cover.subtract.push((to, next));
                last = next;
            } else {
                cover.add.push((last, to));
            }
        }
        split((first, last), widths, &mut cover.periods);
        cover
    }

    /// From where to where the periods reach, without a gap.
    pub(super) fn whole(&self) -> Option<Span> {
        let from = self.periods.iter().map(|(_, (from, _))| *from).min()?;
        let to = self.periods.iter().map(|(_, (_, to))| *to).max()?;
        Some((from, to))
    }
}

/// As many of the widest as there are, narrower ones around them.
fn split((from, to): Span, widths: &[i32], into: &mut Vec<(i32, Span)>) {
    let Some((widest, narrower)) = widths.split_last() else { return };
    let (first, last) = (ceil(from, *widest), floor(to, *widest));
    if first < last {
        split((from, first), narrower, into);
        into.push((*widest, (first, last)));
        split((last, to), narrower, into);
    } else {
        split((from, to), narrower, into);
    }
}

/// The begin of the period that an instant is in.
pub(super) fn floor(at: DateTime<Utc>, width: i32) -> DateTime<Utc> {
    let seconds = at.timestamp();
    DateTime::from_timestamp(seconds - seconds.rem_euclid(i64::from(width)), 0).unwrap_or(at)
}

/// The first begin of a period that is not before an instant.
fn ceil(at: DateTime<Utc>, width: i32) -> DateTime<Utc> {
    let floor = floor(at, width);
    if floor < at { floor + TimeDelta::seconds(i64::from(width)) } else { at }
}

#[cfg(test)]
mod tests;
