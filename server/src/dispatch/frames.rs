//! Leases as they travel. What the executions of one version of a job have in common is in a frame once.

use std::collections::HashMap;
use std::time::Duration;

use orrery_proto::v1::{Lease, LeaseBatch, Work};
use orrery_proto::{Json, Timestamp};
use uuid::Uuid;

use super::egress::Bounds;
use super::secrets::Secrets;
use super::text;
use crate::clock::DatabaseClock;
use crate::execution::Execution;
use crate::store::Grant;
use crate::telemetry::{current_traceparent, set_parent};

/// What one frame weighs, in bytes, unless a single lease is heavier: an agent reads no frame that is much larger.
const FRAME_BYTES: usize = 1 << 20;

/// What a lease, or what several have in common, weighs beside texts of any length: ids, numbers, instants, a trace.
const A_LEASE: usize = 192;

/// Leases in frames, in their order.
pub(super) fn frames(grants: &[Grant], secrets: &Secrets, bounds: &Bounds, clock: &DatabaseClock) -> Vec<LeaseBatch> {
    let traced = is_traced();
    let mut frames = Vec::new();
    let mut frame = Frame::default();
    for grant in grants {
        if !frame.batch.leases.is_empty() && frame.size + frame.weight(grant, secrets, bounds) > FRAME_BYTES {
            frames.push(std::mem::take(&mut frame).batch);
        }
        frame.add(grant, secrets, bounds, traced, clock);
    }
    if !frame.batch.leases.is_empty() {
        frames.push(frame.batch);
    }
    frames
}

/// What tells works apart: an execution keeps the name that its job had when it was made.
type Shared<'a> = (Uuid, i64, Duration, &'a str);

fn shared(grant: &Grant) -> Shared<'_> {
    let execution = &grant.execution;
    (execution.job_id, execution.job_version, grant.timeout, &execution.job_name)
}

/// A frame in the making.
#[derive(Default)]
struct Frame<'a> {
    batch: LeaseBatch,
    size: usize,
    works: HashMap<Shared<'a>, u32>,
}

impl<'a> Frame<'a> {
    /// What it would weigh more.
    fn weight(&self, grant: &Grant, secrets: &Secrets, bounds: &Bounds) -> usize {
        let of_lease = A_LEASE + grant.execution.parameters.as_ref().map_or(0, String::len);
        let of_secrets: usize = secrets.values(grant).iter().map(|(key, value)| key.len() + value.expose().len()).sum();
        let of_work =
            A_LEASE + grant.spec.config.len() + grant.execution.job_name.len() + of_secrets + bounds.weight(grant);
        if self.works.contains_key(&shared(grant)) { of_lease } else { of_lease + of_work }
    }

    fn add(&mut self, grant: &'a Grant, secrets: &Secrets, bounds: &Bounds, traced: bool, clock: &DatabaseClock) {
        self.size += self.weight(grant, secrets, bounds);
        let works = &mut self.batch.works;
        let number = *self.works.entry(shared(grant)).or_insert_with(|| {
            works.push(work(grant, secrets, bounds));
            u32::try_from(works.len()).unwrap_or(u32::MAX)
        });
        let start_in_us = start_in(&grant.execution, clock);
        self.batch.leases.push(Lease { start_in_us, ..lease(grant, number, traced) });
    }
}

fn work(grant: &Grant, secrets: &Secrets, bounds: &Bounds) -> Work {
    let execution = &grant.execution;
    let mut work = Work {
        job_id: text(execution.job_id),
        job_name: execution.job_name.clone(),
        tenant_id: text(execution.tenant_id),
        executor: grant.spec.job_type.as_json_str().to_owned(),
        config: Some(Json::new(grant.spec.config.clone())),
        timeout_ms: i64::try_from(grant.timeout.max(Duration::from_millis(1)).as_millis()).unwrap_or(i64::MAX),
        secrets: secrets.values(grant).iter().map(|(key, value)| (key.clone(), value.expose().to_owned())).collect(),
        ..Work::default()
    };
    bounds.write(grant, &mut work);
    work
}

fn lease(grant: &Grant, work: u32, traced: bool) -> Lease {
    let execution = &grant.execution;
    let traceparent = if traced { traced_by_grant(execution) } else { execution.traceparent.clone() };
    Lease {
        execution_id: text(execution.id),
        epoch: execution.epoch,
        parameters: execution.parameters.clone().map(Json::new),
        attempt: execution.attempt,
        scheduled_at: Some(Timestamp::from(execution.scheduled_at)),
        traceparent: traceparent.unwrap_or_default(),
        work,
        ..Lease::default()
    }
}

/// How long the agent must wait from now, in microseconds, so that it begins for certain not before the instant: by the grant, which is over,
/// no longer than from then; and mostly less, as the database's clock is known.
fn start_in(execution: &Execution, clock: &DatabaseClock) -> i64 {
    let (Some(at), Some(lease)) = (execution.armed_for(), execution.lease()) else { return 0 };
    let since_grant = (at - lease.granted_at).to_std().unwrap_or_default();
    let wait = clock.certainly_in(at).map_or(since_grant, |wait| wait.min(since_grant));
    let whole = wait.as_nanos().div_ceil(1000);
    i64::try_from(whole).unwrap_or(i64::MAX)
}

/// Whether spans go anywhere. Asked once for all leases of a grant: a span of each costs more than all else about it.
fn is_traced() -> bool {
    tracing::info_span!("grant").in_scope(current_traceparent).is_some()
}

/// The trace that the target is told of: that of the call that asked for the execution, or a new one for a fire, through this grant.
fn traced_by_grant(execution: &Execution) -> Option<String> {
    let span =
        tracing::info_span!("lease", execution = %execution.id, job = %execution.job_name, epoch = execution.epoch);
    if let Some(parent) = &execution.traceparent {
        set_parent(&span, parent);
    }
    span.in_scope(current_traceparent).or_else(|| execution.traceparent.clone())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chrono::Utc;
    use orrery_proto::v1::TriggerType;
    use tokio::time::Instant;

    use super::*;
    use crate::dispatch::tests::{execution, spec};
    use crate::execution::State;

    fn grant(id: u128, job: u128, parameters: usize, config: usize) -> Grant {
        let mut execution = execution(id);
        execution.job_id = Uuid::from_u128(job);
        execution.trigger = TriggerType::Manual;
        execution.parameters = (parameters > 0).then(|| "x".repeat(parameters));
        let spec = Arc::new(spec("x".repeat(config)));
        Grant { execution, spec, timeout: Duration::from_secs(1), attachment: 1 }
    }

    #[test]
    fn leases_are_sent_in_frames_that_agents_can_read() {
        let sizes = |grants: Vec<Grant>| {
            frames(&grants, &Secrets::default(), &Bounds::default(), &DatabaseClock::default())
                .iter()
                .map(|f| f.leases.len())
                .collect::<Vec<_>>()
        };
        let kib = 1 << 10;
        assert_eq!(sizes(vec![]), [0_usize; 0]);
        assert_eq!(sizes(vec![grant(1, 1, 10, 10), grant(2, 1, 10, 10)]), [2]);
        let (heavy, light) = (grant(1, 1, 600 * kib, 1), grant(3, 1, 1, 1));
        assert_eq!(sizes(vec![heavy.clone(), heavy, light]), [1, 2]);
        let large = grant(1, 1, 3 << 20, 1);
        assert_eq!(sizes(vec![large.clone(), large]), [1, 1], "a heavy one goes alone");
        let configs: Vec<Grant> = (0..4).map(|n| grant(n, n, 0, 400 * kib)).collect();
        assert_eq!(sizes(configs), [2, 2], "what is shared has its weight too");
    }

    /// By a clock that is an hour off, as by one that is known badly or not at all: never before the instant, and not much after it.
    #[test]
    fn what_is_granted_ahead_is_to_wait_until_its_instant() {
        let of = |clock: &DatabaseClock, ahead_ms: i64| {
            let mut early = grant(1, 1, 0, 1);
            let granted_at = Utc::now() + chrono::TimeDelta::hours(1);
            early.execution.run_at = granted_at + chrono::TimeDelta::milliseconds(ahead_ms);
            let lease = crate::execution::Lease {
                session_id: Uuid::nil(),
                worker_name: String::new(),
                granted_at,
                started_at: None,
                deadline: early.execution.run_at,
            };
            early.execution.state = State::Leased(lease);
            clock.observe(Instant::now(), granted_at);
            frames(&[early], &Secrets::default(), &Bounds::default(), clock)[0].leases[0].start_in_us
        };
        let quick = of(&DatabaseClock::default(), 900);
        assert!((800_000..=900_000).contains(&quick), "{quick}");
        assert_eq!(of(&DatabaseClock::default(), 0), 0, "a lease as any other");
        // A reading that took ten seconds tells nothing about the second to come.
        let vague = DatabaseClock::default();
        let asked = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        vague.observe(asked, Utc::now());
        assert!(vague.certainly_in(Utc::now() + chrono::TimeDelta::seconds(1)).unwrap() >= Duration::from_secs(1));
        let late = vague.certainly_in(Utc::now() + chrono::TimeDelta::seconds(10)).unwrap();
        assert!(late >= Duration::from_millis(9_990), "{late:?}");
    }

    #[test]
    fn what_executions_of_a_job_have_in_common_is_sent_once() {
        let mut renamed = grant(3, 7, 0, 5);
        renamed.execution.job_name = "as it was called before".into();
        let grants = [grant(1, 7, 0, 5), grant(2, 8, 2, 5), renamed, grant(4, 7, 0, 5)];
        let sent = frames(&grants, &Secrets::default(), &Bounds::default(), &DatabaseClock::default());
        let [batch] = sent.as_slice() else { panic!("{} frames", sent.len()) };
        assert_eq!(batch.leases.iter().map(|lease| lease.work).collect::<Vec<_>>(), [1, 2, 3, 1]);
        for (lease, grant) in batch.leases.iter().zip(&grants) {
            let work = &batch.works[lease.work as usize - 1];
            let said = (&lease.execution_id, &work.job_id, &work.job_name);
            let meant = (grant.execution.id.to_string(), grant.execution.job_id.to_string());
            assert_eq!(said, (&meant.0, &meant.1, &grant.execution.job_name));
            assert_eq!((work.timeout_ms, lease.idempotency_key.as_str()), (1000, ""));
        }
    }
}
