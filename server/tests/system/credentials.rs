//! Who may call, over REST, over gRPC and as an agent.

use chrono::Utc;
use orrery_sdk::client::{Client, ClientOptions};
use orrery_sdk::v1::ListJobsRequest;
use serde_json::json;

use crate::token::{SECRET, claims, signed, token_of};
use crate::wait::SOON;
use crate::world::{Server, World};

on_each_engine!(keys_open_what_they_may, tokens_are_checked);

/// `orrery key create` with these arguments; the key.
async fn key(world: &World, args: &[&str]) -> String {
    let environment = [("DATABASE_URL", world.database_url()), ("ORRERY_JWT_SECRET", SECRET)];
    let mut process = world.orrery("key", &[&["key", "create", "--name", "tests"], args].concat(), &environment);
    let status = process.ended(SOON).await;
    assert!(status.success(), "{status}: {}", process.stderr());
    process.stdout().trim().to_owned()
}

fn client(server: &Server, api_key: Option<&str>) -> Client {
    let options = ClientOptions {
        endpoint: server.grpc.clone(),
        api_key: api_key.map(ToOwned::to_owned),
        ..ClientOptions::default()
    };
    Client::connect(&options).unwrap()
}

async fn keys_open_what_they_may(world: World) {
    let all = key(&world, &[]).await;
    let reader = key(&world, &["--permission", "jobs:read"]).await;
    let agents = key(&world, &["--permission", "agents:connect", "--all-tenants"]).await;
    let server = world.server(&[]).await;
    let rest = server.rest();

    rest.with(None).get("/jobs").await.refused(401, "UNAUTHENTICATED");
    rest.with(Some("ork_notakey")).get("/jobs").await.refused(401, "UNAUTHENTICATED");
    let job = rest.with(Some(&all)).create_manual("keyed", "command", json!({"command": "true"})).await;
    rest.with(Some(&reader)).job(&job).await;
    rest.with(Some(&reader)).post(&format!("/jobs/{job}/trigger"), json!({})).await.refused(403, "PERMISSION_DENIED");
    let by_header = rest.with(None).send(reqwest::Method::GET, "/jobs", &[("x-api-key", &all)], None).await;
    assert_eq!(by_header.ok()["jobs"].as_array().unwrap().len(), 1);

    let refused = client(&server, None).list_jobs(ListJobsRequest::default()).await.unwrap_err();
    assert_eq!((refused.code(), refused.grpc_code()), ("UNAUTHENTICATED", tonic::Code::Unauthenticated));
    assert_eq!(client(&server, Some(&all)).list_jobs(ListJobsRequest::default()).await.unwrap().jobs.len(), 1);

    let agent = world.start_agent("keyed", &[&server], &[], &agents);
    server.has_agent("keyed").await;
    assert_eq!(rest.with(Some(&all)).run(&job).await["status"], "completed");
    drop(agent);
    let stranger = world.start_agent("stranger", &[&server], &[], &reader);
    stranger.says("agents:connect", SOON).await;
    assert!(!rest.workers().await.iter().any(|worker| worker["name"] == "stranger"));
}

async fn tokens_are_checked(world: World) {
    let server = world.server(&[]).await;
    let rest = server.rest();
    let soon = Utc::now().timestamp() + 60;
    rest.get("/jobs").await.ok();
    let claims = |aud: &str, exp: i64| claims(&uuid::Uuid::from_u128(1).to_string(), aud, exp);
    let bad = [
        signed("another-secret-of-enough-bytes-0123456789", &claims("orrery", soon)),
        signed(SECRET, &claims("elsewhere", soon)),
        signed(SECRET, &claims("orrery", soon - 3600)),
    ];
    for token in bad {
        rest.with(Some(&token)).get("/jobs").await.refused(401, "UNAUTHENTICATED");
    }
    // Tenants do not see each other.
    let job = rest.create_manual("mine", "command", json!({"command": "true"})).await;
    let other = rest.with(Some(&token_of(&uuid::Uuid::new_v4().to_string())));
    other.get(&format!("/jobs/{job}")).await.refused(404, "JOB_NOT_FOUND");
    assert_eq!(other.get("/jobs").await.ok()["jobs"], json!([]));
}
