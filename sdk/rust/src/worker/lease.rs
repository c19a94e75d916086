use std::collections::HashMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use orrery_proto::Json;
use orrery_proto::v1::{Finished, HeldLease, Lease, LeaseBatch, Work};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use crate::executor::Task;

/// Which grant of which execution: what every message about work names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct LeaseKey {
    pub(super) execution_id: ExecutionId,
    pub(super) epoch: i64,
}

/// Leases by their keys. Ids come from coordinators, who choose them at random, and are looked up several times for each execution.
pub(super) type ByLease<T> = HashMap<LeaseKey, T, foldhash::fast::RandomState>;

/// The id of an execution, small and quick to compare where it is a UUID as coordinators write them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum ExecutionId {
    Uuid(Uuid),
    /// Anything else, such as a UUID in capitals: it goes back as it came.
    Text(Arc<str>),
}

impl ExecutionId {
    fn new(text: &str) -> Self {
        let canonical = |uuid: &Uuid| uuid.as_hyphenated().encode_lower(&mut [0; Hyphenated::LENGTH]) == text;
        match Uuid::try_parse_ascii(text.as_bytes()) {
            Ok(uuid) if canonical(&uuid) => Self::Uuid(uuid),
            _ => Self::Text(text.into()),
        }
    }

    /// It as text, in `buffer` where it has none of its own.
    pub(super) fn as_text<'a>(&'a self, buffer: &'a mut [u8; Hyphenated::LENGTH]) -> &'a str {
        match self {
            Self::Uuid(uuid) => uuid.as_hyphenated().encode_lower(buffer),
            Self::Text(text) => text,
        }
    }

    pub(super) fn text(&self) -> String {
        self.as_text(&mut [0; Hyphenated::LENGTH]).to_owned()
    }
}

impl fmt::Display for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_text(&mut [0; Hyphenated::LENGTH]))
    }
}

impl LeaseKey {
    pub(super) fn new(execution_id: &str, epoch: i64) -> Self {
        Self { execution_id: ExecutionId::new(execution_id), epoch }
    }

    /// From the first to the last epoch of an execution.
    pub(super) fn all_of(execution_id: &ExecutionId) -> RangeInclusive<Self> {
        let at = |epoch| Self { execution_id: execution_id.clone(), epoch };
        at(i64::MIN)..=at(i64::MAX)
    }

    pub(super) fn held(&self) -> HeldLease {
        HeldLease { execution_id: self.execution_id.text(), epoch: self.epoch }
    }
}

impl From<&HeldLease> for LeaseKey {
    fn from(held: &HeldLease) -> Self {
        Self::new(&held.execution_id, held.epoch)
    }
}

impl From<&Lease> for LeaseKey {
    fn from(lease: &Lease) -> Self {
        Self::new(&lease.execution_id, lease.epoch)
    }
}

impl From<&Finished> for LeaseKey {
    fn from(finished: &Finished) -> Self {
        Self::new(&finished.execution_id, finished.epoch)
    }
}

impl fmt::Display for LeaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.execution_id, self.epoch)
    }
}

/// The longest documented timeout of a job; holds where a lease names none, so that every attempt ends some day.
const LONGEST: Duration = Duration::from_secs(604_800);

/// The leases of a frame, each with what it has in common with others.
pub(super) fn leases_of(batch: LeaseBatch) -> impl Iterator<Item = Lease> {
    let LeaseBatch { leases, works } = batch;
    leases.into_iter().map(move |lease| {
        let work = usize::try_from(lease.work).ok().and_then(|at| works.get(at.checked_sub(1)?));
        match work {
            Some(work) => with_work(lease, work),
            None => lease,
        }
    })
}

fn with_work(lease: Lease, work: &Work) -> Lease {
    Lease {
        job_id: work.job_id.clone(),
        job_name: work.job_name.clone(),
        tenant_id: work.tenant_id.clone(),
        executor: work.executor.clone(),
        config: work.config.clone(),
        timeout_ms: work.timeout_ms,
        secrets: work.secrets.clone(),
        egress_allow: work.egress_allow.clone(),
        egress_deny: work.egress_deny.clone(),
        sandbox_level: work.sandbox_level.clone(),
        shell_allowed: work.shell_allowed,
        work: 0,
        ..lease
    }
}

/// The task of a lease, its timeout capped by the worker's own limit.
pub(super) fn task_of(lease: Lease, cap: Option<Duration>) -> Task {
    let given = u64::try_from(lease.timeout_ms).ok().filter(|ms| *ms > 0).map(Duration::from_millis);
    let timeout = given.unwrap_or(LONGEST).min(cap.unwrap_or(LONGEST)).min(LONGEST);
    let idempotency_key =
        if lease.idempotency_key.is_empty() { lease.execution_id.clone() } else { lease.idempotency_key };
    Task {
        execution_id: lease.execution_id,
        epoch: lease.epoch,
        job_id: lease.job_id,
        job_name: lease.job_name,
        tenant_id: lease.tenant_id,
        executor: lease.executor,
        config: lease.config.unwrap_or_else(|| Json::new("{}")),
        parameters: lease.parameters.filter(|json| !json.text.is_empty()),
        attempt: lease.attempt,
        scheduled_at: lease.scheduled_at.and_then(|at| at.instant()),
        timeout,
        idempotency_key,
        egress_allow: lease.egress_allow,
        egress_deny: lease.egress_deny,
        traceparent: Some(lease.traceparent).filter(|text| !text.is_empty()),
        sandbox_level: lease.sandbox_level,
        shell_allowed: lease.shell_allowed.unwrap_or(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_goes_back_as_it_came() {
        for id in [
            "",
            "e1",
            "0193a5e0-0000-8000-8000-00000000000a",
            "0193A5E0-0000-8000-8000-00000000000A",
            "0193a5e0000080008000000000000000",
        ] {
            let key = LeaseKey::new(id, 7);
            assert_eq!(key.held().execution_id, id);
            assert_eq!(key.to_string(), format!("{id}@7"));
        }
    }

    #[test]
    fn what_leases_have_in_common_is_put_back_into_each() {
        let lease = |id: &str, work| Lease { execution_id: id.into(), work, ..Lease::default() };
        let work = Work { job_name: "report".into(), timeout_ms: 7, ..Work::default() };
        let own = Lease { job_name: "own".into(), ..lease("c", 0) };
        let batch = LeaseBatch { leases: vec![lease("a", 1), lease("b", 9), own], works: vec![work] };
        let names: Vec<(String, String, i64)> =
            leases_of(batch).map(|l| (l.execution_id, l.job_name, l.timeout_ms)).collect();
        let expected = [("a", "report", 7), ("b", "", 0), ("c", "own", 0)];
        assert_eq!(names, expected.map(|(id, name, ms)| (id.to_owned(), name.to_owned(), ms)));
        assert_eq!(task_of(lease("a", 0), None).idempotency_key, "a");
    }

    #[test]
    fn what_a_tenant_must_and_may_not_reaches_the_task() {
        let work = Work { sandbox_level: "process".into(), shell_allowed: Some(false), ..Work::default() };
        let batch =
            LeaseBatch { leases: vec![Lease { work: 1, ..Lease::default() }, Lease::default()], works: vec![work] };
        let tasks: Vec<Task> = leases_of(batch).map(|lease| task_of(lease, None)).collect();
        assert_eq!((tasks[0].sandbox_level.as_str(), tasks[0].shell_allowed), ("process", false));
        assert_eq!((tasks[1].sandbox_level.as_str(), tasks[1].shell_allowed), ("", true));
    }

    #[test]
    fn the_shorter_timeout_holds_and_none_is_no_excuse() {
        let timeout = |timeout_ms, cap: Option<u64>| {
            task_of(Lease { timeout_ms, ..Lease::default() }, cap.map(Duration::from_millis)).timeout
        };
        assert_eq!(timeout(500, None), Duration::from_millis(500));
        assert_eq!(timeout(500, Some(300)), Duration::from_millis(300));
        assert_eq!(timeout(500, Some(900)), Duration::from_millis(500));
        assert_eq!(timeout(0, Some(900)), Duration::from_millis(900));
        assert_eq!(timeout(-1, None), LONGEST);
        assert_eq!(timeout(i64::MAX, None), LONGEST);
    }
}
