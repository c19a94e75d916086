//! Cancel, completion, expiry and time-out race for the same executions. The first transaction says how an execution ends, for ever; those
//! that come later are told so.
//!
//! ORRERY_RACES sets the number of races; 100,000 take a few minutes.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use orrery_proto::v1::{Delivery, ErrorType, ExecutionStatus};
use orrery_server::execution::{Event, Execution, Rejected};
use orrery_server::job::Job;
use orrery_server::store::*;
use rand::seq::SliceRandom;
use uuid::Uuid;

use crate::support::*;

const RACES: usize = 5000;
/// Executions of one heat, and heats at once.
const HEAT: usize = 100;
const HEATS: usize = 3;

/// How expiry and time-out come.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Course {
    /// As events for each execution; what is lost may not run again.
    Events,
    /// As events; what is lost waits once more, and its old lease is to be worth nothing.
    Repeated,
    /// As the passing of time brings them: the session dies, deadlines pass, and reapers come by.
    Reaped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Racer {
    Cancel,
    Completion,
    Expiry,
    TimeOut,
}

const RACERS: [Racer; 4] = [Racer::Cancel, Racer::Completion, Racer::Expiry, Racer::TimeOut];

/// What came of one heat.
#[derive(Default)]
struct Finish {
    /// Who ended an execution, and as what.
    ends: HashMap<Uuid, Vec<(Racer, Execution)>>,
    /// What racers were told that changed nothing.
    refused: Vec<(Racer, Uuid, Rejected)>,
    /// Executions whose cancellation was accepted.
    cancelled: Vec<Uuid>,
    /// How many were lost and ran again.
    repeated: usize,
}

struct Heat {
    store: DynStore,
    course: Course,
    agent: Session,
    leases: Vec<Execution>,
    finish: Mutex<Finish>,
}

/// How many executions a racer speaks of at once.
const BATCHES: [usize; 6] = [1, 2, 3, 7, 13, 31];

impl Heat {
    async fn new(store: &DynStore, course: Course, job: &Job) -> Arc<Self> {
        let agent = session(store, "agent").await;
        let made: Vec<Uuid> = triggers(store, job, HEAT).await.iter().map(|e| e.id).collect();
        // Several heats claim from one lane: each takes what is its own.
        let lanes = all_lanes(store).await;
        let claim = Claim { lanes: &lanes, limit: HEAT * HEATS * 2, tenant_limit: 0, timeouts: TIMEOUTS };
        let to =
            Assignment { session_id: agent.id, attachment: agent.attachment, worker_name: agent.agent.name.clone() };
        let mine = |c: &Candidate| made.contains(&c.execution.id).then(|| to.clone());
        let mut leases = Vec::new();
        while leases.len() < HEAT {
            let claimed = store.claim(&claim, &|candidates| candidates.iter().map(mine).collect()).await.unwrap();
            leases.extend(claimed.grants.into_iter().map(|grant| grant.execution));
        }
        Arc::new(Self { store: store.clone(), course, agent, leases, finish: Mutex::default() })
    }

    fn event(&self, racer: Racer, execution: &Execution) -> Event {
        let (session_id, epoch) = lease(execution);
        match racer {
            Racer::Cancel => Event::CancelRequested { reason: "enough".to_owned() },
            Racer::Completion => completed(execution),
            Racer::Expiry => Event::LeaseExpired { session_id, epoch },
            Racer::TimeOut => Event::TimedOut { epoch },
        }
    }

    async fn race(self: Arc<Self>, racer: Racer) {
        let by_time = self.course == Course::Reaped && matches!(racer, Racer::Expiry | Racer::TimeOut);
        // Each starts when it likes, so that none is always the first.
        for _ in 0..rand::random_range(0..30) {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_micros(rand::random_range(0..20_000))).await;
        if by_time {
            return self.reap(racer).await;
        }
        let mut order = self.leases.clone();
        order.shuffle(&mut rand::rng());
        if self.course == Course::Repeated && racer == Racer::Cancel {
            // The others are to wait once more.
            order.truncate(HEAT / 2);
        }
        let mut rest = order.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(BATCHES[rand::random_range(0..BATCHES.len())]));
            rest = later;
            let words = now.iter().map(|e| change(e, self.event(racer, e))).collect();
            let answers = self.store.apply(words).await.unwrap();
            for (execution, answer) in now.iter().zip(answers) {
                self.note(racer, execution.id, answer);
            }
        }
    }

    /// Ends what of this heat time has ended, until nothing of it holds a lease.
    async fn reap(&self, racer: Racer) {
        let slack = if racer == Racer::TimeOut { Duration::ZERO } else { Duration::from_secs(86_400) };
        if racer == Racer::Expiry {
            kill(&self.store, &self.agent).await;
        }
        while !self.store.held(self.agent.id).await.unwrap().is_empty() {
            for (lost, after) in self.store.reap(slack, 17).await.unwrap().executions {
                assert_eq!(lost.session_id, self.agent.id, "heats of this course go one at a time");
                let timed_out = after.attempts.last().is_some_and(|a| a.error_type == Some(ErrorType::Timeout));
                let racer = if timed_out { Racer::TimeOut } else { Racer::Expiry };
                self.note(racer, after.id, Ok(after));
            }
            tokio::task::yield_now().await;
        }
    }

    fn note(&self, racer: Racer, id: Uuid, answer: Result<Execution, Rejected>) {
        let mut finish = self.finish.lock().unwrap();
        match answer {
            Err(rejected) => finish.refused.push((racer, id, rejected)),
            Ok(after) => {
                if racer == Racer::Cancel {
                    finish.cancelled.push(id);
                }
                if after.is_done() {
                    finish.ends.entry(id).or_default().push((racer, after));
                }
            }
        }
    }

    /// What was lost and waits again runs under a new lease of the same agent; whoever still speaks of the old one is refused.
    async fn run_again(&self) {
        for old in &self.leases {
            if execution(&self.store, old.id).await.is_done() {
                continue;
            }
            let stale = apply(&self.store, old, completed(old)).await;
            assert!(matches!(stale, Err(Rejected::StaleLease { .. } | Rejected::LeaseOver { .. })), "{stale:?}");
        }
        let lanes = all_lanes(&self.store).await;
        loop {
            let claimed = claim_of(&self.store, &self.agent, &lanes, HEAT).await;
            for grant in &claimed.grants {
                let (old, new) = (self.leases.iter().find(|e| e.id == grant.execution.id), &grant.execution);
                let old = old.expect("heats of this course go one at a time");
                self.finish.lock().unwrap().repeated += 1;
                for racer in [Racer::Completion, Racer::Expiry, Racer::TimeOut] {
                    let stale = apply(&self.store, old, self.event(racer, old)).await;
                    assert_eq!(stale, Err(Rejected::StaleLease { epoch: 1, newest: 2 }), "{racer:?}");
                }
                let ended = apply(&self.store, new, completed(new)).await;
                self.note(Racer::Completion, new.id, ended);
            }
            if claimed.grants.is_empty() && !claimed.more {
                return;
            }
        }
    }

    /// Each has ended once, as the first said; history agrees, and nothing that is said later changes it.
    /// Answers with how many ran again.
    async fn check(&self, wins: &mut BTreeMap<Racer, usize>) -> usize {
        let finish = std::mem::take(&mut *self.finish.lock().unwrap());
        for e in &self.leases {
            let ends = finish.ends.get(&e.id).map(Vec::as_slice).unwrap_or_default();
            let [(winner, end)] = ends else { panic!("{} has the ends {ends:?} ({:?})", e.id, self.course) };
            let kept = execution(&self.store, e.id).await;
            assert_eq!(kept, *end, "history says otherwise than the winner was told");
            let was_cancelled = finish.cancelled.contains(&e.id);
            assert_eq!(kept.cancel_requested_at.is_some(), was_cancelled);
            let wanted = match winner {
                Racer::Completion => ExecutionStatus::Completed,
                _ if was_cancelled => ExecutionStatus::Cancelled,
                _ => ExecutionStatus::Failed,
            };
            assert_eq!(kept.status(), wanted, "{winner:?} won");
            *wins.entry(*winner).or_default() += 1;
        }
        for (racer, id, rejected) in &finish.refused {
            let end = &finish.ends[id][0].1;
            match rejected {
                Rejected::AlreadyDone { status } => assert_eq!(*status, end.status().as_json_str()),
                // Its lease was lost before it came: to the reaper, or with the session.
                Rejected::StaleLease { epoch: 1, .. }
                | Rejected::LeaseOver { epoch: 1 }
                | Rejected::SessionOver { epoch: 1 }
                | Rejected::Illegal { .. } => {
                    assert!(self.course != Course::Events && *racer != Racer::Cancel, "{racer:?}: {rejected:?}");
                }
                other => panic!("{racer:?} was told {other:?}"),
            }
        }
        for racer in RACERS {
            let late = self.leases.iter().map(|e| change(e, self.event(racer, e))).collect();
            for answer in self.store.apply(late).await.unwrap() {
                let refused = match &answer {
                    Err(Rejected::AlreadyDone { .. } | Rejected::StaleLease { .. }) => true,
                    // What has won is said once more.
                    Err(Rejected::Repeated) => racer == Racer::Completion,
                    _ => false,
                };
                assert!(refused, "{racer:?} came late and was told {answer:?}");
            }
        }
        finish.repeated
    }
}

async fn run_heat(store: &DynStore, course: Course, job: &Job, wins: &Mutex<BTreeMap<Racer, usize>>) -> usize {
    let heat = Heat::new(store, course, job).await;
    let racing = RACERS.map(|racer| tokio::spawn(heat.clone().race(racer)));
    for raced in join_all(racing).await {
        raced.unwrap();
    }
    if course == Course::Repeated {
        heat.run_again().await;
    }
    let mut mine = BTreeMap::new();
    let repeated = heat.check(&mut mine).await;
    for (racer, count) in mine {
        *wins.lock().unwrap().entry(racer).or_default() += count;
    }
    repeated
}

pub async fn the_first_end_stands(store: DynStore) {
    let races: usize = std::env::var("ORRERY_RACES").map_or(RACES, |n| n.parse().expect("ORRERY_RACES is a number"));
    let once = |job: &mut Job| job.spec.delivery = Delivery::AtMostOnce;
    let job = job_with(&store, "once", once).await;
    let again = job_with(&store, "again", |_| {}).await;
    // A deadline that has passed when the lease is granted.
    let hasty = job_with(&store, "hasty", |job| {
        once(job);
        job.spec.config = r#"{"url":"http://localhost","timeout":0.001}"#.to_owned();
    })
    .await;
    let wins: Mutex<BTreeMap<Racer, usize>> = Mutex::default();
    let (mut run, mut repeated) = (0, 0);
    while run < races {
        let heats = (0..HEATS).map(|_| run_heat(&store, Course::Events, &job, &wins));
        join_all(heats).await;
        repeated += run_heat(&store, Course::Repeated, &again, &wins).await;
        run_heat(&store, Course::Reaped, &hasty, &wins).await;
        run += (HEATS + 2) * HEAT;
    }
    let wins = wins.into_inner().unwrap();
    assert_eq!(wins.values().sum::<usize>(), run);
    let held = all_are_over(&store).await;
    assert_eq!(held, 0, "leases are left");
    let least = run / 200;
    assert!(repeated >= least, "{repeated} were lost and ran again");
    assert!(RACERS.iter().all(|r| wins.get(r).is_some_and(|n| *n >= least)) || run < 1000, "{run} races: {wins:?}");
    eprintln!("{run} races on {}, won by {wins:?}; {repeated} were lost and ran again", store.engine());
}

/// How many executions are not over.
async fn all_are_over(store: &DynStore) -> i64 {
    store.queues(TENANT).await.unwrap().iter().map(|q| q.pending + q.scheduled + q.running).sum()
}

/// Renewals race reapers at the moment of expiry: whoever was renewed has its lease, and whoever was refused has lost it.
pub async fn a_renewal_and_an_expiry_agree(store: DynStore) {
    const AGENTS: usize = 8;
    let job = job(&store, "a").await;
    let (mut renewed, mut refused) = (0, 0);
    // About as long as a call takes on this machine now: it grows where all are too late, and shrinks where none is.
    let mut brink = Duration::from_millis(4);
    for round in 0..200 {
        if round >= 20 && renewed > 0 && refused > 0 {
            break;
        }
        let mut leases = Vec::new();
        triggers(&store, &job, AGENTS).await;
        for n in 0..AGENTS {
            let agent = session(&store, &format!("agent {n}")).await;
            leases.extend(claim(&store, &agent, 1).await.grants.into_iter().map(|g| (g.execution, agent.clone())));
        }
        let named: Vec<(Uuid, i64)> = leases.iter().map(|(_, agent)| (agent.id, agent.attachment)).collect();
        // Sessions that end about when the renewal is written.
        store.renew_sessions(&named, brink).await.unwrap();
        let is_over = AtomicBool::new(false);
        let reaps = || async {
            while !is_over.load(Ordering::Relaxed) {
                store.reap(MINUTE, AGENTS).await.unwrap();
            }
        };
        let renews = async {
            tokio::time::sleep(rand::random_range(Duration::ZERO..brink)).await;
            let renewed = store.renew_sessions(&named, MINUTE).await.unwrap();
            is_over.store(true, Ordering::Relaxed);
            renewed
        };
        let (alive, (), ()) = tokio::join!(renews, reaps(), reaps());
        while !store.reap(MINUTE, 100).await.unwrap().sessions.is_empty() {}
        for (lease, agent) in &leases {
            let was_renewed = alive.renewed.contains(&agent.id);
            assert_eq!(store.held(agent.id).await.unwrap().len(), usize::from(was_renewed), "renewed: {was_renewed}");
            let word = apply(&store, lease, completed(lease)).await;
            assert_eq!(word.is_ok(), was_renewed, "{word:?}");
            *(if was_renewed { &mut renewed } else { &mut refused }) += 1;
        }
        brink = match alive.renewed.len() {
            0 => (brink * 2).min(Duration::from_secs(2)),
            AGENTS => (brink / 2).max(Duration::from_micros(200)),
            _ => brink,
        };
        // What was lost is nobody's business any more.
        let last = session(&store, "last").await;
        let lost = claim(&store, &last, 100).await.grants;
        store.apply(lost.iter().map(|g| change(&g.execution, completed(&g.execution))).collect()).await.unwrap();
    }
    assert!(renewed > 0 && refused > 0, "{renewed} were renewed, {refused} refused: there was no race");
}
