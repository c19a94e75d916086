use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{Findings, Invariant};
use crate::error::Result;
use crate::evidence::{Active, Evidence};
use crate::journal::{Omitted, PENDING};
use crate::oracle;
use crate::workload::{JobPlan, When};

/// Between the clocks of two statements of one transaction.
const LEEWAY: TimeDelta = TimeDelta::milliseconds(500);

/// The product's own grace for fires that come late.
const GRACE: TimeDelta = TimeDelta::seconds(60);

/// The fires are the oracle's.
pub(super) fn check(evidence: &Evidence, findings: &mut Findings) -> Result<()> {
    let active = evidence.active();
    for (job, plan) in evidence.workload.jobs.iter().filter(|(_, plan)| plan.when != When::Asked) {
        let expected = oracle::fires(plan, evidence.workload.span.start, evidence.workload.span.end)?;
        let mut executed: BTreeMap<DateTime<Utc>, u32> = BTreeMap::new();
        for past in evidence.past.iter().filter(|p| p.job_id == *job && p.trigger_type == "scheduled") {
            *executed.entry(past.scheduled_at).or_default() += 1;
        }
        let omissions: Vec<&Omitted> = evidence.omitted.iter().filter(|o| o.job_id == *job).collect();
        let mut omitted: BTreeMap<DateTime<Utc>, u32> = BTreeMap::new();
        for omission in &omissions {
            let covered: BTreeSet<_> = expected.range(omission.from_at..=omission.to_at).copied().collect();
            let count = i64::try_from(covered.len()).unwrap_or(i64::MAX);
            findings.check(Invariant::I1, count == omission.count, || {
                format!("{}: an omission of {} covers {count} fires: {omission:?}", plan.name, omission.count)
            });
            findings.check(Invariant::I1, is_reason(omission, plan, *job, &active), || {
                format!("{}: the reason of an omission does not hold: {omission:?}", plan.name)
            });
            covered.into_iter().for_each(|at| *omitted.entry(at).or_default() += 1);
        }
        for at in &expected {
            let (ran, left_out) =
                (executed.get(at).copied().unwrap_or_default(), omitted.get(at).copied().unwrap_or_default());
            findings.check(Invariant::I1, ran + left_out == 1, || {
                format!("{}: the fire of {at} has {ran} executions and {left_out} omissions", plan.name)
            });
        }
        let strange: Vec<_> = executed.keys().filter(|at| !expected.contains(at)).collect();
        findings.check(Invariant::I1, strange.is_empty(), || format!("{}: it fired at {strange:?}", plan.name));
    }
    early(evidence, findings);
    Ok(())
}

/// Whether there was a reason.
fn is_reason(omission: &Omitted, plan: &JobPlan, job: Uuid, active: &Active) -> bool {
    let at = omission.created_at;
    match omission.reason.as_str() {
        "overlap" => {
            let others = active.get(&job).into_iter().flatten();
            let at_once = others.filter(|(_, from, to)| *from <= omission.committed && at <= *to + LEEWAY).count();
            plan.limit > 0 && at_once >= usize::try_from(plan.limit).unwrap_or(usize::MAX)
        }
        "coalesced" | "misfire" | "max_count" | "max_lateness" => at - omission.from_at >= GRACE - LEEWAY,
        _ => false,
    }
}

/// Nothing begins before its instant. An agent may hold it before, if it was given it as a fire that was planned.
fn early(evidence: &Evidence, findings: &mut Findings) {
    let released = evidence.changes.iter().filter(|change| change.new_state.is_some_and(|state| state >= PENDING));
    for change in released.filter(|change| change.source == "live") {
        let is_due = change.scheduled_at.is_none_or(|due| due <= change.at) || change.is_armed();
        findings.check(Invariant::I1, is_due, || format!("it was released early: {change:?}"));
    }
    for entry in evidence.ledger.iter().filter(|entry| entry.begins) {
        let Ok(due) = entry.scheduled_at.parse::<DateTime<Utc>>() else { continue };
        findings.check(Invariant::I1, entry.wall_ms >= due.timestamp_millis(), || format!("it began early: {entry:?}"));
    }
}

/// Each trigger ran once, however often it was asked for.
pub(super) fn check_asked(evidence: &Evidence, findings: &mut Findings) {
    let answers = &evidence.answers;
    findings.check(Invariant::I1, answers.unanswered.is_empty(), || format!("no answer to {:?}", answers.unanswered));
    findings.check(Invariant::I1, answers.refused.is_empty(), || format!("refused: {:?}", answers.refused));
    let done: BTreeSet<Uuid> = evidence.past.iter().filter(|p| p.trigger_type == "manual").map(|p| p.id).collect();
    let mut named = BTreeSet::new();
    for asked in &answers.asked {
        let distinct: BTreeSet<Uuid> = asked.executions.iter().copied().collect();
        findings.check(Invariant::I1, distinct.len() == 1, || format!("one key, several executions: {asked:?}"));
        findings
            .check(Invariant::I1, distinct.is_subset(&done), || format!("it was accepted and never ran: {asked:?}"));
        named.extend(distinct);
    }
    let unnamed: Vec<_> = done.difference(&named).collect();
    let unknown = answers.unanswered.len();
    findings.check(Invariant::I1, unnamed.len() <= unknown, || format!("nobody was told of {unnamed:?}"));
}
