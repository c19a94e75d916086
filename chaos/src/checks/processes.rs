use std::collections::HashMap;

use chrono::TimeDelta;

use super::{Findings, Invariant};
use crate::evidence::Evidence;

/// What a process may take to be gone after its lease, on a machine that is busy.
const LEEWAY: TimeDelta = TimeDelta::seconds(2);

/// No process outlives its lease.
pub(super) fn check(evidence: &Evidence, findings: &mut Findings) {
    let ends: HashMap<_, _> = evidence.leases.iter().map(|lease| ((lease.execution, lease.epoch), lease)).collect();
    for seen in &evidence.sightings {
        let Some(lease) = ends.get(&(seen.execution, seen.epoch)) else {
            findings.check(Invariant::I8, false, || format!("a process without a lease: {seen:?}"));
            continue;
        };
        let outlived = lease.to.is_some_and(|end| seen.last > end + LEEWAY);
        findings.check(Invariant::I8, !outlived, || {
            let late = lease.to.map(|end| (seen.last - end).num_milliseconds()).unwrap_or_default();
            format!("a process outlived its lease by {late} ms: {seen:?} of {lease:?}")
        });
    }
    findings.check(Invariant::I8, evidence.left_over.is_empty(), || format!("left over: {:?}", evidence.left_over));
}
