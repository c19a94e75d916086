//! Without credentials nothing is open but what is said here. The calls are those of the contract: one that is added is in these tests.

use orrery_server::auth::Needs;
use serde_json::json;
use uuid::Uuid;

use crate::contract::{grpc, ways};
use crate::world::{SERVICE_TOKEN, World, limits};

/// Calls of the contract that are public. Another one is a decision, which stands here as well.
const PUBLIC: [&str; 2] = ["SchedulerService/GetHealth", "SchedulerService/GetReady"];
/// Calls whose credentials are in their message.
const SIGNING_IN: [&str; 3] = ["AuthService/Login", "AuthService/Refresh", "AuthService/Logout"];

#[tokio::test]
async fn every_route_needs_credentials() {
    let world = World::with(false, limits()).await;
    for way in ways().into_iter().filter(|way| way.method.is_some()) {
        let told = way.make(&world, &world.client, None).await;
        let expected = match (way.call.as_str(), way.needs) {
            ("AuthService/Login", Needs::SignsIn) => "400 INVALID_ARGUMENT",
            ("AuthService/Refresh", Needs::SignsIn) => "401 UNKNOWN_REFRESH_TOKEN",
            ("AuthService/Logout", Needs::SignsIn) => "401 UNAUTHENTICATED",
            // Its credentials are a join token, and this coordinator lets no agents in by one.
            ("EnrolmentService/Enroll", Needs::Joins) => "409 ENROLMENT_DISABLED",
            (public, Needs::Nobody) if PUBLIC.contains(&public) => "200",
            _ => "401 UNAUTHENTICATED",
        };
        assert_eq!(told.code, expected, "{}", way.name());
    }
    // What the contract does not name.
    for (path, status) in
        [("/openapi.json", 200), ("/docs", 200), ("/internal/health", 200), ("/x", 401), ("/health/x", 401)]
    {
        assert_eq!(world.get(path).await.status, status, "{path}");
    }
    for path in
        ["/api/v1/auth/login/", "/api/v1/auth/loginx", "/api/v1/auth/Login", "//api/v1/auth/me", "/API/v1/auth/me"]
    {
        assert_eq!(world.post(path, json!({})).await.status, 401, "{path}");
    }
}

#[tokio::test]
async fn every_method_needs_credentials() {
    let world = World::with(false, limits()).await;
    let client = grpc();
    for way in ways().into_iter().filter(|way| way.method.is_none()) {
        let told = way.make(&world, &client, None).await;
        let code = told.code.split(' ').next().unwrap_or_default();
        let expected = match (way.call.as_str(), way.needs) {
            ("AuthService/Login", Needs::SignsIn) => "InvalidArgument",
            ("EnrolmentService/Enroll", Needs::Joins) => "Aborted",
            (public, Needs::Nobody) if PUBLIC.contains(&public) => "OK",
            (call, Needs::SignsIn) => {
                assert!(SIGNING_IN.contains(&call), "{call}");
                "Unauthenticated"
            }
            _ => "Unauthenticated",
        };
        assert_eq!(code, expected, "{}", way.name());
    }
}

#[tokio::test]
async fn a_call_that_is_not_listed_does_not_start() {
    let world = World::with(false, limits()).await;
    let key = world.make_key(Some(Uuid::from_u128(1)), &["*"]).await;
    let call = async |path: &str, key: Option<&str>| {
        let mut request =
            grpc().post(format!("http://{}{path}", world.grpc)).header("content-type", "application/grpc");
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        let answer = request.body(vec![0; 5]).send().await.unwrap();
        tonic::Status::from_header_map(answer.headers()).unwrap().code()
    };
    for path in ["/orrery.v1.JobService/Nothing", "/orrery.v1.NoService/GetJob", "/orrery.v1.JobService/GetJob/"] {
        assert_eq!(call(path, None).await, tonic::Code::Unauthenticated, "{path}");
        assert_eq!(call(path, Some(&key)).await, tonic::Code::Unimplemented, "{path}");
    }
}

#[tokio::test]
async fn the_internal_api_has_a_token_of_its_own() {
    let world = World::with(false, limits()).await;
    let key = world.make_key(Some(Uuid::from_u128(1)), &["*"]).await;
    let id = Uuid::new_v4();
    for (method, path) in [
        ("POST", "/internal/jobs/create".to_owned()),
        ("POST", "/internal/jobs/batch-create".to_owned()),
        ("POST", format!("/internal/jobs/{id}/trigger")),
        ("POST", format!("/internal/jobs/{id}/pause")),
        ("POST", format!("/internal/jobs/{id}/resume")),
        ("GET", format!("/internal/jobs/{id}/status")),
        ("GET", "/internal/unknown".to_owned()),
    ] {
        let request = || world.client.request(method.parse().unwrap(), world.url(&path)).body("{}");
        for refused in
            [request(), request().bearer_auth(&key), request().header("x-service-token", format!("{SERVICE_TOKEN}x"))]
        {
            let answer = world.send(refused).await;
            assert_eq!((answer.status, &answer.json()["errorCode"]), (401, &json!("UNAUTHENTICATED")), "{path}");
        }
        // With it they are served, each in its way.
        let answer = world.send(request().header("x-service-token", SERVICE_TOKEN)).await;
        assert!(matches!(answer.status, 400 | 404), "{path}: {}", answer.text);
    }
    // And it opens nothing else.
    let elsewhere = world.client.get(world.url("/api/v1/auth/me")).header("x-service-token", SERVICE_TOKEN);
    world.send(elsewhere).await.refused(401, "UNAUTHENTICATED");
    let bearer = world.client.get(world.url("/api/v1/auth/me")).bearer_auth(SERVICE_TOKEN);
    world.send(bearer).await.refused(401, "UNAUTHENTICATED");
}
