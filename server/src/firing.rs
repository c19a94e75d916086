//! Which fires to make, and what becomes of a fire that has come due. Pure: the store hands in what it has locked.

mod armed;

use std::collections::HashMap;

use chrono::{DateTime, SubsecRound, Utc};
use orrery_proto::v1::{JobStatus, MisfirePolicy, OverlapPolicy};
use uuid::Uuid;

use crate::error::{Error, Kind};
use crate::execution::ON_TIME;
use crate::job::{Job, JobSpec};
use crate::schedule::{self, PlanInput, Schedule};
use crate::store::{DueFire, DueVerdict, JobPlan, NewOmission, PlanCandidate};

pub use armed::arm;

/// Fires of one job that one round makes. A job that has more to make gets its turn again at once.
const FIRES_A_ROUND: usize = 100;

/// How long a job rests whose schedule cannot be read. Another version may read it: an upgrade, or a coordinator that has had its own.
const UNPLANNABLE_REST: chrono::TimeDelta = chrono::TimeDelta::hours(1);

/// The plan of a job with a parsed schedule.
pub fn plan(candidate: &PlanCandidate, schedule: &Schedule) -> JobPlan {
    plan_some(candidate, schedule, FIRES_A_ROUND)
}

/// As [`plan`], with at most so many fires; 0 counts as 1.
pub fn plan_some(candidate: &PlanCandidate, schedule: &Schedule, most: usize) -> JobPlan {
    let job = &candidate.job;
    let Some(cursor) = job.cursor else { return JobPlan::default() };
    let misfire = job.spec.misfire.policy();
    let remaining = job.spec.max_executions.map(|max| {
        let left = max - job.execution_count - candidate.outstanding;
        u32::try_from(left.max(0)).unwrap_or(u32::MAX)
    });
    // What is made already may still be omitted, and then another fire takes its place: the job waits for that, it does not end.
    if remaining == Some(0) && candidate.outstanding > 0 {
        return JobPlan { cursor: Some(cursor), ..JobPlan::default() };
    }
    let made = schedule::plan(PlanInput {
        schedule,
        cursor,
        now: candidate.now,
        horizon: candidate.horizon,
        not_after: job.spec.end_date,
        remaining,
        max_batch: most.min(FIRES_A_ROUND),
        misfire: &misfire,
    });
    let cursor = match (made.cursor, remaining) {
        // The last ones allowed have been made, and may yet be omitted.
        (None, Some(left)) if left > 0 && !made.fires.is_empty() => {
            let after = made.fires.last().copied().unwrap_or(cursor);
            schedule.next_after(after).filter(|at| job.spec.end_date.is_none_or(|end| *at <= end))
        }
        (cursor, _) => cursor,
    };
    let omissions = made.omissions.iter().map(|omission| stored(omission, &candidate.now)).collect();
    JobPlan { fires: made.fires, omissions, cursor }
}

/// The plan of a job that cannot be read, or its schedule: it stays active and is looked at again in an hour. What it would have fired
/// until then is one omission, whose count nobody knows; it says 1.
pub fn unplannable(cursor: DateTime<Utc>, now: DateTime<Utc>, why: &str) -> JobPlan {
    let again = (now + UNPLANNABLE_REST).trunc_subsecs(6);
    let omission = NewOmission {
        reason: "unplannable".into(),
        from: cursor,
        to: again.max(cursor) - chrono::TimeDelta::microseconds(1),
        count: 1,
        detail: format!("{why}; what it fires from {} on is planned again", again.to_rfc3339()),
    };
    JobPlan { fires: Vec::new(), omissions: vec![omission], cursor: Some(again.max(cursor)) }
}

fn stored(omission: &schedule::Omission, now: &DateTime<Utc>) -> NewOmission {
    NewOmission {
        reason: omission.reason.as_str().to_owned(),
        from: omission.from,
        to: omission.to,
        count: i64::try_from(omission.count).unwrap_or(i64::MAX),
        detail: format!("planned at {}", now.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)),
    }
}

/// Verdicts over fires that have come due, in their order. A fire counts for those after it.
pub fn judge(fires: &[DueFire], now: DateTime<Utc>) -> Vec<DueVerdict> {
    let mut last: HashMap<Uuid, usize> = HashMap::new();
    for (index, fire) in fires.iter().enumerate() {
        last.insert(fire.job.id, index);
    }
    let mut loads: HashMap<Uuid, Load> = HashMap::new();
    let mut rooms: HashMap<Uuid, i64> = HashMap::new();
    let mut verdicts = Vec::with_capacity(fires.len());
    for (index, fire) in fires.iter().enumerate() {
        let load = loads.entry(fire.job.id).or_insert(Load { active: fire.active, waiting: fire.waiting });
        let is_last = last.get(&fire.job.id) == Some(&index);
        let mut verdict = verdict(fire, *load, is_last, now);
        if is_begun(fire, &verdict)
            && let Some(room) = fire.room
        {
            let room = rooms.entry(fire.job.tenant_id).or_insert(room);
            if *room <= 0 {
                verdict = omit(fire, "quota", "the tenant had begun as many executions in this hour as it may");
            }
            *room -= 1;
        }
        if !matches!(verdict, DueVerdict::Omit(_) | DueVerdict::Unplan) {
            load.active += 1;
            load.waiting += 1;
        }
        verdicts.push(verdict);
    }
    verdicts
}

/// Whether a fire is a further execution by this verdict, and not one that was begun when it was granted ahead.
pub fn is_begun(fire: &DueFire, verdict: &DueVerdict) -> bool {
    matches!(verdict, DueVerdict::Admit | DueVerdict::Replace(_)) && !fire.execution.was_armed()
}

#[derive(Clone, Copy)]
struct Load {
    active: i64,
    waiting: i64,
}

fn verdict(fire: &DueFire, load: Load, is_last: bool, now: DateTime<Utc>) -> DueVerdict {
    let spec = &fire.job.spec;
    let late = now - fire.execution.scheduled_at;
    if fire.execution.was_armed() {
        // It has been admitted, when it was granted ahead.
        return if armed::is_wanted(&fire.job, fire.execution.scheduled_at) {
            DueVerdict::Admit
        } else {
            DueVerdict::Unplan
        };
    }
    if fire.job.deleted_at.is_some() || fire.job.status == JobStatus::Inactive {
        return omit(fire, "stopped", "the job had been stopped");
    }
    if fire.job.tenant_suspended_at.is_some() {
        return omit(fire, "tenant_suspended", "the tenant was suspended");
    }
    if fire.job.status == JobStatus::Paused {
        return omit(fire, "paused", "the job was paused");
    }
    if let Some(by) = fire.execution.start_by.filter(|by| *by <= now) {
        return omit(
            fire,
            "start_deadline",
            &format!("it was released {} s late, after its start deadline, {by}", late.num_seconds()),
        );
    }
    if late > chrono::Duration::seconds(i64::from(spec.misfire.grace_seconds))
        && let Some(reason) = missed(fire, is_last, late, now)
    {
        return omit(fire, reason, &format!("it was released {} s late", late.num_seconds()));
    }
    let limit = i64::from(spec.max_concurrent);
    if limit == 0 || load.active < limit {
        return DueVerdict::Admit;
    }
    let full = format!("{} of {limit} executions were active", load.active);
    match spec.overlap {
        OverlapPolicy::Forbid => omit(fire, "overlap", &full),
        // One that lost its agent, or is to be retried, waits as well.
        OverlapPolicy::QueueOne if load.waiting > 0 || load.active > limit => {
            omit(fire, "overlap", &format!("{full}, and one was waiting"))
        }
        OverlapPolicy::Replace if is_overtaken(fire, late) => {
            omit(fire, "overlap", "a later fire had come due before it")
        }
        OverlapPolicy::Replace if is_last => DueVerdict::Replace("replaced by a later fire".into()),
        OverlapPolicy::Replace => omit(fire, "overlap", "a later fire of the same moment replaced it"),
        _ => DueVerdict::Admit,
    }
}

/// Whether a fire that is caught up on comes after a later one of its job, which it is not to replace.
fn is_overtaken(fire: &DueFire, late: chrono::Duration) -> bool {
    late.to_std().is_ok_and(|late| late > ON_TIME)
        && fire.job.last_execution_at.is_some_and(|at| at > fire.execution.scheduled_at)
}

/// Why a fire that was planned in time and is released too late does not happen, if so: an outage came between.
fn missed(fire: &DueFire, is_last: bool, late: chrono::Duration, now: DateTime<Utc>) -> Option<&'static str> {
    let spec = &fire.job.spec;
    let grace = chrono::Duration::seconds(i64::from(spec.misfire.grace_seconds));
    match spec.misfire.policy {
        MisfirePolicy::Skip => Some("misfire"),
        MisfirePolicy::FireAll => {
            let most = spec.misfire.max_lateness_seconds.map(chrono::Duration::seconds);
            most.is_some_and(|most| late > most).then_some("max_lateness")
        }
        // The planner lets the latest of all missed fires happen: this one only where none has been missed after it.
        _ => {
            let later = fire.job.cursor.is_some_and(|cursor| cursor < now - grace);
            (!is_last || later).then_some("coalesced")
        }
    }
}

fn omit(fire: &DueFire, reason: &str, detail: &str) -> DueVerdict {
    let at = fire.execution.scheduled_at;
    DueVerdict::Omit(NewOmission { reason: reason.into(), from: at, to: at, count: 1, detail: detail.into() })
}

/// Whether what is active of a job decides over its triggers, so that it has to be counted for [`admit_trigger`].
pub fn counts_active(spec: &JobSpec) -> bool {
    spec.max_concurrent > 0 && spec.overlap != OverlapPolicy::Allow
}

/// Whether a trigger may run: a job that is stopped takes none, and one at its limit takes no more. One that is to run `later` asks for its
/// place then.
///
/// # Errors
/// TENANT_SUSPENDED, JOB_INACTIVE, JOB_ALREADY_RUNNING.
pub fn admit_trigger(job: &Job, active: i64, later: bool) -> Result<(), Error> {
    if job.tenant_suspended_at.is_some() {
        return Err(Error::tenant_suspended(""));
    }
    if job.status == JobStatus::Inactive {
        let message = format!("job {} is inactive; resume it before triggering it", job.spec.name);
        return Err(Error::new(Kind::Conflict, "JOB_INACTIVE", message));
    }
    // Without a limit there is nothing to pass, and under `allow` it waits for a free place.
    if later || !counts_active(&job.spec) {
        return Ok(());
    }
    let limit = i64::from(job.spec.max_concurrent);
    let places = if job.spec.overlap == OverlapPolicy::QueueOne { limit + 1 } else { limit };
    if active >= places {
        let message = format!("job {} has {active} active executions, and maxConcurrent is {limit}", job.spec.name);
        return Err(Error::new(Kind::Conflict, "JOB_ALREADY_RUNNING", message)
            .with("active", active)
            .with("maxConcurrent", limit));
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
