use chrono::TimeZone;
use proptest::prelude::*;

use super::*;

fn at(seconds: f64) -> DateTime<Utc> {
    let base = Utc.with_ymd_and_hms(2026, 2, 27, 22, 0, 0).unwrap();
    base + TimeDelta::microseconds((seconds * 1e6) as i64)
}

fn within(at: DateTime<Utc>, (from, to): Span) -> i32 {
    i32::from(from <= at && at < to)
}

/// Instants over four days, on whole periods more often than not.
fn instant() -> impl Strategy<Value = f64> {
    let days = 4 * 86_400;
    prop_oneof![
        (0..days).prop_map(f64::from),
        (0..days / 60).prop_map(|n| f64::from(n) * 60.0),
        (0..days / 3600).prop_map(|n| f64::from(n) * 3600.0),
        0.0..f64::from(days),
    ]
}

proptest! {
    #[test]
    fn a_cover_counts_each_instant_of_its_range_once(
        from in instant(), to in instant(), now in instant(), probes in prop::collection::vec(instant(), 1..40), of_job: bool,
    ) {
        let widths = if of_job { OF_JOB } else { OF_TENANT };
        let range = (at(from), at(to));
        let cover = Cover::of(range, at(now), widths);
        for probe in probes.into_iter().chain([from, to]).map(at) {
            let periods: i32 = cover.periods.iter().map(|(_, span)| within(probe, *span)).sum();
            let added: i32 = cover.add.iter().map(|span| within(probe, *span)).sum();
            let taken: i32 = cover.subtract.iter().map(|span| within(probe, *span)).sum();
            prop_assert_eq!(periods + added - taken, within(probe, range), "{:?} {:?}", probe, cover);
            prop_assert_eq!(cover.whole().map_or(0, |span| within(probe, span)), periods);
        }
        for (width, (first, last)) in &cover.periods {
            prop_assert!(floor(*first, *width) == *first && floor(*last, *width) == *last && first < last);
        }
        let fine = TimeDelta::seconds(i64::from(widths[0]));
        for (first, last) in cover.add.iter().chain(&cover.subtract) {
            prop_assert!(*last - *first < fine, "only parts of periods are read from history: {:?}", cover);
        }
    }
}

#[test]
fn a_day_until_now_reads_nearly_nothing_from_history() {
    let now = at(100_000.5);
    let cover = Cover::of((now - TimeDelta::days(1), now), now, OF_TENANT);
    assert_eq!(cover.subtract, [(now, ceil(now, 60))], "what is under way has no future yet");
    assert_eq!(cover.periods.len(), 5 - 2, "minutes, hours, minutes: {cover:?}");
    let month = Cover::of((now - TimeDelta::days(30), now), now, OF_TENANT);
    let rows: i64 = month.periods.iter().map(|(width, (a, b))| (*b - *a).num_seconds() / i64::from(*width)).sum();
    assert!(rows < 30 + 2 * (23 + 59), "{rows}");
}

fn of(durations: &[i64]) -> Tally {
    let mut tally = Tally { completed: durations.len() as i64, ..Tally::default() };
    for ms in durations {
        tally.total_ms += ms;
        tally.max_ms = tally.max_ms.max(*ms);
        tally.durations.add(*ms);
    }
    tally
}

#[test]
fn what_is_taken_away_is_gone() {
    let mut tally = of(&[5, 70, 1000, 2000]);
    tally.subtract(&of(&[70]));
    assert_eq!(tally, of(&[5, 1000, 2000]));
    tally.subtract(&of(&[2000]));
    assert_eq!((tally.completed, tally.total_ms), (2, 1005));
    assert!((tally.max_ms - 1000).abs() <= 1000 / 128, "{}", tally.max_ms);
    tally.subtract(&of(&[5, 1000]));
    assert_eq!((tally.stats().completed, tally.stats().average_ms, tally.stats().p99_ms), (0, 0.0, 0.0));
}

#[test]
fn the_longest_is_known_after_both_edges_are_taken_away() {
    let mut tally = of(&[53_000, 21_800_000, 21_900_000, 30_000_000]);
    tally.subtract(&of(&[30_000_000, 21_800_000]));
    assert!((tally.max_ms - 21_900_000).abs() <= 21_900_000 / 128, "{}", tally.max_ms);
    tally.subtract(&of(&[21_900_000]));
    assert!((tally.max_ms - 53_000).abs() <= 53_000 / 128, "{}", tally.max_ms);
}
