use proptest::prelude::*;

use super::super::{DstGap, DstPolicy, Schedule, ScheduleError, explain};
use super::{at, cron, local};

const NEW_YEAR: &str = "2026-01-01T00:00:00Z"; // a Thursday

fn refused(expression: &str) -> ScheduleError {
    Schedule::cron(expression, "UTC", DstPolicy::default()).expect_err(expression)
}

fn days(expression: &str, count: usize) -> Vec<String> {
    let fires = local(&cron(expression, "UTC"), NEW_YEAR, count);
    fires.iter().map(|fire| fire[5..10].to_owned()).collect()
}

#[test]
fn weekdays_are_unix() {
    let working = ["01-01", "01-02", "01-05", "01-06", "01-07", "01-08"];
    for expression in ["0 0 9 * * 1-5", "0 9 * * 1-5", "0 0 9 ? * MON-FRI *"] {
        assert_eq!(days(expression, 6), working, "{expression}");
    }
    for expression in ["0 9 * * 0", "0 9 * * 7", "0 9 * * sun", "0 0 9 ? * SUN"] {
        assert_eq!(days(expression, 2), ["01-04", "01-11"], "{expression}");
    }
    assert_eq!(days("0 9 * * FRI-SUN", 4), ["01-02", "01-03", "01-04", "01-09"]);
}

#[test]
fn day_of_month_and_day_of_week_join_by_or() {
    assert_eq!(days("0 9 6 * MON", 3), ["01-05", "01-06", "01-12"]);
}

#[test]
fn special_days() {
    assert_eq!(days("0 0 L * *", 2), ["01-31", "02-28"]);
    assert_eq!(days("0 0 LW * *", 2), ["01-30", "02-27"]);
    assert_eq!(days("0 0 15W * *", 2), ["01-15", "02-16"]);
    assert_eq!(days("0 0 * * MON#2", 2), ["01-12", "02-09"]);
    assert_eq!(days("0 0 * * 5L", 2), ["01-30", "02-27"]);
}

#[test]
fn seconds_years_steps_and_macros() {
    let first = |expression: &str| local(&cron(expression, "UTC"), NEW_YEAR, 1).remove(0);
    assert_eq!(first("*/5 * * * * *"), "2026-01-01T00:00:05+00:00");
    assert_eq!(first("0/30 * * * * *"), "2026-01-01T00:00:30+00:00");
    assert_eq!(first("0 0 0 1 1 ? 2030"), "2030-01-01T00:00:00+00:00");
    assert_eq!(first("@yearly"), "2027-01-01T00:00:00+00:00");
    assert_eq!(first("@annually"), "2027-01-01T00:00:00+00:00");
    assert_eq!(first("@Monthly"), "2026-02-01T00:00:00+00:00");
    assert_eq!(first("@weekly"), "2026-01-04T00:00:00+00:00");
    assert_eq!(first(" @daily "), "2026-01-02T00:00:00+00:00");
    assert_eq!(first("@midnight"), "2026-01-02T00:00:00+00:00");
    assert_eq!(first("@hourly"), "2026-01-01T01:00:00+00:00");
    assert_eq!(first("@minutely"), "2026-01-01T00:01:00+00:00");
    assert_eq!(first("@secondly"), "2026-01-01T00:00:01+00:00");
}

#[test]
fn errors_name_the_field() {
    let cases = [
        ("0 61 * * * *", "minute", "61"),
        ("x * * * * *", "second", "`X` is not a name"),
        ("0 0 22-2 * * *", "hour", "runs backwards"),
        ("0 0 0 32 * *", "day of month", "32"),
        ("0 0 0 15W3 * *", "day of month", "`W` stands after"),
        ("0 0 0 1 foo *", "month", "`FOO` is not a name"),
        ("0 0 * * MONDAY", "day of week", "`MONDAY` is not a name"),
        ("0 0 * * SAT-MON", "day of week", "runs backwards"),
        ("0 0 * * L", "day of week", "needs a weekday"),
        ("0 0 * * 1,,2", "day of week", "empty"),
        ("0 0 0 1 1 * 6000", "year", "6000"),
        ("*/0 * * * *", "minute", "zero"),
    ];
    for (expression, name, part) in cases {
        let error = refused(expression);
        let message = error.to_string();
        assert!(message.contains(part), "{expression}: {message}");
        assert!(matches!(error, ScheduleError::BadField { field, .. } if field == name), "{expression}: {message}");
    }
}

#[test]
fn other_errors() {
    assert_eq!(refused("  "), ScheduleError::Empty);
    assert_eq!(refused("* * *"), ScheduleError::FieldCount { found: 3 });
    assert_eq!(refused("* * * * * * * *"), ScheduleError::FieldCount { found: 8 });
    assert!(matches!(refused("@reboot"), ScheduleError::UnknownMacro { .. }));
    let long = format!("{} * * * *", vec!["1"; 60].join(","));
    assert!(matches!(refused(&long), ScheduleError::TooLong { length: 127, limit: 100 }));
    let zone = Schedule::cron("* * * * *", "Mars/Olympus", DstPolicy::default());
    assert!(matches!(zone, Err(ScheduleError::UnknownZone { .. })));
}

#[test]
fn what_never_fires_is_refused() {
    for expression in ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 0 1 1 * 1999"] {
        let error = refused(expression);
        assert!(matches!(error, ScheduleError::NeverFires { .. }), "{error}");
    }
    let skip = DstPolicy { gap: DstGap::Skip, ..DstPolicy::default() };
    let in_gap = Schedule::cron("0 30 2 28 3 * 2027", "Europe/Berlin", skip);
    assert!(matches!(in_gap, Err(ScheduleError::NeverFires { .. })));
    let past = cron("0 0 0 1 1 * 2026", "UTC");
    assert!(past.require_fire_after(at("2025-06-01T00:00:00Z")).is_ok());
    assert!(past.require_fire_after(at("2026-06-01T00:00:00Z")).is_err());
    assert!(local(&cron("0 0 29 2 *", "UTC"), NEW_YEAR, 1)[0].starts_with("2028-02-29"));
}

#[test]
fn explains_in_english() {
    let cases = [
        ("0 0 9 * * 1-5", "At 09:00, on Monday to Friday"),
        ("30 0 9 * * *", "At 09:00:30"),
        ("*/5 * * * *", "At every 5 minutes"),
        ("0 0-10/5 * * * *", "At minute 0, 5, and 10 past every hour"),
        ("*/5,7 8 * * *", "At minute 0, 5, 7, 10, 15, 20, 25, 30, 35, 40, 45, 50, and 55, of hour 8"),
        ("@secondly", "Every second"),
        ("0 0 0 1 1 ? 2026/2", "At 00:00, on day 1, in January, in the years 2026/2"),
        ("0 0 L * *", "At 00:00, on the last day of the month"),
        ("0 12 6 * MON", "At 12:00, on day 6 or Monday"),
    ];
    for (expression, english) in cases {
        assert_eq!(explain(expression).unwrap(), english, "{expression}");
    }
    assert!(explain("0 0 * *").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_text_panics(text in "\\PC{0,40}") {
        let _ = Schedule::cron(&text, "UTC", DstPolicy::default());
        let _ = Schedule::cron("* * * * *", &text, DstPolicy::default());
        let _ = explain(&text);
    }

    #[test]
    fn no_near_miss_panics(
        text in "([0-9*?LW#,/+ -]|SUN|FRI|JAN|65535|5000){0,3}( ([0-9*?LW#,/+-]|MON|DEC|65535){1,4}){4,6}",
        seconds in -70_000_000_000_i64..100_000_000_000,
    ) {
        let _ = explain(&text);
        if let Ok(schedule) = Schedule::cron(&text, "Europe/Berlin", DstPolicy::default()) {
            let point = chrono::DateTime::from_timestamp(seconds, 5).unwrap();
            prop_assert!(schedule.next_after(point).is_none_or(|fire| fire > point));
            prop_assert!(schedule.previous_before(point).is_none_or(|fire| fire < point));
        }
    }
}

#[test]
fn the_ends_of_time_do_not_panic() {
    for schedule in [
        cron("* * * * * *", "Pacific/Kiritimati"),
        Schedule::every(std::time::Duration::from_secs(7), at(NEW_YEAR)).unwrap(),
        Schedule::every(std::time::Duration::MAX, at(NEW_YEAR)).unwrap(),
        Schedule::once(at(NEW_YEAR)),
    ] {
        for point in [chrono::DateTime::<chrono::Utc>::MIN_UTC, chrono::DateTime::<chrono::Utc>::MAX_UTC] {
            let _ = schedule.next_after(point);
            let _ = schedule.previous_before(point);
            let _ = schedule.next_from(point);
            let _ = schedule.previous_to(point);
            let _ = schedule.preview(point, 3);
        }
    }
}
