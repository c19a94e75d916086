//! A primary with a standby: reads from it, its promotion, and what it has not replayed.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::coordinators::agree;
use crate::engine::Engine;
use crate::private_postgres::PrivatePostgres;
use crate::proxy::Proxy;
use crate::rest::Rest;
use crate::target::Target;
use crate::token::token;
use crate::wait::{SOON, until_true};
use crate::world::{Server, World};

/// A primary that answers once its standby has what was committed.
async fn pair() -> (PrivatePostgres, PrivatePostgres) {
    let mut primary = PrivatePostgres::prepared();
    primary.start().await;
    let mut standby = PrivatePostgres::standby_of(&primary);
    standby.start().await;
    (primary, standby)
}

async fn ask(url: &str, statement: &'static str) -> bool {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar(statement).fetch_one(&mut connection).await.unwrap()
}

#[tokio::test]
async fn a_promoted_standby_takes_over() {
    let world = World::alone(Engine::Sqlite).await;
    let (mut primary, mut standby) = pair().await;
    let mut connection = PgConnection::connect(&primary.url()).await.unwrap();
    // Nothing that was committed is lost with the primary.
    sqlx::raw_sql("alter system set synchronous_standby_names = '*'").execute(&mut connection).await.unwrap();
    sqlx::raw_sql("select pg_reload_conf()").execute(&mut connection).await.unwrap();
    let synchronous = "select exists (select 1 from pg_stat_replication where sync_state = 'sync')";
    until_true("the standby is synchronous", SOON, async || ask(&primary.url(), synchronous).await).await;
    drop(connection);
    let way = Proxy::to(&primary.origin()).await;
    let url = format!("postgres://postgres@{}/postgres", way.url().strip_prefix("http://").unwrap());
    let server = Server::ready(world.start_server(&[("DATABASE_URL", &url)]), Some(token())).await;
    let rest = server.rest();
    let _agent = world.agent("a", &[&server], &[]).await;
    let target = Target::start().await;
    let ticks = rest
        .create(json!({
            "name": "ticks", "cronExpression": "* * * * * *", "jobType": "http", "config": {"url": target.url("/")},
        }))
        .await;
    target.after(3, SOON).await;

    primary.kill();
    // For a while there is only the standby, which takes no writes.
    way.lead_to(&standby.origin());
    way.cut();
    way.mend();
    let refused = rest.post(&format!("/jobs/{ticks}/trigger"), json!({})).await;
    assert_eq!(refused.status, 503, "{}", refused.text);
    standby.promote();
    let before = target.arrivals().len();
    target.after(before + 3, SOON * 2).await;
    rest.post(&format!("/jobs/{ticks}/pause"), json!({})).await.ok();
    agree(&rest, &ticks, || target.arrivals()).await;
    standby.stop().await;
}

/// The database's host is gone without a word: its connections stay open and never answer.
#[tokio::test]
async fn connections_to_a_host_that_is_gone_are_given_up() {
    let world = World::new(Engine::Postgres).await;
    let (user, rest) = world.database_url().split_once('@').unwrap();
    let (address, database) = rest.split_once('/').unwrap();
    let way = Proxy::to(&format!("http://{}", address.replace("localhost", "127.0.0.1"))).await;
    let url = format!("{user}@{}/{database}", way.url().strip_prefix("http://").unwrap());
    let server = Server::ready(world.start_server(&[("DATABASE_URL", &url)]), Some(token())).await;
    let rest = server.rest();
    let _agent = world.agent("a", &[&server], &[]).await;
    let target = Target::start().await;
    let ticks = rest
        .create(json!({
            "name": "ticks", "cronExpression": "* * * * * *", "jobType": "http", "config": {"url": target.url("/")},
        }))
        .await;
    target.after(3, SOON).await;
    way.freeze();
    let before = target.arrivals().len();
    // What was under way waits for its time; nothing else does.
    target.after(before + 5, Duration::from_secs(75)).await;
    until_true("callers are answered", SOON, async || rest.get(&format!("/jobs/{ticks}")).await.status == 200).await;
    rest.post(&format!("/jobs/{ticks}/pause"), json!({})).await.ok();
    way.cut();
}

/// The primary becomes a standby under open connections: they are of no use any more, and are given up.
#[tokio::test]
async fn connections_that_cannot_write_are_given_up() {
    let world = World::new(Engine::Postgres).await;
    let server = world.server(&[]).await;
    let rest = server.rest();
    rest.create_manual("before", "http", json!({"url": "http://127.0.0.1:1/"})).await;
    // All connections that there are are read-only from now on; new ones are not.
    let mut connection = PgConnection::connect(world.database_url()).await.unwrap();
    let name = world.database_url().rsplit_once('/').unwrap().1.to_owned();
    let set = |value: &str| format!("alter database {name} set default_transaction_read_only = {value}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(set("on"))).execute(&mut connection).await.unwrap();
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'orrery' and datname = current_database()";
    sqlx::query_scalar::<_, i64>(cut).fetch_one(&mut connection).await.unwrap();
    let definition =
        |name: &str| json!({"name": name, "manual": true, "jobType": "http", "config": {"url": "http://127.0.0.1:1/"}});
    until_true("it is read-only", SOON, async || rest.post("/jobs", definition("no")).await.status == 503).await;
    sqlx::raw_sql("set default_transaction_read_only = off").execute(&mut connection).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(set("off"))).execute(&mut connection).await.unwrap();
    until_true("it writes again", SOON, async || rest.post("/jobs", definition("yes")).await.status < 300).await;
}

#[tokio::test]
async fn a_replica_is_read_from_while_it_is_near() {
    let world = World::alone(Engine::Sqlite).await;
    let (mut primary, mut standby) = pair().await;
    let (url, read_url) = (primary.url(), standby.url());
    let settings = [("DATABASE_URL", url.as_str()), ("DATABASE_READ_URL", read_url.as_str())];
    let server = Server::ready(world.start_server(&settings), Some(token())).await;
    let rest = server.rest();
    let _agent = world.agent("a", &[&server], &[]).await;
    let target = Target::start().await;
    let job = rest.create_manual("calls", "http", json!({"url": target.url("/")})).await;
    let first = rest.run(&job).await;
    assert_eq!(first["status"], "completed");
    // The watch over it has no transactions; a read ends with one.
    let reads = "select exists (select 1 from pg_stat_activity where application_name = 'orrery reads'
        and (query like '%job_executions%' or query = 'ROLLBACK'))";
    until_true("lists are read from the replica", SOON, async || {
        listed(&rest, &job).await;
        ask(&standby.url(), reads).await
    })
    .await;

    // What it has not replayed yet is not missing from an answer by id, and after a while from none.
    ask(&standby.url(), "select pg_wal_replay_pause() is not null").await;
    let second = rest.run(&job).await;
    assert_eq!(second["status"], "completed", "a read by its id falls back to the primary");
    until_true("a replica that lags is not read from", Duration::from_secs(15), async || {
        listed(&rest, &job).await == 2
    })
    .await;
    ask(&standby.url(), "select pg_wal_replay_resume() is not null").await;
    until_true("it is near again", SOON, async || {
        listed(&rest, &job).await;
        server.process.stdout().contains("near=true") || server.process.stderr().matches("near=true").count() >= 2
    })
    .await;
    standby.stop().await;
    assert_eq!(listed(&rest, &job).await, 2, "without it the primary answers");
    primary.stop().await;
}

async fn listed(rest: &Rest, job: &str) -> usize {
    let list: Vec<Value> = rest.executions(job).await;
    list.len()
}
