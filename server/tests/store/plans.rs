//! What statements read, whatever PostgreSQL believed of a table when it planned them: as much as they change, and not all that waits.

use chrono::TimeDelta;
use orrery_proto::v1::ExecutionStatus;
use orrery_server::store::postgres::{PgOptions, PgStore};
use orrery_server::store::*;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use uuid::Uuid;

use crate::engines::{Database, drop_schema, dynamic, owners_url, raw, schema};
use crate::postgres_only::until;
use crate::support::*;

/// However many jobs a tenant has, and though nothing is known of their table: with a join of names it was a hundred thousand times a thousand.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn names_are_looked_up_by_themselves() {
    let (pg, schema) = schema().await;
    let store = dynamic(&pg);
    let mut made = 0;
    let mut create = async |count: usize| {
        let jobs = (made..made + count).map(|n| new_job(job_of(TENANT, spec(&format!("job {n}"))))).collect();
        made += count;
        store.create_jobs(jobs, None).await.unwrap();
    };
    // Statements are planned while there are few.
    for _ in 0..20 {
        create(2).await;
    }
    create(2000).await;
    let mut other = raw(&schema).await;
    let mut reads = async || {
        let reads = "select sum(idx_scan)::bigint, sum(idx_tup_read)::bigint from pg_stat_user_indexes
            where schemaname = current_schema() and indexrelname in ('scheduled_jobs_name', 'scheduled_jobs_listed')";
        sqlx::query_as::<_, (i64, i64)>(reads).fetch_one(&mut other).await.unwrap()
    };
    let before = reads().await;
    let mut after = before;
    // A backend tells of what it has read with a later transaction.
    until(async || {
        create(20).await;
        after = reads().await;
        after.0 >= before.0 + 20
    })
    .await;
    let scans = after.0 - before.0;
    assert!(after.1 - before.1 < 100 * scans, "{before:?} {after:?}");
    drop_schema(&pg, &schema).await;
}

/// Rows that backends have said to have read of live executions, through indexes and without, and how often they have looked.
async fn reads(other: &mut PgConnection) -> (i64, i64) {
    let reads = "select
            (select sum(idx_scan) from pg_stat_user_indexes where schemaname = current_schema() and relname = 'live_executions')::bigint,
            (select sum(idx_tup_read) from pg_stat_user_indexes where schemaname = current_schema() and relname = 'live_executions')::bigint
            + (select seq_tup_read from pg_stat_user_tables where schemaname = current_schema() and relname = 'live_executions')";
    sqlx::query_as(reads).fetch_one(other).await.unwrap()
}

/// Has statements planned while nothing waits and one execution runs, by all connections that the store has.
async fn plan_when_empty(store: &DynStore, session: &Session, other: &mut PgConnection) {
    let one = job_with(store, "one", |job| job.spec.max_concurrent = 0).await;
    // Of a single lane the heads are locked as they are found.
    let of_other_lane = job_with(store, "other", |job| job.spec.queue = "other".to_owned()).await;
    run(store, &of_other_lane, session, report(ExecutionStatus::Completed)).await;
    let running = leased(store, &one, session).await;
    apply(store, &running, started(&running)).await.unwrap();
    for round in 0..2 {
        for _ in 0..60 {
            run(store, &one, session, report(ExecutionStatus::Completed)).await;
        }
        if round == 0 {
            // What was planned before is planned again.
            sqlx::query("vacuum (analyze) live_executions").execute(&mut *other).await.unwrap();
        }
    }
}

/// A store whose connections are told apart from those of others.
async fn named(name: &str, schema: &str) -> PgStore {
    let schema = Some(schema.to_owned());
    PgStore::connect(PgOptions { schema, ..options(name, &owners_url().await) }).await.unwrap()
}

fn options(name: &str, url: &str) -> PgOptions {
    PgOptions { application_name: name.to_owned(), ..PgOptions::new(url) }
}

/// Closes the store with this name, and answers with [`reads`] once all its backends have told of theirs.
async fn end(store: &PgStore, name: &str, other: &mut PgConnection) -> (i64, i64) {
    store.close().await;
    until(async || {
        // The connection that tells of hints reads no table, and ends with the process.
        let left = "select count(*) from pg_stat_activity where application_name = $1 and query not like '%pg_notify%'";
        sqlx::query_scalar::<_, i64>(left).bind(name).fetch_one(&mut *other).await.unwrap() == 0
    })
    .await;
    reads(other).await
}

/// A thousand times a thousand rows otherwise: each id, or each round, would read all that is live.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backlog_is_worked_off_by_its_keys_though_the_table_was_empty() {
    let (first, schema) = schema().await;
    let (name, mut other) = (format!("working {schema}"), raw(&schema).await);
    let pg = named(&name, &schema).await;
    let store = dynamic(&pg);
    let session = session(&store, "a").await;
    plan_when_empty(&store, &session, &mut other).await;
    let job = job_with(&store, "many", |job| job.spec.max_concurrent = 0).await;
    triggers(&store, &job, 2000).await;
    let mut changed = 0;
    while changed < 2000 {
        changed += finish(&store, &claim(&store, &session, 50).await).await;
    }
    let (scans, rows) = end(&pg, &name, &mut other).await;
    assert!(scans > 2000 && rows < 16 * 2000, "{scans} looks, {rows} rows");
    drop_schema(&first, &schema).await;
}

/// Has the planner believe what autovacuum leaves where it looks at the indexes one after the other while executions come and go: that there is
/// nothing in some of them, and `live` in the table and in the others.
async fn believe(live: i32, other: &mut PgConnection) {
    let believe = "update pg_class set reltuples = case when relname in ('live_executions_grouped', 'live_executions_session') then 0 else $1 end
        where relnamespace = current_schema()::regnamespace and relname like 'live_executions%'";
    sqlx::query(believe).bind(live).execute(other).await.unwrap();
}

/// Between two vacuums the dead rows of all that has been worked off stand before what waits. Each look would read them anew; or it would read
/// all of a backlog and sort it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_look_reads_neither_what_is_worked_off_nor_all_that_waits() {
    // Entries are marked once nobody in the database may see their rows any more, other tests neither.
    let database = Database::new().await;
    let first = PgStore::connect(options("first", &database.url)).await.unwrap();
    first.migrate().await.unwrap();
    let mut other = PgConnection::connect(&database.url).await.unwrap();
    sqlx::query("alter table live_executions set (autovacuum_enabled = off)").execute(&mut other).await.unwrap();
    let store = dynamic(&first);
    let session = session(&store, "a").await;
    let job = job_with(&store, "many", |job| job.spec.max_concurrent = 0).await;
    // Indexes do not shrink: what they are believed to hold is thought to be in all their pages.
    triggers(&store, &job, 3000).await;
    assert_eq!(work_off(&store, &session, 4000).await, 3000);
    sqlx::query("vacuum (analyze) live_executions").execute(&mut other).await.unwrap();
    believe(0, &mut other).await;
    let before = reads(&mut other).await;
    let name = format!("looking {}", database.name);
    let pg = PgStore::connect(options(&name, &database.url)).await.unwrap();
    let store = dynamic(&pg);
    for _ in 0..100 {
        triggers(&store, &job, 20).await;
        assert_eq!(work_off(&store, &session, 40).await, 20);
    }
    believe(2, &mut other).await;
    triggers(&store, &job, 2000).await;
    for _ in 0..100 {
        assert_eq!(work_off(&store, &session, 20).await, 20);
    }
    let (scans, rows) = end(&pg, &name, &mut other).await;
    let (scans, rows) = (scans - before.0, rows - before.1);
    assert!(scans > 4000 && rows < 16 * 4000, "{scans} looks, {rows} rows");
    first.close().await;
    database.drop().await;
}

/// Takes executions that wait, of a tenant that has a limit, to their end; answers with how many they were.
async fn work_off(store: &DynStore, session: &Session, limit: usize) -> usize {
    finish(store, &claim_within(store, session, &all_lanes(store).await, limit, 10_000).await).await
}

/// Begins and completes what was granted, all at once; answers with how many are complete.
async fn finish(store: &DynStore, claimed: &Claimed) -> usize {
    let begun = claimed.grants.iter().map(|grant| change(&grant.execution, started(&grant.execution))).collect();
    let running: Vec<_> = store.apply(begun).await.unwrap().into_iter().map(Result::unwrap).collect();
    let over = running.iter().map(|execution| change(execution, completed(execution))).collect();
    store.apply(over).await.unwrap().iter().filter(|changed| changed.is_ok()).count()
}

/// However many fires have the same instant, a round reads about as many as it releases, and not all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_due_at_one_instant_is_not_read_by_each_round() {
    let (first, schema) = schema().await;
    let mut other = raw(&schema).await;
    let making = format!("making {schema}");
    let pg = named(&making, &schema).await;
    let store = dynamic(&pg);
    let at = seconds_from_now(&store, -2).await;
    let due = |n: usize| {
        let mut job = job_of(TENANT, spec(&format!("job {n}")));
        job.cursor = Some(at);
        new_job(job)
    };
    store.create_jobs((0..1500).map(due).collect(), None).await.unwrap();
    while plan(&store, &[at], Some(at + TimeDelta::days(1))).await.fires > 0 {}
    let before = end(&pg, &making, &mut other).await;
    let releasing = format!("releasing {schema}");
    let pg = named(&releasing, &schema).await;
    let store = dynamic(&pg);
    for _ in 0..10 {
        let places = Places { all: 10, late: 10 };
        let done = store.release_within(places, 0, &|due, _| vec![DueVerdict::Admit; due.len()]).await.unwrap();
        assert_eq!(done.released, 10);
    }
    let after = end(&pg, &releasing, &mut other).await;
    assert!(after.0 > before.0 && after.1 - before.1 < 10 * 1000, "{before:?} {after:?}");
    drop_schema(&first, &schema).await;
}

/// Rows of history, made of one execution, whose ids are in the order of their numbers.
async fn grow_history(other: &mut PgConnection, of: Uuid, count: i32) {
    let columns: String = sqlx::query_scalar(
        "select string_agg(quote_ident(column_name), ', ') from information_schema.columns
         where table_schema = current_schema() and table_name = 'job_executions' and is_generated = 'NEVER' and column_name <> 'id'",
    )
    .fetch_one(&mut *other)
    .await
    .unwrap();
    let grow = format!(
        "insert into job_executions (id, {columns})
         select ('01000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, {columns} from job_executions, generate_series(1, $2) n where id = $1"
    );
    sqlx::query(AssertSqlSafe(grow)).bind(of).bind(count).execute(&mut *other).await.unwrap();
    sqlx::query("vacuum (analyze) job_executions").execute(other).await.unwrap();
}

/// A page of old executions reads about as many as it shows, however many are older, and though the planner believes that few are.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_page_deep_in_history_reads_a_page() {
    let (first, schema) = schema().await;
    let (name, mut other) = (format!("listing {schema}"), raw(&schema).await);
    let pg = named(&name, &schema).await;
    let store = dynamic(&pg);
    let (session, job) = (session(&store, "a").await, job(&store, "a").await);
    let done = run(&store, &job, &session, report(ExecutionStatus::Completed)).await;
    grow_history(&mut other, done.id, 40_000).await;
    let read = "select coalesce(sum(idx_tup_read), 0)::bigint from pg_stat_user_indexes
        where schemaname = current_schema() and relname like 'job_executions%'";
    let before: i64 = sqlx::query_scalar(read).fetch_one(&mut other).await.unwrap();
    for place in [400_u64, 600, 800] {
        let after = Uuid::from_u64_pair(0x0100_0000_0000_7000, 0x8000_0000_0000_0000 | digits(place));
        let page = Page { after: Some(after), limit: 50 };
        let found = store.executions(TENANT, &ExecutionFilter::default(), &page).await.unwrap();
        assert_eq!(found.len(), 50);
        assert!(found[0].id < after);
    }
    end(&pg, &name, &mut other).await;
    let after: i64 = sqlx::query_scalar(read).fetch_one(&mut other).await.unwrap();
    assert!(after - before < 3 * 1000, "{} index entries", after - before);
    drop_schema(&first, &schema).await;
}

/// A number whose digits in base 16 are those of another one in base 10.
fn digits(number: u64) -> u64 {
    u64::from_str_radix(&number.to_string(), 16).unwrap()
}
