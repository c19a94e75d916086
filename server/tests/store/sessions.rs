//! Agents' sessions.

use std::time::Duration;

use orrery_proto::v1::{Delivery, ExecutionStatus};
use orrery_server::execution::State;
use orrery_server::store::*;
use uuid::Uuid;

use crate::support::*;

async fn listed(store: &DynStore, tenant: Uuid) -> Vec<Session> {
    store.sessions(tenant, &Page { after: None, limit: 100 }).await.unwrap()
}

pub async fn a_session_opens_and_is_listed(store: DynStore) {
    let before = now(&store).await;
    let opened = session(&store, "agent").await;
    assert_eq!(opened.agent, agent("agent"));
    assert_eq!((opened.attachment, opened.attached, opened.draining, opened.running), (1, true, false, 0));
    assert!(opened.opened_at >= before && opened.renewed_at == opened.opened_at);
    assert_eq!(opened.expires_at, opened.opened_at + MINUTE);
    let job = job(&store, "a").await;
    leased(&store, &job, &opened).await;
    assert_eq!(listed(&store, TENANT).await, [Session { running: 1, ..opened }]);
    let shared = store.open_session(&NewSession { tenant_id: None, ..agent("shared") }, MINUTE).await.unwrap();
    assert_eq!(listed(&store, OTHER_TENANT).await, [shared]);
    dead_session(&store, "dead").await;
    assert_eq!(listed(&store, TENANT).await.len(), 2);
}

pub async fn a_session_resumes_under_a_new_attachment(store: DynStore) {
    let opened = session(&store, "agent").await;
    store.detach_session(opened.id, 1).await.unwrap();
    let moved =
        NewSession { coordinator_id: Uuid::from_u128(5), address: "elsewhere".to_owned(), slots: 3, ..agent("agent") };
    let resumed = store.resume_session(opened.id, &moved, &Holding::default(), MINUTE).await.unwrap().unwrap().session;
    assert_eq!((resumed.id, resumed.attachment, resumed.attached), (opened.id, 2, true));
    assert_eq!(resumed.agent, moved);
    assert!(resumed.expires_at > opened.expires_at && resumed.opened_at == opened.opened_at);
    // The coordinator that lost it speaks no more.
    store.detach_session(opened.id, 1).await.unwrap();
    store.close_session(opened.id, 1).await.unwrap();
    assert_eq!(listed(&store, TENANT).await, [resumed]);
}

pub async fn resuming_takes_back_what_is_not_named(store: DynStore) {
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let kept = leased(&store, &job, &agent).await;
    let begun = leased(&store, &job, &agent).await;
    apply(&store, &begun, started(&begun)).await.unwrap();
    let unseen = leased(&store, &job, &agent).await;
    // A lease is named with its epoch: another epoch of it is not held.
    let named = [(kept.id, kept.epoch), (unseen.id, unseen.epoch + 1)];
    let resumed = store.resume_session(agent.id, &agent.agent, &holding(&named), MINUTE).await.unwrap().unwrap();
    assert_eq!(resumed.held, [Held { session_id: agent.id, execution_id: kept.id, epoch: kept.epoch }]);
    let mut back: Vec<_> = resumed.taken_back.iter().map(|e| (e.id, e.state.clone(), e.losses)).collect();
    back.sort_by_key(|(id, ..)| *id);
    assert_eq!(back, [(begun.id, State::Pending, 1), (unseen.id, State::Pending, 0)]);
    assert_eq!(store.held(agent.id).await.unwrap(), resumed.held);
}

pub async fn resuming_takes_back_for_good_what_may_run_once(store: DynStore) {
    let job = job_with(&store, "a", |j| j.spec.delivery = Delivery::AtMostOnce).await;
    let agent = session(&store, "agent").await;
    leased(&store, &job, &agent).await;
    let resumed = store.resume_session(agent.id, &agent.agent, &Holding::default(), MINUTE).await.unwrap().unwrap();
    assert_eq!(resumed.taken_back[0].status(), ExecutionStatus::Failed);
}

pub async fn who_has_held_a_session_all_along_knows_what_it_has_not_begun(store: DynStore) {
    let job = job_with(&store, "a", |j| j.spec.delivery = Delivery::AtMostOnce).await;
    let agent = session(&store, "agent").await;
    let begun = leased(&store, &job, &agent).await;
    apply(&store, &begun, started(&begun)).await.unwrap();
    let never_came = leased(&store, &job, &agent).await;
    let same_process = Holding { leases: &[], continued: true };
    store.resume_session(agent.id, &agent.agent, &same_process, MINUTE).await.unwrap().unwrap();
    assert_eq!(execution(&store, begun.id).await.status(), ExecutionStatus::Failed);
    let never_came = execution(&store, never_came.id).await;
    assert_eq!((&never_came.state, never_came.attempt, never_came.losses), (&State::Pending, 0, 0));
}

pub async fn nothing_is_granted_to_an_older_attachment(store: DynStore) {
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let waiting = trigger(&store, &job).await;
    let resumed =
        store.resume_session(agent.id, &agent.agent, &Holding::default(), MINUTE).await.unwrap().unwrap().session;
    assert!(claim(&store, &agent, 1).await.grants.is_empty());
    let granted = claim(&store, &resumed, 1).await.grants.remove(0);
    assert_eq!((granted.execution.id, granted.attachment), (waiting.id, 2));
}

pub async fn another_agent_cannot_resume(store: DynStore) {
    let opened = session(&store, "agent").await;
    let other_name = store.resume_session(opened.id, &agent("other"), &Holding::default(), MINUTE).await.unwrap();
    let other_tenant = NewSession { tenant_id: Some(OTHER_TENANT), ..agent("agent") };
    let other_tenant = store.resume_session(opened.id, &other_tenant, &Holding::default(), MINUTE).await.unwrap();
    let all_tenants = NewSession { tenant_id: None, ..agent("agent") };
    let all_tenants = store.resume_session(opened.id, &all_tenants, &Holding::default(), MINUTE).await.unwrap();
    let unknown = store.resume_session(Uuid::new_v4(), &agent("agent"), &Holding::default(), MINUTE).await.unwrap();
    assert_eq!((other_name, other_tenant, all_tenants, unknown), (None, None, None, None));
    assert_eq!(listed(&store, TENANT).await, [opened]);
    let dead = dead_session(&store, "dead").await;
    assert_eq!(store.resume_session(dead.id, &agent("dead"), &Holding::default(), MINUTE).await.unwrap(), None);
}

pub async fn only_the_newest_attachment_renews(store: DynStore) {
    let (one, two) = (session(&store, "one").await, session(&store, "two").await);
    store.resume_session(one.id, &agent("one"), &Holding::default(), MINUTE).await.unwrap().unwrap();
    let hour = Duration::from_secs(3600);
    assert_eq!(
        store.renew_sessions(&[(one.id, 1), (two.id, 1), (Uuid::new_v4(), 1)], hour).await.unwrap().renewed,
        [two.id]
    );
    assert_eq!(store.renew_sessions(&[(one.id, 2)], hour).await.unwrap().renewed, [one.id]);
    assert!(store.renew_sessions(&[], hour).await.unwrap().renewed.is_empty());
    for session in listed(&store, TENANT).await {
        assert_eq!(session.expires_at, session.renewed_at + hour);
        assert!(session.renewed_at > session.opened_at);
    }
}

pub async fn the_dead_are_not_renewed(store: DynStore) {
    let dead = dead_session(&store, "dead").await;
    assert!(store.renew_sessions(&[(dead.id, 1)], MINUTE).await.unwrap().renewed.is_empty());
    assert!(!store.drain_session(Some(TENANT), dead.id).await.unwrap());
}

pub async fn closing_takes_leases_back(store: DynStore) {
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let once = job_with(&store, "once", |j| j.spec.delivery = Delivery::AtMostOnce).await;
    let begun = leased(&store, &job, &agent).await;
    apply(&store, &begun, started(&begun)).await.unwrap();
    let untouched = leased(&store, &job, &agent).await;
    let at_most_once = leased(&store, &once, &agent).await;
    store.close_session(agent.id, agent.attachment).await.unwrap();
    let begun = execution(&store, begun.id).await;
    assert_eq!((&begun.state, begun.losses), (&State::Pending, 1));
    let untouched = execution(&store, untouched.id).await;
    assert_eq!((&untouched.state, untouched.losses, untouched.attempt), (&State::Pending, 0, 0));
    assert_eq!(execution(&store, at_most_once.id).await.state, State::Pending);
    assert!(store.held(agent.id).await.unwrap().is_empty());
    assert!(listed(&store, TENANT).await.is_empty());
    store.close_session(agent.id, agent.attachment).await.unwrap();
}

pub async fn draining_is_by_tenant(store: DynStore) {
    let own = session(&store, "own").await;
    let shared = store.open_session(&NewSession { tenant_id: None, ..agent("shared") }, MINUTE).await.unwrap();
    assert!(!store.drain_session(Some(OTHER_TENANT), own.id).await.unwrap());
    assert!(!store.drain_session(Some(TENANT), shared.id).await.unwrap());
    assert!(!store.drain_session(None, Uuid::new_v4()).await.unwrap());
    assert!(listed(&store, TENANT).await.iter().all(|s| !s.draining));
    assert!(store.drain_session(Some(TENANT), own.id).await.unwrap());
    assert!(store.drain_session(None, shared.id).await.unwrap());
    assert!(listed(&store, TENANT).await.iter().all(|s| s.draining));
}

pub async fn sessions_page(store: DynStore) {
    for n in 0..5 {
        session(&store, &format!("agent {n}")).await;
    }
    let all = listed(&store, TENANT).await;
    let first = store.sessions(TENANT, &Page { after: None, limit: 2 }).await.unwrap();
    let rest = store.sessions(TENANT, &Page { after: Some(first[1].id), limit: 10 }).await.unwrap();
    assert_eq!([first, rest].concat(), all);
    assert!(all.is_sorted_by_key(|s| s.id));
}

pub async fn detaching_keeps_the_session(store: DynStore) {
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let leased = leased(&store, &job, &agent).await;
    store.detach_session(agent.id, 1).await.unwrap();
    let kept = listed(&store, TENANT).await.remove(0);
    assert_eq!((kept.attached, kept.running, kept.expires_at), (false, 1, agent.expires_at));
    apply(&store, &leased, completed(&leased)).await.unwrap();
}

pub async fn an_outage_costs_no_session(store: DynStore) {
    let (short, long) = (dead_session(&store, "short").await, session(&store, "long").await);
    let (us, other) = (Uuid::from_u128(50), Uuid::from_u128(51));
    let beat = |id| CoordinatorRow {
        id,
        version: String::new(),
        address: String::new(),
        started_at: short.opened_at,
        last_seen_at: short.opened_at,
        clock_offset_ms: 0.0,
        sessions: 0,
        build: String::new(),
        leases: 0,
        draining: false,
    };
    let grace = Duration::from_secs(30);
    store.beat(&beat(other)).await.unwrap();
    assert_eq!(store.spare_sessions(us, MINUTE, grace).await.unwrap(), 0, "another coordinator could renew them");
    store.retire(other).await.unwrap();
    store.beat(&beat(us)).await.unwrap();
    assert_eq!(store.spare_sessions(us, MINUTE, grace).await.unwrap(), 1);
    assert!(store.reap(MINUTE, 10).await.unwrap().sessions.is_empty());
    let page = Page { after: None, limit: 10 };
    let living = store.sessions(TENANT, &page).await.unwrap();
    let left = |id| living.iter().find(|s| s.id == id).map(|s| (s.expires_at - s.renewed_at).num_seconds());
    assert!(left(short.id) >= Some(29), "{:?}", left(short.id));
    assert_eq!(left(long.id), Some(60), "what lives long enough is left alone");
    let renewed = store.renew_sessions(&[(short.id, 1)], MINUTE).await.unwrap();
    assert_eq!((renewed.renewed, renewed.busy), (vec![short.id], vec![]));
}
