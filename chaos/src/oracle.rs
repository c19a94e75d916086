//! When jobs must fire, by code that the planner does not know.

use std::collections::BTreeSet;
use std::str::FromStr;

use chrono::{DateTime, TimeDelta, Utc};

use crate::error::{Result, world};
use crate::workload::{JobPlan, When};

/// All instants from `start` to `end`, both inclusive, at which a job must fire.
///
/// # Errors
/// Where its expression is none.
pub fn fires(plan: &JobPlan, start: DateTime<Utc>, end: DateTime<Utc>) -> Result<BTreeSet<DateTime<Utc>>> {
    match &plan.when {
        When::Cron(expression) => {
            let schedule = cron::Schedule::from_str(expression).map_err(|e| world(format!("{expression}: {e}")))?;
            let before = start - TimeDelta::nanoseconds(1);
            Ok(schedule.after(&before).take_while(|at| *at <= end).collect())
        }
        When::Every(millis) => {
            let step = TimeDelta::milliseconds(*millis);
            Ok(std::iter::successors(Some(start), |at| Some(*at + step)).take_while(|at| *at <= end).collect())
        }
        When::Asked => Ok(BTreeSet::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(when: When) -> JobPlan {
        JobPlan { when, ..JobPlan::named("a") }
    }

    #[test]
    fn both_ends_are_counted() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let (start, end) = (at("2026-03-01T10:00:00Z"), at("2026-03-01T10:00:10Z"));
        let count = |when| fires(&plan(when), start, end).unwrap().len();
        assert_eq!(count(When::Cron("* * * * * *")), 11);
        assert_eq!(count(When::Cron("*/5 * * * * *")), 3);
        assert_eq!(count(When::Every(700)), 15);
        assert_eq!(count(When::Every(2500)), 5);
        assert_eq!(count(When::Asked), 0);
    }
}
