//! After an outage: what is on time goes before what is late, everywhere, and what is late happens all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use orrery_proto::v1::ErrorType;
use orrery_server::clock::DatabaseClock;
use orrery_server::execution::{Event, Execution, fire_id};
use orrery_server::firing;
use orrery_server::job::{Job, ScheduleKind};
use orrery_server::reconcile::{Planner, Releaser, Signals};
use orrery_server::store::*;
use orrery_server::telemetry::Metrics;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::*;

const HOUR: TimeDelta = TimeDelta::hours(1);

/// Plans the instant at the cursor of each candidate, in the order in which they are offered.
async fn plan_in_order(store: &DynStore, limit: usize) -> (Planned, Vec<String>) {
    let offered = Mutex::new(Vec::new());
    let decide = |candidate: &PlanCandidate| {
        offered.lock().unwrap().push(candidate.job.spec.name.clone());
        JobPlan { fires: candidate.job.cursor.into_iter().collect(), omissions: vec![], cursor: None }
    };
    let planned = store.plan(MINUTE, limit, &decide).await.unwrap();
    (planned, offered.into_inner().unwrap())
}

pub async fn what_is_on_time_is_planned_before_a_backlog(store: DynStore) {
    let now = now(&store).await;
    for n in 0..8 {
        job_with(&store, &format!("late {n}"), |j| j.cursor = Some(now - HOUR + TimeDelta::seconds(n))).await;
    }
    for n in 0..3 {
        job_with(&store, &format!("soon {n}"), |j| j.cursor = Some(now + TimeDelta::seconds(n))).await;
    }
    let (planned, offered) = plan_in_order(&store, 6).await;
    assert_eq!(offered, ["soon 0", "soon 1", "soon 2", "late 0", "late 1", "late 2"]);
    assert_eq!((planned.jobs, planned.late), (6, 3));
    // A backlog alone has no more than half of the places either, so that its rounds stay short.
    assert_eq!(plan_in_order(&store, 6).await.1, ["late 3", "late 4", "late 5"]);
    assert_eq!(plan_in_order(&store, 6).await.1, ["late 6", "late 7"]);
}

/// Six fires that are hours late and three of now.
async fn backlog(store: &DynStore) -> (Vec<Uuid>, Vec<Uuid>) {
    let now = now(store).await;
    let (mut late, mut soon) = (Vec::new(), Vec::new());
    for (count, age, ids) in [(6, HOUR, &mut late), (3, TimeDelta::milliseconds(50), &mut soon)] {
        for n in 0..count {
            let at = now - age + TimeDelta::milliseconds(n);
            let job = job_with(store, &format!("{age} {n}"), |j| j.cursor = Some(at)).await;
            ids.push(fire_id(TENANT, job.id, at));
        }
    }
    while plan_in_order(store, 100).await.0.fires > 0 {}
    (late, soon)
}

async fn states(store: &DynStore, ids: &[Uuid]) -> Vec<&'static str> {
    let mut states = Vec::new();
    for id in ids {
        states.push(execution(store, *id).await.state.name());
    }
    states
}

pub async fn a_backlog_comes_due_in_parts(store: DynStore) {
    let (late, soon) = backlog(&store).await;
    let admit = |due: &[DueFire], _: DateTime<Utc>| vec![DueVerdict::Admit; due.len()];
    let first = store.release(6, &admit).await.unwrap();
    assert_eq!((first.released, first.late), (6, 3));
    assert!(first.worst_lag >= Duration::from_secs(3600), "it is true to the instant: {:?}", first.worst_lag);
    assert_eq!(states(&store, &soon).await, ["pending"; 3]);
    assert_eq!(states(&store, &late).await, ["pending", "pending", "pending", "scheduled", "scheduled", "scheduled"]);
    let second = store.release(6, &admit).await.unwrap();
    assert_eq!((second.released, second.late, second.next_due), (3, 3, None));
}

/// Where the database is slow, less than half.
pub async fn a_backlog_has_no_more_places_than_it_is_given(store: DynStore) {
    let few = Places { all: 6, late: 1 };
    let now = now(&store).await;
    for n in 0..3 {
        job_with(&store, &format!("late {n}"), |j| j.cursor = Some(now - HOUR + TimeDelta::seconds(n))).await;
    }
    let decide = |candidate: &PlanCandidate| JobPlan {
        fires: candidate.job.cursor.into_iter().collect(),
        omissions: vec![],
        cursor: None,
    };
    for _ in 0..3 {
        let planned = store.plan_some(MINUTE, few, &decide).await.unwrap();
        assert_eq!((planned.jobs, planned.late), (1, 1));
    }
    for _ in 0..3 {
        let released = store.release_within(few, 0, &firing::judge).await.unwrap();
        assert_eq!((released.released + released.omitted, released.late), (1, 1));
    }
}

pub async fn a_backlog_is_granted_behind_what_is_on_time(store: DynStore) {
    let (late, soon) = backlog(&store).await;
    let before = now(&store).await;
    release(&store).await;
    let agent = session(&store, "agent").await;
    // In another lane too: lanes take turns, and the turn of a backlog comes after all that is on time.
    let other = job_with(&store, "other", |j| j.spec.queue = "other".to_owned()).await;
    let asked = trigger(&store, &other).await;
    let granted: Vec<Execution> = claim(&store, &agent, 100).await.grants.into_iter().map(|g| g.execution).collect();
    let ids: Vec<Uuid> = granted.iter().map(|e| e.id).collect();
    let first: BTreeSet<Uuid> = ids[..4].iter().copied().collect();
    assert_eq!(first, soon.iter().copied().chain([asked.id]).collect());
    assert_eq!(ids[4..].iter().copied().collect::<BTreeSet<_>>(), late.iter().copied().collect());
    for e in granted.iter().filter(|e| late.contains(&e.id)) {
        assert!(e.scheduled_at < before - TimeDelta::minutes(59), "its instant is told as it was");
        assert!(e.run_at >= before, "it has waited since it came due");
    }
    for e in granted.iter().filter(|e| soon.contains(&e.id)) {
        assert_eq!(e.run_at, e.scheduled_at);
    }
}

/// A higher priority goes first all the same, and what is repeated is not late.
pub async fn priorities_and_retries_are_not_held_back(store: DynStore) {
    let at = now(&store).await - HOUR;
    let job_of = |name: &'static str, priority: i32| {
        let store = store.clone();
        async move {
            job_with(&store, name, |j| {
                (j.cursor, j.spec.priority) = (Some(at), priority);
                j.spec.retry.max_retries = 1;
            })
            .await
        }
    };
    let (plain, urgent) = (job_of("plain", 0).await, job_of("urgent", 5).await);
    plan_in_order(&store, 100).await;
    release(&store).await;
    let agent = session(&store, "agent").await;
    let asked = trigger(&store, &plain).await;
    let one = |claimed: Claimed| claimed.grants[0].execution.clone();
    assert_eq!(one(claim(&store, &agent, 1).await).id, fire_id(TENANT, urgent.id, at));
    assert_eq!(one(claim(&store, &agent, 1).await).id, asked.id);
    let late = one(claim(&store, &agent, 1).await);
    assert_eq!(late.id, fire_id(TENANT, plain.id, at));
    let (session_id, epoch) = lease(&late);
    apply(&store, &late, Event::Released { session_id, epoch }).await.unwrap();
    let asked = trigger(&store, &plain).await;
    assert_eq!(one(claim(&store, &agent, 1).await).id, asked.id, "given back, it is still late");
    let late = one(claim(&store, &agent, 1).await);
    apply(&store, &late, failed(&late, ErrorType::Timeout)).await.unwrap();
    release(&store).await;
    trigger(&store, &plain).await;
    assert_eq!(one(claim(&store, &agent, 1).await).id, late.id, "repeated, it has its turn");
}

/// A fire that was planned before the outage comes due after it, and takes nothing's place either.
pub async fn what_was_planned_before_an_outage_is_late_too(store: DynStore) {
    let (late, soon) = backlog(&store).await;
    let admit = |due: &[DueFire], _: DateTime<Utc>| vec![DueVerdict::Admit; due.len()];
    store.release(2, &admit).await.unwrap();
    let states = (states(&store, &soon).await, states(&store, &late).await);
    let waiting = |states: &[&str]| states.iter().filter(|s| **s == "pending").count();
    assert_eq!((waiting(&states.0), waiting(&states.1)), (1, 1), "one each");
}

const STEP: TimeDelta = TimeDelta::milliseconds(100);
const PATIENCE: Duration = Duration::from_secs(180);
const OUTAGE: TimeDelta = TimeDelta::hours(6);

/// What a fake agent has been granted, in order.
#[derive(Default)]
struct Grants {
    late: Vec<DateTime<Utc>>,
    /// Instant, when it was granted.
    on_time: Vec<(DateTime<Utc>, DateTime<Utc>)>,
}

/// Claims and completes until all of the backlog is through.
async fn serve(store: DynStore, backlog: BTreeSet<Uuid>, grants: Arc<Mutex<Grants>>) {
    let agent = session(&store, "agent").await;
    let mut left = backlog.len();
    while left > 0 {
        let claimed = claim(&store, &agent, 50).await;
        if claimed.grants.is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
            continue;
        }
        {
            let mut grants = grants.lock().unwrap();
            for e in claimed.grants.iter().map(|g| &g.execution) {
                let granted_at = e.lease().unwrap().granted_at;
                if e.run_at > e.scheduled_at {
                    assert!(backlog.contains(&e.job_id), "a job that is on time came late: {e:?}");
                    grants.late.push(granted_at);
                    left -= 1;
                } else {
                    grants.on_time.push((e.scheduled_at, granted_at));
                }
            }
        }
        let done = claimed.grants.iter().map(|g| change(&g.execution, completed(&g.execution))).collect();
        store.apply(done).await.unwrap();
        store.renew_sessions(&[(agent.id, agent.attachment)], MINUTE).await.unwrap();
    }
}

/// Jobs whose coordinators were away for six hours, every ten minutes each, and some that fire all the while.
async fn jobs_after_an_outage(store: &DynStore, behind: usize) -> Vec<Job> {
    let now = now(store).await;
    let mut jobs = Vec::new();
    for n in 0..behind {
        let mut job = job_of(TENANT, spec(&format!("behind {n}")));
        // Five minutes from now and before: nothing of it is on time.
        let first = now - OUTAGE - TimeDelta::minutes(5);
        (job.created_at, job.cursor) = (first, Some(first));
        job.spec.schedule.kind = ScheduleKind::Every(600_000);
        jobs.push(new_job(job));
    }
    let made = store.create_jobs(jobs, None).await.unwrap();
    for n in 0..20 {
        let phase = TimeDelta::milliseconds(5 * n);
        job_with(store, &format!("on time {n}"), |j| {
            (j.created_at, j.cursor) = (now + phase, Some(now + STEP + phase));
            j.spec.schedule.kind = ScheduleKind::Every(STEP.num_milliseconds());
        })
        .await;
    }
    made
}

/// The loops of a coordinator over this store, until the token is cancelled.
fn loops(store: &DynStore, end: &CancellationToken) {
    let (clock, signals, metrics) =
        (Arc::<DatabaseClock>::default(), Arc::<Signals>::default(), Metrics::with_tenants(10));
    let planner = Planner {
        store: store.clone(),
        clock: clock.clone(),
        signals: signals.clone(),
        metrics: metrics.clone(),
        ahead: Duration::from_secs(5),
    };
    let releaser = Releaser { store: store.clone(), clock, signals, metrics, hourly: 0 };
    tokio::spawn(planner.run(end.clone()));
    tokio::spawn(releaser.run(end.clone()));
}

/// The real loops on a backlog. ORRERY_BACKLOG sets its size; what it takes is printed.
pub async fn a_long_outage_is_caught_up_behind_what_is_on_time(store: DynStore) {
    let behind = std::env::var("ORRERY_BACKLOG").map_or(1000, |n| n.parse().expect("ORRERY_BACKLOG is a number"));
    let jobs = jobs_after_an_outage(&store, behind).await;
    let (grants, end) = (Arc::<Mutex<Grants>>::default(), CancellationToken::new());
    let began = now(&store).await;
    loops(&store, &end);
    let serving = serve(store.clone(), jobs.iter().map(|job| job.id).collect(), grants.clone());
    tokio::time::timeout(PATIENCE, serving).await.expect("the backlog comes through");
    end.cancel();
    let Grants { late, on_time } = std::mem::take(&mut *grants.lock().unwrap());
    tell(store.engine(), began, &late, &on_time);

    // Coalesced: the latest missed fire of each happens, and one row has all the others.
    assert_eq!(late.len(), behind);
    for job in jobs.iter().step_by(behind / 20) {
        let rows = omissions(&store, job).await;
        let [row] = rows.as_slice() else { panic!("{rows:?}") };
        assert_eq!((row.reason.as_str(), row.count), ("coalesced", 36));
        assert_eq!((row.from, row.to), (job.cursor.unwrap(), row.from + TimeDelta::minutes(350)));
    }
    // What was on time did not wait for the backlog's end: it went before all but the rounds that were under way.
    let through = *late.last().unwrap();
    let during: Vec<_> = on_time.iter().filter(|(at, _)| *at > began + STEP && *at < through).collect();
    assert!(!during.is_empty(), "the backlog was over before anything was on time");
    for (at, granted) in during {
        let overtook = late.iter().filter(|l| **l > *at && **l < *granted).count();
        assert!(overtook <= behind / 2, "{overtook} of a backlog of {behind} went before what was due at {at}");
    }
}

fn tell(engine: &str, began: DateTime<Utc>, late: &[DateTime<Utc>], on_time: &[(DateTime<Utc>, DateTime<Utc>)]) {
    let through = late.iter().max().unwrap();
    let took = (*through - began).as_seconds_f64();
    let mut lags: Vec<i64> = on_time
        .iter()
        .filter(|(at, _)| *at > began + STEP && at < through)
        .map(|(at, granted)| (*granted - *at).num_milliseconds())
        .collect();
    lags.sort_unstable();
    let at = |percent: usize| lags.get(lags.len() * percent / 100).copied().unwrap_or_default();
    let by_second = late.iter().fold(BTreeMap::<i64, usize>::new(), |mut seconds, at| {
        *seconds.entry((*at - began).num_seconds()).or_default() += 1;
        seconds
    });
    eprintln!(
        "{engine}: {} late fires in {took:.1} s, {:.0} a second ({by_second:?}); {} on time meanwhile, ms from instant to grant: p50 {}, p99 {}, \
         max {:?}",
        late.len(),
        late.len() as f64 / took,
        lags.len(),
        at(50),
        at(99),
        lags.last()
    );
}

/// A job whose row this version cannot read, which a test's own SQL has brought about.
pub async fn an_unreadable_job_holds_nobody_up(store: DynStore, spoil: impl AsyncFn(Uuid)) {
    let (late, ahead) = (now(&store).await - HOUR, now(&store).await + TimeDelta::seconds(20));
    let (bad, worse) = (job_with(&store, "bad", |j| j.cursor = Some(late)).await, job(&store, "worse").await);
    let good = job_with(&store, "good", |j| j.cursor = Some(late + TimeDelta::seconds(1))).await;
    edit(&store, &worse, |j| j.cursor = Some(ahead)).await;
    spoil(bad.id).await;
    let (planned, offered) = plan_in_order(&store, 100).await;
    assert_eq!((planned.jobs, planned.omissions, planned.fires), (3, 1, 2));
    assert_eq!(offered, ["worse", "good"]);
    let [row] = <[NewOmission; 1]>::try_from(omissions(&store, &bad).await).unwrap();
    assert_eq!((row.reason.as_str(), row.from), ("unplannable", late));
    assert!(row.to > now(&store).await + TimeDelta::minutes(59));
    assert_eq!(plan_in_order(&store, 100).await.0.jobs, 0, "it rests");

    // What was planned of a job that cannot be read any more waits too, and does not stand before others.
    let urgent = job_with(&store, "urgent", |j| j.cursor = Some(late)).await;
    plan_in_order(&store, 100).await;
    spoil(urgent.id).await;
    let done = store.release(10, &firing::judge).await.unwrap();
    assert_eq!((done.released, done.omitted), (1, 0));
    assert_eq!(execution(&store, fire_id(TENANT, good.id, late + TimeDelta::seconds(1))).await.state.name(), "pending");
    let waits = execution(&store, fire_id(TENANT, urgent.id, late)).await;
    assert_eq!(waits.state.name(), "scheduled");
    assert!(waits.run_at > now(&store).await + TimeDelta::seconds(50) && waits.scheduled_at == late);

    // What waits for an agent is not given away, what runs ends, and the others go on.
    let spoilt = job_with(&store, "spoilt", |j| j.spec.priority = 9).await;
    let agent = session(&store, "agent").await;
    trigger(&store, &spoilt).await;
    let running = claim(&store, &agent, 1).await.grants.remove(0).execution;
    assert_eq!(running.job_id, spoilt.id);
    let waiting = trigger(&store, &spoilt).await;
    spoil(spoilt.id).await;
    let granted: Vec<Uuid> = claim(&store, &agent, 10).await.grants.iter().map(|g| g.execution.id).collect();
    assert_eq!(granted, [fire_id(TENANT, good.id, late + TimeDelta::seconds(1))]);
    assert_eq!(execution(&store, waiting.id).await.state.name(), "pending");
    assert!(apply(&store, &running, completed(&running)).await.unwrap().is_done());
}
