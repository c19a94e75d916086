use super::{at, cron, local};

use super::super::{DstGap, DstNote, DstOverlap, DstPolicy, Schedule};

fn with(expression: &str, gap: DstGap, overlap: DstOverlap) -> Schedule {
    Schedule::cron(expression, "Europe/Berlin", DstPolicy { gap, overlap }).unwrap()
}

const SPRING: &str = "2026-03-28T12:00:00Z";
const AUTUMN: &str = "2026-10-24T12:00:00Z";

#[test]
fn a_fixed_time_in_a_gap_fires_at_its_end() {
    let job = cron("0 30 2 * * *", "Europe/Berlin");
    assert_eq!(local(&job, SPRING, 2), ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"]);
    let job = cron("30 2 * * *", "America/New_York");
    assert_eq!(local(&job, "2026-03-07T12:00:00Z", 2), ["2026-03-08T03:00:00-04:00", "2026-03-09T02:30:00-04:00"]);
}

#[test]
fn several_times_in_one_gap_fire_once() {
    let job = cron("0 0,15,30 2,3 * * *", "Europe/Berlin");
    assert_eq!(
        local(&job, SPRING, 4),
        [
            "2026-03-29T03:00:00+02:00",
            "2026-03-29T03:15:00+02:00",
            "2026-03-29T03:30:00+02:00",
            "2026-03-30T02:00:00+02:00",
        ]
    );
}

#[test]
fn an_interval_job_has_nothing_in_a_gap() {
    let job = cron("0 */30 * * * *", "Europe/Berlin");
    assert_eq!(
        local(&job, "2026-03-29T00:29:00Z", 3),
        ["2026-03-29T01:30:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-29T03:30:00+02:00",]
    );
    let job = cron("0 15 1-2 * * *", "Europe/Berlin");
    assert_eq!(local(&job, SPRING, 2), ["2026-03-29T01:15:00+01:00", "2026-03-30T01:15:00+02:00"]);
}

#[test]
fn a_fixed_time_in_an_overlap_fires_on_the_first_pass() {
    let job = cron("0 0,30 2 * * *", "Europe/Berlin");
    assert_eq!(
        local(&job, AUTUMN, 3),
        ["2026-10-25T02:00:00+02:00", "2026-10-25T02:30:00+02:00", "2026-10-26T02:00:00+01:00",]
    );
    let job = cron("30 1 * * *", "America/New_York");
    assert_eq!(local(&job, "2026-10-31T12:00:00Z", 2), ["2026-11-01T01:30:00-04:00", "2026-11-02T01:30:00-05:00"]);
}

#[test]
fn an_interval_job_fires_on_both_passes() {
    let job = cron("0 */30 2 * * *", "Europe/Berlin");
    assert_eq!(
        local(&job, AUTUMN, 5),
        [
            "2026-10-25T02:00:00+02:00",
            "2026-10-25T02:30:00+02:00",
            "2026-10-25T02:00:00+01:00",
            "2026-10-25T02:30:00+01:00",
            "2026-10-26T02:00:00+01:00",
        ]
    );
}

#[test]
fn the_policy_can_be_chosen() {
    let skipped = with("0 30 2 * * *", DstGap::Skip, DstOverlap::Second);
    assert_eq!(local(&skipped, SPRING, 1), ["2026-03-30T02:30:00+02:00"]);
    assert_eq!(local(&skipped, AUTUMN, 1), ["2026-10-25T02:30:00+01:00"]);
    let moved = with("0 20-40/10 2 * * *", DstGap::FireAtEnd, DstOverlap::First);
    assert_eq!(local(&moved, SPRING, 2), ["2026-03-29T03:00:00+02:00", "2026-03-30T02:20:00+02:00"]);
    assert_eq!(local(&moved, AUTUMN, 4)[3], "2026-10-26T02:20:00+01:00");
    let both = with("0 30 2 * * *", DstGap::Auto, DstOverlap::Both);
    assert_eq!(local(&both, AUTUMN, 2), ["2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00"]);
}

#[test]
fn a_day_that_does_not_exist_is_a_gap_as_any() {
    let daily = cron("0 0 9 * * *", "Pacific/Apia");
    assert_eq!(
        local(&daily, "2011-12-28T20:00:00Z", 3),
        ["2011-12-29T09:00:00-10:00", "2011-12-31T00:00:00+14:00", "2011-12-31T09:00:00+14:00",]
    );
    let hourly = cron("0 0 */12 * * *", "Pacific/Apia");
    assert_eq!(local(&hourly, "2011-12-29T21:00:00Z", 2), ["2011-12-29T12:00:00-10:00", "2011-12-31T00:00:00+14:00"]);
}

#[test]
fn half_an_hour_is_enough_to_matter() {
    let job = cron("0 15 2 * * *", "Australia/Lord_Howe");
    assert_eq!(local(&job, "2026-10-03T12:00:00Z", 1), ["2026-10-04T02:30:00+11:00"]);
    let job = cron("0 45 1 * * *", "Australia/Lord_Howe");
    assert_eq!(local(&job, "2026-04-04T12:00:00Z", 2), ["2026-04-05T01:45:00+11:00", "2026-04-06T01:45:00+10:30"]);
}

#[test]
fn previews_say_what_a_clock_change_did() {
    let notes = |schedule: &Schedule, from: &str, count| -> Vec<_> {
        let preview = schedule.preview(at(from), count);
        preview.into_iter().map(|fire| fire.note).collect()
    };
    let fixed = cron("0 30 2 * * *", "Europe/Berlin");
    assert_eq!(notes(&fixed, SPRING, 2), [Some(DstNote::MovedToGapEnd), None]);
    assert_eq!(notes(&fixed, AUTUMN, 2), [Some(DstNote::FirstPassOnly), None]);
    let half_hourly = cron("0 */30 2-3 * * *", "Europe/Berlin");
    assert_eq!(notes(&half_hourly, SPRING, 1), [None]);
    assert_eq!(
        notes(&half_hourly, AUTUMN, 5),
        [
            Some(DstNote::FirstOfBothPasses),
            Some(DstNote::FirstOfBothPasses),
            Some(DstNote::SecondOfBothPasses),
            Some(DstNote::SecondOfBothPasses),
            None,
        ]
    );
}
