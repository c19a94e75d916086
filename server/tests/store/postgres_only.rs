//! What only PostgreSQL has: hints between coordinators, locks that are passed over, estimates.

use std::time::Duration;

use chrono::DateTime;
use orrery_proto::v1::ExecutionStatus;
use orrery_server::execution::Event;
use orrery_server::store::postgres::{PgOptions, PgStore};
use orrery_server::store::*;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::engines::{connect, database_url, drop_schema, dynamic, raw, schema};
use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn hints_reach_other_coordinators() {
    let (one, schema) = schema().await;
    let two = connect(&schema).await;
    let mut hints = two.hints();
    // Until it listens, what is said is lost; and when it begins, it looks at everything once by itself.
    let mut heard = Vec::new();
    for _ in 0..2 * 3 {
        one.wake(Wake::Cancel).await.unwrap();
        while let Ok(hint) = tokio::time::timeout(Duration::from_secs(1), hints.recv()).await {
            heard.push(hint.unwrap());
            if heard.iter().filter(|h| **h == Wake::Cancel).count() >= 2 {
                break;
            }
        }
    }
    assert!(heard.iter().filter(|h| **h == Wake::Cancel).count() >= 2, "{heard:?}");
    assert!(heard.iter().filter(|h| **h == Wake::Work).count() <= 1, "{heard:?}");
    one.wake(Wake::Work).await.unwrap();
    loop {
        match tokio::time::timeout(Duration::from_secs(5), hints.recv()).await.expect("in time").unwrap() {
            Wake::Work => break,
            Wake::Plan | Wake::Room | Wake::Cancel => {}
        }
    }
    two.close().await;
    drop_schema(&one, &schema).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn coordinators_may_start_together() {
    let schema = format!("test_{}", Uuid::new_v4().simple());
    let mut stores = Vec::new();
    for _ in 0..4 {
        stores.push(connect(&schema).await);
    }
    let starts = stores.iter().cloned().map(|store| tokio::spawn(async move { store.migrate().await }));
    for started in futures_util::future::join_all(starts).await {
        started.unwrap().unwrap();
    }
    job(&dynamic(&stores[3]), "a").await;
    drop_schema(&stores[0], &schema).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_schemas_and_addresses_are_refused() {
    for schema in ["", "Up", "a b", "a\"b", "1a"] {
        let options =
            postgres::PgOptions { schema: Some(schema.to_owned()), ..postgres::PgOptions::new(database_url()) };
        assert!(matches!(PgStore::connect(options).await, Err(StoreError::Unusable(_))));
    }
    let nowhere = postgres::PgOptions::new("postgres://postgres@127.0.0.1:1/none");
    assert!(matches!(PgStore::connect(nowhere).await, Err(StoreError::Unavailable(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_called_unavailable() {
    let mut raw = raw("public").await;
    for (code, passes) in
        [("53100", true), ("55P03", true), ("57014", true), ("58030", true), ("40P01", true), ("23514", false)]
    {
        let raise = format!("do $$ begin raise exception 'so' using errcode = '{code}'; end $$");
        let error = StoreError::from(sqlx::query(AssertSqlSafe(raise)).execute(&mut raw).await.unwrap_err());
        assert_eq!(matches!(error, StoreError::Unavailable(_)), passes, "{code}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_key_outlives_its_execution() {
    let (pg, schema) = schema().await;
    let store = dynamic(&pg);
    let mut raw = raw(&schema).await;
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let with_key = Trigger { idempotency: key("k", 1), ..trigger_of(&job) };
    let made = store.trigger(vec![with_key.clone()], &|_, _, _| Ok(())).await.unwrap().remove(0);
    let granted = claim(&store, &agent, 1).await.grants.remove(0).execution;
    apply(&store, &granted, completed(&granted)).await.unwrap();
    sqlx::query("delete from job_executions").execute(&mut raw).await.unwrap();
    let tries = (0..8).map(|_| {
        let (store, trigger) = (store.clone(), with_key.clone());
        tokio::spawn(async move { store.trigger(vec![trigger], &|_, _, _| Ok(())).await.unwrap().remove(0).id })
    });
    let mut ids: Vec<Uuid> = futures_util::future::join_all(tries).await.into_iter().map(Result::unwrap).collect();
    ids.dedup();
    assert!(ids.len() == 1 && ids[0] != made.id);
    assert_eq!(executions(&store).await.len(), 1);
    drop_schema(&pg, &schema).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_unreadable_job_holds_nobody_up() {
    let (pg, schema) = schema().await;
    // Under a version that is not in memory.
    let spoil = async |job: Uuid| {
        let statement = "update scheduled_jobs set spec = '{\"name\": 1}', version = version + 1 where id = $1";
        sqlx::query(statement).bind(job).execute(&mut raw(&schema).await).await.unwrap();
    };
    crate::catch_up::an_unreadable_job_holds_nobody_up(dynamic(&pg), spoil).await;
    drop_schema(&pg, &schema).await;
}

/// Whatever holds up the ordinary work, heartbeats are written.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn renewals_wait_for_nothing() {
    let (pg, schema) = schema().await;
    let store = dynamic(&pg);
    let mut raw = raw(&schema).await;
    let (one, two) = (session(&store, "one").await, session(&store, "two").await);
    let wanted = [(one.id, 1), (two.id, 1)];
    let soon = Duration::from_secs(2);
    sqlx::raw_sql("begin; lock table live_executions in access exclusive mode").execute(&mut raw).await.unwrap();
    // All connections of the store wait for the table, with more calls behind them.
    let stuck: Vec<_> = (0..20)
        .map(|_| {
            let store = store.clone();
            // Those that have waited for too long are followed by others.
            tokio::spawn(async move {
                loop {
                    let _ = store.held(one.id).await;
                }
            })
        })
        .collect();
    let full = async || store.now().await.is_err();
    tokio::time::timeout(Duration::from_secs(60), until(full)).await.expect("the pool is full");
    let renewed = tokio::time::timeout(soon, store.renew_sessions(&wanted, MINUTE)).await.expect("in time").unwrap();
    assert_eq!(renewed.renewed.len(), 2);
    sqlx::raw_sql("rollback").execute(&mut raw).await.unwrap();
    for stuck in stuck {
        stuck.abort();
    }
    // A session whose row somebody holds is not over, and the others do not wait for it.
    sqlx::raw_sql("begin").execute(&mut raw).await.unwrap();
    sqlx::query("select 1 from agent_sessions where id = $1 for update").bind(one.id).execute(&mut raw).await.unwrap();
    let renewed = tokio::time::timeout(soon, store.renew_sessions(&wanted, MINUTE)).await.expect("in time").unwrap();
    assert_eq!(renewed, Renewed { renewed: vec![two.id], busy: vec![one.id] });
    sqlx::raw_sql("rollback").execute(&mut raw).await.unwrap();
    drop_schema(&pg, &schema).await;
}

/// Behind a backlog the heads of a lane are locked as they are found. What somebody else has locked is passed over, and said to be left; what a
/// lease is written by fits every row, whatever it was before.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backlog_is_claimed_in_its_order_beside_others() {
    let (pg, schema) = schema().await;
    let store = dynamic(&pg);
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let waiting: Vec<Uuid> = triggers(&store, &job, 60).await.iter().map(|execution| execution.id).collect();
    let ids = |claimed: &Claimed| claimed.grants.iter().map(|grant| grant.execution.id).collect::<Vec<_>>();
    let mut other = raw(&schema).await;
    sqlx::query("begin").execute(&mut other).await.unwrap();
    let lock = "select id from live_executions where id = any($1) for update";
    sqlx::query(lock).bind(&waiting[22..25]).execute(&mut other).await.unwrap();

    let first = claim(&store, &agent, 20).await;
    assert_eq!(
        (ids(&first), first.more),
        (waiting[..20].to_vec(), true),
        "as it is while nothing is known of a backlog"
    );
    // One that has been tried before: its attempt and epoch go on from where they are.
    let again = first.grants[0].execution.clone();
    apply(&store, &again, Event::Started { session_id: agent.id, epoch: again.epoch }).await.unwrap();
    apply(&store, &again, Event::Interrupted { session_id: agent.id, epoch: again.epoch }).await.unwrap();
    let second = claim(&store, &agent, 20).await;
    let expected = [&[again.id], &waiting[20..22], &waiting[25..42]].concat();
    assert_eq!((ids(&second), second.more), (expected, true), "what is locked is passed over");
    let third = claim(&store, &agent, 20).await;
    assert_eq!((ids(&third), third.more), (waiting[42..].to_vec(), true), "what is locked is left");
    sqlx::query("rollback").execute(&mut other).await.unwrap();
    let last = claim(&store, &agent, 20).await;
    assert_eq!((ids(&last), last.more), (waiting[22..25].to_vec(), false));
    for grant in [second, third, last].iter().flat_map(|claimed| &claimed.grants) {
        assert_eq!(execution(&store, grant.execution.id).await, grant.execution, "written as it was told");
        let is_again = grant.execution.id == again.id;
        assert_eq!((grant.execution.epoch, grant.execution.attempt), if is_again { (2, 2) } else { (1, 1) });
    }
    drop_schema(&pg, &schema).await;
}

pub(crate) async fn until(mut holds: impl AsyncFnMut() -> bool) {
    while !holds().await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A renewal that is not committed yet when the session would have expired is waited for, or passed over; it is never undone.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_renewal_under_way_keeps_its_session() {
    let (pg, schema) = schema().await;
    let store = dynamic(&pg);
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    leased(&store, &job, &agent).await;
    let brink = Duration::from_secs(1);
    store.renew_sessions(&[(agent.id, agent.attachment)], brink).await.unwrap();
    let (mut renewing, mut looking) = (raw(&schema).await, raw(&schema).await);
    sqlx::query("begin").execute(&mut renewing).await.unwrap();
    let renew = "update agent_sessions set expires_at = clock_timestamp() + interval '1 minute'
        where id = $1 and expires_at > clock_timestamp()";
    let renewed = sqlx::query(renew).bind(agent.id).execute(&mut renewing).await.unwrap();
    assert_eq!(renewed.rows_affected(), 1);
    let is_over = "select bool_and(expires_at < clock_timestamp()) from agent_sessions";
    while !sqlx::query_scalar::<_, bool>(is_over).fetch_one(&mut looking).await.unwrap() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let reaping = {
        let store = store.clone();
        tokio::spawn(async move { store.reap(MINUTE, 10).await.unwrap() })
    };
    // Until it has passed the session over, or waits for it.
    let waits = "select exists (select 1 from pg_locks where not granted)";
    while !reaping.is_finished() && !sqlx::query_scalar::<_, bool>(waits).fetch_one(&mut looking).await.unwrap() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sqlx::query("commit").execute(&mut renewing).await.unwrap();
    assert!(reaping.await.unwrap().sessions.is_empty());
    assert_eq!(store.held(agent.id).await.unwrap().len(), 1);
    drop_schema(&pg, &schema).await;
}

/// Callers go away in the middle of their calls; what is written after them on the same connection is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_call_that_is_dropped_leaves_no_transaction_open() {
    let (pg, schema) = schema().await;
    // One connection for coordinators, and one for callers.
    let one = PgOptions { schema: Some(schema.clone()), max_connections: 2, ..PgOptions::new(database_url()) };
    let store = dynamic(&PgStore::connect(one).await.unwrap());
    let job = job(&store, "a").await;
    let mut looking = raw(&schema).await;
    for polls in 0..60 {
        let cut = async |call: std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>>| {
            let mut call = call;
            for _ in 0..polls % 12 {
                if futures_util::poll!(call.as_mut()).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        };
        let call = store.trigger(vec![trigger_of(&job)], &|_, _, _| Ok(()));
        cut(Box::pin(async { drop(call.await) })).await;
        store.set_queue_limit(TENANT, "default", 1 + polls, USER).await.unwrap();
        let limit: i32 =
            sqlx::query_scalar("select max_concurrent from queue_limits").fetch_one(&mut looking).await.unwrap();
        assert_eq!(limit, 1 + polls);

        let call = store.plan(MINUTE, 1, &|_: &PlanCandidate| unreachable!("nothing is scheduled"));
        cut(Box::pin(async { drop(call.await) })).await;
        let agent = session(&store, "agent").await;
        let seen = "select exists (select 1 from agent_sessions where id = $1)";
        assert!(sqlx::query_scalar::<_, bool>(seen).bind(agent.id).fetch_one(&mut looking).await.unwrap(), "{polls}");
    }
    drop_schema(&pg, &schema).await;
}

/// What a transaction has counted, and commits after others that began later have been added up.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_commits_late_is_counted() {
    let (pg, schema) = schema().await;
    let store = dynamic(&pg);
    let (mut holding, mut looking) = (raw(&schema).await, raw(&schema).await);
    let (from, to) = (seconds_from_now(&store, -60).await, seconds_from_now(&store, 86_400).await);
    let once = job_with(&store, "once", |j| j.spec.delivery = orrery_proto::v1::Delivery::AtMostOnce).await;
    let (job, agent, lost) = (job(&store, "a").await, session(&store, "agent").await, session(&store, "lost").await);
    let execution = leased(&store, &once, &lost).await;
    apply(&store, &execution, started(&execution)).await.unwrap();
    kill(&store, &lost).await;
    // Its end is written, counted, and stands before the dead letter.
    sqlx::raw_sql("begin; lock table dead_letters in exclusive mode").execute(&mut holding).await.unwrap();
    let reaping = {
        let store = store.clone();
        tokio::spawn(async move { store.reap(MINUTE, 10).await.unwrap() })
    };
    let waits = "select exists (select 1 from pg_locks where not granted and relation = 'dead_letters'::regclass)";
    until(async || sqlx::query_scalar(waits).fetch_one(&mut looking).await.unwrap()).await;
    for _ in 0..5 {
        run(&store, &job, &agent, report(ExecutionStatus::Completed)).await;
        crate::totals::add_up(&store).await;
    }
    let ended = async || {
        let stats = store.stats(TENANT, None, from, to).await.unwrap();
        (stats.completed, stats.failed)
    };
    assert_eq!(ended().await, (5, 0));
    sqlx::raw_sql("rollback").execute(&mut holding).await.unwrap();
    reaping.await.unwrap();
    assert_eq!(ended().await, (5, 1));
    crate::totals::add_up(&store).await;
    let left: i64 =
        sqlx::query_scalar("select count(*) from execution_tally_changes").fetch_one(&mut looking).await.unwrap();
    assert_eq!((ended().await, left), ((5, 1), 0));
    drop_schema(&pg, &schema).await;
}

/// Coordinators of an older version write history and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_older_versions_finish_is_counted() {
    let (pg, schema) = schema().await;
    let store = dynamic(&pg);
    let mut raw = raw(&schema).await;
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    for ms in [5, 70_000] {
        let report = orrery_server::execution::Report { duration_ms: ms, ..report(ExecutionStatus::Completed) };
        run(&store, &job, &agent, report).await;
        if ms == 5 {
            crate::totals::add_up(&store).await;
        }
    }
    sqlx::query("delete from execution_tally_changes").execute(&mut raw).await.unwrap();
    sqlx::query("update job_executions set counted = false where duration_ms > 5").execute(&mut raw).await.unwrap();
    let to = seconds_from_now(&store, 60).await;
    let stats = async |job| store.stats(TENANT, job, DateTime::UNIX_EPOCH, to).await.unwrap();
    let before = (stats(None).await, stats(Some(job.id)).await);
    assert_eq!((before.0.completed, before.0.max_ms), (2, 70_000.0));
    crate::totals::add_up(&store).await;
    let left: i64 =
        sqlx::query_scalar("select count(*) from job_executions where not counted").fetch_one(&mut raw).await.unwrap();
    assert_eq!(left, 0);
    assert_eq!((stats(None).await, stats(Some(job.id)).await), before);
    drop_schema(&pg, &schema).await;
}

/// Beyond the bound, numbers are the database's own estimate; up to it, they are exact.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn much_that_waits_is_estimated() {
    let (pg, schema) = schema().await;
    let store = dynamic(&pg);
    let mut raw = raw(&schema).await;
    let from = seconds_from_now(&store, -60).await;
    let few = job_with(&store, "few", |j| j.spec.queue = "few".to_owned()).await;
    let many = job_with(&store, "many", |j| j.spec.queue = "many".to_owned()).await;
    let first = triggers(&store, &few, 3).await.remove(0);
    for _ in 0..12 {
        triggers(&store, &many, 1_000).await;
    }
    sqlx::query("analyze live_executions").execute(&mut raw).await.unwrap();
    let near = |n: i64, exact: i64| (n - exact).abs() < exact / 5;
    let counts = store.counts(Some(TENANT)).await.unwrap();
    assert!(near(counts.pending, 12_003), "{counts:?}");
    assert!(near(counts.queues[0].1, 12_000) && counts.queues[1] == ("few".to_owned(), 3), "{counts:?}");
    let queues = store.queues(TENANT).await.unwrap();
    assert_eq!((queues[0].pending, queues[0].oldest_pending), (3, Some(first.run_at)));
    assert!(near(queues[1].pending, 12_000), "{queues:?}");
    let to = seconds_from_now(&store, 60).await;
    assert!(near(store.stats(TENANT, None, from, to).await.unwrap().pending, 12_003));
    assert_eq!(store.stats(TENANT, Some(few.id), from, to).await.unwrap().pending, 3);
    drop_schema(&pg, &schema).await;
}

/// The migration counts what a version without totals has left.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn history_of_before_is_counted() {
    let (pg, schema) = schema().await;
    let store = dynamic(&pg);
    let mut raw = raw(&schema).await;
    let (one, two, agent) = (job(&store, "one").await, job(&store, "two").await, session(&store, "agent").await);
    for (n, job) in [&one, &two, &one].into_iter().enumerate() {
        for status in [ExecutionStatus::Completed, ExecutionStatus::Failed] {
            let report = orrery_server::execution::Report { duration_ms: 77_i64.pow(1 + n as u32), ..report(status) };
            run(&store, job, &agent, report).await;
        }
    }
    apply(&store, &trigger(&store, &one).await, cancel_requested()).await.unwrap();
    let to = seconds_from_now(&store, 60).await;
    let stats = async || {
        let mut all = Vec::new();
        for job in [None, Some(one.id), Some(two.id)] {
            all.push(store.stats(TENANT, job, DateTime::UNIX_EPOCH, to).await.unwrap());
        }
        all
    };
    crate::totals::add_up(&store).await;
    let totals = "select jsonb_agg(to_jsonb(t) order by tenant_id, job_id, width, at)::text from execution_tallies t";
    let (before, kept) = (stats().await, sqlx::query_scalar::<_, String>(totals).fetch_one(&mut raw).await.unwrap());
    let migration = include_str!("../../../migrations/postgres/0011_tallies.sql");
    let (_, counting) = migration.split_once("insert into execution_tally_changes").unwrap();
    let (counting, _) = counting.split_once("-- Live executions").unwrap();
    let again = format!("delete from execution_tallies; insert into execution_tally_changes {counting}");
    sqlx::raw_sql(AssertSqlSafe(again)).execute(&mut raw).await.unwrap();
    assert_eq!(before[0].completed, 3);
    assert_eq!(stats().await, before);
    crate::totals::add_up(&store).await;
    assert_eq!(stats().await, before);
    assert_eq!(sqlx::query_scalar::<_, String>(totals).fetch_one(&mut raw).await.unwrap(), kept);
    drop_schema(&pg, &schema).await;
}
