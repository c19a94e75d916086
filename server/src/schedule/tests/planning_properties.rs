//! Nothing is lost: over any series of calls, every instant of the schedule fires or is in exactly one omission.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;

use super::super::{DstPolicy, Misfire, MisfirePolicy, Plan, PlanInput, Schedule, plan};

const START: i64 = 1_774_746_000; // 2026-03-29T01:00:00Z, when clocks change in Berlin

fn second(offset: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(START + offset, 0).unwrap()
}

/// A schedule and whether it fires at so many seconds from the start.
type Subject = (Schedule, fn(i64) -> bool);

fn subjects() -> Vec<Subject> {
    let cron = |text: &str, zone: &str| Schedule::cron(text, zone, DstPolicy::default()).unwrap();
    let every = |seconds, anchor| Schedule::every(Duration::from_secs(seconds), second(anchor)).unwrap();
    vec![
        (cron("*/7 * * * * *", "UTC"), |s| s.rem_euclid(60) % 7 == 0),
        (cron("0 */5 * * * *", "Europe/Berlin"), |s| s % 300 == 0),
        (cron("30 * * * * *", "America/New_York"), |s| s.rem_euclid(60) == 30),
        (every(13, -5), |s| s >= -5 && (s + 5) % 13 == 0),
        (every(100, 700), |s| s >= 700 && s % 100 == 0),
        (Schedule::once(second(400)), |s| s == 400),
    ]
}

fn misfire() -> impl Strategy<Value = Misfire> {
    let policies = vec![MisfirePolicy::Skip, MisfirePolicy::FireOnce, MisfirePolicy::FireAll];
    let lateness = proptest::option::of((0_u64..2000).prop_map(Duration::from_secs));
    (proptest::sample::select(policies), 0_u64..120, 0_u32..20, lateness).prop_map(
        |(policy, grace, max_count, max_lateness)| Misfire {
            policy,
            grace: Duration::from_secs(grace),
            max_count,
            max_lateness,
        },
    )
}

/// What one call of `plan` must keep to under its policy.
fn check_policy(misfire: &Misfire, now: DateTime<Utc>, plan: &Plan) -> Result<(), TestCaseError> {
    let on_time = now - TimeDelta::from_std(misfire.grace).unwrap();
    let missed = plan.fires.iter().filter(|at| **at < on_time);
    let most = match misfire.policy {
        MisfirePolicy::Skip => 0,
        MisfirePolicy::FireOnce => 1,
        MisfirePolicy::FireAll => misfire.max_count as usize,
    };
    prop_assert!(missed.clone().count() <= most);
    if let (MisfirePolicy::FireAll, Some(lateness)) = (misfire.policy, misfire.max_lateness) {
        let lateness = TimeDelta::from_std(lateness).unwrap();
        prop_assert!(missed.clone().all(|at| now - *at <= lateness));
    }
    prop_assert!(plan.omissions.iter().all(|row| row.from <= row.to && row.to < on_time));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_instant_is_accounted_for(
        index in 0_usize..6,
        misfire in misfire(),
        max_batch in 0_usize..12,
        begin in -900_i64..900,
        waits in proptest::collection::vec((0_i64..1200, 0_i64..200), 1..12),
        not_after in proptest::option::of(0_i64..4000),
        remaining in proptest::option::of(0_u32..80),
    ) {
        let (schedule, fires_at) = &subjects()[index];
        let (mut now, mut cursor, mut left) = (begin, Some(second(begin)), remaining);
        let (mut fired, mut ranges) = (Vec::new(), Vec::new());
        for (wait, ahead) in waits {
            now += wait;
            let Some(from) = cursor else { break };
            let plan = plan(PlanInput {
                schedule,
                cursor: from,
                now: second(now),
                horizon: second(now + ahead),
                not_after: not_after.map(second),
                remaining: left,
                max_batch,
                misfire: &misfire,
            });
            check_policy(&misfire, second(now), &plan)?;
            prop_assert!(plan.fires.len() <= max_batch.max(1));
            prop_assert!(plan.more || plan.cursor.is_none_or(|at| at > second(now + ahead)));
            left = left.map(|left| left - plan.fires.len() as u32);
            fired.extend(plan.fires);
            ranges.extend(plan.omissions);
            cursor = plan.cursor;
        }

        let last = match cursor {
            Some(cursor) => (cursor - second(0)).num_seconds() - 1,
            // Ended by its last execution, its end date, or for good.
            None if left == Some(0) => fired.last().map_or(begin - 1, |at| (*at - second(0)).num_seconds()),
            None => not_after.unwrap_or(now + 400),
        };
        let mut counts = vec![0_u64; ranges.len()];
        let mut expected = Vec::new();
        for instant in (begin..=last).filter(|s| fires_at(*s)).map(second) {
            match ranges.iter().position(|row| row.from <= instant && instant <= row.to) {
                Some(row) => counts[row] += 1,
                None => expected.push(instant),
            }
        }
        prop_assert_eq!(fired, expected);
        prop_assert_eq!(counts, ranges.iter().map(|row| row.count).collect::<Vec<_>>());
        prop_assert!(ranges.windows(2).all(|pair| pair[0].to < pair[1].from));
    }
}
