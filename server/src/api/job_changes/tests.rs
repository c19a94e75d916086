use chrono::{TimeDelta, TimeZone};
use orrery_proto::Json;
use orrery_proto::v1::{CreateJobRequest, JobType, OverlapPolicy};
use uuid::Uuid;

use super::*;
use crate::api::definition;
use crate::firing::admit_trigger;

fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2030, 1, 1, 12, 0, 30).unwrap()
}

fn spec(change: impl FnOnce(&mut CreateJobRequest)) -> JobSpec {
    let mut request = CreateJobRequest {
        name: "job".into(),
        cron_expression: "* * * * *".into(),
        job_type: JobType::Shell.into(),
        config: Some(Json::new(r#"{"script": "true"}"#)),
        ..Default::default()
    };
    change(&mut request);
    definition::read(&request, "").unwrap()
}

fn job(change: impl FnOnce(&mut CreateJobRequest)) -> Job {
    Job {
        id: Uuid::from_u128(1),
        tenant_id: Uuid::from_u128(2),
        spec: spec(change),
        status: JobStatus::Active,
        version: 3,
        cursor: Some(now() + TimeDelta::seconds(30)),
        execution_count: 0,
        last_execution_at: None,
        halted_at: None,
        tenant_suspended_at: None,
        created_by: Uuid::nil(),
        created_at: now() - TimeDelta::days(1),
        updated_at: now() - TimeDelta::days(1),
        deleted_at: None,
        next_execution_at: None,
    }
}

fn run_at(at: DateTime<Utc>) -> impl Fn(&mut CreateJobRequest) {
    move |request| {
        request.cron_expression.clear();
        request.run_at = Some(at.into());
    }
}

#[test]
fn a_paused_job_resumes_with_one_omission() {
    let paused = pause(&job(|_| {}), now()).unwrap().unwrap();
    assert!(paused.unplan && paused.cancel.is_none());
    assert_eq!((paused.job.status, paused.job.cursor, paused.job.halted_at), (JobStatus::Paused, None, Some(now())));
    assert!(pause(&paused.job, now()).unwrap().is_none());

    let later = now() + TimeDelta::minutes(5);
    let resumed = resume(&paused.job, later).unwrap().unwrap();
    assert_eq!((resumed.job.status, resumed.job.halted_at), (JobStatus::Active, None));
    assert_eq!(resumed.job.cursor, Some(later + TimeDelta::seconds(30)));
    let omission = resumed.omission.unwrap();
    assert_eq!((omission.reason.as_str(), omission.count), ("paused", 5));
    assert_eq!(omission.from, now() + TimeDelta::seconds(30));
    assert_eq!(omission.to, later - TimeDelta::seconds(30));
    assert!(resume(&resumed.job, later).unwrap().is_none());
}

#[test]
fn a_pause_between_two_fires_omits_nothing() {
    let paused = pause(&job(|_| {}), now()).unwrap().unwrap();
    assert_eq!(resume(&paused.job, now() + TimeDelta::seconds(5)).unwrap().unwrap().omission, None);
}

#[test]
fn a_stopped_job_ends_what_runs_and_can_resume() {
    let stopped = stop(&job(|_| {}), "anna", now());
    assert_eq!(stopped.cancel.as_deref(), Some("stopped by anna"));
    assert_eq!((stopped.job.status, stopped.job.cursor), (JobStatus::Inactive, None));
    assert_eq!(pause(&stopped.job, now()).unwrap_err().code, "JOB_INACTIVE");
    assert_eq!(admit_trigger(&stopped.job, 0, false).unwrap_err().code, "JOB_INACTIVE");
    let resumed = resume(&stopped.job, now() + TimeDelta::minutes(1)).unwrap().unwrap();
    assert_eq!(resumed.omission.unwrap().reason, "stopped");
}

#[test]
fn stopping_a_paused_job_remembers_when_it_fell_silent() {
    let paused = pause(&job(|_| {}), now()).unwrap().unwrap();
    let stopped = stop(&paused.job, "anna", now() + TimeDelta::minutes(3));
    assert_eq!(stopped.job.halted_at, Some(now()));
}

#[test]
fn a_job_that_is_over_does_not_resume() {
    let over = |change: &dyn Fn(&mut CreateJobRequest), count| {
        let job = Job { status: JobStatus::Inactive, execution_count: count, ..job(change) };
        resume(&job, now()).unwrap_err().code
    };
    assert_eq!(over(&|r| r.max_executions = Some(2), 2), "JOB_EXHAUSTED");
    assert_eq!(over(&|r| r.end_date = Some((now() - TimeDelta::hours(1)).into()), 0), "JOB_EXHAUSTED");
    assert_eq!(over(&run_at(now() - TimeDelta::hours(1)), 1), "JOB_EXHAUSTED");
    let manual = job(|r| {
        r.cron_expression.clear();
        r.manual = true;
    });
    let resumed = resume(&Job { status: JobStatus::Inactive, ..manual }, now()).unwrap().unwrap();
    assert_eq!((resumed.job.cursor, resumed.omission), (None, None));
}

#[test]
fn a_replacement_is_planned_anew() {
    let replaced = replace(&job(|_| {}), &spec(|r| r.cron_expression = "0 13 * * *".into()), Some(3), now());
    let replaced = replaced.unwrap().unwrap();
    assert!(replaced.unplan);
    assert_eq!(replaced.job.cursor, Some(Utc.with_ymd_and_hms(2030, 1, 1, 13, 0, 0).unwrap()));
    let stale = replace(&job(|_| {}), &spec(|_| {}), Some(2), now()).unwrap_err();
    assert_eq!((stale.code, stale.details["currentVersion"].as_str()), ("VERSION_CONFLICT", "3"));
}

#[test]
fn a_replacement_keeps_the_status() {
    let past = spec(run_at(now() - TimeDelta::hours(1)));
    assert_eq!(replace(&job(|_| {}), &past, None, now()).unwrap_err().code, "INVALID_SCHEDULE");
    for status in [JobStatus::Paused, JobStatus::Inactive] {
        let job = Job { status, ..job(|_| {}) };
        let replaced = replace(&job, &past, None, now()).unwrap().unwrap().job;
        assert_eq!((replaced.status, replaced.cursor), (status, None));
    }
}

#[test]
fn intervals_count_from_creation_or_start() {
    let every = |r: &mut CreateJobRequest| {
        r.cron_expression.clear();
        r.interval_ms = Some(3_600_000);
    };
    let created = job(every).created_at;
    let first = timing::first_fire(&spec(every), created, now()).unwrap().unwrap();
    assert_eq!(first, created + TimeDelta::hours(25));
    let start = now() + TimeDelta::days(3);
    let from_start = spec(|r| {
        every(r);
        r.start_date = Some(start.into());
    });
    assert_eq!(timing::first_fire(&from_start, created, now()).unwrap(), Some(start));
}

#[test]
fn a_definition_without_a_fire_is_refused() {
    let refused = |spec: &JobSpec| timing::first_fire(spec, now(), now()).unwrap_err();
    let past = refused(&spec(run_at(now() - TimeDelta::seconds(1))));
    assert_eq!((past.code, past.field.as_str()), ("INVALID_SCHEDULE", "runAt"));
    let ended = refused(&spec(|r| r.end_date = Some((now() + TimeDelta::seconds(1)).into())));
    assert_eq!((ended.code, ended.field.as_str()), ("INVALID_DATE_RANGE", "endDate"));
    let year = refused(&spec(|r| r.cron_expression = "0 0 0 1 1 * 2027".into()));
    assert_eq!((year.code, year.field.as_str()), ("INVALID_CRON_EXPRESSION", "cronExpression"));
}

#[test]
fn a_trigger_needs_a_free_place() {
    let one = job(|_| {});
    admit_trigger(&one, 0, false).unwrap();
    assert_eq!(admit_trigger(&one, 1, false).unwrap_err().code, "JOB_ALREADY_RUNNING");
    admit_trigger(&one, 1, true).unwrap();
    let unlimited = job(|r| r.max_concurrent = Some(0));
    admit_trigger(&unlimited, 1_000_000, false).unwrap();
    let waits = job(|r| r.overlap = Some(OverlapPolicy::Allow as i32));
    admit_trigger(&waits, 1_000_000, false).unwrap();
    let one_waits = job(|r| r.overlap = Some(OverlapPolicy::QueueOne as i32));
    admit_trigger(&one_waits, 1, false).unwrap();
    assert_eq!(admit_trigger(&one_waits, 2, false).unwrap_err().code, "JOB_ALREADY_RUNNING");
    let paused = Job { status: JobStatus::Paused, ..one };
    admit_trigger(&paused, 0, false).unwrap();
}

#[test]
fn missed_fires_that_nobody_had_planned_leave_a_row() {
    let missed =
        Job { cursor: Some(now() - TimeDelta::seconds(30)), ..job(|r| r.cron_expression = "*/10 * * * * *".into()) };
    for change in [
        pause(&missed, now()).unwrap().unwrap(),
        stop(&missed, "anna", now()),
        delete(&missed, now()),
        replace(&missed, &missed.spec, None, now()).unwrap().unwrap(),
    ] {
        let omission = change.omission.expect("a row");
        assert_eq!((omission.reason.as_str(), omission.count), ("misfire", 4));
        assert_eq!((omission.from, omission.to), (now() - TimeDelta::seconds(30), now()));
    }
}

#[test]
fn deleting_ends_everything() {
    let deleted = delete(&job(|_| {}), now());
    assert_eq!((deleted.job.deleted_at, deleted.job.cursor), (Some(now()), None));
    assert_eq!(deleted.cancel.as_deref(), Some("job deleted"));
}
