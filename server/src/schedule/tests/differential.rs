//! The `cron` crate as the other voice, on the part that both read alike: six fields, weekdays as names, and at most one
//! of day-of-month and day-of-week restricted, in a zone without clock changes.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use proptest::prelude::*;

use super::cron;

fn numbers(low: u32, high: u32) -> BoxedStrategy<String> {
    let range = (low..=high, low..=high).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b)));
    let list = proptest::collection::vec(low..=high, 1..4).prop_map(|list| {
        let list: Vec<String> = list.iter().map(u32::to_string).collect();
        list.join(",")
    });
    prop_oneof![
        Just("*".to_owned()),
        (low..=high).prop_map(|n| n.to_string()),
        (2_u32..=9).prop_map(|step| format!("*/{step}")),
        (low..=high, 2_u32..=9).prop_map(|(start, step)| format!("{start}/{step}")),
        range,
        list,
    ]
    .boxed()
}

fn days() -> BoxedStrategy<(String, String)> {
    let names = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
    let weekday = proptest::sample::subsequence(names.to_vec(), 1..4);
    prop_oneof![
        numbers(1, 28).prop_map(|day| (day, "*".to_owned())),
        weekday.prop_map(|names| ("*".to_owned(), names.join(","))),
        Just(("*".to_owned(), "MON-FRI".to_owned())),
    ]
    .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn both_agree(
        (second, minute, hour) in (numbers(0, 59), numbers(0, 59), numbers(0, 23)),
        (day, weekday) in days(),
        month in numbers(1, 12),
        start in 1_577_836_800_i64..2_000_000_000,
    ) {
        let expression = format!("{second} {minute} {hour} {day} {month} {weekday}");
        let start = DateTime::<Utc>::from_timestamp(start, 0).unwrap();
        let theirs = ::cron::Schedule::from_str(&expression).unwrap();
        let theirs: Vec<_> = theirs.after(&start).take(20).collect();
        let ours = cron(&expression, "UTC").preview(start, 20);
        let ours: Vec<_> = ours.into_iter().map(|fire| fire.at).collect();
        prop_assert_eq!(ours, theirs, "{}", expression);
    }
}
