use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{Findings, Invariant};
use crate::evidence::Evidence;
use crate::journal::Change;

/// Between the clocks of two statements of one transaction.
const LEEWAY: TimeDelta = TimeDelta::milliseconds(100);

/// When sessions were over, whatever their rows said last.
type Ends = HashMap<Uuid, DateTime<Utc>>;

/// One terminal state; epochs that only rise; no word of a session that is over.
pub(crate) fn check(evidence: &Evidence, findings: &mut Findings) {
    let ends: Ends = evidence.changes.iter().filter_map(over).collect();
    let mut ended: HashMap<Uuid, &Change> = HashMap::new();
    let mut newest: HashMap<Uuid, (i64, Option<Uuid>)> = HashMap::new();
    for change in &evidence.changes {
        let Some(execution) = change.execution else { continue };
        if change.source == "history" {
            let first = ended.insert(execution, change);
            findings.check(Invariant::I2, first.is_none() && change.op == "insert", || {
                format!("a terminal state changed: {first:?}, then {change:?}")
            });
            the_end(change, newest.get(&execution).copied(), &ends, findings);
            continue;
        }
        let is_over = ended.contains_key(&execution);
        findings.check(Invariant::I2, !is_over || change.op == "delete", || format!("it came back: {change:?}"));
        moved(change, &ends, findings);
        let epoch = change.new_epoch.or(change.old_epoch).unwrap_or_default();
        newest.insert(execution, (epoch, change.new_session.or(change.old_session)));
    }
    for past in &evidence.past {
        let told = past.result.as_deref().and_then(|text| {
            let (_, rest) = text.split_once("epoch=")?;
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<i64>().ok()
        });
        findings.check(Invariant::I3, told.is_none_or(|epoch| epoch == past.epoch), || {
            format!("the result is epoch {told:?}'s and stands as that of {}: {past:?}", past.epoch)
        });
    }
}

/// A live row's change.
fn moved(change: &Change, ends: &Ends, findings: &mut Findings) {
    let (Some(old), Some(new)) = (change.old_epoch, change.new_epoch) else { return };
    findings.check(Invariant::I3, new >= old, || format!("an epoch went back: {change:?}"));
    let is_granted = change.new_session.is_some() && (change.old_session != change.new_session || old != new);
    findings.check(Invariant::I3, !is_granted || new == old + 1, || format!("a lease without an epoch: {change:?}"));
    let starts = change.was_started == Some(false) && change.is_started == Some(true);
    if starts && !is_granted {
        spoken(change, change.old_session, ends, findings);
    }
}

/// A row of history.
fn the_end(change: &Change, newest: Option<(i64, Option<Uuid>)>, ends: &Ends, findings: &mut Findings) {
    if let Some((epoch, session)) = newest {
        findings.check(Invariant::I3, change.new_epoch == Some(epoch), || format!("epoch {epoch} ended as {change:?}"));
        let by_holder = change.status.as_deref() != Some("completed") || change.new_session == session;
        findings.check(Invariant::I3, by_holder, || format!("{session:?} held it, and it ended as {change:?}"));
    }
    if change.status.as_deref() == Some("completed") {
        spoken(change, change.new_session, ends, findings);
    }
}

/// The session that a change ends, and when it was over.
fn over(change: &Change) -> Option<(Uuid, DateTime<Utc>)> {
    if change.source != "session" || change.op != "delete" {
        return None;
    }
    Some((change.new_session?, change.session_expires.map_or(change.at, |expires| expires.min(change.at))))
}

/// What an agent said was accepted: its session must have lived when the transaction began, which holds the execution's row from before
/// it looks at the session until its end.
fn spoken(change: &Change, session: Option<Uuid>, ends: &Ends, findings: &mut Findings) {
    let end = change.session_expires.or_else(|| ends.get(&session?).copied());
    let lived = end.is_some_and(|end| end + LEEWAY > change.began);
    findings.check(Invariant::I3, lived, || {
        format!("the word of a session that was over at {end:?} was accepted: {change:?}")
    });
}
