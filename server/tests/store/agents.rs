//! Agents that enrol, renew and are revoked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use orrery_server::execution::Rejected;
use orrery_server::store::*;
use uuid::Uuid;

use crate::support::*;

const HOUR: Duration = Duration::from_secs(3600);
const ADMIN: Uuid = Uuid::from_u128(77);

fn scope(tenant_id: Option<Uuid>) -> AgentScope {
    AgentScope {
        tenant_id,
        name: "db-1".to_owned(),
        queues: vec!["default".to_owned(), "reports".to_owned()],
        labels: BTreeMap::from([("zone".to_owned(), "eu".to_owned())]),
        created_by: ADMIN,
    }
}

async fn token(store: &DynStore, hash: u8, tenant: Option<Uuid>, ttl: Duration) -> JoinToken {
    let token = NewJoinToken { id: Uuid::now_v7(), hash: [hash; 32], scope: scope(tenant) };
    store.insert_join_token(&token, ttl).await.unwrap()
}

async fn certified(store: &DynStore, serial: &str, seconds: i64) -> Certified {
    Certified { serial: serial.to_owned(), expires_at: seconds_from_now(store, seconds).await }
}

/// An agent of a tenant, whose certificate is good for so many seconds.
pub(crate) async fn enrolled(store: &DynStore, hash: u8, tenant: Option<Uuid>, seconds: i64) -> EnrolledAgent {
    token(store, hash, tenant, HOUR).await;
    let certificate = certified(store, "01", seconds).await;
    store.enrol(&[hash; 32], Uuid::now_v7(), &certificate).await.unwrap().unwrap()
}

async fn listed(store: &DynStore, tenant: Uuid) -> Vec<Uuid> {
    let page = Page { after: None, limit: 100 };
    store.enrolled_agents(tenant, &page).await.unwrap().into_iter().map(|agent| agent.id).collect()
}

pub async fn a_join_token_lets_one_agent_in(store: DynStore) {
    let stored = token(&store, 1, Some(TENANT), HOUR).await;
    assert_eq!(store.join_token(&[1; 32]).await.unwrap(), Some(stored));
    assert_eq!(store.join_token(&[2; 32]).await.unwrap(), None);
    let (id, certificate) = (Uuid::now_v7(), certified(&store, "0a", 60).await);
    let agent = store.enrol(&[1; 32], id, &certificate).await.unwrap().unwrap();
    assert_eq!((agent.id, &agent.scope, &agent.certificate), (id, &scope(Some(TENANT)), &certificate));
    assert_eq!((agent.revoked_at, agent.renewed_at), (None, agent.enrolled_at));
    assert_eq!(store.enrolled_agent(id).await.unwrap(), Some(agent));
    // It is used up.
    assert_eq!(store.join_token(&[1; 32]).await.unwrap(), None);
    assert_eq!(store.enrol(&[1; 32], Uuid::now_v7(), &certificate).await.unwrap(), None);
    assert_eq!(listed(&store, TENANT).await, [id]);
}

pub async fn of_many_with_one_token_one_enrols(store: DynStore) {
    token(&store, 1, Some(TENANT), HOUR).await;
    let certificate = certified(&store, "0a", 60).await;
    let all = (0..16).map(|_| {
        let (store, certificate) = (store.clone(), certificate.clone());
        tokio::spawn(async move { store.enrol(&[1; 32], Uuid::now_v7(), &certificate).await.unwrap() })
    });
    let mut enrolled = Vec::new();
    for one in all.collect::<Vec<_>>() {
        enrolled.extend(one.await.unwrap());
    }
    assert_eq!(enrolled.len(), 1);
    assert_eq!(listed(&store, TENANT).await, [enrolled[0].id]);
}

pub async fn a_token_that_has_expired_lets_nobody_in(store: DynStore) {
    token(&store, 1, Some(TENANT), Duration::ZERO).await;
    let certificate = certified(&store, "0a", 60).await;
    assert_eq!(store.join_token(&[1; 32]).await.unwrap(), None);
    assert_eq!(store.enrol(&[1; 32], Uuid::now_v7(), &certificate).await.unwrap(), None);
}

pub async fn agents_are_their_tenants(store: DynStore) {
    let mine = enrolled(&store, 1, Some(TENANT), 60).await;
    let others = enrolled(&store, 2, Some(OTHER_TENANT), 60).await;
    let shared = enrolled(&store, 3, None, 60).await;
    assert_eq!(listed(&store, TENANT).await, [shared.id, mine.id]);
    assert_eq!(listed(&store, OTHER_TENANT).await, [shared.id, others.id]);
    let page = Page { after: Some(shared.id), limit: 1 };
    assert_eq!(store.enrolled_agents(TENANT, &page).await.unwrap(), [mine]);
    // Neither another tenant's nor everybody's is a tenant's to revoke.
    for id in [others.id, shared.id, Uuid::now_v7()] {
        assert_eq!(store.revoke_agent(Some(TENANT), id, ADMIN).await.unwrap(), None);
    }
    assert_eq!(store.enrolled_agent(others.id).await.unwrap(), Some(others));
    assert!(store.revoke_agent(None, shared.id, ADMIN).await.unwrap().is_some());
}

pub async fn a_renewal_is_noted_until_the_agent_is_revoked(store: DynStore) {
    let agent = enrolled(&store, 1, Some(TENANT), 60).await;
    let next = certified(&store, "0b", 120).await;
    let renewed = store.renew_agent(agent.id, &next).await.unwrap().unwrap();
    assert_eq!((renewed.certificate, renewed.enrolled_at), (next.clone(), agent.enrolled_at));
    assert!(renewed.renewed_at >= agent.renewed_at);
    assert_eq!(store.renew_agent(Uuid::now_v7(), &next).await.unwrap(), None);
    let revoked = store.revoke_agent(Some(TENANT), agent.id, ADMIN).await.unwrap().unwrap();
    assert!(revoked.revoked_at.is_some() && revoked.revoked_by == Some(ADMIN));
    assert_eq!(store.renew_agent(agent.id, &next).await.unwrap(), None);
    // Who did it first has done it.
    let again = store.revoke_agent(None, agent.id, Uuid::from_u128(5)).await.unwrap();
    assert_eq!(again, Some(revoked));
}

pub async fn nothing_counts_that_a_revoked_agent_says(store: DynStore) {
    let enrolled = enrolled(&store, 1, Some(TENANT), 60).await;
    let as_enrolled = NewSession { agent_id: Some(enrolled.id), ..agent("agent") };
    let opened = store.open_session(&as_enrolled, MINUTE).await.unwrap();
    assert_eq!(opened.agent, as_enrolled);
    let bystander = session(&store, "bystander").await;
    let job = job(&store, "a").await;
    let lease = leased(&store, &job, &opened).await;
    apply(&store, &lease, started(&lease)).await.unwrap();
    store.revoke_agent(Some(TENANT), enrolled.id, ADMIN).await.unwrap().unwrap();
    assert_eq!(apply(&store, &lease, completed(&lease)).await, Err(Rejected::SessionOver { epoch: lease.epoch }));
    let both = [(opened.id, 1), (bystander.id, 1)];
    assert_eq!(store.renew_sessions(&both, MINUTE).await.unwrap().renewed, [bystander.id]);
    assert_eq!(store.resume_session(opened.id, &as_enrolled, &Holding::default(), MINUTE).await.unwrap(), None);
    // An outage spares sessions, but not this one: its work goes to others.
    store.spare_sessions(Uuid::from_u128(1), Duration::ZERO, HOUR).await.unwrap();
    let reaped = store.reap(Duration::ZERO, 100).await.unwrap();
    assert_eq!(reaped.sessions, [opened.id]);
    assert_eq!(execution(&store, lease.id).await.losses, 1);
}

pub async fn who_may_not_be_connected_is_named(store: DynStore) {
    let good = enrolled(&store, 1, Some(TENANT), 60).await;
    let revoked = enrolled(&store, 2, Some(TENANT), 60).await;
    let expired = enrolled(&store, 3, Some(TENANT), -1).await;
    let unknown = Uuid::now_v7();
    store.revoke_agent(None, revoked.id, ADMIN).await.unwrap();
    let mut sessions = Vec::new();
    for id in [good.id, expired.id, revoked.id] {
        let as_enrolled = NewSession { agent_id: Some(id), ..agent("agent") };
        sessions.push(store.open_session(&as_enrolled, MINUTE).await.unwrap());
    }
    let refused = store.end_refused_agents(&[good.id, revoked.id, expired.id, unknown]).await.unwrap();
    assert_eq!(BTreeSet::from_iter(refused), BTreeSet::from([revoked.id, expired.id, unknown]));
    let living = store.sessions(TENANT, &Page { after: None, limit: 100 }).await.unwrap();
    assert_eq!(living.iter().map(|session| session.id).collect::<Vec<_>>(), [sessions[0].id]);
    assert!(store.end_refused_agents(&[good.id]).await.unwrap().is_empty());
}

pub async fn a_session_is_its_agents_alone(store: DynStore) {
    let (one, other) = (enrolled(&store, 1, Some(TENANT), 60).await, enrolled(&store, 2, Some(TENANT), 60).await);
    let of = |id| NewSession { agent_id: id, ..agent("agent") };
    let opened = store.open_session(&of(Some(one.id)), MINUTE).await.unwrap();
    for stranger in [Some(other.id), None] {
        let resumed = store.resume_session(opened.id, &of(stranger), &Holding::default(), MINUTE).await.unwrap();
        assert_eq!(resumed, None, "{stranger:?}");
    }
    assert!(store.resume_session(opened.id, &of(Some(one.id)), &Holding::default(), MINUTE).await.unwrap().is_some());
}
