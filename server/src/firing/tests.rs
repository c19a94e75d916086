use chrono::{Duration, TimeZone};
use orrery_proto::v1::{Delivery, DstGap, DstOverlap, JobType};
use std::collections::BTreeMap;

use super::*;
use crate::execution::Execution;
use crate::job::{JobSpec, MisfireSpec, RetryPolicy, ScheduleKind, ScheduleSpec};

fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 5, 1, 12, 0, 0).unwrap()
}

/// A definition that fires every ten seconds.
pub(crate) fn spec() -> JobSpec {
    let kind = ScheduleKind::Cron("*/10 * * * * *".into());
    let schedule = ScheduleSpec { kind, timezone: "UTC".into(), dst_gap: DstGap::Auto, dst_overlap: DstOverlap::Auto };
    let misfire =
        MisfireSpec { policy: MisfirePolicy::FireOnce, grace_seconds: 60, max_count: 100, max_lateness_seconds: None };
    JobSpec {
        name: "job".into(),
        description: String::new(),
        schedule,
        job_type: JobType::Command,
        config: "{}".into(),
        sensitive: Vec::new(),
        sealed: Vec::new(),
        retry: RetryPolicy::default(),
        timeout_seconds: None,
        max_concurrent: 1,
        priority: 0,
        start_date: None,
        end_date: None,
        max_executions: None,
        tags: vec![],
        queue: "default".into(),
        selector: BTreeMap::new(),
        overlap: OverlapPolicy::Forbid,
        misfire,
        delivery: Delivery::AtLeastOnce,
        start_deadline_seconds: None,
        concurrency: None,
    }
}

fn job(change: impl FnOnce(&mut JobSpec)) -> Job {
    let mut spec = spec();
    change(&mut spec);
    Job {
        id: Uuid::from_u128(1),
        tenant_id: Uuid::from_u128(2),
        spec,
        status: JobStatus::Active,
        version: 1,
        cursor: Some(now() + Duration::seconds(10)),
        execution_count: 0,
        last_execution_at: None,
        halted_at: None,
        tenant_suspended_at: None,
        created_by: Uuid::nil(),
        created_at: now() - Duration::days(1),
        updated_at: now(),
        deleted_at: None,
        next_execution_at: None,
    }
}

fn due(job: &Job, seconds_ago: i64, active: i64, waiting: i64) -> DueFire {
    let at = now() - Duration::seconds(seconds_ago);
    DueFire { execution: Execution::of_fire(job, at, 1, at), job: job.clone(), active, waiting, room: None }
}

/// `admit`, `replace`, or the reason of the omission.
fn verdicts(fires: &[DueFire]) -> Vec<String> {
    let shown = |verdict: DueVerdict| match verdict {
        DueVerdict::Admit => "admit".to_owned(),
        DueVerdict::Replace(_) => "replace".to_owned(),
        DueVerdict::Omit(omission) => omission.reason,
        DueVerdict::Unplan => "unplan".to_owned(),
    };
    judge(fires, now()).into_iter().map(shown).collect()
}

#[test]
fn forbid_counts_what_is_active_and_what_the_batch_admits() {
    let one = job(|_| {});
    assert_eq!(verdicts(&[due(&one, 0, 0, 0)]), ["admit"]);
    assert_eq!(verdicts(&[due(&one, 0, 1, 0)]), ["overlap"]);
    assert_eq!(verdicts(&[due(&one, 1, 0, 0), due(&one, 0, 0, 0)]), ["admit", "overlap"]);
    let two = job(|s| s.max_concurrent = 2);
    assert_eq!(verdicts(&[due(&two, 1, 1, 0), due(&two, 0, 1, 0)]), ["admit", "overlap"]);
    let unlimited = job(|s| s.max_concurrent = 0);
    assert_eq!(verdicts(&[due(&unlimited, 0, 1000, 0)]), ["admit"]);
}

#[test]
fn queue_one_lets_one_wait() {
    let job = job(|s| s.overlap = OverlapPolicy::QueueOne);
    let fires = [due(&job, 2, 1, 0), due(&job, 1, 1, 0), due(&job, 0, 1, 0)];
    assert_eq!(verdicts(&fires), ["admit", "overlap", "overlap"]);
    assert_eq!(verdicts(&[due(&job, 0, 2, 1)]), ["overlap"]);
    assert_eq!(
        verdicts(&[due(&job, 0, 2, 0)]),
        ["overlap"],
        "one that lost its agent waits, and begins no more for the first time"
    );
}

#[test]
fn replace_is_for_the_last_fire_and_allow_for_all() {
    let replace = job(|s| s.overlap = OverlapPolicy::Replace);
    assert_eq!(verdicts(&[due(&replace, 1, 1, 0), due(&replace, 0, 1, 0)]), ["overlap", "replace"]);
    assert_eq!(verdicts(&[due(&replace, 0, 0, 0)]), ["admit"]);
    let allow = job(|s| s.overlap = OverlapPolicy::Allow);
    assert_eq!(verdicts(&[due(&allow, 1, 9, 8), due(&allow, 0, 9, 8)]), ["admit", "admit"]);
}

#[test]
fn a_job_that_was_halted_meanwhile_does_not_fire() {
    let paused = Job { status: JobStatus::Paused, ..job(|_| {}) };
    let stopped = Job { status: JobStatus::Inactive, ..job(|_| {}) };
    let deleted = Job { deleted_at: Some(now()), ..job(|_| {}) };
    assert_eq!(verdicts(&[due(&paused, 0, 0, 0)]), ["paused"]);
    assert_eq!(verdicts(&[due(&stopped, 0, 0, 0)]), ["stopped"]);
    assert_eq!(verdicts(&[due(&deleted, 0, 0, 0)]), ["stopped"]);
}

/// Fires that had been planned before an outage, and are released long after their instants.
#[test]
fn late_releases_follow_the_misfire_policy() {
    let with = |policy, lateness| {
        job(|s| {
            s.max_concurrent = 0;
            s.misfire.policy = policy;
            s.misfire.max_lateness_seconds = lateness;
        })
    };
    let late = |job: &Job| verdicts(&[due(job, 3600, 0, 0), due(job, 3590, 0, 0)]);
    assert_eq!(late(&with(MisfirePolicy::Skip, None)), ["misfire", "misfire"]);
    assert_eq!(late(&with(MisfirePolicy::FireAll, None)), ["admit", "admit"]);
    assert_eq!(late(&with(MisfirePolicy::FireAll, Some(3595))), ["max_lateness", "admit"]);
    assert_eq!(late(&with(MisfirePolicy::FireOnce, None)), ["coalesced", "admit"]);
    // The planner has missed fires of its own to coalesce, and fires the latest of them.
    let behind = Job { cursor: Some(now() - Duration::seconds(3580)), ..with(MisfirePolicy::FireOnce, None) };
    assert_eq!(late(&behind), ["coalesced", "coalesced"]);
    // Within the grace all of them happen.
    let job = with(MisfirePolicy::Skip, None);
    assert_eq!(verdicts(&[due(&job, 60, 0, 0), due(&job, 50, 0, 0)]), ["admit", "admit"]);
}

#[test]
fn a_fire_released_after_its_start_deadline_does_not_happen() {
    let job = job(|s| {
        s.max_concurrent = 0;
        s.start_deadline_seconds = Some(10);
    });
    assert_eq!(verdicts(&[due(&job, 10, 0, 0), due(&job, 9, 0, 0)]), ["start_deadline", "admit"]);
}

fn planned(job: &Job, outstanding: i64) -> JobPlan {
    let horizon = now() + Duration::seconds(25);
    let schedule = job.spec.schedule(job.created_at).unwrap().unwrap();
    plan(&PlanCandidate { job: job.clone(), now: now(), horizon, outstanding }, &schedule)
}

#[test]
fn fires_up_to_the_horizon_are_planned() {
    let plan = planned(&job(|_| {}), 0);
    assert_eq!(plan.fires, [10, 20].map(|s| now() + Duration::seconds(s)));
    assert_eq!(plan.cursor, Some(now() + Duration::seconds(30)));
}

/// What is planned may still be omitted, and then another fire takes its place: the cursor goes on until the executions are used up.
#[test]
fn the_maximum_of_executions_leaves_the_cursor_where_another_fire_may_be_needed() {
    let one_left = Job { execution_count: 2, ..job(|s| s.max_executions = Some(3)) };
    let plan = planned(&one_left, 0);
    assert_eq!((plan.fires.len(), plan.cursor), (1, Some(now() + Duration::seconds(20))));
    let outstanding = Job { cursor: plan.cursor, ..one_left.clone() };
    let waits = planned(&outstanding, 1);
    assert_eq!((waits.fires.len(), waits.cursor), (0, plan.cursor));
    let used_up = Job { execution_count: 3, ..one_left };
    assert_eq!(planned(&used_up, 0).cursor, None);
}

#[test]
fn the_end_date_is_the_last_instant() {
    let ends = job(|s| s.end_date = Some(now() + Duration::seconds(20)));
    let plan = planned(&ends, 0);
    assert_eq!((plan.fires.len(), plan.cursor), (2, None));
}

/// What is caught up on comes behind what is on time, and is not to end it.
#[test]
fn a_late_fire_does_not_replace_a_later_one() {
    let fired_at = |seconds: i64| Job {
        last_execution_at: Some(now() - Duration::seconds(seconds)),
        ..job(|s| s.overlap = OverlapPolicy::Replace)
    };
    assert_eq!(verdicts(&[due(&fired_at(7200), 3600, 1, 0)]), ["replace"]);
    assert_eq!(verdicts(&[due(&fired_at(1), 3600, 1, 0)]), ["overlap"]);
    assert_eq!(verdicts(&[due(&fired_at(1), 2, 1, 0)]), ["replace"], "it is on time");
}

/// It rests, which is on record, and is never given up.
#[test]
fn what_cannot_be_read_is_planned_again() {
    let cursor = now() - Duration::hours(6);
    let plan = unplannable(cursor, now(), "no such zone");
    assert_eq!((plan.fires.len(), plan.cursor), (0, Some(now() + Duration::hours(1))));
    let [omission] = plan.omissions.as_slice() else { panic!("{:?}", plan.omissions) };
    assert_eq!((omission.reason.as_str(), omission.from), ("unplannable", cursor));
    assert!(omission.to < now() + Duration::hours(1) && omission.detail.starts_with("no such zone"));
}

/// A fire in so many seconds.
fn ahead(job: &Job, seconds: i64, active: i64) -> DueFire {
    due(job, -seconds, active, 0)
}

/// The same, granted ahead before and given back.
fn back(job: &Job, seconds: i64) -> DueFire {
    let mut fire = ahead(job, seconds, 0);
    fire.execution.epoch = 1;
    fire
}

#[test]
fn a_job_with_a_limit_has_one_fire_granted_ahead_while_nothing_of_it_is_active() {
    for overlap in [OverlapPolicy::Allow, OverlapPolicy::Forbid, OverlapPolicy::QueueOne, OverlapPolicy::Replace] {
        let one = job(|s| (s.overlap, s.max_concurrent) = (overlap, 3));
        assert_eq!(arm(&[ahead(&one, 10, 0), ahead(&one, 20, 0)]), [true, false], "{overlap:?}");
        assert_eq!(arm(&[ahead(&one, 10, 1)]), [false], "{overlap:?}");
    }
    let unlimited = job(|s| s.max_concurrent = 0);
    assert_eq!(arm(&[ahead(&unlimited, 10, 7), ahead(&unlimited, 20, 7)]), [true, true]);
}

#[test]
fn nothing_is_granted_ahead_beyond_a_maximum_or_of_a_job_that_does_not_fire() {
    let last = Job { execution_count: 2, ..job(|s| (s.max_concurrent, s.max_executions) = (0, Some(5))) };
    let fires = [ahead(&last, 10, 0), back(&last, 20), ahead(&last, 30, 0), ahead(&last, 40, 0)];
    assert_eq!(arm(&fires), [true, true, true, false], "the last one is not, and what came back has been counted");
    let ends = Job { cursor: None, ..job(|_| {}) };
    assert_eq!(arm(&[ahead(&ends, 10, 0), back(&ends, 20)]), [false, false]);
    for status in [JobStatus::Paused, JobStatus::Inactive] {
        assert_eq!(arm(&[ahead(&Job { status, ..job(|_| {}) }, 10, 0)]), [false]);
    }
    assert_eq!(arm(&[ahead(&Job { deleted_at: Some(now()), ..job(|_| {}) }, 10, 0)]), [false]);
}

#[test]
fn what_came_back_happens_where_the_definition_still_has_it() {
    let of = |change: fn(&mut Job)| {
        let mut job = job(|s| s.max_concurrent = 1);
        change(&mut job);
        (verdicts(&[DueFire { active: 1, ..back(&job, 0) }]), arm(&[back(&job, 10)]))
    };
    let wanted = (vec!["admit".to_owned()], vec![true]);
    let full = |job: &mut Job| (job.status, job.cursor) = (JobStatus::Inactive, None);
    assert_eq!(of(full), (vec!["admit".to_owned()], vec![false]), "its job has had all it may since");
    let unwanted = (vec!["unplan".to_owned()], vec![false]);
    assert_eq!(of(|_| {}), wanted, "it was admitted when it was granted");
    assert_eq!(of(|job| (job.status, job.halted_at) = (JobStatus::Inactive, Some(now()))), unwanted);
    assert_eq!(of(|job| (job.status, job.halted_at) = (JobStatus::Paused, Some(now()))), unwanted);
    assert_eq!(of(|job| job.deleted_at = Some(now())), unwanted);
    assert_eq!(of(|job| job.spec.schedule.kind = ScheduleKind::Cron("5 * * * * *".into())), unwanted);
    assert_eq!(of(|job| job.spec.schedule.kind = ScheduleKind::Manual), unwanted);
    assert_eq!(of(|job| job.spec.end_date = Some(now() - Duration::seconds(1))), unwanted);
    assert_eq!(of(|job| job.spec.start_date = Some(now() + Duration::seconds(11))), unwanted);
    assert_eq!(of(|job| job.spec.schedule.kind = ScheduleKind::Cron("nonsense".into())), wanted);
}

#[test]
fn fires_beyond_the_quota_of_their_tenant_are_omitted_with_that_reason() {
    let one = job(|s| s.max_concurrent = 0);
    let other = Job { tenant_id: Uuid::from_u128(3), ..job(|s| s.max_concurrent = 0) };
    let within = |fire: DueFire, room| DueFire { room: Some(room), ..fire };
    let fires = [
        within(due(&one, 2, 0, 0), 2),
        due(&other, 2, 0, 0),
        within(due(&one, 1, 0, 0), 2),
        // It was counted when it was granted ahead.
        within(back(&one, 0), 2),
        within(due(&one, 0, 0, 0), 2),
    ];
    assert_eq!(verdicts(&fires), ["admit", "admit", "admit", "admit", "quota"]);
    // What does not happen for another reason takes no room.
    let paused = Job { status: JobStatus::Paused, ..one.clone() };
    assert_eq!(verdicts(&[within(due(&paused, 1, 0, 0), 1), within(due(&one, 0, 0, 0), 1)]), ["paused", "admit"]);
    let ahead = |seconds| within(ahead(&one, seconds, 0), 1);
    assert_eq!(arm(&[within(back(&one, 10), 1), ahead(20), ahead(30)]), [true, true, false]);
}
