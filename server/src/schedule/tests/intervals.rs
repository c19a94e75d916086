use std::time::Duration;

use chrono::TimeDelta;

use super::super::{Schedule, ScheduleError, fires_between};
use super::{at, cron, fires};

#[test]
fn every_starts_at_the_anchor_and_keeps_its_distance() {
    let anchor = at("2026-01-01T00:00:10Z");
    let schedule = Schedule::every(Duration::from_secs(90), anchor).unwrap();
    let after = |text| schedule.next_after(at(text));
    assert_eq!(after("2020-01-01T00:00:00Z"), Some(anchor));
    assert_eq!(after("2026-01-01T00:00:10Z"), Some(at("2026-01-01T00:01:40Z")));
    assert_eq!(after("2026-01-01T00:01:39.9Z"), Some(at("2026-01-01T00:01:40Z")));
    assert_eq!(schedule.previous_before(anchor), None);
    assert_eq!(schedule.previous_before(at("2026-01-01T00:01:40Z")), Some(anchor));
    assert_eq!(schedule.previous_to(anchor), Some(anchor));
    assert_eq!(schedule.next_from(anchor), Some(anchor));
}

#[test]
fn fires_are_whole_microseconds() {
    let anchor = at("2026-01-01T00:00:00.123456789Z");
    let schedule = Schedule::every(Duration::from_nanos(150_000_001), anchor).unwrap();
    let next = schedule.next_after(anchor).unwrap();
    assert_eq!(next, at("2026-01-01T00:00:00.273456Z"));
    assert_eq!(
        Schedule::once(anchor).next_from(at("2026-01-01T00:00:00.123456Z")),
        Some(at("2026-01-01T00:00:00.123456Z"))
    );
}

#[test]
fn a_short_interval_is_refused() {
    let error = Schedule::every(Duration::from_millis(99), at("2026-01-01T00:00:00Z"));
    assert_eq!(error.unwrap_err(), ScheduleError::IntervalTooShort { millis: 99, least: 100 });
}

#[test]
fn once_fires_once() {
    let instant = at("2026-01-01T00:00:00Z");
    let schedule = Schedule::once(instant);
    assert_eq!(schedule.next_after(instant - TimeDelta::nanoseconds(1)), Some(instant));
    assert_eq!(schedule.next_after(instant), None);
    assert_eq!(schedule.previous_before(instant), None);
    assert_eq!(schedule.previous_to(instant), Some(instant));
}

#[test]
fn ranges_are_counted_up_to_a_cap() {
    let (from, to) = (at("2026-01-01T00:00:00Z"), at("2026-01-02T00:00:00Z"));
    let minutely = cron("* * * * *", "UTC");
    let range = fires_between(&minutely, from, to, 10_000).unwrap();
    assert_eq!((range.from, range.to), (at("2026-01-01T00:01:00Z"), to));
    assert_eq!((range.count, range.capped), (1440, false));
    assert_eq!(range.count as usize, fires(&minutely, from, to).len());
    let capped = fires_between(&minutely, from, to, 100).unwrap();
    assert_eq!((capped.to, capped.count, capped.capped), (to, 100, true));
    let exact = fires_between(&minutely, from, to, 1440).unwrap();
    assert!(!exact.capped);
    assert_eq!(fires_between(&minutely, from, from, 10), None);
    let every = Schedule::every(Duration::from_secs(1), from).unwrap();
    let range = fires_between(&every, from, to, 10).unwrap();
    assert_eq!((range.count, range.capped), (86_400, false));
}
