//! The partitions of months: made, filled and dropped.

use std::time::Duration;

use chrono::{DateTime, Datelike, Utc};
use orrery_proto::v1::ExecutionStatus;
use orrery_server::store::*;
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use crate::engines::{OWNER, connect, drop_schema, dynamic, raw, schema};
use crate::support::*;

/// The partition that a finished execution is in.
async fn place(raw: &mut PgConnection, id: Uuid) -> String {
    sqlx::query_scalar("select tableoid::regclass::text from job_executions where id = $1")
        .bind(id)
        .fetch_one(raw)
        .await
        .unwrap()
}

fn name(table: &str, at: DateTime<Utc>) -> String {
    format!("{table}_{:04}_{:02}", at.year(), at.month())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn months_are_made_and_dropped() {
    let (pg, schema) = schema().await;
    let store = dynamic(&pg);
    let now = now(&store).await;
    let mut raw = raw(&schema).await;
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let done = run(&store, &job, &agent, report(ExecutionStatus::Completed)).await;
    assert_eq!(place(&mut raw, done.id).await, name("job_executions", now));
    // Two years ago: late catch-up waits in the default partition until its month is made, or it is too old.
    let old = now - chrono::Duration::days(730);
    let (from, to) = orrery_server::execution::month_bounds(old);
    for table in ["job_executions", "execution_logs", "execution_log_sizes"] {
        let make =
            format!("create table {} partition of {table} for values from ('{from}') to ('{to}')", name(table, old));
        sqlx::query(AssertSqlSafe(make)).execute(&mut raw).await.unwrap();
    }
    let kept = store
        .upkeep(1, &Retention { executions: Duration::from_secs(800 * 86_400), ..Retention::default() })
        .await
        .unwrap();
    assert_eq!(
        kept.partitions_dropped,
        [name("execution_log_sizes", old), name("execution_logs", old)].into_iter().rev().collect::<Vec<_>>()
    );
    let done = store.upkeep(3, &Retention::default()).await.unwrap();
    assert_eq!(done.partitions_dropped, [name("job_executions", old)]);
    assert_eq!(done.partitions_made.len(), 2 * 3);
    assert_eq!(executions(&store).await.len(), 1);
    drop_schema(&pg, &schema).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_came_before_its_month_moves_into_it() {
    let (pg, schema) = schema().await;
    let store = dynamic(&pg);
    let mut raw = raw(&schema).await;
    let this_month = name("job_executions", now(&store).await);
    for table in ["job_executions", "execution_logs", "execution_log_sizes"] {
        let drop = format!("drop table {}", name(table, now(&store).await));
        sqlx::query(AssertSqlSafe(drop)).execute(&mut raw).await.unwrap();
    }
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let done = run(&store, &job, &agent, report(ExecutionStatus::Completed)).await;
    assert_eq!(place(&mut raw, done.id).await, "job_executions_default");
    let upkeep = store.upkeep(0, &Retention::default()).await.unwrap();
    assert_eq!(upkeep.partitions_made.len(), 3);
    assert_eq!(place(&mut raw, done.id).await, this_month);
    assert_eq!(execution(&store, done.id).await.id, done.id);
    let nothing = Retention { executions: Duration::ZERO, ..Retention::default() };
    assert!(store.upkeep(0, &nothing).await.unwrap().partitions_dropped.is_empty(), "this month is not over");
    drop_schema(&pg, &schema).await;
}

/// Coordinators come, keep house and work at the beginning of a month, all at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_month_begins_while_coordinators_come() {
    let (pg, schema) = schema().await;
    let store = dynamic(&pg);
    let mut raw = raw(&schema).await;
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let before = run(&store, &job, &agent, report(ExecutionStatus::Completed)).await;
    let now = now(&store).await;
    // Nobody has made this month yet, and one of two years ago is to go.
    let (from, to) = orrery_server::execution::month_bounds(now - chrono::Duration::days(730));
    for table in ["job_executions", "execution_logs", "execution_log_sizes"] {
        let month = name(table, now);
        let old = name(table, now - chrono::Duration::days(730));
        for statement in [
            format!("alter table {table} detach partition {month}"),
            format!("insert into {table}_default ({0}) select {0} from {month}", columns(&mut raw, table).await),
            format!("drop table {month}"),
            format!("create table {old} partition of {table} for values from ('{from}') to ('{to}')"),
            format!("alter table {old} owner to {OWNER}"),
        ] {
            sqlx::query(AssertSqlSafe(statement)).execute(&mut raw).await.unwrap();
        }
    }
    let mut tasks = Vec::new();
    for _ in 0..6 {
        let schema = schema.clone();
        tasks.push(tokio::spawn(async move {
            let store = connect(&schema).await;
            store.migrate().await.unwrap();
            let done = store.upkeep(2, &Retention::default()).await.unwrap();
            store.close().await;
            done
        }));
    }
    let mut ids = vec![before.id];
    for _ in 0..30 {
        ids.push(run(&store, &job, &agent, report(ExecutionStatus::Completed)).await.id);
    }
    let mut dropped = Vec::new();
    for task in tasks {
        dropped.extend(task.await.unwrap().partitions_dropped);
    }
    assert_eq!(dropped.len(), 3, "each was dropped once: {dropped:?}");
    for id in &ids {
        assert_eq!(place(&mut raw, *id).await, name("job_executions", now));
    }
    assert_eq!(executions(&store).await.len(), ids.len());
    drop_schema(&pg, &schema).await;
}

/// The columns that can be written.
async fn columns(raw: &mut PgConnection, table: &str) -> String {
    let columns = "select string_agg(quote_ident(attname), ', ' order by attnum) from pg_attribute
        where attrelid = $1::text::regclass and attnum > 0 and not attisdropped and attgenerated = ''";
    sqlx::query_scalar(columns).bind(table).fetch_one(raw).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn totals_go_with_their_month() {
    let (pg, schema) = schema().await;
    let store = dynamic(&pg);
    let mut raw = raw(&schema).await;
    let now = now(&store).await;
    let old = now - chrono::Duration::days(730);
    let (from, to) = orrery_server::execution::month_bounds(old);
    let table = "job_executions";
    let make = format!("create table {} partition of {table} for values from ('{from}') to ('{to}')", name(table, old));
    sqlx::query(AssertSqlSafe(make)).execute(&mut raw).await.unwrap();
    job_with(&store, "a", |j| j.cursor = Some(now)).await;
    let agent = session(&store, "agent").await;
    plan(&store, &[old, now - chrono::Duration::seconds(1)], None).await;
    release(&store).await;
    for grant in claim(&store, &agent, 10).await.grants {
        apply(&store, &grant.execution, completed(&grant.execution)).await.unwrap();
    }
    crate::totals::add_up(&store).await;
    let completed = async || store.stats(TENANT, None, DateTime::UNIX_EPOCH, now + MINUTE).await.unwrap().completed;
    assert_eq!(completed().await, 2);
    store.upkeep(1, &Retention::default()).await.unwrap();
    assert_eq!(completed().await, 1);
    assert_eq!(executions(&store).await.len(), 1);
    drop_schema(&pg, &schema).await;
}
