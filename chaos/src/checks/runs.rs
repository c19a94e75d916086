use std::collections::HashMap;

use serde_json::Value;
use uuid::Uuid;

use super::{Findings, Invariant, Promises};
use crate::evidence::Evidence;
use crate::journal::Past;
use crate::ledger::Entry;
use crate::workload::JobPlan;

/// Leases of an execution that may be lost in a row.
const LOSSES: usize = 3;

/// By how much the runs of a job may seem to overlap: a process that is killed may have written its end just before.
const LEEWAY_MS: i64 = 1000;

/// One start of one lease's work.
struct Run<'a> {
    begin: &'a Entry,
    end: Option<&'a Entry>,
}

/// What the hosts have seen agrees with what the database says.
pub(super) fn check(evidence: &Evidence, promises: Promises, findings: &mut Findings) {
    let plans: HashMap<Uuid, &JobPlan> = evidence.workload.jobs.iter().map(|(id, plan)| (*id, plan)).collect();
    let past: HashMap<Uuid, &Past> = evidence.past.iter().map(|past| (past.id, past)).collect();
    let runs = runs(&evidence.ledger, findings);
    for past in &evidence.past {
        let Some(plan) = plans.get(&past.job_id) else { continue };
        attempts(past, plan, promises, findings);
        let own: Vec<&Run> = runs.iter().filter(|run| run.begin.execution == past.id).collect();
        done(past, plan, &own, findings);
    }
    for run in &runs {
        let known = past.contains_key(&run.begin.execution);
        findings.check(Invariant::I7, known, || format!("it ran and nobody knows of it: {:?}", run.begin));
    }
    for (job, plan) in plans.iter().filter(|(_, plan)| plan.limit == 1) {
        let own: Vec<&Run> = runs.iter().filter(|run| run.begin.job == *job).collect();
        apart(plan, &own, findings);
    }
}

fn runs<'a>(ledger: &'a [Entry], findings: &mut Findings) -> Vec<Run<'a>> {
    let mut runs: Vec<Run> = Vec::new();
    let mut by_lease: HashMap<(Uuid, i64), usize> = HashMap::new();
    for entry in ledger {
        let lease = (entry.execution, entry.epoch);
        if entry.begins {
            let first = by_lease.insert(lease, runs.len());
            findings.check(Invariant::I7, first.is_none(), || format!("one lease, two starts: {entry:?}"));
            runs.push(Run { begin: entry, end: None });
        } else if let Some(run) = by_lease.get(&lease).and_then(|index| runs.get_mut(*index)) {
            run.end = Some(entry);
        }
    }
    runs
}

/// The attempts of one execution, as history tells them.
fn attempts(past: &Past, plan: &JobPlan, promises: Promises, findings: &mut Findings) {
    let told: Vec<Value> =
        past.attempts.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    // The only attempt is told by the end itself.
    let only = past.worker_id.filter(|_| past.attempts.is_none()).map(|_| past.status.as_str());
    let outcomes: Vec<&str> = told.iter().filter_map(|attempt| attempt["outcome"].as_str()).chain(only).collect();
    let failed = outcomes.iter().filter(|o| **o == "failed").count();
    let lost = outcomes.iter().filter(|o| **o == "lost").count();
    let budget = usize::try_from(plan.retries).unwrap_or_default() + 1;
    findings.check(Invariant::I6, failed <= budget, || format!("{failed} of {budget} attempts failed: {past:?}"));
    let in_a_row = outcomes.split(|o| *o != "lost").map(<[_]>::len).max().unwrap_or_default();
    findings.check(Invariant::I6, in_a_row <= LOSSES, || format!("{in_a_row} leases in a row were lost: {past:?}"));
    if plan.at_most_once {
        findings.check(Invariant::I6, lost <= 1, || format!("at most once, and it was lost twice: {past:?}"));
    }
    if promises.lossless {
        findings.check(Invariant::I6, lost == 0, || format!("no agent was hurt, and a lease was lost: {past:?}"));
    }
    let is_lost = outcomes.last() == Some(&"lost");
    let spent = failed == budget || is_lost || plan.failing == 0;
    let gave_up = past.status == "failed" && !spent;
    findings.check(Invariant::I6, !gave_up, || format!("{failed} of {budget} attempts, and it was given up: {past:?}"));
    let failed_alone = past.status == "failed" && plan.failing == 0 && !is_lost;
    findings.check(Invariant::I6, !failed_alone, || format!("its work cannot fail, and it did: {past:?}"));
}

/// What one execution's runs were.
fn done(past: &Past, plan: &JobPlan, runs: &[&Run], findings: &mut Findings) {
    let epochs = usize::try_from(past.epoch).unwrap_or_default();
    findings.check(Invariant::I7, runs.len() <= epochs, || format!("{} runs of {epochs} leases: {past:?}", runs.len()));
    if plan.at_most_once {
        findings.check(Invariant::I7, runs.len() <= 1, || {
            format!("at most once, and it ran {} times: {past:?}", runs.len())
        });
    }
    if past.status == "completed" {
        let last = runs.iter().find(|run| run.begin.epoch == past.epoch);
        let is_done = last.is_some_and(|run| run.end.is_some());
        findings.check(Invariant::I7, is_done, || format!("it is called completed and was not done: {past:?}"));
    }
}

/// Runs of a job that may not overlap.
fn apart(plan: &JobPlan, runs: &[&Run], findings: &mut Findings) {
    let mut sorted: Vec<&&Run> = runs.iter().collect();
    sorted.sort_by_key(|run| run.begin.monotonic_ms);
    for (index, run) in sorted.iter().enumerate() {
        let Some(end) = run.end else { continue };
        let beside =
            sorted.iter().skip(index + 1).find(|later| later.begin.monotonic_ms + LEEWAY_MS < end.monotonic_ms);
        findings.check(Invariant::I5, beside.is_none(), || {
            format!("{}: {:?} ended at {} beside {:?}", plan.name, run.begin, end.monotonic_ms, beside.map(|b| b.begin))
        });
    }
}
