//! Redis is optional: it dies, stalls and loses its memory in the middle, and nothing is lost, doubled or held up by it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::coordinators::agree;
use crate::engine::Engine;
use crate::private_redis::PrivateRedis;
use crate::rest::Rest;
use crate::target::Target;
use crate::wait::{SOON, until, until_true};
use crate::world::{Server, World};

/// What one call may take on a machine that is busy with something else.
const QUICK: Duration = Duration::from_secs(3);
/// What forty may take beyond twice their usual time. Without a breaker most would wait for Redis two or three times, longer than this.
const ON_TOP: Duration = Duration::from_secs(8);
/// A tenant beside that of the tests.
const OTHER_TENANT: &str = "0190a000-0000-7000-8000-0000000000aa";

#[tokio::test]
async fn nothing_is_lost_doubled_or_held_up() {
    let world = World::alone(Engine::Postgres).await;
    let mut redis = PrivateRedis::started().await;
    let environment = [("REDIS_URL", &*redis.url())];
    let first = world.server(&environment).await;
    let second = world.server(&environment).await;
    let servers = [&first, &second];
    let _agent = world.agent("a", &servers, &[]).await;
    let target = Target::start().await;
    let rest = first.rest();
    let ticks = rest
        .create(json!({
            "name": "ticks", "cronExpression": "* * * * * *", "jobType": "http", "config": {"url": target.url("/")},
        }))
        .await;
    let manual = rest.create_manual("manual", "http", json!({"url": target.url("/manual")})).await;
    target.after(2, SOON).await;
    well(&servers, true).await;
    let usual = forty_calls(&servers, &manual).await;
    let calls_are_quick = async || {
        let took = forty_calls(&servers, &manual).await;
        assert!(took < usual * 2 + ON_TOP, "forty calls took {took:?}, and usually take {usual:?}");
    };

    redis.kill();
    calls_are_quick().await;
    well(&servers, false).await;
    redis.start().await;
    well(&servers, true).await;

    redis.ask::<()>(&["FLUSHALL"]).await;
    calls_are_quick().await;

    redis.stall();
    calls_are_quick().await;
    well(&servers, false).await;
    calls_are_quick().await;
    redis.go_on();
    well(&servers, true).await;
    calls_are_quick().await;

    let before = target.arrivals().len();
    target.after(before + 3, SOON).await;
    rest.post(&format!("/jobs/{ticks}/pause"), json!({})).await.ok();
    rest.post(&format!("/jobs/{manual}/pause"), json!({})).await.ok();
    agree(&rest, &ticks, || target.on("/")).await;
    for server in servers {
        assert!(!server.process.stderr().contains(redis.password()), "{}", server.process.stderr());
    }
}

/// Triggers, pauses, resumes and reads a job at each server, and tells how long all of it took. Triggers at the job's limit are refused as they should be.
async fn forty_calls(servers: &[&Server], job: &str) -> Duration {
    let began = Instant::now();
    for server in servers {
        let rest = server.rest();
        for _ in 0..5 {
            let asked = Instant::now();
            let answer = rest.post(&format!("/jobs/{job}/trigger"), json!({})).await;
            assert!(asked.elapsed() < QUICK, "a trigger took {:?}", asked.elapsed());
            if answer.status != 200 {
                answer.refused(409, "JOB_ALREADY_RUNNING");
            }
            for verb in ["pause", "resume"] {
                let asked = Instant::now();
                rest.post(&format!("/jobs/{job}/{verb}"), json!({})).await.ok();
                assert!(asked.elapsed() < QUICK, "{verb} took {:?}", asked.elapsed());
            }
            let asked = Instant::now();
            rest.get(&format!("/jobs/{job}/next?count=1")).await.ok();
            assert!(asked.elapsed() < QUICK, "a preview took {:?}", asked.elapsed());
        }
    }
    began.elapsed()
}

/// Waits until every server says so of Redis. Whatever it says, it is healthy, and there are locks.
async fn well(servers: &[&Server], redis: bool) {
    for server in servers {
        let rest = server.rest();
        until_true(&format!("/health has redis: {redis}"), SOON, async || {
            let health = rest.root("/health").await.ok();
            assert_eq!(
                (&health["status"], &health["dependencies"]["distributedLock"]),
                (&json!("healthy"), &json!(true))
            );
            health["dependencies"]["redis"] == redis
        })
        .await;
        let state = metric(server, "scheduler_redis_breaker_state").await;
        assert!(if redis { state < 0.5 } else { state > 0.5 }, "{state}");
    }
}

async fn metric(server: &Server, series: &str) -> f64 {
    let text = reqwest::get(format!("{}/metrics", server.metrics)).await.unwrap().text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

#[tokio::test]
async fn a_dead_redis_does_not_stop_the_start() {
    let world = World::new(Engine::Sqlite).await;
    let mut redis = PrivateRedis::prepared();
    let server = world.server(&[("REDIS_URL", &redis.url())]).await;
    let rest = server.rest();
    rest.create_manual("a", "http", json!({"url": "http://127.0.0.1:9/"})).await;
    well(&[&server], false).await;
    redis.start().await;
    well(&[&server], true).await;
    assert!(!server.process.stderr().contains(redis.password()), "{}", server.process.stderr());
}

#[tokio::test]
async fn an_edit_on_one_is_seen_on_the_other_despite_caches() {
    let world = World::new(Engine::Postgres).await;
    let redis = PrivateRedis::started().await;
    let environment = [("REDIS_URL", &*redis.url())];
    let first = world.server(&environment).await;
    let second = world.server(&environment).await;
    well(&[&first, &second], true).await;
    let (one, two) = (first.rest(), second.rest());
    let job = one.create(yearly("3001-01-01")).await;

    // Both caches are asked, and answer.
    let hits = "scheduler_cache_hits_total{cache=\"next_execution\"}";
    until_true("the second answers from the cache", SOON, async || {
        assert_eq!(next(&two, &job).await, "3001-01-01T00:00:00Z");
        metric(&second, hits).await > 0.5
    })
    .await;
    for name in ["job_config", "next_execution"] {
        let life: i64 = redis.ask(&["PTTL", &format!("scheduler:{name}:{job}")]).await;
        assert!((1..=3_600_000).contains(&life), "{name}: {life}");
    }
    let cached: String = redis.ask(&["HGET", &format!("scheduler:job_config:{job}"), "value"]).await;
    assert!(!cached.contains("s3cret"), "{cached}");
    // What is cached is one tenant's.
    let other = crate::token::token_of(OTHER_TENANT);
    two.with(Some(&other)).get(&format!("/jobs/{job}/next")).await.refused(404, "JOB_NOT_FOUND");

    one.put(&format!("/jobs/{job}"), yearly("3002-01-01")).await.ok();
    assert_eq!(next(&two, &job).await, "3002-01-01T00:00:00Z");

    // An edit while Redis is away. It comes back with what it knew before.
    redis.stall();
    well(&[&first, &second], false).await;
    one.put(&format!("/jobs/{job}"), yearly("3003-01-01")).await.ok();
    assert_eq!(next(&two, &job).await, "3003-01-01T00:00:00Z");
    redis.go_on();
    well(&[&first, &second], true).await;
    let again = metric(&second, hits).await;
    until_true("the second answers from the cache again", SOON, async || {
        assert_eq!(next(&two, &job).await, "3003-01-01T00:00:00Z");
        metric(&second, hits).await > again + 0.5
    })
    .await;

    one.delete(&format!("/jobs/{job}")).await.ok();
    two.get(&format!("/jobs/{job}/next")).await.refused(404, "JOB_NOT_FOUND");
}

fn yearly(day: &str) -> Value {
    let config = json!({"url": "http://127.0.0.1:9/", "headers": {"Authorization": "s3cret"}});
    json!({"name": "yearly", "runAt": format!("{day}T00:00:00Z"), "jobType": "http", "config": config})
}

async fn next(rest: &Rest, job: &str) -> String {
    let preview = rest.get(&format!("/jobs/{job}/next?count=1")).await.ok();
    preview["fires"][0]["at"].as_str().unwrap().to_owned()
}

/// One budget for all coordinators.
#[tokio::test]
async fn a_rate_limit_is_shared() {
    let world = World::new(Engine::Postgres).await;
    let redis = PrivateRedis::started().await;
    let environment = [("REDIS_URL", &*redis.url()), ("ORRERY_RATE_LIMIT_PER_MINUTE", "6")];
    let first = world.server(&environment).await;
    let second = world.server(&environment).await;
    well(&[&first, &second], true).await;
    for _ in 0..3 {
        first.rest().get("/jobs").await.ok();
        second.rest().get("/jobs").await.ok();
    }
    let refused = until("a call is refused", SOON, async || {
        let answer = second.rest().get("/jobs").await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    refused.refused(429, "RATE_LIMITED");
    // Seven calls at most in the first ten seconds: the fourth of the first server would pass if it had a budget of its own.
    first.rest().get("/jobs").await.refused(429, "RATE_LIMITED");
    assert!(metric(&second, "scheduler_rate_limited_total").await > 0.5);
}
