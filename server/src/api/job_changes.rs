//! What becomes of a job that somebody changes. Pure: the store hands in the job as it stands and its own clock.

use chrono::{DateTime, TimeDelta, Utc};
use orrery_proto::v1::JobStatus;

use super::timing;
use crate::error::{Error, Kind};
use crate::job::{Job, JobSpec, ScheduleKind};
use crate::schedule::OmissionReason;
use crate::store::{JobChange, NewOmission};

/// A decision: `None` where the job is as it is wanted already.
pub(super) type Decision = Result<Option<JobChange>, Error>;

/// Gives a job a new definition. Fires that are not yet due are planned anew; an inactive job stays inactive.
pub(super) fn replace(job: &Job, spec: &JobSpec, expected: Option<i64>, now: DateTime<Utc>) -> Decision {
    if let Some(expected) = expected.filter(|version| *version != job.version) {
        let message = format!("the job is at version {}, not {expected}; read it again", job.version);
        return Err(Error::new(Kind::Conflict, "VERSION_CONFLICT", message).with("currentVersion", job.version));
    }
    let cursor = match timing::first_fire(spec, job.created_at, now) {
        Ok(first) if job.status == JobStatus::Active => first,
        Err(problem) if job.status == JobStatus::Active => return Err(Error::fields(vec![problem])),
        // It does not fire now, so its schedule may be over: resuming it asks again.
        _ => None,
    };
    let replaced = Job { spec: spec.clone(), cursor, ..job.clone() };
    Ok(Some(JobChange { omission: unplanned(job, OmissionReason::Misfire, now), ..change(replaced, true) }))
}

/// Stops firing until resumed; what runs goes on.
pub(super) fn pause(job: &Job, now: DateTime<Utc>) -> Decision {
    match job.status {
        JobStatus::Paused => Ok(None),
        JobStatus::Inactive => Err(inactive(job, "paused")),
        _ => {
            let omission = unplanned(job, OmissionReason::Misfire, now);
            Ok(Some(JobChange { omission, ..change(halted(job, JobStatus::Paused, now), true) }))
        }
    }
}

/// Stops firing, and ends what waits or runs.
pub(super) fn stop(job: &Job, by: &str, now: DateTime<Utc>) -> JobChange {
    let stopped = match job.status {
        // What made it inactive did so before; it may still have executions to end.
        JobStatus::Inactive => job.clone(),
        _ => halted(job, JobStatus::Inactive, now),
    };
    let omission = unplanned(job, OmissionReason::Misfire, now);
    JobChange { cancel: Some(format!("stopped by {by}")), omission, ..change(stopped, true) }
}

/// Fires again. The fires since it was halted become one omission.
pub(super) fn resume(job: &Job, now: DateTime<Utc>) -> Decision {
    if job.status == JobStatus::Active {
        return Ok(None);
    }
    let spec = &job.spec;
    if spec.max_executions.is_some_and(|most| job.execution_count >= most) {
        let message = format!("it has had all of its {} executions; raise maxExecutions first", job.execution_count);
        return Err(exhausted(message));
    }
    if let Some(end) = spec.end_date.filter(|end| *end <= now) {
        return Err(exhausted(format!("its endDate, {end}, has passed; give a later one first")));
    }
    let cursor = timing::first_fire(spec, job.created_at, now)
        .map_err(|problem| exhausted(format!("it has no fire left: {} {}", problem.field, problem.message)))?;
    let reason = if job.status == JobStatus::Paused { OmissionReason::Paused } else { OmissionReason::Stopped };
    let omission = job.halted_at.and_then(|since| omitted(job, since, reason, now));
    let resumed = Job { status: JobStatus::Active, halted_at: None, cursor, ..job.clone() };
    Ok(Some(JobChange { omission, ..change(resumed, true) }))
}

/// Deletes: it fires no more, and what waits or runs ends.
pub(super) fn delete(job: &Job, now: DateTime<Utc>) -> JobChange {
    let deleted = Job { deleted_at: Some(now), cursor: None, ..job.clone() };
    let omission = unplanned(job, OmissionReason::Misfire, now);
    JobChange { cancel: Some("job deleted".to_owned()), omission, ..change(deleted, true) }
}

fn change(job: Job, unplan: bool) -> JobChange {
    JobChange { job, unplan, cancel: None, omission: None }
}

/// A job that does not fire has no next fire.
fn halted(job: &Job, status: JobStatus, now: DateTime<Utc>) -> Job {
    Job { status, halted_at: Some(job.halted_at.unwrap_or(now)), cursor: None, ..job.clone() }
}

/// The fires that an outage has kept from being planned, and that a change of the job now takes from the planner.
fn unplanned(job: &Job, reason: OmissionReason, now: DateTime<Utc>) -> Option<NewOmission> {
    let cursor = job.cursor.filter(|cursor| *cursor <= now && job.status == JobStatus::Active)?;
    omitted(job, cursor - TimeDelta::microseconds(1), reason, now)
}

fn omitted(job: &Job, since: DateTime<Utc>, reason: OmissionReason, now: DateTime<Utc>) -> Option<NewOmission> {
    // A single instant that passed while the job was halted has been refused above; it never comes here.
    if matches!(job.spec.schedule.kind, ScheduleKind::Manual) {
        return None;
    }
    let range = timing::missed(job, since, now)?;
    let detail = if range.capped { "more than were counted" } else { "" };
    Some(NewOmission {
        reason: reason.as_str().to_owned(),
        from: range.from,
        to: range.to,
        count: i64::try_from(range.count).unwrap_or(i64::MAX),
        detail: detail.to_owned(),
    })
}

fn inactive(job: &Job, verb: &str) -> Error {
    let message = format!("job {:?} is inactive and cannot be {verb}; resume it first", job.spec.name);
    Error::new(Kind::Conflict, "JOB_INACTIVE", message)
}

fn exhausted(message: String) -> Error {
    Error::new(Kind::Conflict, "JOB_EXHAUSTED", message)
}

#[cfg(test)]
mod tests;
