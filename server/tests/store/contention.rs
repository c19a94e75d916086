//! Many coordinators on one PostgreSQL: planners and releasers that are at the same rows all the time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use orrery_server::execution::fire_id;
use orrery_server::store::postgres::{PgOptions, PgStore};
use orrery_server::store::*;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::engines::{Database, database_url};
use crate::support::*;

const COORDINATORS: usize = 6;
const JOBS: usize = 300;
/// Fires of each job; every third instant is omitted.
const INSTANTS: i64 = 9;
const STEP: TimeDelta = TimeDelta::seconds(60);
const PATIENCE: Duration = Duration::from_secs(240);

/// Transactions that PostgreSQL has ended because they crossed, once all connections have told.
async fn deadlocks(database: &Database) -> i64 {
    let mut raw = PgConnection::connect(&database_url()).await.unwrap();
    // All but those that only listen, and have said so.
    let connected = "select count(*) from pg_stat_activity
        where datname = $1 and query not ilike 'listen%' and query <> 'select pg_notify($1, $2)'";
    let began = Instant::now();
    while sqlx::query_scalar::<_, i64>(connected).bind(&database.name).fetch_one(&mut raw).await.unwrap() > 0 {
        assert!(began.elapsed() < PATIENCE, "connections are left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let deadlocks = "select deadlocks from pg_stat_database where datname = $1";
    sqlx::query_scalar(deadlocks).bind(&database.name).fetch_one(&mut raw).await.unwrap()
}

/// What one coordinator has done.
#[derive(Default)]
struct Done {
    fires: usize,
    omissions: usize,
    released: usize,
    rounds: usize,
    longest: Duration,
}

/// The fire at the cursor, or an omission, and the cursor a step on.
fn decide(first: DateTime<Utc>) -> impl Fn(&PlanCandidate) -> JobPlan + Send + Sync {
    move |candidate| {
        let at = candidate.job.cursor.unwrap();
        let n = (at - first).num_seconds() / STEP.num_seconds();
        let cursor = (n + 1 < INSTANTS).then(|| at + STEP);
        match n % 3 {
            2 => JobPlan { fires: vec![], omissions: vec![omission("skipped", at)], cursor },
            _ => JobPlan { fires: vec![at], omissions: vec![], cursor },
        }
    }
}

async fn coordinate(store: PgStore, first: DateTime<Utc>, settled: Arc<AtomicUsize>, wanted: usize) -> Done {
    let mut done = Done::default();
    let admit = |due: &[DueFire], _: DateTime<Utc>| vec![DueVerdict::Admit; due.len()];
    let began = Instant::now();
    while settled.load(Ordering::Relaxed) < wanted {
        assert!(began.elapsed() < PATIENCE, "{settled:?} of {wanted} are released or omitted");
        let round = Instant::now();
        let planned = store.plan(MINUTE, 20, &decide(first)).await.unwrap();
        let releases = store.release(25, &admit).await.unwrap();
        done.longest = done.longest.max(round.elapsed());
        done.rounds += 1;
        done.fires += planned.fires;
        done.omissions += planned.omissions;
        done.released += releases.released;
        settled.fetch_add(releases.released + planned.omissions, Ordering::Relaxed);
        if planned.jobs + releases.released == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_coordinators_share_the_work() {
    let database = Database::new().await;
    let options = PgOptions { max_connections: 4, ..PgOptions::new(&database.url) };
    let mut stores = Vec::new();
    for _ in 0..COORDINATORS {
        stores.push(PgStore::connect(options.clone()).await.unwrap());
    }
    stores[0].migrate().await.unwrap();
    let store: DynStore = Arc::new(stores[0].clone());
    let first = now(&store).await - TimeDelta::hours(2);
    let jobs = (0..JOBS).map(|n| {
        let mut job = job_of(TENANT, spec(&format!("job {n}")));
        job.cursor = Some(first);
        // Some with a limit: their releases lock them for longer.
        job.spec.max_concurrent = i32::from(n % 4 == 0);
        new_job(job)
    });
    let jobs = store.create_jobs(jobs.collect(), None).await.unwrap();
    let fires = JOBS * usize::try_from(INSTANTS * 2 / 3).unwrap();
    let omitted = JOBS * usize::try_from(INSTANTS / 3).unwrap();

    let settled = Arc::<AtomicUsize>::default();
    let coordinate = |store: &PgStore| tokio::spawn(coordinate(store.clone(), first, settled.clone(), fires + omitted));
    let work = stores.iter().map(coordinate);
    let done: Vec<Done> = join_all(work).await.into_iter().map(Result::unwrap).collect();
    let sum = |of: fn(&Done) -> usize| done.iter().map(of).sum::<usize>();
    assert_eq!((sum(|d| d.fires), sum(|d| d.omissions), sum(|d| d.released)), (fires, omitted, fires));

    let wanted: BTreeSet<Uuid> = jobs
        .iter()
        .flat_map(|job| (0..INSTANTS).filter(|n| n % 3 != 2).map(|n| fire_id(TENANT, job.id, first + STEP * n as i32)))
        .collect();
    let made: Vec<Uuid> = executions(&store).await.iter().map(|e| e.id).collect();
    assert!(made.len() == wanted.len() && made.iter().all(|id| wanted.contains(id)));
    for job in &jobs {
        assert_eq!(
            omissions(&store, job).await.len() as i64,
            INSTANTS / 3,
            "an omission is written twice or not at all"
        );
        assert_eq!(job_now(&store, job.id).await.execution_count, INSTANTS * 2 / 3);
    }
    // All got on: nobody planned all of it while the others were refused.
    assert!(
        done.iter().all(|d| d.fires > fires / COORDINATORS / 10),
        "{:?}",
        done.iter().map(|d| d.fires).collect::<Vec<_>>()
    );
    drop(store);
    for store in &stores {
        store.close().await;
    }
    let (crossed, rounds) = (deadlocks(&database).await, sum(|d| d.rounds));
    let longest = done.iter().map(|d| d.longest).max();
    eprintln!("{COORDINATORS} coordinators, {rounds} rounds, {crossed} deadlocks, the longest round {longest:?}");
    assert!(crossed * 50 <= rounds as i64, "{crossed} deadlocks in {rounds} rounds");
    database.drop().await;
}
