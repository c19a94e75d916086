//! Statistics and filters, held to the plain list of executions.

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use orrery_proto::v1::{ErrorType, ExecutionStatus, TriggerType};
use orrery_server::execution::{Execution, Report, State};
use orrery_server::job::Job;
use orrery_server::store::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use uuid::Uuid;

use crate::support::*;

/// What a middle of a bucket may be off, of its value.
const ERROR: f64 = 1.0 / 128.0;

/// Executions of some jobs, scheduled over three days, of any end and of none. `step` is called every now and then.
async fn history(store: &DynStore, random: &mut StdRng, mut step: impl AsyncFnMut(&mut StdRng)) -> Vec<Job> {
    let agent = session(store, "agent").await;
    let now = now(store).await;
    let mut jobs = Vec::new();
    for name in ["one", "two", "three"] {
        let due = Some(now - TimeDelta::seconds(5));
        jobs.push(job_with(store, name, |j| (j.cursor, j.spec.retry.max_retries) = (due, 1)).await);
    }
    let hour = now.duration_trunc(TimeDelta::hours(1)).unwrap();
    let mut fires: Vec<DateTime<Utc>> =
        (0..25).map(|_| now - TimeDelta::milliseconds(random.random_range(0..3 * 86_400_000))).collect();
    // At the very edges of periods, and close together.
    fires.extend((0..4).map(|n| hour - TimeDelta::hours(n)));
    fires.extend((1..8).map(|n| hour - TimeDelta::milliseconds(n)));
    fires.sort_unstable();
    plan(store, &fires, None).await;
    release(store).await;
    for _ in 0..12 {
        let job = &jobs[random.random_range(0..jobs.len())];
        trigger(store, job).await;
        let later = Some(now + TimeDelta::seconds(random.random_range(60..90_000)));
        let ahead = Trigger { run_at: later, ..trigger_of(job) };
        let ahead = store.trigger(vec![ahead], &|_, _, _| Ok(())).await.unwrap().remove(0);
        if random.random() {
            apply(store, &ahead, cancel_requested()).await.unwrap();
        }
    }
    for round in 0..130 {
        end_one(store, random, &agent).await;
        if round % 13 == 0 {
            step(random).await;
        }
    }
    jobs
}

/// Brings one waiting execution to some end, or leaves it running.
async fn end_one(store: &DynStore, random: &mut StdRng, agent: &Session) {
    let Some(grant) = claim(store, agent, 1).await.grants.pop() else { return };
    let execution = grant.execution;
    let ms = [9, 200, 70_000, 30_000_000][random.random_range(0..4)];
    let report = |status| Report { duration_ms: random.clone().random_range(0..ms), ..report(status) };
    let error = |error| Report { error_type: Some(error), retryable: Some(false), ..report(ExecutionStatus::Failed) };
    let running = async || apply(store, &execution, started(&execution)).await.unwrap();
    match random.clone().random_range(0..12) {
        0 => _ = apply(store, &execution, failed(&execution, ErrorType::Timeout)).await,
        1 => _ = apply(store, &execution, finished(&execution, error(ErrorType::Timeout))).await,
        2 => _ = apply(store, &running().await, finished(&execution, error(ErrorType::UserError))).await,
        3 => _ = running().await,
        4 => {}
        _ => _ = apply(store, &running().await, finished(&execution, report(ExecutionStatus::Completed))).await,
    }
    random.random::<u64>();
    release(store).await;
}

/// An instant that decides: near a scheduled one, at the edge of a period, or any.
fn edge(random: &mut StdRng, all: &[Execution]) -> DateTime<Utc> {
    let at = all[random.random_range(0..all.len())].scheduled_at;
    let widths = [TimeDelta::minutes(1), TimeDelta::hours(1), TimeDelta::days(1)];
    match random.random_range(0..4) {
        0 => at + TimeDelta::microseconds(random.random_range(-1..2)),
        1 => at.duration_trunc(widths[random.random_range(0..3)]).unwrap(),
        2 => at.duration_trunc(widths[random.random_range(0..3)]).unwrap() + widths[random.random_range(0..3)],
        _ => at + TimeDelta::milliseconds(random.random_range(-4_000_000..4_000_000)),
    }
}

fn within(execution: &Execution, job: Option<Uuid>, from: DateTime<Utc>, to: DateTime<Utc>) -> bool {
    job.is_none_or(|job| job == execution.job_id) && from <= execution.scheduled_at && execution.scheduled_at < to
}

/// The statistics of executions, counted one by one.
fn counted<'a>(executions: impl Iterator<Item = &'a Execution>) -> Stats {
    let mut stats = Stats::default();
    let mut durations = Vec::new();
    for execution in executions {
        match execution.status() {
            ExecutionStatus::Pending => stats.pending += 1,
            ExecutionStatus::Running => stats.running += 1,
            ExecutionStatus::Completed => stats.completed += 1,
            ExecutionStatus::Failed => stats.failed += 1,
            _ => stats.cancelled += 1,
        }
        if let State::Done(outcome) = &execution.state {
            stats.timed_out += i64::from(outcome.error_type == Some(ErrorType::Timeout));
            stats.retried += i64::from(execution.retries() > 0);
            durations.extend(outcome.started_at.and(outcome.duration_ms).map(|ms| ms as f64));
        }
    }
    durations.sort_by(f64::total_cmp);
    if let Some(max) = durations.last() {
        let percentile = |share: f64| durations[((share * durations.len() as f64).ceil() as usize).max(1) - 1];
        stats.average_ms = durations.iter().sum::<f64>() / durations.len() as f64;
        (stats.p50_ms, stats.p95_ms, stats.p99_ms, stats.max_ms) =
            (percentile(0.5), percentile(0.95), percentile(0.99), *max);
    }
    stats
}

fn assert_alike(told: &Stats, exact: &Stats, of: &str) {
    let near = |a: f64, b: f64| (a - b).abs() <= b * ERROR + 1e-6;
    assert!((told.average_ms - exact.average_ms).abs() < 0.001, "{of}: {told:?} {exact:?}");
    for (a, b) in [
        (told.p50_ms, exact.p50_ms),
        (told.p95_ms, exact.p95_ms),
        (told.p99_ms, exact.p99_ms),
        (told.max_ms, exact.max_ms),
    ] {
        assert!(near(a, b), "{of}: {told:?} {exact:?}");
    }
    let durations = Stats { average_ms: 0.0, p50_ms: 0.0, p95_ms: 0.0, p99_ms: 0.0, max_ms: 0.0, ..told.clone() };
    let counts = Stats { average_ms: 0.0, p50_ms: 0.0, p95_ms: 0.0, p99_ms: 0.0, max_ms: 0.0, ..exact.clone() };
    assert_eq!(durations, counts, "{of}");
}

/// Compares over some ranges, of each job and of all.
async fn compare(store: &DynStore, random: &mut StdRng) {
    let all = executions(store).await;
    let ids: Vec<Uuid> = all.iter().map(|e| e.job_id).collect();
    for _ in 0..12 {
        let (a, b) = (edge(random, &all), edge(random, &all));
        let (from, to) = (a.min(b), a.max(b));
        for job in [None, Some(ids[random.random_range(0..ids.len())])] {
            let told = store.stats(TENANT, job, from, to).await.unwrap();
            let exact = counted(all.iter().filter(|e| within(e, job, from, to)));
            assert_alike(&told, &exact, &format!("{from} to {to} of {job:?}"));
        }
    }
    let everything =
        store.stats(TENANT, None, DateTime::UNIX_EPOCH, now(store).await + TimeDelta::days(9)).await.unwrap();
    assert_alike(&everything, &counted(all.iter()), "everything");
}

/// Adds up all there is.
pub async fn add_up(store: &DynStore) {
    while store.add_up().await.unwrap() {}
}

pub async fn statistics_are_those_of_the_list(store: DynStore) {
    for seed in 0..2 {
        let mut random = StdRng::seed_from_u64(seed);
        let step = async |random: &mut StdRng| {
            // Some are added up when the next ones end, and some are not.
            if random.random() {
                add_up(&store).await;
            }
            compare(&store, random).await;
        };
        let jobs = history(&store, &mut random, step).await;
        add_up(&store).await;
        compare(&store, &mut random).await;
        for job in jobs {
            delete(&store, &job).await;
        }
        compare(&store, &mut random).await;
    }
    assert_eq!(
        store.stats(OTHER_TENANT, None, DateTime::UNIX_EPOCH, now(&store).await).await.unwrap(),
        Stats::default()
    );
}

pub async fn every_filter_is_kept(store: DynStore) {
    let mut random = StdRng::seed_from_u64(7);
    let jobs = history(&store, &mut random, async |_| {}).await;
    let all = executions(&store).await;
    let statuses = [
        ExecutionStatus::Pending,
        ExecutionStatus::Running,
        ExecutionStatus::Completed,
        ExecutionStatus::Failed,
        ExecutionStatus::Cancelled,
    ];
    let triggers = [TriggerType::Scheduled, TriggerType::Manual, TriggerType::Retry];
    for _ in 0..150 {
        let mut maybe = || random.random_range(0..3) == 0;
        let (by_job, by_status, by_trigger, by_from, by_to) = (maybe(), maybe(), maybe(), maybe(), maybe());
        let filter = ExecutionFilter {
            jobs: None,
            job: by_job.then(|| jobs[random.random_range(0..jobs.len())].id),
            status: by_status.then(|| statuses[random.random_range(0..5)]),
            trigger: by_trigger.then(|| triggers[random.random_range(0..3)]),
            from: by_from.then(|| edge(&mut random, &all)),
            to: by_to.then(|| edge(&mut random, &all)),
        };
        let is_wanted = |e: &&Execution| {
            filter.job.is_none_or(|job| job == e.job_id)
                && filter.status.is_none_or(|status| status == e.status())
                && filter.trigger.is_none_or(|trigger| trigger == e.trigger)
                && filter.from.is_none_or(|from| from <= e.scheduled_at)
                && filter.to.is_none_or(|to| e.scheduled_at < to)
        };
        let wanted: Vec<Uuid> = all.iter().filter(is_wanted).map(|e| e.id).collect();
        let limit = random.random_range(1..60);
        let mut listed: Vec<Uuid> = Vec::new();
        loop {
            let page = Page { after: listed.last().copied(), limit };
            let found = store.executions(TENANT, &filter, &page).await.unwrap();
            listed.extend(found.iter().map(|e| e.id));
            if i64::try_from(found.len()).unwrap() < limit {
                break;
            }
        }
        assert_eq!(listed, wanted, "{filter:?} by {limit}");
        assert!(store.executions(OTHER_TENANT, &filter, &Page { after: None, limit }).await.unwrap().is_empty());
    }
}

/// While executions end, one adds up and another asks: every answer has what had ended before the question, and the last one has all.
pub async fn nothing_is_missed_while_it_is_added_up(store: DynStore) {
    const EACH: usize = 60;
    let from = seconds_from_now(&store, -60).await;
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let done = std::sync::Arc::new(std::sync::atomic::AtomicI64::new(0));
    triggers(&store, &job, 4 * EACH).await;
    let granted = claim(&store, &agent, 4 * EACH).await.grants;
    assert_eq!(granted.len(), 4 * EACH);
    let over = tokio_util::sync::CancellationToken::new();
    let adding = (0..2).map(|_| {
        let (store, over) = (store.clone(), over.clone());
        tokio::spawn(async move {
            while !over.is_cancelled() {
                store.add_up().await.unwrap();
                tokio::task::yield_now().await;
            }
        })
    });
    let adding: Vec<_> = adding.collect();
    let ending = granted.chunks(EACH).map(|part| {
        let (store, done, part) = (store.clone(), done.clone(), part.to_vec());
        tokio::spawn(async move {
            for grant in part {
                apply(&store, &grant.execution, completed(&grant.execution)).await.unwrap();
                done.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
        })
    });
    let ending: Vec<_> = ending.collect();
    let to = from + TimeDelta::days(2);
    let all = i64::try_from(4 * EACH).unwrap();
    loop {
        let before = done.load(std::sync::atomic::Ordering::SeqCst);
        for job in [None, Some(job.id)] {
            let stats = store.stats(TENANT, job, from, to).await.unwrap();
            assert!(stats.completed >= before, "{} of {before}", stats.completed);
            assert_eq!(stats.completed + stats.running, all);
        }
        if before == all {
            break;
        }
    }
    over.cancel();
    for task in adding.into_iter().chain(ending) {
        task.await.unwrap();
    }
    add_up(&store).await;
    assert_eq!(store.stats(TENANT, None, from, to).await.unwrap().completed, all);
}
