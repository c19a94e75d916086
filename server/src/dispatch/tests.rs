use std::collections::BTreeMap;
use std::time::Duration;

use chrono::DateTime;
use orrery_proto::v1::TriggerType;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::Strategy;
use crate::execution::{Lease, State};
use crate::job::JobSpec;
use crate::store::{Claimed, Grant, NewSession, Session};

/// How long sessions live here.
const TTL: Duration = Duration::from_secs(15);

/// A session with so many slots, on its first attachment, whose queue holds so many frames.
pub(super) fn attached(id: u128, slots: i32, frames: usize) -> (Attached, mpsc::Receiver<CoordinatorMessage>) {
    let agent = NewSession {
        tenant_id: None,
        agent_id: None,
        name: format!("agent {id}"),
        version: String::new(),
        labels: BTreeMap::new(),
        queues: vec!["default".into()],
        executors: vec!["http".into()],
        slots,
        coordinator_id: Uuid::nil(),
        address: String::new(),
    };
    let at = DateTime::UNIX_EPOCH;
    let session = Session {
        id: Uuid::from_u128(id),
        agent: agent.clone(),
        attachment: 1,
        attached: true,
        draining: false,
        opened_at: at,
        renewed_at: at,
        expires_at: at + TTL,
        running: 0,
    };
    let (sender, outgoing) = mpsc::channel(frames);
    (Attached::new(&session, Arc::new(agent), Leases::new(), sender, CancellationToken::new()), outgoing)
}

/// An execution, leased to session 1 under epoch 1.
pub(super) fn execution(id: u128) -> Execution {
    let at = DateTime::UNIX_EPOCH;
    let lease = Lease {
        session_id: Uuid::from_u128(1),
        worker_name: "agent 1".into(),
        granted_at: at,
        started_at: None,
        deadline: at + TTL,
    };
    Execution {
        id: Uuid::from_u128(id),
        tenant_id: Uuid::from_u128(1),
        job_id: Uuid::from_u128(1),
        job_name: "job".into(),
        trigger: TriggerType::Manual,
        triggered_by: None,
        lane_id: 1,
        queue: "default".into(),
        priority: 0,
        scheduled_at: at,
        run_at: at,
        start_by: None,
        created_at: at,
        state: State::Leased(lease),
        attempt: 1,
        epoch: 1,
        losses: 0,
        job_version: 1,
        progress: 0,
        attempts: vec![],
        parameters: None,
        cancel_requested_at: None,
        cancel_reason: None,
        retry_of: None,
        traceparent: None,
        concurrency: None,
    }
}

pub(super) fn spec(config: String) -> JobSpec {
    JobSpec { config, ..crate::firing::tests::spec() }
}

fn lane(id: i64, queue: &str) -> Lane {
    let (tenant_id, executor) = (Uuid::from_u128(1), "http".into());
    Lane { id, tenant_id, queue: queue.into(), executor, selector: BTreeMap::new() }
}

/// A registry that lets `places` executions run, with one lane, and session 1 with four slots, all of them free.
pub(super) fn dispatch(places: usize) -> (Arc<Dispatch>, mpsc::Receiver<CoordinatorMessage>) {
    let dispatch = Dispatch {
        looked: Mutex::default(),
        registry: Mutex::new(Registry::new(Strategy::LeastLoaded, places)),
        admission: Semaphore::new(1),
        audits: Semaphore::new(1),
        metrics: Metrics::default(),
    };
    dispatch.learn([lane(1, "default")]);
    let (session, outgoing) = attached(1, 4, 16);
    dispatch.attach(session);
    dispatch.with(Uuid::from_u128(1), |session| session.credit(4));
    (Arc::new(dispatch), outgoing)
}

#[test]
fn what_is_reserved_is_nobody_elses_and_comes_back() {
    let (dispatch, _outgoing) = dispatch(100);
    let (one, two) = (dispatch.reservations(), dispatch.reservations());
    assert_eq!(one.reserve_all([1, 1, 1]).iter().flatten().count(), 3);
    assert_eq!((dispatch.free(), dispatch.running()), (1, 3));
    assert_eq!(two.reserve_all([1, 1]).iter().flatten().count(), 1);
    assert_eq!(two.reserve(1), None);
    drop(two);
    assert_eq!(dispatch.free(), 1);
    one.release();
    assert_eq!((dispatch.free(), dispatch.running()), (4, 0));
}

#[test]
fn no_more_is_reserved_than_may_run() {
    let (dispatch, _outgoing) = dispatch(3);
    let one = dispatch.reservations();
    assert_eq!(dispatch.free(), 3);
    assert_eq!(one.reserve_all([1, 1, 1, 1]).iter().flatten().count(), 3);
    assert_eq!(dispatch.free(), 0);
}

#[test]
fn behind_a_backlog_a_few_of_many_places_are_kept() {
    let (dispatch, _outgoing) = dispatch(10_000);
    let (large, _frames) = attached(2, 996, 16);
    dispatch.attach(large);
    dispatch.with(Uuid::from_u128(2), |session| session.credit(996));
    assert_eq!(dispatch.free_and_kept(), (1000, 0));
    dispatch.set_backlog(true);
    assert_eq!(dispatch.free_and_kept(), (1000, 0), "nobody else could come");
    dispatch.learn([lane(2, "default")]);
    assert_eq!(dispatch.free_and_kept(), (1000, 15));
    let one = dispatch.reservations();
    one.reserve_all(vec![1; 990]);
    assert_eq!(dispatch.free_and_kept(), (10, 15), "of all, not of those that are free");
}

#[test]
fn a_lane_that_is_not_known_is_to_be_looked_for() {
    let (dispatch, _outgoing) = dispatch(3);
    let one = dispatch.reservations();
    assert_eq!(one.reserve(1).map(|assignment| assignment.session_id), Some(Uuid::from_u128(1)));
    assert!(!dispatch.misses_lane());
    assert_eq!(one.reserve(2), None);
    assert!(dispatch.misses_lane());
    assert!(dispatch.learn([lane(2, "default")]) && !dispatch.learn([lane(2, "default")]));
    assert!(one.reserve(2).is_some());
}

#[test]
fn a_free_place_is_a_reason_to_claim_where_something_may_wait_for_it() {
    let (dispatch, _outgoing) = dispatch(100);
    assert!(dispatch.may_wait(), "nobody has looked yet");
    dispatch.looked(Looked::through([1], false));
    assert!(!dispatch.may_wait());
    dispatch.looked(Looked::through([1], true));
    assert!(dispatch.may_wait(), "something is at its limit");
    dispatch.looked(Looked::through([1], false));
    dispatch.learn([lane(2, "default")]);
    assert!(dispatch.may_wait(), "nobody has looked into the new lane");
    dispatch.looked(Looked::through([1, 2], false));
    assert!(!dispatch.may_wait());
    dispatch.nobody_is_free();
    assert!(dispatch.may_wait(), "what has come since waits for somebody");
}

#[test]
fn what_is_made_is_next_where_nothing_waits_that_goes_before_it() {
    let (dispatch, _outgoing) = dispatch(100);
    let made = |lane_id, priority| Execution { lane_id, priority, ..execution(9) };
    assert!(!dispatch.is_next(&made(1, 0)), "nobody has looked yet");
    dispatch.looked(Looked::through([1, 2], false));
    assert!(dispatch.is_next(&made(1, -5)) && !dispatch.is_next(&made(3, 0)));
    dispatch.waits(1);
    assert!(dispatch.is_next(&made(1, 0)), "what waits there is about to be claimed");

    // More waits in other lanes than was claimed.
    let grant = |priority| Grant {
        execution: made(1, priority),
        spec: Arc::new(spec("{}".to_owned())),
        timeout: Duration::from_secs(1),
        attachment: 1,
    };
    let claimed = Claimed { grants: vec![grant(5), grant(3)], more: true, left: true, drained: vec![2] };
    dispatch.looked(Looked::of(&claimed, vec![1, 2]));
    assert!(dispatch.is_next(&made(2, 3)) && !dispatch.is_next(&made(2, 2)), "what waits elsewhere is of 3 at most");
    assert!(!dispatch.is_next(&made(1, 9)) && dispatch.may_wait());
    dispatch.waits(2);
    assert!(!dispatch.is_next(&made(2, 3)), "another one waits there, unseen by a claim");
    dispatch.looked(Looked::of(&Claimed { grants: vec![], ..claimed.clone() }, vec![1, 2]));
    assert!(!dispatch.is_next(&made(2, 9)), "somebody else was at all of it");
    dispatch.looked(Looked::of(&Claimed { more: false, left: false, ..claimed }, vec![1, 2]));
    assert!(dispatch.is_next(&made(1, 0)) && !dispatch.may_wait());
}

#[test]
fn credits_of_a_lost_stream_do_not_come_back_to_its_session() {
    let (dispatch, _outgoing) = dispatch(100);
    let one = dispatch.reservations();
    one.reserve_all([1, 1]);
    let (mut newer, _newer_frames) = attached(1, 4, 16);
    newer.attachment = 2;
    dispatch.attach(newer);
    drop(one);
    assert_eq!((dispatch.free(), dispatch.running()), (0, 0), "the newer stream grants credits of its own");
    assert_eq!(dispatch.reservations().reserve(1), None);
}

#[test]
fn who_drains_or_is_cut_off_gets_nothing() {
    let (dispatch, _outgoing) = dispatch(100);
    let (other, _frames) = attached(2, 4, 16);
    let cut = other.cut.clone();
    dispatch.attach(other);
    dispatch.with(Uuid::from_u128(2), |session| session.credit(4));
    assert_eq!(dispatch.free(), 8);
    assert!(dispatch.drain(Uuid::from_u128(1)));
    assert_eq!(dispatch.free(), 4);
    // Without the registry's knowledge, as at the end of the coordinator.
    cut.cancel();
    assert_eq!(dispatch.reservations().reserve(1), None);
    assert_eq!(dispatch.free(), 0);
}

#[test]
fn what_is_known_of_an_execution_ends_with_its_lease_and_its_stream() {
    let (dispatch, _outgoing) = dispatch(100);
    let session = Uuid::from_u128(1);
    let known = |id: u128, epoch: i64| dispatch.with(session, |s| s.known(Uuid::from_u128(id), epoch)).flatten();
    let give = |id: u128| dispatch.with(session, |s| s.take(vec![Arc::new(execution(id))], 0));
    (2..=5).for_each(|id| _ = give(id));
    let running = Execution { progress: 7, ..execution(2) };
    dispatch.with(session, |s| s.learn(Arc::new(running.clone())));
    assert_eq!(known(2, 1).as_deref(), Some(&running));
    assert_eq!(known(2, 2), None, "another lease");
    dispatch.with(session, |s| s.learn(Arc::new(Execution { epoch: 2, ..execution(3) })));
    assert_eq!(known(3, 1).as_deref(), Some(&execution(3)), "what is said of another lease is not about this one");

    dispatch.with(session, |s| s.forget(Uuid::from_u128(2), 1));
    dispatch.with(session, |s| s.learn(Arc::new(running.clone())));
    assert_eq!(known(2, 1), None, "forgotten");
    dispatch.revoke(Held { session_id: session, execution_id: Uuid::from_u128(3), epoch: 1 });
    assert_eq!(known(3, 1), None, "revoked");
    let all = Leases::from([(Uuid::from_u128(4), 1), (Uuid::from_u128(5), 1)]);
    dispatch.with(session, |s| s.audited(&Leases::from([(Uuid::from_u128(5), 1)]), &all));
    assert_eq!((known(4, 1), known(5, 1).is_some()), (None, true), "the store has ended one");

    let (fresh, _frames) = attached(1, 4, 16);
    let held = Leases::from([(Uuid::from_u128(5), 1)]);
    let stored = Session {
        id: session,
        agent: (*fresh.agent).clone(),
        attachment: 2,
        attached: true,
        draining: false,
        opened_at: DateTime::UNIX_EPOCH,
        renewed_at: DateTime::UNIX_EPOCH,
        expires_at: DateTime::UNIX_EPOCH + TTL,
        running: 1,
    };
    let resumed = Attached::new(&stored, fresh.agent.clone(), held, fresh.frames.clone(), CancellationToken::new());
    dispatch.attach(resumed);
    assert_eq!(dispatch.with(session, |s| s.holds(Uuid::from_u128(5), 1)), Some(true));
    assert_eq!(known(5, 1), None, "nothing crosses attachments");
    dispatch.with(session, |s| s.learn(Arc::new(execution(5))));
    assert_eq!(known(5, 1), None, "nor does the answer to a word of the older one");
    give(6);
    dispatch.detach(session, 2);
    assert_eq!(known(6, 1), None);
}
