#![allow(clippy::unwrap_used, clippy::expect_used)]

mod clock_changes;
mod differential;
mod fuzz;
mod grammar;
mod intervals;
mod oracle;
mod planning;
mod planning_properties;

use chrono::{DateTime, Utc};

use super::{DstPolicy, Schedule};

/// An instant from RFC 3339.
fn at(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().to_utc()
}

fn cron(expression: &str, zone: &str) -> Schedule {
    Schedule::cron(expression, zone, DstPolicy::default()).unwrap()
}

/// All fires after `from` up to `to`.
fn fires(schedule: &Schedule, from: DateTime<Utc>, to: DateTime<Utc>) -> Vec<DateTime<Utc>> {
    std::iter::successors(schedule.next_after(from), |at| schedule.next_after(*at)).take_while(|at| *at <= to).collect()
}

/// The local times of the first fires after `from`.
fn local(schedule: &Schedule, from: &str, count: usize) -> Vec<String> {
    let preview = schedule.preview(at(from), count);
    preview.into_iter().map(|fire| fire.local).collect()
}
