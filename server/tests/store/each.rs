//! Executions that callers asked for one by one, made together.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orrery_proto::v1::{ExecutionStatus, JobStatus, OverlapPolicy};
use orrery_server::concurrency::Concurrency;
use orrery_server::error::{Error, Kind};
use orrery_server::execution::{Execution, State};
use orrery_server::firing::admit_trigger;
use orrery_server::job::Job;
use orrery_server::store::*;
use uuid::Uuid;

use crate::support::*;

fn admit(job: &Job, active: i64, _: &Trigger) -> Result<(), Error> {
    admit_trigger(job, active, false)
}

/// As callers ask, with nobody to give it to.
async fn each(store: &DynStore, triggers: Vec<Trigger>) -> Vec<Result<Execution, StoreError>> {
    let made = store.trigger_each(triggers, &admit, None).await.unwrap();
    made.into_iter().map(|made| made.map(|made| made.execution)).collect()
}

fn to(session: &Session) -> Assignment {
    Assignment { session_id: session.id, attachment: session.attachment, worker_name: session.agent.name.clone() }
}

/// One execution of a job, to be given to a session; and how many were offered to it.
async fn given(store: &DynStore, job: &Job, to: &Assignment) -> (Made, usize) {
    let offered = Mutex::new(0);
    let assign = |candidates: &[Candidate]| {
        *offered.lock().unwrap() += candidates.len();
        vec![Some(to.clone()); candidates.len()]
    };
    let at_once = AtOnce { assign: &assign, tenant_limit: 0, timeouts: TIMEOUTS };
    let made = store.trigger_each(vec![trigger_of(job)], &admit, Some(at_once)).await.unwrap().remove(0).unwrap();
    (made, offered.into_inner().unwrap())
}

/// Triggered once, so that it is known.
async fn known_job(store: &DynStore, name: &str, change: impl FnOnce(&mut Job)) -> Job {
    let job = job_with(store, name, change).await;
    each(store, vec![trigger_of(&job)]).await.remove(0).unwrap();
    job
}

fn code(answer: &Result<Execution, StoreError>) -> &'static str {
    match answer {
        Ok(_) => "",
        Err(StoreError::TriggerRefused { reason, .. }) => reason.code,
        Err(StoreError::IdempotencyKeyReused { .. }) => "IDEMPOTENCY_KEY_REUSED",
        Err(other) => panic!("{other:?}"),
    }
}

/// Twice: of jobs that are new to the store, and of jobs that it knows.
pub async fn each_has_its_own_answer(store: DynStore) {
    let (job, other) = (job(&store, "a").await, job_with(&store, "b", |j| j.spec.priority = 3).await);
    let stopped = job_with(&store, "c", |j| j.status = JobStatus::Inactive).await;
    let deleted = job_with(&store, "d", |_| {}).await;
    delete(&store, &deleted).await;
    for turn in 0..2 {
        let wanted = |job: &Job, n: u32| Trigger { parameters: Some(format!("[{turn},{n}]")), ..trigger_of(job) };
        let asked = vec![
            wanted(&job, 0),
            wanted(&stopped, 1),
            wanted(&other, 2),
            Trigger { tenant: OTHER_TENANT, ..wanted(&job, 3) },
            wanted(&deleted, 4),
            wanted(&job, 5),
            Trigger { run_at: Some(seconds_from_now(&store, 100).await), ..wanted(&other, 6) },
        ];
        let before = now(&store).await;
        let answers = each(&store, asked.clone()).await;
        let codes: Vec<_> = answers.iter().map(code).collect();
        assert_eq!(codes, ["", "JOB_INACTIVE", "", "JOB_NOT_FOUND", "JOB_NOT_FOUND", "", ""]);
        for (asked, answer) in asked.iter().zip(&answers) {
            let Ok(made) = answer else { continue };
            // Whose answer it is.
            assert_eq!((made.job_id, &made.parameters), (asked.job, &asked.parameters));
            assert_eq!(&execution(&store, made.id).await, made);
            assert!(made.created_at >= before && made.run_at == made.scheduled_at);
            assert_eq!(made.state == State::Scheduled, asked.run_at.is_some());
        }
        let counts = (job_now(&store, job.id).await.execution_count, job_now(&store, other.id).await.execution_count);
        assert_eq!(counts, (2 * (turn + 1), turn + 1));
    }
    let job = job_now(&store, job.id).await;
    assert_eq!(
        job.last_execution_at,
        executions(&store).await.iter().filter(|e| e.job_id == job.id).map(|e| e.created_at).max()
    );
}

pub async fn a_known_job_that_has_changed_is_seen_as_it_is(store: DynStore) {
    let job = known_job(&store, "a", |_| {}).await;
    edit(&store, &job, |j| (j.spec.priority, j.spec.queue) = (7, "other".to_owned())).await;
    let made = each(&store, vec![trigger_of(&job)]).await.remove(0).unwrap();
    assert_eq!((made.priority, made.queue.as_str()), (7, "other"));
    let lane = store.lanes_after(0).await.unwrap().into_iter().find(|lane| lane.id == made.lane_id).unwrap();
    assert_eq!(lane.queue, "other");
    edit(&store, &job, |j| j.status = JobStatus::Paused).await;
    each(&store, vec![trigger_of(&job)]).await.remove(0).unwrap();
    edit(&store, &job, |j| (j.spec.max_concurrent, j.spec.overlap) = (1, OverlapPolicy::Forbid)).await;
    assert_eq!(code(&each(&store, vec![trigger_of(&job)]).await[0]), "JOB_ALREADY_RUNNING");
    edit(&store, &job, |j| j.spec.max_concurrent = 0).await;
    each(&store, vec![trigger_of(&job)]).await.remove(0).unwrap();
    edit(&store, &job, |j| j.status = JobStatus::Inactive).await;
    assert_eq!(code(&each(&store, vec![trigger_of(&job)]).await[0]), "JOB_INACTIVE");
    delete(&store, &job).await;
    assert_eq!(code(&each(&store, vec![trigger_of(&job)]).await[0]), "JOB_NOT_FOUND");
}

pub async fn a_key_counts_within_a_group(store: DynStore) {
    let job = job(&store, "a").await;
    let keyed = |name: &str, request| Trigger { idempotency: key(name, request), ..trigger_of(&job) };
    let group = vec![keyed("k", 1), trigger_of(&job), keyed("k", 1), keyed("k", 2), keyed("l", 2)];
    let answers = each(&store, group).await;
    assert_eq!(answers.iter().map(code).collect::<Vec<_>>(), ["", "", "", "IDEMPOTENCY_KEY_REUSED", ""]);
    let ids: Vec<Option<Uuid>> = answers.iter().map(|a| a.as_ref().ok().map(|e| e.id)).collect();
    assert_eq!(ids[0], ids[2]);
    assert_eq!(ids.iter().flatten().collect::<HashSet<_>>().len(), 3);
    assert_eq!(each(&store, vec![keyed("k", 1)]).await[0].as_ref().unwrap().id, ids[0].unwrap());
    assert_eq!(code(&each(&store, vec![keyed("l", 1)]).await[0]), "IDEMPOTENCY_KEY_REUSED");
    assert_eq!((executions(&store).await.len(), job_now(&store, job.id).await.execution_count), (3, 3));
}

/// Whoever comes with the key of one that was refused is decided over anew.
pub async fn a_refused_key_is_free(store: DynStore) {
    let (job, stopped) = (job(&store, "a").await, job_with(&store, "b", |j| j.status = JobStatus::Inactive).await);
    let keyed = |job: &Job, request| Trigger { idempotency: key("k", request), ..trigger_of(job) };
    let answers = each(&store, vec![keyed(&stopped, 1), keyed(&job, 2), keyed(&job, 2)]).await;
    assert_eq!(answers.iter().map(code).collect::<Vec<_>>(), ["JOB_INACTIVE", "", ""]);
    assert_eq!(answers[1].as_ref().unwrap().id, answers[2].as_ref().unwrap().id);
    assert_eq!(job_now(&store, job.id).await.execution_count, 1);
    // And one that nobody came with again.
    let other = |request| Trigger { idempotency: key("l", request), ..trigger_of(&stopped) };
    assert_eq!(code(&each(&store, vec![other(1)]).await[0]), "JOB_INACTIVE");
    edit(&store, &stopped, |j| j.status = JobStatus::Active).await;
    each(&store, vec![other(2)]).await.remove(0).unwrap();
}

pub async fn limits_hold_within_a_group(store: DynStore) {
    let forbid = |j: &mut Job| (j.spec.max_concurrent, j.spec.overlap) = (2, OverlapPolicy::Forbid);
    let (job, last) =
        (job_with(&store, "a", forbid).await, job_with(&store, "b", |j| j.spec.max_executions = Some(1)).await);
    let group = vec![trigger_of(&job), trigger_of(&last), trigger_of(&job), trigger_of(&job), trigger_of(&last)];
    let answers = each(&store, group).await;
    assert_eq!(answers.iter().map(code).collect::<Vec<_>>(), ["", "", "", "JOB_ALREADY_RUNNING", "JOB_INACTIVE"]);
    assert_eq!(job_now(&store, last.id).await.status, JobStatus::Inactive);
}

/// 32 callers, and groups of several stores' worth.
pub async fn the_maximum_is_exact_under_concurrency(store: DynStore) {
    let (limited, free) = (job_with(&store, "a", |j| j.spec.max_executions = Some(20)).await, job(&store, "b").await);
    let callers = (0..32).map(|_| {
        let (store, group) = (store.clone(), vec![trigger_of(&limited), trigger_of(&free), trigger_of(&limited)]);
        tokio::spawn(async move { each(&store, group).await })
    });
    let (mut made, mut refused) = (HashSet::new(), 0);
    for answers in futures_util::future::join_all(callers).await {
        for answer in answers.unwrap() {
            match answer {
                Ok(execution) => assert!(made.insert((execution.job_id, execution.id))),
                Err(StoreError::TriggerRefused { reason, .. }) => {
                    assert_eq!(reason.code, "JOB_INACTIVE");
                    refused += 1;
                }
                Err(other) => panic!("{other:?}"),
            }
        }
    }
    assert_eq!((made.len(), refused), (20 + 32, 44));
    let (limited, free) = (job_now(&store, limited.id).await, job_now(&store, free.id).await);
    assert_eq!((limited.execution_count, limited.status, free.execution_count), (20, JobStatus::Inactive, 32));
    assert_eq!(executions(&store).await.len(), 52);
}

/// Who gives leases here does so as a claim would have; who does not leaves them to one.
pub async fn what_is_given_at_once_is_leased(store: DynStore) {
    let agent = session(&store, "agent").await;
    let job = known_job(&store, "a", |j| j.spec.timeout_seconds = Some(30)).await;
    let first = claim(&store, &agent, 10).await.grants.remove(0).execution;
    let (made, _) = given(&store, &job, &to(&agent)).await;
    assert_eq!((&made.execution.state, made.execution.epoch), (&State::Pending, 0), "as it was made");
    let Some(grant) = made.grant else {
        assert_eq!(store.engine(), "sqlite");
        assert_eq!(execution(&store, made.execution.id).await, made.execution);
        assert_eq!(claim(&store, &agent, 10).await.grants.len(), 1);
        return;
    };
    let leased = grant.execution;
    assert_eq!(execution(&store, leased.id).await, leased);
    assert_eq!((leased.epoch, leased.attempt, leased.job_version), (1, 1, job.version));
    assert_eq!((grant.attachment, grant.timeout), (agent.attachment, Duration::from_secs(30)));
    assert_eq!(*grant.spec, job.spec);
    let lease = leased.lease().unwrap();
    assert_eq!((lease.session_id, lease.worker_name.as_str()), (agent.id, "agent"));
    assert_eq!((lease.deadline - lease.granted_at).num_seconds(), 30);
    let mut held = [(first.id, 1), (leased.id, 1)];
    held.sort_unstable();
    let stored: Vec<_> = store.held(agent.id).await.unwrap().iter().map(|h| (h.execution_id, h.epoch)).collect();
    assert_eq!(stored, held);
    assert!(claim(&store, &agent, 10).await.grants.is_empty());
    assert_eq!(job_now(&store, job.id).await.execution_count, 2);
    let running = apply(&store, &leased, started(&leased)).await.unwrap();
    let done = apply(&store, &running, completed(&running)).await.unwrap();
    assert_eq!(done.status(), ExecutionStatus::Completed);
    // A lease that has not reached its agent comes back with the stream.
    let lost = given(&store, &job, &to(&agent)).await.0.grant.unwrap().execution;
    let resumed =
        store.resume_session(agent.id, &agent.agent, &holding(&[(first.id, 1)]), MINUTE).await.unwrap().unwrap();
    assert_eq!(resumed.taken_back.iter().map(|e| e.id).collect::<Vec<_>>(), [lost.id]);
    assert_eq!(execution(&store, lost.id).await.state, State::Pending);
}

pub async fn nothing_is_given_to_who_is_gone(store: DynStore) {
    let (agent, dead) = (session(&store, "agent").await, dead_session(&store, "dead").await);
    let job = known_job(&store, "a", |_| {}).await;
    let resumed =
        store.resume_session(agent.id, &agent.agent, &Holding::default(), MINUTE).await.unwrap().unwrap().session;
    let unknown = Assignment { session_id: Uuid::new_v4(), ..to(&agent) };
    for gone in [to(&agent), to(&dead), unknown] {
        let (made, _) = given(&store, &job, &gone).await;
        assert!(made.grant.is_none(), "{gone:?}");
        assert_eq!(execution(&store, made.execution.id).await, made.execution, "it waits");
    }
    assert_eq!(claim(&store, &resumed, 10).await.grants.len(), 4);
}

pub async fn what_is_limited_is_left_to_a_claim(store: DynStore) {
    let agent = session(&store, "agent").await;
    let waits = |made: &Made| made.grant.is_none() && made.execution.state == State::Pending;
    let limited =
        known_job(&store, "limited", |j| (j.spec.max_concurrent, j.spec.overlap) = (5, OverlapPolicy::Allow)).await;
    let concurrency = Some(Concurrency { key: "k".to_owned(), limit: 5 });
    let keyed = known_job(&store, "keyed", |j| j.spec.concurrency = concurrency).await;
    for job in [limited, keyed] {
        let (made, offered) = given(&store, &job, &to(&agent)).await;
        assert!(waits(&made) && offered == 0, "{}", job.spec.name);
    }
    let free = known_job(&store, "free", |_| {}).await;
    let mail = known_job(&store, "mail", |j| j.spec.queue = "mail".to_owned()).await;
    store.set_queue_limit(TENANT, "mail", 5, USER).await.unwrap();
    assert!(waits(&given(&store, &mail, &to(&agent)).await.0));
    store.set_queue_limit(TENANT, "mail", 0, USER).await.unwrap();
    limit_tenant(&store, TENANT, Some(5)).await;
    assert!(waits(&given(&store, &free, &to(&agent)).await.0));
    limit_tenant(&store, TENANT, Some(0)).await;
    let is_given = |made: Made| made.grant.is_some() || store.engine() == "sqlite";
    assert!(is_given(given(&store, &mail, &to(&agent)).await.0));
    assert!(is_given(given(&store, &free, &to(&agent)).await.0));
    let assign = |_: &[Candidate]| -> Vec<Option<Assignment>> { panic!("the deployment has a limit for tenants") };
    let at_once = AtOnce { assign: &assign, tenant_limit: 5, timeouts: TIMEOUTS };
    let made = store.trigger_each(vec![trigger_of(&free)], &admit, Some(at_once)).await.unwrap().remove(0).unwrap();
    assert!(waits(&made));
}

/// As much as a tenant's turns allow, until a claim has looked at what the others wait for.
pub async fn beside_a_backlog_little_goes_at_once(store: DynStore) {
    let agent = session(&store, "agent").await;
    let (long, short) = (job(&store, "long").await, known_job(&store, "short", |j| j.spec.queue = "mail".into()).await);
    claim(&store, &agent, 10).await;
    let at_once = async || given(&store, &short, &to(&agent)).await.0.grant.is_some();
    if !at_once().await {
        assert_eq!(store.engine(), "sqlite");
        return;
    }
    for _ in 0..150 {
        assert!(at_once().await, "nobody else waits");
    }
    triggers(&store, &long, 50).await;
    for _ in 0..2 {
        assert!(claim(&store, &agent, 10).await.more);
        let mut count = 0;
        while at_once().await {
            count += 1;
        }
        assert!((50..=100).contains(&count), "{count}");
    }
}

/// What refuses one of them may be anything.
pub async fn a_refusal_of_a_known_job_is_its_own(store: DynStore) {
    let job = known_job(&store, "a", |_| {}).await;
    let decide = |_: &Job, _, trigger: &Trigger| match trigger.parameters {
        Some(_) => Err(Error::new(Kind::Conflict, "JOB_ALREADY_RUNNING", "no")),
        None => Ok(()),
    };
    let odd = Trigger { parameters: Some("1".to_owned()), ..trigger_of(&job) };
    let made = store.trigger_each(vec![odd.clone(), trigger_of(&job), odd], &decide, None).await.unwrap();
    assert_eq!(made.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(executions(&store).await.len(), 2);
}

/// A group with all that there is, by several at once; what was answered is what is stored.
pub async fn groups_add_up(store: DynStore) {
    let mut jobs = Vec::new();
    for n in 0..6 {
        jobs.push(job_with(&store, &format!("job {n}"), |j| j.spec.max_concurrent = i32::from(n % 3 == 0) * 50).await);
    }
    let jobs = Arc::new(jobs);
    let callers = (0..8_usize).map(|caller| {
        let (store, jobs) = (store.clone(), jobs.clone());
        tokio::spawn(async move {
            let mut made = Vec::new();
            for round in 0..10_usize {
                let group = (0..12).map(|n| {
                    let job = &jobs[(caller + round + n) % jobs.len()];
                    let keyed = (n % 4 == 0).then(|| key(&format!("{round} {n}"), 1)).flatten();
                    let by = Uuid::from_u128((caller * 1000 + n) as u128);
                    // Everybody asks for the same with a key.
                    let job = if keyed.is_some() { &jobs[1] } else { job };
                    Trigger { idempotency: keyed, by, ..trigger_of(job) }
                });
                made.extend(each(&store, group.collect()).await.into_iter().map(Result::unwrap));
            }
            made
        })
    });
    let mut made: Vec<Execution> = Vec::new();
    for of_one in futures_util::future::join_all(callers).await {
        made.extend(of_one.unwrap());
    }
    let ids: HashSet<Uuid> = made.iter().map(|e| e.id).collect();
    assert_eq!(ids.len(), 8 * 10 * 9 + 10 * 3);
    let stored = executions(&store).await;
    assert_eq!(stored.iter().map(|e| e.id).collect::<HashSet<_>>(), ids);
    for job in jobs.iter() {
        let count = stored.iter().filter(|e| e.job_id == job.id).count();
        assert_eq!(job_now(&store, job.id).await.execution_count, i64::try_from(count).unwrap());
    }
}
