//! Fires against an oracle that looks at every second and knows clock changes only from the offsets it sees.

use chrono::{DateTime, NaiveDateTime, Offset, TimeDelta, TimeZone, Timelike, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};
use proptest::prelude::*;

use super::super::{DstGap, DstOverlap, DstPolicy, Schedule};
use super::{at, fires};

/// Zones and instants near which their clocks change.
const CHANGES: [(&str, &str); 16] = [
    ("Europe/Berlin", "2026-03-29T01:00:00Z"),
    ("Europe/Berlin", "2026-10-25T01:00:00Z"),
    ("America/New_York", "2026-03-08T07:00:00Z"),
    ("America/New_York", "2026-11-01T06:00:00Z"),
    ("Australia/Lord_Howe", "2026-04-04T15:00:00Z"),
    ("Australia/Lord_Howe", "2026-10-03T15:30:00Z"),
    ("Pacific/Apia", "2011-12-30T10:00:00Z"),
    ("Pacific/Kwajalein", "1993-08-21T12:00:00Z"),
    ("America/Sao_Paulo", "2018-11-04T03:00:00Z"),
    ("America/Sao_Paulo", "2019-02-17T02:00:00Z"),
    ("Antarctica/Troll", "2026-03-29T01:00:00Z"),
    ("Antarctica/Troll", "2026-10-25T01:00:00Z"),
    ("Asia/Kathmandu", "1985-12-31T18:30:00Z"),
    ("America/Caracas", "2007-12-09T07:00:00Z"),
    ("Africa/Casablanca", "2026-02-15T02:00:00Z"),
    ("Europe/Lisbon", "1996-03-31T01:00:00Z"),
];

/// The fields of a pattern by their values; days are not restricted.
#[derive(Debug, Clone)]
struct Pattern {
    text: String,
    fixed_time: bool,
    seconds: Vec<u32>,
    minutes: Vec<u32>,
    hours: Vec<u32>,
}

impl Pattern {
    fn matches(&self, wall: NaiveDateTime) -> bool {
        self.seconds.contains(&wall.second())
            && self.minutes.contains(&wall.minute())
            && self.hours.contains(&wall.hour())
    }
}

type Part = (&'static str, bool, Vec<u32>);

fn pattern() -> impl Strategy<Value = Pattern> {
    let seconds: Vec<Part> = vec![("0", true, vec![0]), ("0,59", true, vec![0, 59]), ("*/20", false, vec![0, 20, 40])];
    let minutes: Vec<Part> = vec![
        ("0", true, vec![0]),
        ("30", true, vec![30]),
        ("0,15,59", true, vec![0, 15, 59]),
        ("*/15", false, vec![0, 15, 30, 45]),
        ("50-59", false, (50..60).collect()),
        ("*", false, (0..60).collect()),
    ];
    let hours: Vec<Part> = vec![
        ("0", true, vec![0]),
        ("2", true, vec![2]),
        ("1,2,3,23", true, vec![1, 2, 3, 23]),
        ("0-4", false, (0..5).collect()),
        ("*/6", false, vec![0, 6, 12, 18]),
        ("*", false, (0..24).collect()),
    ];
    let one = proptest::sample::select;
    (one(seconds), one(minutes), one(hours)).prop_map(|(second, minute, hour)| Pattern {
        text: format!("{} {} {} * * *", second.0, minute.0, hour.0),
        fixed_time: second.1 && minute.1 && hour.1,
        seconds: second.2,
        minutes: minute.2,
        hours: hour.2,
    })
}

fn policy() -> impl Strategy<Value = DstPolicy> {
    let gap = proptest::sample::select(vec![DstGap::Auto, DstGap::FireAtEnd, DstGap::Skip]);
    let overlap =
        proptest::sample::select(vec![DstOverlap::Auto, DstOverlap::First, DstOverlap::Second, DstOverlap::Both]);
    (gap, overlap).prop_map(|(gap, overlap)| DstPolicy { gap, overlap })
}

/// A clock change: the instant, the offset before it and after it, in seconds.
type Change = (i64, i64, i64);

fn offset(zone: Tz, second: i64) -> i64 {
    let at = DateTime::from_timestamp(second, 0).unwrap().naive_utc();
    i64::from(zone.offset_from_utc_datetime(&at).fix().local_minus_utc())
}

fn wall(second: i64, offset: i64) -> NaiveDateTime {
    DateTime::from_timestamp(second + offset, 0).unwrap().naive_utc()
}

fn changes(zone: Tz, from: i64, to: i64) -> Vec<Change> {
    let changed = |second: &i64| offset(zone, second - 60) != offset(zone, *second);
    let minutes = (from..to).step_by(60).filter(changed);
    minutes.map(|second| (second, offset(zone, second - 60), offset(zone, second))).collect()
}

/// All fires in `from..to`, both whole minutes.
fn oracle(pattern: &Pattern, policy: DstPolicy, zone: Tz, from: i64, to: i64) -> Vec<DateTime<Utc>> {
    let day = 30 * 3600;
    let changes = changes(zone, from - day, to + day);
    let moves = match policy.gap {
        DstGap::Auto => pattern.fixed_time,
        DstGap::FireAtEnd => true,
        DstGap::Skip => false,
    };
    let (first_fires, second_fires) = match policy.overlap {
        DstOverlap::Auto => (true, !pattern.fixed_time),
        DstOverlap::First => (true, false),
        DstOverlap::Second => (false, true),
        DstOverlap::Both => (true, true),
    };
    let fires = |second: &i64| {
        let in_first = changes.iter().any(|(t, a, b)| t - (a - b) <= *second && second < t);
        let in_second = changes.iter().any(|(t, a, b)| t <= second && *second < t + (a - b));
        let plain = pattern.matches(wall(*second, offset(zone, *second)))
            && (!in_first || first_fires)
            && (!in_second || second_fires);
        let moved = moves
            && changes
                .iter()
                .any(|(t, a, b)| t == second && (*t..t + (b - a)).any(|gone| pattern.matches(wall(gone, *a))));
        plain || moved
    };
    (from..to).filter(fires).map(|second| DateTime::from_timestamp(second, 0).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn fires_are_those_of_the_oracle(
        pattern in pattern(),
        policy in policy(),
        (name, change) in proptest::sample::select(CHANGES.to_vec()),
        shift in -120_i64..120,
        (point, nanos) in (0_i64..10 * 3600, 0_u32..1_000_000_000),
    ) {
        let from = at(change).timestamp() + shift * 60 - 5 * 3600;
        let to = from + 10 * 3600;
        let expected = oracle(&pattern, policy, name.parse().unwrap(), from, to);
        let schedule = Schedule::cron(&pattern.text, name, policy).unwrap();
        let start = DateTime::from_timestamp(from, 0).unwrap() - TimeDelta::nanoseconds(1);
        let stop = DateTime::from_timestamp(to, 0).unwrap();
        prop_assert_eq!(&fires(&schedule, start, stop - TimeDelta::nanoseconds(1)), &expected);

        let mut backwards: Vec<_> =
            std::iter::successors(schedule.previous_before(stop), |at| schedule.previous_before(*at))
                .take_while(|at| *at > start)
                .collect();
        backwards.reverse();
        prop_assert_eq!(&backwards, &expected);

        let point = DateTime::from_timestamp(from + point, nanos).unwrap();
        let next = schedule.next_after(point).filter(|at| *at < stop);
        prop_assert_eq!(next, expected.iter().copied().find(|at| *at > point));
        let previous = schedule.previous_before(point).filter(|at| *at > start);
        prop_assert_eq!(previous, expected.iter().copied().rfind(|at| *at < point));
    }

    #[test]
    fn both_directions_agree_in_every_zone(
        pattern in pattern(),
        policy in policy(),
        zone in proptest::sample::select(TZ_VARIANTS.to_vec()),
        start in 86_400_i64..4_000_000_000,
    ) {
        let schedule = Schedule::cron(&pattern.text, zone.name(), policy).unwrap();
        let mut fire = DateTime::from_timestamp(start, 7).unwrap();
        let mut before = schedule.previous_before(fire);
        for _ in 0..50 {
            let next = schedule.next_after(fire).unwrap();
            prop_assert!(next > fire);
            prop_assert_eq!(schedule.previous_before(next), before.max(schedule.previous_to(fire)));
            before = Some(next);
            fire = next;
        }
    }
}
