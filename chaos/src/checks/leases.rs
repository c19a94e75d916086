use std::collections::{BTreeSet, HashMap};

use chrono::{TimeDelta, Utc};

use orrery_proto::v1::OverlapPolicy;
use uuid::Uuid;

use super::{Findings, Invariant};
use crate::evidence::{Evidence, Lease};
use crate::journal::PENDING;

/// How long past an attempt's deadline its agent may take to say so itself.
const SLACK: TimeDelta = TimeDelta::seconds(15);

/// What coordinators may take up at the end, debug builds included.
const MOST_MIB: u64 = 400;

/// Leases end in time, and a job never has more than its limit; memory is bounded.
pub(super) fn check(evidence: &Evidence, findings: &mut Findings) {
    let outages = TimeDelta::from_std(evidence.outages).unwrap_or_default();
    for lease in &evidence.leases {
        let end = lease.to.unwrap_or_else(Utc::now);
        let latest = lease.deadline.map(|deadline| deadline + SLACK + evidence.ttl() * 2 + outages);
        findings
            .check(Invariant::I4, latest.is_none_or(|latest| end <= latest), || format!("it ended late: {lease:?}"));
        findings.check(Invariant::I4, lease.to.is_some(), || format!("it is held still: {lease:?}"));
    }
    limits(evidence, findings);
    waiting(evidence, findings);
    findings.check(Invariant::I9, evidence.open_transactions == 0, || {
        let count = evidence.open_transactions;
        format!("{count} connections stand in a transaction that nobody uses: what is written over them next is not committed")
    });
    for (name, mib) in &evidence.resident {
        findings.check(Invariant::I9, *mib < MOST_MIB, || format!("{name} holds {mib} MiB"));
    }
}

/// What waits or runs of jobs that forbid to overlap.
fn waiting(evidence: &Evidence, findings: &mut Findings) {
    let plans: HashMap<_, _> = evidence.workload.jobs.iter().map(|(id, plan)| (*id, plan)).collect();
    let mut active: HashMap<Uuid, BTreeSet<Uuid>> = HashMap::new();
    for change in evidence.changes.iter().filter(|change| change.source == "live") {
        let (Some(execution), Some(job)) = (change.execution, change.job) else { continue };
        let Some(plan) = plans.get(&job) else { continue };
        if plan.overlap != OverlapPolicy::Forbid {
            continue;
        }
        let most = plan.limit;
        let active = active.entry(job).or_default();
        if change.op == "delete" || (change.new_state == Some(0) && change.attempt == Some(0)) {
            // Over, or granted ahead and given back before its instant.
            active.remove(&execution);
        } else if change.new_state.is_some_and(|state| state >= PENDING) {
            active.insert(execution);
        }
        findings.check(Invariant::I5, i64::try_from(active.len()).is_ok_and(|count| count <= i64::from(most)), || {
            format!("{}: {} at once, and {most} may be: {change:?}", plan.name, active.len())
        });
    }
}

fn limits(evidence: &Evidence, findings: &mut Findings) {
    let limits: HashMap<_, _> = evidence.workload.jobs.iter().map(|(id, plan)| (*id, plan)).collect();
    let mut by_job: HashMap<_, Vec<&Lease>> = HashMap::new();
    for lease in &evidence.leases {
        by_job.entry(lease.job).or_default().push(lease);
    }
    for (job, leases) in by_job {
        let Some(plan) = limits.get(&job).filter(|plan| plan.limit > 0) else { continue };
        let most = usize::try_from(plan.limit).unwrap_or(usize::MAX);
        // By the numbers of the changes, not by time: a change has its number before it is visible to others.
        let mut ends: BTreeSet<(i64, i64)> = BTreeSet::new();
        for lease in leases {
            ends.retain(|(end, _)| *end > lease.begin);
            ends.insert((lease.end, lease.begin));
            findings.check(Invariant::I5, ends.len() <= most, || {
                format!("{}: {} leases at once, and the limit is {most}: {lease:?}", plan.name, ends.len())
            });
        }
    }
}
