use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::super::{Misfire, MisfirePolicy, OmissionReason, Plan, PlanInput, Schedule, plan};
use super::{at, cron};

const NOW: &str = "2026-01-01T12:00:30Z";

fn misfire(policy: MisfirePolicy) -> Misfire {
    Misfire { policy, ..Misfire::default() }
}

fn input<'a>(schedule: &'a Schedule, cursor: &str, misfire: &'a Misfire) -> PlanInput<'a> {
    PlanInput {
        schedule,
        cursor: at(cursor),
        now: at(NOW),
        horizon: at(NOW) + TimeDelta::seconds(60),
        not_after: None,
        remaining: None,
        max_batch: 1000,
        misfire,
    }
}

/// Plans a minutely job whose cursor stands five minutes back.
fn late(misfire: &Misfire) -> Plan {
    plan(input(&cron("* * * * *", "UTC"), "2026-01-01T11:55:00Z", misfire))
}

fn minutes(fires: &[DateTime<Utc>]) -> Vec<String> {
    fires.iter().map(|at| at.format("%H:%M").to_string()).collect()
}

fn rows(plan: &Plan) -> Vec<(String, String, u64, OmissionReason)> {
    let time = |at: DateTime<Utc>| at.format("%H:%M").to_string();
    let omissions = plan.omissions.iter();
    omissions.map(|row| (time(row.from), time(row.to), row.count, row.reason)).collect()
}

fn row(from: &str, to: &str, count: u64, reason: OmissionReason) -> (String, String, u64, OmissionReason) {
    (from.to_owned(), to.to_owned(), count, reason)
}

#[test]
fn what_is_on_time_fires_under_every_policy() {
    for policy in [MisfirePolicy::Skip, MisfirePolicy::FireOnce, MisfirePolicy::FireAll] {
        let plan = plan(input(&cron("* * * * *", "UTC"), "2026-01-01T12:00:00Z", &misfire(policy)));
        assert_eq!(minutes(&plan.fires), ["12:00", "12:01"]);
        assert_eq!(plan.omissions, []);
        assert_eq!(plan.cursor, Some(at("2026-01-01T12:02:00Z")));
        assert!(!plan.more);
    }
}

#[test]
fn skip_leaves_all_missed_out() {
    let plan = late(&misfire(MisfirePolicy::Skip));
    assert_eq!(minutes(&plan.fires), ["12:00", "12:01"]);
    assert_eq!(rows(&plan), [row("11:55", "11:59", 5, OmissionReason::Misfire)]);
}

#[test]
fn fire_once_fires_the_latest() {
    let plan = late(&misfire(MisfirePolicy::FireOnce));
    assert_eq!(minutes(&plan.fires), ["11:59", "12:00", "12:01"]);
    assert_eq!(rows(&plan), [row("11:55", "11:58", 4, OmissionReason::Coalesced)]);
}

#[test]
fn fire_all_keeps_within_its_limits() {
    let all = misfire(MisfirePolicy::FireAll);
    assert_eq!(late(&all).fires.len(), 7);
    assert_eq!(late(&all).omissions, []);
    let limited = Misfire { max_count: 2, max_lateness: Some(Duration::from_secs(240)), ..all };
    let plan = late(&limited);
    assert_eq!(minutes(&plan.fires), ["11:58", "11:59", "12:00", "12:01"]);
    assert_eq!(
        rows(&plan),
        [row("11:55", "11:56", 2, OmissionReason::MaxLateness), row("11:57", "11:57", 1, OmissionReason::MaxCount),]
    );
}

#[test]
fn a_batch_goes_on_where_it_ended() {
    let (schedule, policy) = (cron("* * * * *", "UTC"), misfire(MisfirePolicy::FireAll));
    let first = PlanInput { max_batch: 3, ..input(&schedule, "2026-01-01T11:55:00Z", &policy) };
    let done = plan(first);
    assert_eq!(minutes(&done.fires), ["11:55", "11:56", "11:57"]);
    assert!(done.more);
    let rest = plan(PlanInput { cursor: done.cursor.unwrap(), ..first });
    assert_eq!(minutes(&rest.fires), ["11:58", "11:59", "12:00"]);
}

#[test]
fn the_end_date_and_the_number_of_executions_end_the_job() {
    let (schedule, policy) = (cron("* * * * *", "UTC"), misfire(MisfirePolicy::FireAll));
    let open = input(&schedule, "2026-01-01T12:00:00Z", &policy);
    let ended = plan(PlanInput { not_after: Some(at("2026-01-01T12:01:00Z")), ..open });
    assert_eq!((minutes(&ended.fires).len(), ended.cursor), (2, None));
    let passed = plan(PlanInput { not_after: Some(at("2026-01-01T11:00:00Z")), ..open });
    assert_eq!(passed, Plan::default());
    let last = plan(PlanInput { remaining: Some(1), ..open });
    assert_eq!((minutes(&last.fires), last.cursor), (vec!["12:00".to_owned()], None));
    assert_eq!(plan(PlanInput { remaining: Some(0), ..open }), Plan::default());
}

#[test]
fn one_instant_missed_fires_late() {
    let schedule = Schedule::once(at("2025-12-01T00:00:00Z"));
    let once = plan(input(&schedule, "2025-12-01T00:00:00Z", &misfire(MisfirePolicy::FireOnce)));
    assert_eq!((once.fires.len(), once.omissions.len(), once.cursor), (1, 0, None));
    let skip = plan(input(&schedule, "2025-12-01T00:00:00Z", &misfire(MisfirePolicy::Skip)));
    assert_eq!((skip.fires.len(), skip.omissions.len(), skip.cursor), (0, 1, None));
}

#[test]
fn years_of_missed_fires_take_bounded_calls() {
    let policy = misfire(MisfirePolicy::FireOnce);
    let every = Schedule::every(Duration::from_secs(1), at("2000-01-01T00:00:00Z")).unwrap();
    let plan_once = plan(input(&every, "2000-01-01T00:00:00Z", &policy));
    assert_eq!(plan_once.omissions.len(), 1);
    assert_eq!(plan_once.fires[0], at(NOW) - TimeDelta::seconds(61));

    let secondly = cron("* * * * * *", "UTC");
    let mut next = input(&secondly, "2025-12-31T08:00:00Z", &policy);
    let first = plan(next);
    assert_eq!((first.fires.len(), first.omissions[0].count, first.more), (0, 100_000, true));
    next.cursor = first.cursor.unwrap();
    let second = plan(next);
    assert_eq!(second.fires[0], at(NOW) - TimeDelta::seconds(61));
    assert_eq!(second.fires.len(), 1 + 121);
    let counted = first.omissions[0].count + second.omissions[0].count;
    assert_eq!(counted, (28 * 3600 + 30 - 61) as u64);
}

#[test]
fn reasons_have_the_names_they_are_stored_under() {
    let names = OmissionReason::ALL.map(OmissionReason::as_str);
    assert_eq!(names, ["misfire", "coalesced", "max_lateness", "max_count", "paused", "stopped", "overlap"]);
}
