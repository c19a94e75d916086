//! Limits by job, key, queue and tenant: they hold, nothing of them leaks, and what is at its limit holds nobody else up.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use orrery_proto::v1::ExecutionStatus;
use orrery_server::admission::{Gate, Room};
use orrery_server::concurrency::Concurrency;
use orrery_server::execution::{Execution, Rejected, State};
use orrery_server::job::Job;
use orrery_server::store::*;
use uuid::Uuid;

use crate::support::*;

const LIMIT: usize = 2;

/// What limits the executions of a test.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Job,
    Key,
    Queue,
    Tenant,
}

const KINDS: [Kind; 4] = [Kind::Job, Kind::Key, Kind::Queue, Kind::Tenant];

/// Jobs of a tenant and a queue of their own, whose executions run [`LIMIT`] at a time in all.
struct Case {
    store: DynStore,
    kind: Kind,
    jobs: Vec<Job>,
    lanes: Vec<i64>,
}

impl Case {
    async fn new(store: &DynStore, kind: Kind) -> Self {
        let (tenant, name) = (Uuid::new_v4(), Uuid::new_v4().to_string());
        let mut jobs = Vec::new();
        // A job shares its limit with nobody.
        for n in 0..if kind == Kind::Job { 1 } else { 2 } {
            let mut job = job_of(tenant, spec(&format!("{kind:?} {n}")));
            job.spec.queue = name.clone();
            (job.spec.retry.max_retries, job.spec.retry.delay_ms) = (1, 3_600_000);
            match kind {
                Kind::Job => job.spec.max_concurrent = LIMIT as i32,
                Kind::Key => job.spec.concurrency = Some(keyed(&name, LIMIT as i32)),
                Kind::Queue | Kind::Tenant => {}
            }
            jobs.push(store.create_jobs(vec![new_job(job)], None).await.unwrap().remove(0));
        }
        if kind == Kind::Queue {
            store.set_queue_limit(tenant, &name, LIMIT as i32, USER).await.unwrap();
        }
        Self { store: store.clone(), kind, jobs, lanes: Vec::new() }
    }

    /// Executions of all its jobs.
    async fn waiting(&mut self, count: usize) {
        for job in &self.jobs {
            let lane = triggers(&self.store, job, count).await[0].lane_id;
            if !self.lanes.contains(&lane) {
                self.lanes.push(lane);
            }
        }
    }

    async fn session(&self, name: &str) -> Session {
        let agent = NewSession { tenant_id: None, ..agent(name) };
        self.store.open_session(&agent, MINUTE).await.unwrap()
    }

    async fn claim(&self, session: &Session, limit: usize) -> Claimed {
        let tenant_limit = if self.kind == Kind::Tenant { LIMIT as i64 } else { 0 };
        claim_within(&self.store, session, &self.lanes, limit, tenant_limit).await
    }

    /// All leases that can be had now.
    async fn leases(&self, session: &Session) -> Vec<Execution> {
        let mut leases = Vec::new();
        loop {
            let claimed = self.claim(session, 10).await;
            let more = claimed.more;
            leases.extend(claimed.grants.into_iter().map(|g| g.execution));
            if !more {
                return leases;
            }
        }
    }

    /// Exactly as many leases can be had as the limit says; and again, when those are over.
    async fn assert_whole(&self, after: &str) {
        let agent = self.session("probe").await;
        for _ in 0..2 {
            let leases = self.leases(&agent).await;
            assert_eq!(leases.len(), LIMIT, "{:?}: {after}", self.kind);
            for lease in leases {
                apply(&self.store, &lease, completed(&lease)).await.unwrap();
            }
        }
    }
}

fn keyed(key: &str, limit: i32) -> Concurrency {
    Concurrency { key: key.to_owned(), limit }
}

pub async fn a_claim_says_whether_anything_waits_still(store: DynStore) {
    for kind in KINDS {
        let mut case = Case::new(&store, kind).await;
        let agent = case.session("worker").await;
        case.waiting(LIMIT).await;
        let mut running = Vec::new();
        let mut left = true;
        for round in 0..20 {
            let claimed = case.claim(&agent, 10).await;
            left = claimed.left;
            running.extend(claimed.grants.into_iter().map(|grant| grant.execution));
            if !claimed.more {
                break;
            }
            assert!(round < 19, "{kind:?}: there is no end of it");
        }
        assert_eq!(running.len(), LIMIT, "{kind:?}");
        let waiting = case.jobs.len() * LIMIT - LIMIT;
        assert_eq!(left, waiting > 0, "{kind:?}: {waiting} wait");
        case.waiting(1).await;
        assert!(case.claim(&agent, 10).await.left, "{kind:?}: it waits for a place");
        for lease in running {
            apply(&store, &lease, completed(&lease)).await.unwrap();
        }
        // Nobody takes what is offered.
        let tenant_limit = if kind == Kind::Tenant { LIMIT as i64 } else { 0 };
        let claim = Claim { lanes: &case.lanes, limit: 10, tenant_limit, timeouts: TIMEOUTS };
        assert!(store.claim(&claim, &|offered| vec![None; offered.len()]).await.unwrap().left, "{kind:?}");
        loop {
            let leases = case.leases(&agent).await;
            if leases.is_empty() {
                break;
            }
            for lease in leases {
                apply(&store, &lease, completed(&lease)).await.unwrap();
            }
        }
        assert!(!case.claim(&agent, 10).await.left, "{kind:?}: nothing waits");
    }
}

/// How far an execution gets before its coordinator or its agent stops.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stop {
    /// The claim is committed, the frame is not sent.
    Granted,
    /// The agent has begun, and said so.
    Started,
    /// The agent has said its end; it was not written.
    FinishedUnwritten,
    /// The end is written; the agent has not been told.
    FinishedUnacknowledged,
}

/// What happens to the session then.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    /// It expires, and one reaper takes all back.
    Expires,
    /// It expires, and the reaper stops after each lease; another one goes on.
    ExpiresUnderAStoppingReaper,
    /// Its agent comes back and knows of no lease.
    ResumesWithout,
    /// Its agent comes back with its leases, and is lost after all.
    ResumesWith,
    /// Its agent says good-bye.
    Closes,
}

const STOPS: [Stop; 4] = [Stop::Granted, Stop::Started, Stop::FinishedUnwritten, Stop::FinishedUnacknowledged];
const THENS: [Then; 5] =
    [Then::Expires, Then::ExpiresUnderAStoppingReaper, Then::ResumesWithout, Then::ResumesWith, Then::Closes];

pub async fn no_crash_leaks_a_place(store: DynStore) {
    for kind in KINDS {
        for stop in STOPS {
            for then in THENS {
                let mut case = Case::new(&store, kind).await;
                case.waiting(8).await;
                crash(&case, stop, then).await;
                case.assert_whole(&format!("{stop:?}, {then:?}")).await;
            }
        }
    }
}

async fn crash(case: &Case, stop: Stop, then: Then) {
    let store = &case.store;
    let agent = case.session("lost").await;
    let mut leases = case.leases(&agent).await;
    assert_eq!(leases.len(), LIMIT, "{:?}", case.kind);
    assert!(case.leases(&agent).await.is_empty(), "{:?}", case.kind);
    for lease in &mut leases {
        if stop != Stop::Granted {
            *lease = apply(store, lease, started(lease)).await.unwrap();
        }
        if stop == Stop::FinishedUnacknowledged {
            apply(store, lease, completed(lease)).await.unwrap();
        }
    }
    let named: Vec<(Uuid, i64)> = leases.iter().map(|lease| (lease.id, lease.epoch)).collect();
    match then {
        Then::Expires => {
            kill(store, &agent).await;
            store.reap(Duration::ZERO, 100).await.unwrap();
        }
        Then::ExpiresUnderAStoppingReaper => {
            kill(store, &agent).await;
            for _ in 0..=LIMIT {
                store.reap(Duration::ZERO, 1).await.unwrap();
            }
        }
        Then::ResumesWithout => {
            store.resume_session(agent.id, &agent.agent, &Holding::default(), MINUTE).await.unwrap().unwrap();
        }
        Then::ResumesWith => {
            let resumed =
                store.resume_session(agent.id, &agent.agent, &holding(&named), MINUTE).await.unwrap().unwrap();
            if stop == Stop::FinishedUnacknowledged {
                // It says it once more, and frees nothing twice.
                for lease in &leases {
                    let again = apply(store, lease, completed(lease)).await;
                    assert!(matches!(again, Err(Rejected::Repeated)), "{again:?}");
                }
            } else {
                assert_eq!(resumed.held.len(), LIMIT);
                assert!(case.leases(&resumed.session).await.is_empty(), "{:?}: what it holds still counts", case.kind);
            }
            kill(store, &resumed.session).await;
            store.reap(Duration::ZERO, 100).await.unwrap();
        }
        Then::Closes => store.close_session(agent.id, agent.attachment).await.unwrap(),
    }
    // What was said too late frees nothing either.
    for lease in leases {
        assert!(apply(store, &lease, completed(&lease)).await.is_err());
    }
}

/// Four agents claim and finish at once; at no moment are more leases live than the limit, by what the agents themselves see.
pub async fn every_limit_holds_under_concurrency(store: DynStore) {
    const RUNS: usize = 40;
    for kind in KINDS {
        let mut case = Case::new(&store, kind).await;
        case.waiting(RUNS).await;
        let runs = RUNS * case.jobs.len();
        let case = Arc::new(case);
        let counters = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0)));
        let agents = (0..4).map(|n| {
            let (case, counters) = (case.clone(), counters.clone());
            tokio::spawn(async move {
                let (running, worst, done) = &*counters;
                let agent = case.session(&format!("agent {n}")).await;
                while done.load(Ordering::SeqCst) < runs {
                    let claimed = case.claim(&agent, 5).await;
                    let now = running.fetch_add(claimed.grants.len(), Ordering::SeqCst) + claimed.grants.len();
                    worst.fetch_max(now, Ordering::SeqCst);
                    for grant in claimed.grants {
                        // Counted as over before it is, so that the count is never too high.
                        running.fetch_sub(1, Ordering::SeqCst);
                        apply(&case.store, &grant.execution, completed(&grant.execution)).await.unwrap();
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                }
            })
        });
        for agent in futures_util::future::join_all(agents).await {
            agent.unwrap();
        }
        assert!(counters.1.load(Ordering::SeqCst) <= LIMIT, "{kind:?}");
    }
}

/// However much waits of what is at its limit, and however many such there are: what is free goes in the same round.
pub async fn a_backlog_at_its_limit_holds_nobody_up(store: DynStore) {
    let free = job(&store, "free").await;
    let limited = job_with(&store, "limited", |j| j.spec.max_concurrent = 1).await;
    let keyed_job = job_with(&store, "keyed", |j| j.spec.concurrency = Some(keyed("k", 1))).await;
    let urgent = job_with(&store, "urgent", |j| {
        j.spec.max_concurrent = 1;
        j.spec.priority = 10;
        j.spec.queue = "urgent".to_owned();
    })
    .await;
    let agent = session(&store, "agent").await;
    for job in [&limited, &keyed_job, &urgent] {
        trigger(&store, job).await;
    }
    assert_eq!(claim(&store, &agent, 10).await.grants.len(), 3);
    triggers(&store, &limited, 20_000).await;
    for job in [&keyed_job, &urgent] {
        triggers(&store, job, 300).await;
    }
    let wanted = trigger(&store, &free).await;
    for limit in [1, 50] {
        let claimed = claim(&store, &agent, limit).await;
        assert_eq!(claimed.grants.iter().map(|g| g.execution.id).collect::<Vec<_>>(), [wanted.id], "{limit}");
        // It is free again for the next one.
        let grant = &claimed.grants[0].execution;
        let (session_id, epoch) = lease(grant);
        apply(&store, grant, orrery_server::execution::Event::Released { session_id, epoch }).await.unwrap();
    }
    let claimed = claim(&store, &agent, 50).await;
    assert_eq!(claimed.grants.len(), 1);
    let claimed = claim(&store, &agent, 50).await;
    assert_eq!((claimed.grants.len(), claimed.more), (0, false), "and then there is nothing to look again for");
}

pub async fn many_jobs_at_their_limit_hold_nobody_up(store: DynStore) {
    let agent = session(&store, "agent").await;
    let mut jobs = Vec::new();
    for n in 0..40 {
        let name = format!("limited {n}");
        let queued = |j: &mut Job| (j.spec.max_concurrent, j.spec.queue) = (1, format!("queue {}", n % 3));
        jobs.push(job_with(&store, &name, queued).await);
    }
    for job in &jobs {
        triggers(&store, job, 20).await;
    }
    let granted: usize = {
        let mut granted = BTreeSet::new();
        for _ in 0..jobs.len() {
            let claimed = claim(&store, &agent, 10).await;
            granted.extend(claimed.grants.iter().map(|g| g.execution.job_id));
            if !claimed.more {
                break;
            }
        }
        granted.len()
    };
    assert_eq!(granted, jobs.len(), "one of each");
    let wanted = trigger(&store, &job(&store, "free").await).await;
    assert_eq!(claim(&store, &agent, 1).await.grants[0].execution.id, wanted.id);
}

/// What waits first goes first, also where it is found behind a backlog.
pub async fn order_holds_behind_a_backlog(store: DynStore) {
    let limited = job_with(&store, "limited", |j| j.spec.max_concurrent = 1).await;
    let low = job_with(&store, "low", |j| j.spec.priority = -1).await;
    let (one, two) = (job(&store, "one").await, job(&store, "two").await);
    let agent = session(&store, "agent").await;
    let first = leased(&store, &limited, &agent).await;
    triggers(&store, &limited, 100).await;
    trigger(&store, &low).await;
    let mut wanted = Vec::new();
    for job in [&one, &two, &one, &two] {
        wanted.push(trigger(&store, job).await.id);
    }
    let claimed = claim(&store, &agent, 4).await;
    assert_eq!(claimed.grants.iter().map(|g| g.execution.id).collect::<Vec<_>>(), wanted);
    apply(&store, &first, completed(&first)).await.unwrap();
    assert_eq!(claim(&store, &agent, 4).await.grants.len(), 2, "the limited one and the low one");
}

pub async fn a_key_is_shared_by_jobs_and_told_apart_by_parameters(store: DynStore) {
    let of = |limit| move |j: &mut Job| j.spec.concurrency = Some(keyed("customer-${parameters.customer}", limit));
    let (a, b) = (job_with(&store, "a", of(3)).await, job_with(&store, "b", of(1)).await);
    let run = |job: &Job, customer: &str| Trigger {
        parameters: Some(format!(r#"{{"customer": "{customer}"}}"#)),
        ..trigger_of(job)
    };
    let agent = session(&store, "agent").await;
    let made = store
        .trigger(vec![run(&a, "x"), run(&a, "x"), run(&a, "y"), run(&a, "x"), run(&a, "x")], &|_, _, _| Ok(()))
        .await
        .unwrap();
    assert_eq!(made[0].concurrency, Some(keyed("customer-x", 3)));
    assert_eq!(execution(&store, made[2].id).await.concurrency, Some(keyed("customer-y", 3)));
    let granted: Vec<Uuid> = claim(&store, &agent, 10).await.grants.iter().map(|g| g.execution.id).collect();
    assert_eq!(granted, [made[0].id, made[1].id, made[2].id, made[3].id], "three of x and one of y");
    // Another job that allows one only: while it waits, one is the limit for all.
    let other = store.trigger(vec![run(&b, "x")], &|_, _, _| Ok(())).await.unwrap().remove(0);
    for id in [made[0].id, made[1].id] {
        let lease = execution(&store, id).await;
        apply(&store, &lease, completed(&lease)).await.unwrap();
        assert!(claim(&store, &agent, 10).await.grants.is_empty(), "the smaller limit holds");
    }
    let last = execution(&store, made[3].id).await;
    apply(&store, &last, completed(&last)).await.unwrap();
    assert_eq!(claim(&store, &agent, 10).await.grants[0].execution.id, made[4].id);
    let fifth = execution(&store, made[4].id).await;
    apply(&store, &fifth, completed(&fifth)).await.unwrap();
    assert_eq!(claim(&store, &agent, 10).await.grants[0].execution.id, other.id);
}

pub async fn an_edit_changes_the_limit_of_what_waits(store: DynStore) {
    let job = job_with(&store, "a", |j| j.spec.concurrency = Some(keyed("k", 1))).await;
    let agent = session(&store, "agent").await;
    triggers(&store, &job, 10).await;
    assert_eq!(claim(&store, &agent, 10).await.grants.len(), 1);
    edit(&store, &job, |j| j.spec.concurrency = Some(keyed("k", 3))).await;
    assert_eq!(claim(&store, &agent, 10).await.grants.len(), 2, "it was raised, for what runs too");
    edit(&store, &job, |j| j.spec.concurrency = Some(keyed("k", 2))).await;
    assert!(claim(&store, &agent, 10).await.grants.is_empty());
    edit(&store, &job, |j| j.spec.concurrency = None).await;
    assert_eq!(claim(&store, &agent, 10).await.grants.len(), 7, "it was taken away");
}

pub async fn a_tenant_may_have_its_own_limit(store: DynStore) {
    let (mine, agent) = (job(&store, "mine").await, session(&store, "agent").await);
    let waiting = triggers(&store, &mine, 20).await;
    let mut theirs = job_of(OTHER_TENANT, spec("theirs"));
    theirs.spec.queue = "default".to_owned();
    let theirs = store.create_jobs(vec![new_job(theirs)], None).await.unwrap().remove(0);
    let others = triggers(&store, &theirs, 20).await;
    let of = |execution: &Execution| vec![execution.lane_id];
    let shared = store.open_session(&NewSession { tenant_id: None, ..agent.agent.clone() }, MINUTE).await.unwrap();
    let count = async |lanes: &[i64], limit| claim_within(&store, &shared, lanes, 100, limit).await.grants.len();
    assert_eq!(count(&of(&waiting[0]), 3).await, 3);
    limit_tenant(&store, TENANT, Some(5)).await;
    assert_eq!(count(&of(&waiting[0]), 3).await, 2, "its own goes before the default");
    assert_eq!(count(&of(&others[0]), 4).await, 4, "others have the default");
    assert_eq!(count(&of(&others[0]), 4).await, 0);
    limit_tenant(&store, TENANT, Some(0)).await;
    assert_eq!(count(&of(&waiting[0]), 3).await, 15, "none at all");
    limit_tenant(&store, TENANT, None).await;
    triggers(&store, &mine, 1).await;
    assert_eq!(count(&of(&waiting[0]), 3).await, 0);
}

pub async fn a_queue_may_be_limited(store: DynStore) {
    let queued = |queue: &'static str| move |j: &mut Job| j.spec.queue = queue.to_owned();
    let (mail, other) = (job_with(&store, "mail", queued("mail")).await, job_with(&store, "b", queued("b")).await);
    let agent = session(&store, "agent").await;
    store.set_queue_limit(TENANT, "mail", 2, USER).await.unwrap();
    store.set_queue_limit(OTHER_TENANT, "b", 1, USER).await.unwrap();
    triggers(&store, &mail, 5).await;
    triggers(&store, &other, 5).await;
    let granted = claim(&store, &agent, 100).await.grants;
    assert_eq!(granted.iter().filter(|g| g.execution.queue == "mail").count(), 2);
    assert_eq!(granted.len(), 7, "another tenant's limit is another tenant's");
    let depths = store.queues(TENANT).await.unwrap();
    let limits: Vec<(&str, i32)> = depths.iter().map(|d| (d.name.as_str(), d.max_concurrent)).collect();
    assert_eq!(limits, [("b", 0), ("mail", 2)]);
    store.set_queue_limit(TENANT, "mail", 3, USER).await.unwrap();
    assert_eq!(claim(&store, &agent, 100).await.grants.len(), 1);
    store.set_queue_limit(TENANT, "mail", 0, USER).await.unwrap();
    assert_eq!(claim(&store, &agent, 100).await.grants.len(), 2);
    store.set_queue_limit(TENANT, "empty", 4, USER).await.unwrap();
    assert!(store.queues(TENANT).await.unwrap().iter().any(|d| d.name == "empty" && d.max_concurrent == 4));
}

pub async fn rooms_are_told(store: DynStore) {
    let job = job_with(&store, "a", |j| {
        j.spec.max_concurrent = 4;
        j.spec.concurrency = Some(keyed("k", 3));
    })
    .await;
    let agent = session(&store, "agent").await;
    store.set_queue_limit(TENANT, "default", 9, USER).await.unwrap();
    let waiting = triggers(&store, &job, 5).await;
    claim(&store, &agent, 2).await;
    let gates = Gate::of(&waiting[4]);
    let rooms = store.rooms(&gates, 7).await.unwrap();
    let room = |limit| Room { limit, running: 2 };
    let expected = [
        (Gate::Tenant(TENANT), room(7)),
        (Gate::Queue(TENANT, "default".into()), room(9)),
        (Gate::Key(TENANT, "k".into()), room(3)),
        (Gate::Job(TENANT, job.id), room(4)),
    ];
    assert_eq!(rooms.len(), 4);
    assert!(expected.iter().all(|one| rooms.contains(one)), "{rooms:?}");
    let free = [
        Gate::Tenant(OTHER_TENANT),
        Gate::Queue(TENANT, "b".into()),
        Gate::Key(TENANT, "of nothing".into()),
        Gate::Job(OTHER_TENANT, job.id),
    ];
    assert!(store.rooms(&free, 0).await.unwrap().is_empty());
}

/// A retry waits for a place like a first attempt, and has none while it waits.
pub async fn retries_keep_no_place(store: DynStore) {
    for kind in KINDS {
        let mut case = Case::new(&store, kind).await;
        case.waiting(6).await;
        let agent = case.session("agent").await;
        for lease in case.leases(&agent).await {
            let after = apply(&store, &lease, failed(&lease, orrery_proto::v1::ErrorType::Timeout)).await.unwrap();
            assert_eq!((&after.state, after.status()), (&State::Scheduled, ExecutionStatus::Pending));
        }
        case.assert_whole("a failed attempt").await;
    }
}
