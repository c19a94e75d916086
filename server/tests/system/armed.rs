//! Fires that agents hold before their instant: they begin at it, whoever has died meanwhile, and never before.

use std::time::Duration;

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, Row};

use crate::engine::Engine;
use crate::rest::Rest;
use crate::target::Target;
use crate::wait::{SOON, until, until_true};
use crate::world::World;

/// Granted as early as may be, so that a busy machine has the time for what happens before the instant.
const EARLY: (&str, &str) = ("ORRERY_ARM_AHEAD_MS", "5000");

/// How late one may come in this build, on a machine that is busy.
const LATE_MS: i64 = 1500;

/// A job that calls the target once a day, for the first time in so many seconds. With its instant, which this host's clock tells as the
/// database's does.
async fn daily(rest: &Rest, target: &Target, seconds: i64) -> (String, DateTime<Utc>) {
    let at = (Utc::now() + TimeDelta::seconds(seconds)).trunc_subsecs(0);
    let cron = at.format("%-S %-M %-H * * *").to_string();
    let definition =
        json!({"name": "daily", "cronExpression": cron, "jobType": "http", "config": {"url": target.url("/")}});
    (rest.create(definition).await, at)
}

/// The execution that an agent of this name holds ahead of its instant, once one does, with its epoch.
async fn armed(world: &World, agent: &str) -> (String, i64) {
    let mut database = PgConnection::connect(world.database_url()).await.unwrap();
    let query = "select id::text, epoch from live_executions
        where state = 2 and started_at is null and run_at > clock_timestamp() and worker_name = $1";
    until("an agent holds it", SOON, async || {
        let found = sqlx::query(query).bind(agent).fetch_optional(&mut database).await.unwrap();
        found.map(|row| (row.get(0), row.get(1)))
    })
    .await
}

/// The one arrival was on time, and never early.
fn on_time(target: &Target, at: DateTime<Utc>) {
    let late: Vec<i64> = target.arrivals().iter().map(|arrival| (arrival.at - at).num_milliseconds()).collect();
    assert!(late.len() == 1 && (0..LATE_MS).contains(&late[0]), "so many ms after its instant it came: {late:?}");
}

#[tokio::test]
async fn a_coordinator_that_dies_before_the_instant_delays_nothing() {
    let world = World::alone(Engine::Postgres).await;
    let mut server = world.server(&[EARLY]).await;
    let _agent = world.agent("a", &[&server], &[]).await;
    let target = Target::start().await;
    let (job, at) = daily(&server.rest(), &target, 8).await;
    armed(&world, "a").await;
    until_true("it is almost time", SOON, async || Utc::now() > at - TimeDelta::milliseconds(300)).await;
    assert!(target.arrivals().is_empty());
    server.process.kill();
    target.after(1, SOON).await;
    on_time(&target, at);

    // Its agent tells of it when there is a coordinator again, at the same address.
    let address = server.grpc.trim_start_matches("http://").to_owned();
    let again = world.server(&[EARLY, ("ORRERY_GRPC", &address)]).await;
    let rest = again.rest();
    let run = finished(&rest, &job).await;
    assert_eq!(
        (&run["status"], &run["epoch"], &run["scheduledAt"]),
        (&json!("completed"), &json!(1), &json!(shown(at)))
    );
    assert_eq!((rest.job(&job).await["executionCount"].as_i64(), target.arrivals().len()), (Some(1), 1));
}

#[tokio::test]
async fn an_agent_that_dies_in_time_is_replaced_in_time() {
    let world = World::alone(Engine::Postgres).await;
    let server = world.server(&[EARLY, ("ORRERY_SESSION_TTL_MS", "2000")]).await;
    let rest = server.rest();
    let mut first = world.agent("first", &[&server], &[]).await;
    let target = Target::start().await;
    let (job, at) = daily(&rest, &target, 9).await;
    let (execution, epoch) = armed(&world, "first").await;
    let _second = world.start_agent("second", &[&server], &[], &crate::token::token());
    first.kill();
    assert_eq!((armed(&world, "second").await, epoch), ((execution, 2), 1));
    target.after(1, SOON).await;
    on_time(&target, at);
    let run = finished(&rest, &job).await;
    let attempts = run["attempts"].as_array().unwrap();
    assert_eq!((attempts.len(), &attempts[0]["outcome"]), (1, &json!("completed")), "nothing was lost: {run:#}");
    assert_eq!(rest.job(&job).await["executionCount"], 1);
}

#[tokio::test]
async fn what_is_paused_or_cancelled_in_time_does_not_begin() {
    let world = World::alone(Engine::Postgres).await;
    let server = world.server(&[EARLY]).await;
    let rest = server.rest();
    let _agent = world.agent("a", &[&server], &[]).await;
    let target = Target::start().await;
    let (job, at) = daily(&rest, &target, 8).await;
    let (execution, _) = armed(&world, "a").await;
    let told = rest.get(&format!("/executions/{execution}/explain")).await.ok();
    assert_eq!((&told["reasons"][0]["code"], &told["reasons"][0]["until"]), (&json!("ARMED"), &json!(shown(at))));
    assert_eq!(rest.execution(&execution).await["status"], "pending");
    assert!(rest.executions(&job).await.is_empty(), "it is not due");
    rest.post(&format!("/jobs/{job}/pause"), json!({})).await.ok();
    until_true("it is taken back", SOON, async || rest.get(&format!("/executions/{execution}")).await.status == 404)
        .await;
    assert_eq!(rest.job(&job).await["executionCount"], 0);
    assert!(Utc::now() >= at, "the agent gave it back, and it was taken away at its instant");

    let every = json!({"name": "every", "cronExpression": "0/10 * * * * *", "jobType": "http", "config": {"url": target.url("/")}});
    let every = rest.create(every).await;
    let (execution, _) = armed(&world, "a").await;
    rest.post(&format!("/executions/{execution}/cancel"), json!({"reason": "not today"})).await.ok();
    let run = rest.finished(&execution).await;
    assert_eq!((&run["status"], &run["startedAt"]), (&json!("cancelled"), &Value::Null), "{run:#}");
    let due: DateTime<Utc> = run["scheduledAt"].as_str().unwrap().parse().unwrap();
    assert!(Utc::now() < due + TimeDelta::milliseconds(LATE_MS), "at once, and not at its instant");
    rest.post(&format!("/jobs/{every}/pause"), json!({})).await.ok();
    assert!(target.arrivals().is_empty());
}

/// The only execution of a job, once it is over.
async fn finished(rest: &Rest, job: &str) -> Value {
    let found =
        until("it is over", SOON * 2, async || rest.executions(job).await.into_iter().find(crate::rest::is_over));
    tokio::time::timeout(Duration::from_secs(60), found).await.unwrap()
}

fn shown(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
}
