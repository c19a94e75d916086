//! Each invariant holds for evidence of a small run that went well, and is violated once one fact of it is changed.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{Invariant, Promises, all};
use crate::caller::{Answers, Asked};
use crate::evidence::{Evidence, leases};
use crate::journal::{BY_SCHEDULE, Change, LEASED, Omitted, PENDING, Past};
use crate::ledger::Entry;
use crate::watch::Sighting;
use crate::workload::{JobPlan, Span, When, Workload};

const JOB: Uuid = Uuid::from_u128(1);
const SESSION: Uuid = Uuid::from_u128(2);

fn at(millis: i64) -> DateTime<Utc> {
    let start: DateTime<Utc> = "2026-03-01T10:00:00Z".parse().unwrap();
    start + TimeDelta::milliseconds(millis)
}

fn execution(second: i64) -> Uuid {
    Uuid::from_u128(100 + u128::try_from(second).unwrap())
}

fn change(id: i64, millis: i64, source: &str, op: &str, second: i64) -> Change {
    Change {
        id,
        at: at(millis),
        began: at(millis),
        committed: at(millis),
        source: source.into(),
        op: op.into(),
        execution: Some(execution(second)),
        job: Some(JOB),
        scheduled_at: Some(at(second * 1000)),
        run_at: Some(at(second * 1000)),
        trigger_type: Some(BY_SCHEDULE),
        old_state: None,
        new_state: None,
        old_epoch: None,
        new_epoch: None,
        old_session: None,
        new_session: None,
        attempt: Some(0),
        was_started: None,
        is_started: None,
        deadline: None,
        status: None,
        session_expires: None,
        name: None,
        coordinator: None,
        attachment: None,
    }
}

/// One fire, from its plan to its end, 1.2 seconds after its instant.
fn life(second: i64) -> Vec<Change> {
    let (id, due) = (second * 10, second * 1000);
    let planned = Change { new_state: Some(0), new_epoch: Some(0), ..change(id, due - 4000, "live", "insert", second) };
    let moved = |n, millis| change(id + n, due + millis, "live", "update", second);
    let epochs = |old, new| (Some(old), Some(new));
    let released =
        Change { old_state: Some(0), new_state: Some(PENDING), old_epoch: Some(0), new_epoch: Some(0), ..moved(1, 5) };
    let (old_epoch, new_epoch) = epochs(0, 1);
    let leased = Change {
        old_state: Some(PENDING),
        new_state: Some(LEASED),
        old_epoch,
        new_epoch,
        new_session: Some(SESSION),
        deadline: Some(at(due + 30_000)),
        ..moved(2, 10)
    };
    let held = Change { old_session: Some(SESSION), session_expires: Some(at(due + 9000)), ..moved(3, 20) };
    let (old_epoch, new_epoch) = epochs(1, 1);
    let started = Change {
        old_state: Some(LEASED),
        new_state: Some(LEASED),
        old_epoch,
        new_epoch,
        new_session: Some(SESSION),
        was_started: Some(false),
        is_started: Some(true),
        ..held.clone()
    };
    let ended = Change {
        new_epoch: Some(1),
        new_session: Some(SESSION),
        status: Some("completed".into()),
        session_expires: Some(at(due + 9000)),
        ..change(id + 4, due + 1200, "history", "insert", second)
    };
    let gone = Change {
        op: "delete".into(),
        id: id + 5,
        at: at(due + 1200),
        committed: at(due + 1200),
        old_state: Some(LEASED),
        old_epoch: Some(1),
        ..held
    };
    vec![planned, released, leased, started, ended, gone]
}

fn past(second: i64) -> Past {
    Past {
        id: execution(second),
        job_id: JOB,
        trigger_type: "scheduled".into(),
        status: "completed".into(),
        scheduled_at: at(second * 1000),
        completed_at: at(second * 1000 + 1200),
        epoch: 1,
        attempt: 1,
        losses: 0,
        worker_id: Some(SESSION),
        result: Some(r#"{"stdout": "epoch=1\n"}"#.into()),
        attempts: Some(r#"[{"outcome": "completed"}]"#.into()),
        error_message: None,
    }
}

fn run(second: i64) -> [Entry; 2] {
    let due = at(second * 1000);
    let entry = |begins, millis: i64| Entry {
        execution: execution(second),
        job: JOB,
        epoch: 1,
        attempt: 1,
        begins,
        monotonic_ms: second * 1000 + millis,
        wall_ms: due.timestamp_millis() + millis,
        scheduled_at: due.to_rfc3339(),
        pid: 7,
    };
    [entry(true, 30), entry(false, 400)]
}

/// Three fires in three seconds; the second was left out while the first was active.
fn good() -> Evidence {
    let plan = JobPlan { when: When::Every(1000), limit: 1, ..JobPlan::named("job") };
    let changes: Vec<Change> = [0, 2].into_iter().flat_map(life).collect();
    let seen = Sighting { execution: execution(0), epoch: 1, pid: 7, first: at(30), last: at(400) };
    Evidence {
        ttl: Duration::from_secs(4),
        workload: Workload { span: Span { start: at(0), end: at(2000) }, jobs: vec![(JOB, plan)] },
        leases: leases(&changes),
        changes,
        past: vec![past(0), past(2)],
        omitted: vec![Omitted {
            job_id: JOB,
            reason: "overlap".into(),
            from_at: at(1000),
            to_at: at(1000),
            count: 1,
            created_at: at(1005),
            committed: at(1010),
        }],
        ledger: [0, 2].into_iter().flat_map(run).collect(),
        answers: Answers::default(),
        sightings: vec![seen],
        left_over: Vec::new(),
        open_transactions: 0,
        resident: vec![("coordinator-0".into(), 50)],
        outages: Duration::ZERO,
    }
}

/// What is violated once the evidence is changed so.
fn violated(spoil: impl FnOnce(&mut Evidence)) -> Vec<Invariant> {
    let mut evidence = good();
    spoil(&mut evidence);
    evidence.leases = leases(&evidence.changes);
    let found = all(&evidence, Promises { lossless: true }).unwrap();
    let mut violated: Vec<Invariant> = found.violations.iter().map(|violation| violation.invariant).collect();
    violated.sort();
    violated.dedup();
    violated
}

#[test]
fn what_went_well_is_well() {
    assert_eq!(violated(|_| {}), []);
}

#[test]
fn fires_that_are_lost_doubled_early_or_left_out_for_no_reason_are_seen() {
    use Invariant::I1;
    assert_eq!(violated(|e| e.omitted.clear()), [I1]);
    assert_eq!(violated(|e| e.omitted[0].count = 2), [I1]);
    assert_eq!(violated(|e| e.omitted[0].reason = "paused".into()), [I1]);
    assert_eq!(violated(|e| e.omitted[0].created_at = at(60_000)), [I1]);
    assert!(violated(|e| e.past.push(past(2))).contains(&I1));
    assert_eq!(violated(|e| e.past[1].scheduled_at = at(1500)), [I1]);
    assert_eq!(violated(|e| e.changes[1].at = at(-5)), [I1]);
    assert_eq!(violated(|e| e.ledger[0].wall_ms -= 31), [I1]);
    assert_eq!(violated(|e| e.answers.unanswered.push("a".into())), [I1]);
    let asked = |executions| Asked { key: "a".into(), executions, calls: 2, cancelled: false };
    assert_eq!(violated(|e| e.answers.asked.push(asked(vec![Uuid::max()]))), [I1]);
    assert_eq!(violated(|e| e.past[1].trigger_type = "manual".into()), [I1]);
}

/// The first fire as it is where it was granted ahead of its instant.
fn ahead(evidence: &mut Evidence) {
    evidence.changes.remove(1);
    let leased = &mut evidence.changes[1];
    (leased.at, leased.began, leased.committed, leased.old_state) = (at(-900), at(-905), at(-895), Some(0));
}

#[test]
fn a_fire_may_be_held_before_its_instant_and_not_begun() {
    use Invariant::I1;
    assert_eq!(violated(ahead), []);
    let begun = |e: &mut Evidence| {
        ahead(e);
        e.changes[2].at = at(-5);
    };
    assert_eq!(violated(begun), [I1]);
    let asked = |e: &mut Evidence| {
        ahead(e);
        e.changes[1].trigger_type = Some(2);
    };
    assert_eq!(violated(asked), [I1]);
}

#[test]
fn an_end_that_changes_is_seen() {
    use Invariant::I2;
    assert!(violated(|e| e.changes[4].op = "update".into()).contains(&I2));
    let again = |e: &mut Evidence| e.changes.push(Change { id: 99, ..e.changes[1].clone() });
    assert!(violated(again).contains(&I2));
}

#[test]
fn words_of_old_epochs_and_dead_sessions_are_seen() {
    use Invariant::I3;
    assert_eq!(violated(|e| e.changes[3].session_expires = Some(at(-1000))), [I3]);
    assert_eq!(violated(|e| e.changes[4].session_expires = None), [I3]);
    assert_eq!(violated(|e| e.changes[4].new_session = Some(JOB)), [I3]);
    assert!(violated(|e| e.changes[2].new_epoch = Some(0)).contains(&I3));
    assert!(violated(|e| e.changes[3].new_epoch = Some(0)).contains(&I3));
    assert_eq!(violated(|e| e.past[0].result = Some("epoch=3".into())), [I3]);
}

#[test]
fn leases_that_last_too_long_or_are_too_many_are_seen() {
    use Invariant::{I4, I5, I9};
    assert!(violated(|e| e.changes[5].at = at(90_000)).contains(&I4));
    assert!(violated(|e| drop(e.changes.pop())).contains(&I4));
    // The first ends after the second has begun.
    let later = |e: &mut Evidence| {
        let mut gone = e.changes.remove(5);
        (gone.id, gone.at) = (23, at(2100));
        e.changes.push(gone);
        e.changes.sort_by_key(|change| change.id);
    };
    assert!(violated(later).contains(&I5));
    let beside = |e: &mut Evidence| e.ledger[1].monotonic_ms = 4000;
    assert_eq!(violated(beside), [I5]);
    assert_eq!(violated(|e| e.open_transactions = 1), [I9]);
    assert_eq!(violated(|e| e.resident[0].1 = 4000), [I9]);
}

#[test]
fn attempts_and_runs_beyond_their_number_are_seen() {
    use Invariant::{I6, I7};
    let told = |e: &mut Evidence, outcomes: &[&str]| {
        let list: Vec<_> = outcomes.iter().map(|outcome| serde_json::json!({"outcome": outcome})).collect();
        e.past[0].attempts = Some(serde_json::Value::from(list).to_string());
    };
    assert_eq!(violated(|e| told(e, &["failed", "failed"])), [I6]);
    assert_eq!(violated(|e| told(e, &["lost", "completed"])), [I6]);
    assert_eq!(violated(|e| e.past[0].status = "failed".into()), [I6]);
    assert!(violated(|e| e.ledger.push(e.ledger[0].clone())).contains(&I7));
    assert_eq!(violated(|e| drop(e.ledger.drain(..2))), [I7]);
    assert!(violated(|e| e.ledger[0].execution = Uuid::max()).contains(&I7));
}

#[test]
fn processes_that_outlive_their_lease_are_seen() {
    use Invariant::I8;
    assert_eq!(violated(|e| e.sightings[0].last = at(4000)), [I8]);
    assert_eq!(violated(|e| e.sightings[0].epoch = 2), [I8]);
    assert_eq!(violated(|e| e.left_over.push((7, JOB, 1))), [I8]);
}
