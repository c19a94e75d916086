//! The connection dies between COMMIT and its answer: what is answered is what happened, and it happened once.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use orrery_proto::v1::ExecutionStatus;
use orrery_server::audit::Author;
use orrery_server::execution::{Event, Rejected, State};
use orrery_server::store::postgres::{PgOptions, PgStore};
use orrery_server::store::*;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::arm::{arm, every_second, planned};
use crate::audit::{actions, as_anna};
use crate::commit_cutter::{CommitCutter, Cut};
use crate::engines::{connect_by, database_url, schema};
use crate::support::*;

/// A store behind a cutter, and one that is not.
struct Cuttable {
    cutter: CommitCutter,
    cut: DynStore,
    whole: DynStore,
    stores: [PgStore; 2],
    schema: String,
}

impl Cuttable {
    async fn new() -> Self {
        let (whole, schema) = schema().await;
        let cutter = CommitCutter::to(&database_url()).await;
        let cut = connect_by(&cutter.url(&database_url()), &schema).await;
        let dynamic = |store: &PgStore| -> DynStore { std::sync::Arc::new(store.clone()) };
        Self { cutter, cut: dynamic(&cut), whole: dynamic(&whole), stores: [cut, whole], schema }
    }

    async fn drop(self) {
        for store in &self.stores {
            store.close().await;
        }
        let mut raw = PgConnection::connect(&database_url()).await.unwrap();
        sqlx::query(AssertSqlSafe(format!("drop schema {} cascade", self.schema))).execute(&mut raw).await.unwrap();
    }
}

const WAYS: [Cut; 3] = [Cut::Committed, Cut::NotCommitted, Cut::Either];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn jobs_and_triggers_are_made_once() {
    let world = Cuttable::new().await;
    for (turn, way) in WAYS.into_iter().cycle().take(12).enumerate() {
        let new = new_job(job_of(TENANT, spec(&format!("job {turn}"))));
        world.cutter.cut_next(way);
        let made = world.cut.create_jobs(vec![new.clone()], Some(1000)).await.unwrap().remove(0);
        assert_eq!((made.id, made.version), (new.job.id, 1), "{way:?}");
        assert_eq!(job_now(&world.whole, made.id).await, made);

        world.cutter.cut_next(way);
        let asked = vec![trigger_of(&made), trigger_of(&made)];
        let runs = world.cut.trigger(asked, &|_, _, _| Ok(())).await.unwrap();
        let mut ids: Vec<_> = runs.iter().map(|run| run.id).collect();
        let filter = ExecutionFilter { job: Some(made.id), ..ExecutionFilter::default() };
        let page = Page { after: None, limit: 10 };
        let mut stored: Vec<_> =
            world.whole.executions(TENANT, &filter, &page).await.unwrap().iter().map(|run| run.id).collect();
        ids.sort();
        stored.sort();
        assert_eq!(ids, stored, "{way:?}");
        assert_eq!(job_now(&world.whole, made.id).await.execution_count, 2, "{way:?}");

        // A key that comes with the lost transaction is that of the repeat.
        world.cutter.cut_next(way);
        let keyed = Trigger { idempotency: key(&format!("k{turn}"), 1), ..trigger_of(&made) };
        let run = world.cut.trigger(vec![keyed.clone()], &|_, _, _| Ok(())).await.unwrap().remove(0);
        let again = world.whole.trigger(vec![keyed], &|_, _, _| Ok(())).await.unwrap().remove(0);
        assert_eq!(run.id, again.id, "{way:?}");
    }
    assert_eq!(world.cutter.cuts(), 36);
    world.drop().await;
}

/// What is made in one statement has no COMMIT of its own; a lease that it grants is handed over once, if it was granted.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_made_together_is_made_once() {
    let world = Cuttable::new().await;
    let (job, agent) = (job(&world.whole, "a").await, session(&world.whole, "agent").await);
    let to = Assignment { session_id: agent.id, attachment: agent.attachment, worker_name: agent.agent.name.clone() };
    let assign = |candidates: &[Candidate]| vec![Some(to.clone()); candidates.len()];
    let at_once = AtOnce { assign: &assign, tenant_limit: 0, timeouts: TIMEOUTS };
    let asked = |n: usize| Trigger { parameters: Some(n.to_string()), ..trigger_of(&job) };
    let yes = |_: &_, _, _: &_| Ok(());
    // Now it is known.
    world.cut.trigger_each(vec![asked(99)], &yes, None).await.unwrap().remove(0).unwrap();
    let mut granted = 0;
    for (turn, way) in WAYS.into_iter().cycle().take(12).enumerate() {
        let before = job_now(&world.whole, job.id).await.execution_count;
        world.cutter.cut_next(way);
        let made = world.cut.trigger_each(vec![asked(0), asked(1), asked(2)], &yes, Some(at_once)).await.unwrap();
        assert_eq!(world.cutter.cuts(), turn + 1, "{way:?}");
        assert_eq!(job_now(&world.whole, job.id).await.execution_count, before + 3, "{way:?}");
        for (n, made) in made.into_iter().enumerate() {
            let made = made.unwrap();
            assert_eq!(made.execution.parameters, Some(n.to_string()), "whose answer it is");
            let stored = execution(&world.whole, made.execution.id).await;
            match (made.grant, way) {
                (Some(grant), _) => {
                    assert_eq!((grant.execution, grant.attachment), (stored, agent.attachment), "{way:?}");
                    granted += 1;
                }
                (None, Cut::Committed) => panic!("it is leased to an agent that will not hear of it"),
                (None, _) => assert_eq!(stored.state, State::Pending, "{way:?}"),
            }
        }
    }
    assert!(granted >= 12, "{granted}");
    assert_eq!(executions(&world.whole).await.len(), 37);
    assert_eq!(world.whole.held(agent.id).await.unwrap().len(), granted);
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_job_is_changed_once() {
    let world = Cuttable::new().await;
    let job = job(&world.whole, "a").await;
    for (turn, way) in WAYS.into_iter().cycle().take(12).enumerate() {
        world.cutter.cut_next(way);
        let changed = edit(&world.cut, &job, |job| job.spec.priority += 1).await.job;
        let stored = job_now(&world.whole, job.id).await;
        assert_eq!((stored.version, stored.spec.priority), (turn as i64 + 2, turn as i32 + 1), "{way:?}");
        assert_eq!(stored, changed, "{way:?}");
    }
    // What is deleted is not there to be found by its repeat, and yet it was this call that deleted it.
    world.cutter.cut_next(Cut::Committed);
    assert!(delete(&world.cut, &job).await.job.deleted_at.is_some());
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fires_that_were_granted_ahead_are_handed_over_and_counted_once() {
    let world = Cuttable::new().await;
    let agent = session(&world.whole, "agent").await;
    let job = every_second(&world.whole, "a", |_| {}).await;
    for (turn, way) in WAYS.into_iter().cycle().take(12).enumerate() {
        let at = planned(&world.whole, &[20 + turn as i64]).await[0];
        world.cutter.cut_next(way);
        let granted = arm(&world.cut, &agent).await;
        assert_eq!(granted.iter().map(|e| (e.scheduled_at, e.epoch)).collect::<Vec<_>>(), [(at, 1)], "{way:?}");
        assert_eq!(execution(&world.whole, granted[0].id).await, granted[0], "{way:?}");
        assert_eq!(job_now(&world.whole, job.id).await.execution_count, turn as i64 + 1, "{way:?}");
        edit(&world.whole, &job, |job| job.cursor = Some(at)).await;
    }
    assert_eq!(world.cutter.cuts(), 12);
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn leases_that_were_granted_are_handed_over() {
    let world = Cuttable::new().await;
    let (job, agent) = (job(&world.whole, "a").await, session(&world.whole, "agent").await);
    for way in WAYS.into_iter().cycle().take(12) {
        let asked = trigger(&world.whole, &job).await;
        world.cutter.cut_next(way);
        let granted = claim(&world.cut, &agent, 10).await.grants;
        assert_eq!(
            granted.iter().map(|g| (g.execution.id, g.execution.epoch)).collect::<Vec<_>>(),
            [(asked.id, 1)],
            "{way:?}"
        );
        let held = world.whole.held(agent.id).await.unwrap();
        assert_eq!(held.iter().map(|h| (h.execution_id, h.epoch)).collect::<Vec<_>>(), [(asked.id, 1)], "{way:?}");

        let execution = &granted[0].execution;
        world.cutter.cut_next(way);
        let running = apply(&world.cut, execution, started(execution)).await.unwrap();
        assert!(matches!(running.state, State::Running(_)));
        world.cutter.cut_next(way);
        let done = apply(&world.cut, execution, completed(execution)).await.unwrap();
        assert_eq!(done.status(), ExecutionStatus::Completed, "{way:?}");
        assert_eq!(crate::support::execution(&world.whole, asked.id).await, done);
        // The agent has not heard of it, and says it again by another coordinator.
        assert_eq!(apply(&world.whole, execution, completed(execution)).await, Err(Rejected::Repeated));
    }
    assert_eq!(world.cutter.cuts(), 36);
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_cancels_is_told_so() {
    let world = Cuttable::new().await;
    let (job, agent) = (job(&world.whole, "a").await, session(&world.whole, "agent").await);
    for way in WAYS {
        let waiting = trigger(&world.whole, &job).await;
        world.cutter.cut_next(way);
        let ended = apply(&world.cut, &waiting, cancel_requested()).await.unwrap();
        assert_eq!(ended.status(), ExecutionStatus::Cancelled, "{way:?}");
        assert!(matches!(apply(&world.cut, &waiting, cancel_requested()).await, Err(Rejected::AlreadyDone { .. })));

        let leased = leased(&world.whole, &job, &agent).await;
        world.cutter.cut_next(way);
        let back = apply(&world.cut, &leased, Event::Released { session_id: agent.id, epoch: 1 }).await.unwrap();
        assert_eq!((&back.state, back.attempt), (&State::Pending, 0), "{way:?}");
        apply(&world.whole, &back, cancel_requested()).await.unwrap();
    }
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_session_goes_on_once() {
    let world = Cuttable::new().await;
    let agent = session(&world.whole, "agent").await;
    let mut attachment = agent.attachment;
    for way in WAYS {
        world.cutter.cut_next(way);
        let resumed = world
            .cut
            .resume_session(agent.id, &agent.agent, &Holding::default(), MINUTE)
            .await
            .unwrap()
            .expect("it lives");
        assert!(resumed.session.attachment > attachment, "{way:?}");
        attachment = resumed.session.attachment;
        let renewed = world.whole.renew_sessions(&[(agent.id, attachment)], MINUTE).await.unwrap();
        assert_eq!(renewed.renewed, [agent.id], "the attachment that was answered is the newest: {way:?}");
    }
    world.drop().await;
}

/// Where the database stays away, the call says that nobody knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_outcome_that_nobody_knows_is_called_so() {
    let mut world = Cuttable::new().await;
    // One connection, so that there is no other way to ask.
    let options = PgOptions {
        schema: Some(world.schema.clone()),
        max_connections: 1,
        ..PgOptions::new(world.cutter.url(&database_url()))
    };
    world.cut = std::sync::Arc::new(PgStore::connect(options).await.unwrap());
    let job = job(&world.cut, "a").await;
    world.cutter.stay_away();
    world.cutter.cut_next(Cut::Committed);
    let answer = world.cut.trigger(vec![trigger_of(&job)], &|_, _, _| Ok(())).await;
    assert!(matches!(answer, Err(StoreError::Unknown(_))), "{answer:?}");
    assert_eq!(executions(&world.whole).await.len(), 1);
    let told = orrery_server::error::Error::from(answer.unwrap_err());
    assert_eq!(told.code, "OUTCOME_UNKNOWN");
    assert!(told.message.contains("idempotency key"), "{}", told.message);
    // What was not begun has not happened.
    let answer = world.cut.trigger(vec![trigger_of(&job)], &|_, _, _| Ok(())).await;
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    let _: DateTime<Utc> = now(&world.whole).await;
    world.drop().await;
}

/// Whatever became of the answer, the entry of a change is there once, with the change.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_done_is_written_down_once() {
    let world = Cuttable::new().await;
    let anna = crate::users::user(&world.whole, "anna").await;
    crate::users::session(&world.whole, &anna, 0, MINUTE * 60).await;
    for (turn, way) in WAYS.into_iter().cycle().take(12).enumerate() {
        let token = u8::try_from(turn).unwrap();
        world.cutter.cut_next(way);
        let refreshed = world.cut.rotate_refresh_token(&[token; 32], &[token + 1; 32]).await.unwrap();
        assert!(matches!(refreshed, Rotation::Rotated(_)), "{way:?} {refreshed:?}");
        world.cutter.cut_next(way);
        let made = as_anna(job(&world.cut, &format!("job {turn}"))).await;
        world.cutter.cut_next(way);
        as_anna(edit(&world.cut, &made, |job| job.spec.priority = 5)).await;
        world.cutter.cut_next(way);
        let asked = as_anna(async { Trigger { author: Author::of_call(), ..trigger_of(&made) } }).await;
        world.cut.trigger(vec![asked], &|_, _, _| Ok(())).await.unwrap();
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for action in actions(&world.whole, TENANT).await {
        *counts.entry(action).or_default() += 1;
    }
    for action in ["jobs:create", "jobs:update", "jobs:trigger", "sessions:refresh"] {
        assert_eq!(counts[action], 12, "{counts:?}");
    }
    world.drop().await;
}
