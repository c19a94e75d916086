//! Everything at once: planners, releasers, agents that finish, fail, vanish and resume, a reaper, people who pause, edit, trigger and cancel,
//! and upkeep. Nothing may fail, and in the end everything has to add up.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures_util::future::{BoxFuture, join_all};
use orrery_proto::v1::{ErrorType, ExecutionStatus, JobStatus, TriggerType};
use orrery_server::execution::Execution;
use orrery_server::firing;
use orrery_server::job::{Job, ScheduleKind};
use orrery_server::schedule::{Schedule, fires_between};
use orrery_server::store::*;
use uuid::Uuid;

use crate::support::*;

/// It goes on until so many executions have ended and every job without an end has come by so many instants: by work done, for how long that
/// takes is the machine's.
const ENDS: usize = 300;
const INSTANTS: i32 = 25;
/// What takes longer does not work at all.
const PATIENCE: Duration = Duration::from_secs(240);
const STEP: chrono::Duration = chrono::Duration::milliseconds(100);
/// Of each job in turn: its limit of leases, its maximum of executions.
const JOBS: [(i32, Option<i64>); 8] =
    [(0, None), (1, None), (2, None), (0, Some(12)), (1, Some(9)), (3, None), (2, Some(400)), (1, None)];

/// What the tasks share.
struct World {
    store: DynStore,
    jobs: Vec<Job>,
    began: Instant,
    /// Executions that somebody may cancel.
    seen: Mutex<Vec<Execution>>,
    /// Leases that were granted, and ends that were accepted.
    granted: Mutex<BTreeSet<(Uuid, i64)>>,
    ended: Mutex<HashMap<Uuid, u32>>,
}

/// A generator of its own for each task, so that a run differs from another only by how tasks meet.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

impl World {
    fn goes_on(&self) -> bool {
        assert!(
            self.began.elapsed() < PATIENCE,
            "{} executions have ended in all this time",
            self.ended.lock().unwrap().len()
        );
        self.ended.lock().unwrap().len() < ENDS || self.began.elapsed() < (STEP * INSTANTS).to_std().unwrap()
    }

    fn job(&self, dice: &mut Dice) -> &Job {
        &self.jobs[usize::try_from(dice.roll(self.jobs.len() as u64)).unwrap()]
    }

    async fn plans(self: Arc<Self>) {
        while self.goes_on() {
            plan_near(&self.store).await;
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
    }

    async fn releases(self: Arc<Self>) {
        while self.goes_on() {
            let done = self.store.release(9, &firing::judge).await.unwrap();
            if done.released == 0 {
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        }
    }

    async fn serves(self: Arc<Self>, mut dice: Dice) {
        let mut agent = session(&self.store, "agent").await;
        let mut held: Vec<Execution> = Vec::new();
        while self.goes_on() {
            let claimed = claim(&self.store, &agent, 4).await;
            for grant in claimed.grants {
                let lease = (grant.execution.id, grant.execution.epoch);
                assert!(self.granted.lock().unwrap().insert(lease), "granted twice: {lease:?}");
                self.seen.lock().unwrap().push(grant.execution.clone());
                held.push(grant.execution);
            }
            let (speaking, silent): (Vec<_>, Vec<_>) = held.drain(..).partition(|_| dice.roll(5) > 0);
            held = silent;
            self.speak(speaking, &mut dice).await;
            match dice.roll(12) {
                0 => {
                    kill(&self.store, &agent).await;
                    agent = session(&self.store, "agent").await;
                    held.clear();
                }
                1 => {
                    held.truncate(held.len() / 2);
                    let named: Vec<(Uuid, i64)> = held.iter().map(|e| (e.id, e.epoch)).collect();
                    let resumed =
                        self.store.resume_session(agent.id, &agent.agent, &holding(&named), MINUTE).await.unwrap();
                    agent = resumed.expect("it lives").session;
                }
                2 => {
                    self.store.close_session(agent.id, agent.attachment).await.unwrap();
                    agent = session(&self.store, "agent").await;
                    held.clear();
                }
                3 => drop(self.store.renew_sessions(&[(agent.id, agent.attachment)], MINUTE).await.unwrap()),
                _ => {}
            }
        }
        self.store.close_session(agent.id, agent.attachment).await.unwrap();
    }

    /// Says something of leases, in one batch.
    async fn speak(&self, leases: Vec<Execution>, dice: &mut Dice) {
        let mut words = Vec::new();
        for e in &leases {
            match dice.roll(6) {
                0 => words.push(change(e, failed(e, ErrorType::Timeout))),
                1 => {
                    let (session_id, epoch) = lease(e);
                    words.push(change(e, orrery_server::execution::Event::Released { session_id, epoch }));
                }
                _ => words.extend([change(e, started(e)), change(e, completed(e)), change(e, completed(e))]),
            }
        }
        for done in self.store.apply(words).await.unwrap().into_iter().flatten().filter(Execution::is_done) {
            *self.ended.lock().unwrap().entry(done.id).or_default() += 1;
        }
    }

    async fn reaps(self: Arc<Self>) {
        while self.goes_on() {
            self.store.reap(Duration::from_secs(60), 6).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn changes(self: Arc<Self>, mut dice: Dice) {
        while self.goes_on() {
            let (job, what) = (self.job(&mut dice), dice.roll(3));
            let priority = i32::try_from(dice.roll(9)).unwrap();
            let decide = |job: &Job, now| Ok(changed(job, now, what, priority));
            self.store.change_job(TENANT, job.id, &decide).await.unwrap();
            tokio::time::sleep(Duration::from_millis(dice.roll(40))).await;
        }
    }

    async fn triggers(self: Arc<Self>, mut dice: Dice) {
        while self.goes_on() {
            let wanted: Vec<Trigger> = (0..=dice.roll(3))
                .map(|_| Trigger {
                    idempotency: (dice.roll(2) == 0).then(|| key(&dice.roll(30).to_string(), 1)).flatten(),
                    ..trigger_of(self.job(&mut dice))
                })
                .collect();
            let admit = |job: &Job, active, _: &Trigger| firing::admit_trigger(job, active, false);
            match self.store.trigger(wanted, &admit).await {
                Ok(made) => self.seen.lock().unwrap().extend(made),
                Err(StoreError::TriggerRefused { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(dice.roll(60))).await;
        }
    }

    async fn cancels(self: Arc<Self>, mut dice: Dice) {
        while self.goes_on() {
            let some: Vec<Execution> =
                self.seen.lock().unwrap().iter().rev().take(30).filter(|_| dice.roll(6) == 0).cloned().collect();
            self.store.apply(some.iter().map(|e| change(e, cancel_requested())).collect()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    async fn watches(self: Arc<Self>) {
        while self.goes_on() {
            for (job, (most, _)) in self.jobs.iter().zip(JOBS).filter(|(_, (most, _))| *most > 0) {
                let load = self.store.job_load(TENANT, job.id).await.unwrap();
                assert!(load.leased <= i64::from(most), "{} leases, at most {most}", load.leased);
            }
            self.store.upkeep(1, &Retention::default()).await.unwrap();
        }
    }
}

fn schedule() -> Schedule {
    Schedule::every(STEP.to_std().unwrap(), DateTime::UNIX_EPOCH).unwrap()
}

async fn plan_near(store: &DynStore) {
    let decide = |candidate: &PlanCandidate| firing::plan(candidate, &schedule());
    store.plan(Duration::from_millis(250), 5, &decide).await.unwrap();
}

/// Pauses or resumes a job, or gives it another priority and lane: as the API does it.
fn changed(job: &Job, now: DateTime<Utc>, what: u64, priority: i32) -> JobChange {
    let range = |since, reason: &str| {
        let range = fires_between(&schedule(), since, now, 1000)?;
        Some(NewOmission { to: range.to, count: range.count.cast_signed(), ..omission(reason, range.from) })
    };
    let next = schedule().next_after(now);
    let left =
        job.cursor.filter(|at| *at <= now).and_then(|at| range(at - chrono::Duration::microseconds(1), "misfire"));
    let mut after = job.clone();
    let omission = match (job.status, what) {
        (JobStatus::Active, 0) => {
            (after.status, after.cursor, after.halted_at) = (JobStatus::Paused, None, Some(now));
            left
        }
        (JobStatus::Paused, 1) => {
            (after.status, after.cursor, after.halted_at) = (JobStatus::Active, next, None);
            job.halted_at.and_then(|since| range(since, "paused"))
        }
        (JobStatus::Active, _) => {
            (after.spec.priority, after.cursor) = (priority, next);
            after.spec.queue = ["default", "other"][usize::from(priority > 4)].to_owned();
            left
        }
        _ => None,
    };
    JobChange { job: after, unplan: true, cancel: None, omission }
}

async fn world(store: &DynStore) -> World {
    let first = schedule().next_after(now(store).await);
    let mut jobs = Vec::new();
    for (n, (max_concurrent, max_executions)) in JOBS.into_iter().enumerate() {
        let change = |job: &mut Job| {
            job.cursor = first;
            job.spec.schedule.kind = ScheduleKind::Every(STEP.num_milliseconds());
            (job.spec.max_concurrent, job.spec.max_executions) = (max_concurrent, max_executions);
            job.spec.retry.max_retries = 1;
            job.spec.retry.delay_ms = 10;
            job.spec.overlap = OVERLAPS[n % 4];
        };
        jobs.push(job_with(store, &format!("job {n}"), change).await);
    }
    World {
        store: store.clone(),
        jobs,
        began: Instant::now(),
        seen: Mutex::default(),
        granted: Mutex::default(),
        ended: Mutex::default(),
    }
}

const OVERLAPS: [orrery_proto::v1::OverlapPolicy; 4] = {
    use orrery_proto::v1::OverlapPolicy::*;
    [Allow, Forbid, QueueOne, Replace]
};

/// Takes back what is planned, and brings all the rest to its end.
async fn settle(store: &DynStore, jobs: &[Job]) {
    for job in jobs {
        // Resumed first, so that what a pause has omitted is written down.
        for what in [1, 0] {
            let change = |job: &Job, now| Ok(changed(job, now, what, 0));
            store.change_job(TENANT, job.id, &change).await.unwrap();
        }
    }
    let agent = session(store, "the last").await;
    loop {
        store.reap(Duration::from_secs(60), 100).await.unwrap();
        store.release(100, &firing::judge).await.unwrap();
        let words =
            claim(store, &agent, 100).await.grants.into_iter().map(|g| change(&g.execution, completed(&g.execution)));
        store.apply(words.collect()).await.unwrap();
        let live = store.queues(TENANT).await.unwrap().iter().map(|q| q.pending + q.scheduled + q.running).sum::<i64>();
        if live == 0 {
            return;
        }
    }
}

pub async fn everything_at_once_adds_up(store: DynStore) {
    let world = Arc::new(world(&store).await);
    let mut tasks: Vec<BoxFuture<'static, ()>> = Vec::new();
    for n in 1..=2 {
        tasks.push(Box::pin(world.clone().plans()));
        tasks.push(Box::pin(world.clone().releases()));
        tasks.push(Box::pin(world.clone().serves(Dice(n))));
        tasks.push(Box::pin(world.clone().serves(Dice(10 + n))));
        tasks.push(Box::pin(world.clone().reaps()));
        tasks.push(Box::pin(world.clone().changes(Dice(20 + n))));
        tasks.push(Box::pin(world.clone().triggers(Dice(30 + n))));
    }
    tasks.push(Box::pin(world.clone().cancels(Dice(40))));
    tasks.push(Box::pin(world.clone().watches()));
    for ended in join_all(tasks.into_iter().map(tokio::spawn)).await {
        ended.unwrap();
    }
    tokio::time::timeout(PATIENCE, settle(&store, &world.jobs)).await.expect("everything comes to its end");
    assert!(world.ended.lock().unwrap().values().all(|ends| *ends == 1), "an execution ended twice");

    let all = executions(&store).await;
    let ids: BTreeSet<Uuid> = all.iter().map(|e| e.id).collect();
    assert!(ids.len() == all.len() && all.len() >= ENDS, "{} executions, {} ids", all.len(), ids.len());
    assert!(
        all.iter().all(|e| e.is_done() && e.attempts.len() >= usize::from(e.status() == ExecutionStatus::Completed))
    );
    for (job, (_, max)) in world.jobs.iter().zip(JOBS) {
        let (now, mine) = (job_now(&store, job.id).await, all.iter().filter(|e| e.job_id == job.id));
        let mine: Vec<&Execution> = mine.collect();
        assert_eq!(now.execution_count, mine.len() as i64, "{}", now.spec.name);
        match max {
            Some(max) => assert!(now.execution_count <= max, "{} of {max}", now.execution_count),
            None => each_instant_stands_once(&store, job, &mine).await,
        }
    }
}

/// Each instant is an execution or lies in one omission.
async fn each_instant_stands_once(store: &DynStore, job: &Job, executions: &[&Execution]) {
    let mut told: BTreeMap<DateTime<Utc>, u32> = BTreeMap::new();
    for fire in executions.iter().filter(|e| e.trigger == TriggerType::Scheduled) {
        *told.entry(fire.scheduled_at).or_default() += 1;
    }
    for omission in omissions(store, job).await {
        for n in 0..omission.count {
            *told.entry(omission.from + STEP * i32::try_from(n).unwrap()).or_default() += 1;
        }
    }
    let instants: Vec<&DateTime<Utc>> = told.keys().collect();
    let gaps: Vec<_> = instants.windows(2).filter(|pair| *pair[1] - *pair[0] != STEP).collect();
    let twice: Vec<_> = told.iter().filter(|(_, count)| **count != 1).collect();
    assert!(
        gaps.is_empty() && twice.is_empty() && told.len() >= INSTANTS as usize,
        "{}: {gaps:?} {twice:?}",
        job.spec.name
    );
    assert_eq!(Some(*instants[0]), job.cursor);
}
