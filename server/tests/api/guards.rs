//! Locks of jobs and rate limits, as callers meet them.

use std::time::{Duration, Instant};

use orrery_proto::v1::job_service_client::JobServiceClient;
use orrery_proto::v1::{GetHealthRequest, ListJobsRequest, scheduler_service_client::SchedulerServiceClient};
use orrery_server::lock::of_job;
use orrery_server::store::Sharing;
use serde_json::json;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::world::{JOBS, World, hourly, id, limits};

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_job_that_another_call_is_at_is_not_changed() {
    let world = World::new().await;
    let job = world.job("a", json!({})).await;
    let path = format!("{JOBS}/{}", id(&job));
    assert!(world.store.lock(&of_job(id(&job).parse().unwrap()), "another", LONG).await.unwrap());
    let asked = Instant::now();
    let (stop, pause) = (format!("{path}/stop"), format!("{path}/pause"));
    let put = async {
        let error = world.put(&path, hourly("b")).await.refused(409, "LOCK_ACQUISITION_FAILED");
        assert_eq!(error["details"]["lock"], format!("lock:scheduler:job:{}", id(&job)));
    };
    tokio::join!(
        async { world.post(&stop, json!({})).await.refused(409, "LOCK_ACQUISITION_FAILED") },
        async { world.post(&pause, json!({})).await.refused(409, "LOCK_ACQUISITION_FAILED") },
        put,
    );
    assert!(asked.elapsed() < Duration::from_secs(20), "waiting has no end");
    assert_eq!(world.get(&path).await.ok()["name"], "a");
    // A trigger changes nothing of it.
    world.trigger(&job).await;

    assert!(world.store.unlock(&of_job(id(&job).parse().unwrap()), "another").await.unwrap());
    world.put(&path, hourly("b")).await.ok();
}

#[tokio::test]
async fn each_caller_has_a_budget() {
    let world = World::limited(true, limits(), 3).await;
    for left in ["2", "1", "0"] {
        let answer = world.get(JOBS).await;
        answer.ok();
        assert_eq!(answer.headers["ratelimit-limit"], "3");
        assert_eq!(answer.headers["ratelimit-policy"], "3;w=60");
        assert_eq!(answer.headers["ratelimit-remaining"], left);
    }
    let answer = world.get(JOBS).await;
    assert_eq!(answer.headers["ratelimit-remaining"], "0");
    let reset: u64 = answer.headers["ratelimit-reset"].to_str().unwrap().parse().unwrap();
    assert!((41..=60).contains(&reset), "{reset}");
    let error = answer.refused(429, "RATE_LIMITED");
    let wait: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=20).contains(&wait), "{wait}");
    assert_eq!(error["details"]["retryAfter"], wait);
    // Probes and pages are not counted, and neither is another caller.
    for path in ["/health", "/ready", "/openapi.json"] {
        assert_eq!(world.get(path).await.status, 200, "{path}");
    }
    let other = world.make_key(Some(Uuid::from_u128(7)), &["*"]).await;
    world.send(world.client.get(world.url(JOBS)).bearer_auth(&other)).await.ok();
}

#[tokio::test]
async fn guessing_credentials_is_limited() {
    let world = World::limited(false, limits(), 3).await;
    let guess = || world.send(world.client.get(world.url(JOBS)).bearer_auth("ork_guess"));
    for _ in 0..3 {
        guess().await.refused(401, "UNAUTHENTICATED");
    }
    // Whoever claims to speak for others is counted as itself, unless it is a proxy that is trusted.
    let refused = world.send(world.client.get(world.url(JOBS)).bearer_auth("x").header("x-forwarded-for", "1.2.3.4"));
    refused.await.refused(429, "RATE_LIMITED");
    let refused = guess().await;
    refused.refused(429, "RATE_LIMITED");
    assert!(refused.headers.contains_key("retry-after") && !refused.headers.contains_key("www-authenticate"));
    // Whoever has the right ones comes from the same address.
    let key = world.make_key(Some(Uuid::from_u128(7)), &["*"]).await;
    world.send(world.client.get(world.url(JOBS)).bearer_auth(&key)).await.ok();
}

#[tokio::test]
async fn the_budget_is_the_same_over_grpc() {
    let world = World::limited(true, limits(), 3).await;
    world.get(JOBS).await.ok();
    let channel = Channel::from_shared(format!("http://{}", world.grpc)).unwrap().connect().await.unwrap();
    let mut jobs = JobServiceClient::new(channel.clone());
    for _ in 0..2 {
        jobs.list_jobs(Request::new(ListJobsRequest::default())).await.unwrap();
    }
    let status = jobs.list_jobs(Request::new(ListJobsRequest::default())).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.get_details_error_info().unwrap().reason, "RATE_LIMITED");
    let wait: u64 = status.metadata().get("retry-after").unwrap().to_str().unwrap().parse().unwrap();
    assert!((1..=20).contains(&wait), "{wait}");
    SchedulerServiceClient::new(channel).get_health(GetHealthRequest {}).await.unwrap();
}
