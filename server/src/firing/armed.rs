//! Which fires are granted ahead of their instant, and what becomes of those that came back before it. Pure.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use orrery_proto::v1::JobStatus;
use uuid::Uuid;

use crate::job::Job;
use crate::store::DueFire;

/// What of a job has been granted by the same decision.
#[derive(Clone, Copy, Default)]
struct Taken {
    /// Leases.
    places: i64,
    /// Executions that its maximum has to count.
    counted: i64,
}

/// Which of these planned fires may be granted ahead of their instant, in their order. `DueFire::active` counts what is granted ahead as
/// well. A job with a limit has at most one lease while there is another of it to come: whatever its overlap, nothing is left to
/// decide at the instant then. The last fire of a job is left to its release: that makes the job inactive, which is not to happen while the
/// fire can still be paused. What may not be granted stays planned, and is decided when it is due.
pub fn arm(fires: &[DueFire]) -> Vec<bool> {
    let mut taken: HashMap<Uuid, Taken> = HashMap::new();
    let mut rooms: HashMap<Uuid, i64> = HashMap::new();
    let mut arm = |fire: &DueFire| {
        let taken = taken.entry(fire.job.id).or_default();
        // One that its tenant's quota has no room for is omitted when it is due.
        let mut room = fire.room.map(|room| rooms.entry(fire.job.tenant_id).or_insert(room));
        let has_room = fire.execution.was_armed() || room.as_ref().is_none_or(|room| **room > 0);
        let may = has_room && may_be_armed(fire, *taken);
        if let Some(room) = room.as_mut().filter(|_| may && !fire.execution.was_armed()) {
            **room -= 1;
        }
        taken.places += i64::from(may);
        taken.counted += i64::from(may && !fire.execution.was_armed());
        may
    };
    fires.iter().map(&mut arm).collect()
}

fn may_be_armed(fire: &DueFire, taken: Taken) -> bool {
    let spec = &fire.job.spec;
    if spec.max_concurrent > 0 && fire.active + taken.places > 0 {
        return false;
    }
    if fire.job.cursor.is_none() || fire.job.tenant_suspended_at.is_some() {
        return false;
    }
    if fire.execution.was_armed() {
        return is_wanted(&fire.job, fire.execution.scheduled_at);
    }
    let is_last = spec.max_executions.is_some_and(|max| fire.job.execution_count + taken.counted + 1 >= max);
    fire.job.status == JobStatus::Active && fire.job.deleted_at.is_none() && !is_last
}

/// Whether a job's definition of now still has a fire that was given back. It has been counted: that its job has had all it may have since, and
/// is inactive, is no reason against it. A pause, a stop, and another schedule are.
pub(super) fn is_wanted(job: &Job, at: DateTime<Utc>) -> bool {
    if job.deleted_at.is_some() || job.halted_at.is_some() {
        return false;
    }
    let spec = &job.spec;
    let within = spec.start_date.is_none_or(|start| start <= at) && spec.end_date.is_none_or(|end| at <= end);
    within
        && match spec.schedule(job.created_at) {
            Ok(schedule) => schedule.is_some_and(|s| s.next_after(at - TimeDelta::microseconds(1)) == Some(at)),
            // Another version has planned it, and reads it.
            Err(_) => true,
        }
}
