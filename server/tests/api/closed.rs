//! Without credentials nothing is open but what is said here. The calls are those of the contract: one that is added is in these tests.

use orrery_proto::{DESCRIPTORS, OPENAPI};
use prost_reflect::DescriptorPool;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::world::{SERVICE_TOKEN, World, limits};

/// REST calls that need nobody.
const OPEN: [&str; 2] = ["/health", "/ready"];
/// gRPC methods that need nobody.
const OPEN_METHODS: [&str; 2] = ["SchedulerService/GetHealth", "SchedulerService/GetReady"];
/// Calls whose credentials are in their message; without any they are refused as well.
const SIGNING_IN: [&str; 3] = ["/api/v1/auth/login", "/api/v1/auth/refresh", "/api/v1/auth/logout"];
const SIGNING_IN_METHODS: [&str; 3] = ["AuthService/Login", "AuthService/Refresh", "AuthService/Logout"];

/// Every path and method of the REST API.
fn routes() -> Vec<(String, reqwest::Method)> {
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    let paths = document["paths"].as_object().unwrap().iter();
    let routes: Vec<_> = paths
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().keys();
            methods.map(|method| (path.clone(), method.to_uppercase().parse().unwrap()))
        })
        .collect();
    assert!(routes.len() > 40, "{}", routes.len());
    routes
}

/// A path with ids in the place of its variables.
fn filled(path: &str) -> String {
    let part = |part: &str| if part.starts_with('{') { Uuid::new_v4().to_string() } else { part.to_owned() };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn every_route_needs_credentials() {
    let world = World::with(false, limits()).await;
    for (path, method) in routes() {
        let mut request = world.client.request(method.clone(), world.url(&filled(&path)));
        if method != reqwest::Method::GET {
            request = request.body("{}");
        }
        let answer = world.send(request).await;
        match path.as_str() {
            open if OPEN.contains(&open) => assert_eq!(answer.status, 200, "{path}"),
            // Its credentials are a join token, and this coordinator lets no agents in by one.
            "/api/v1/scheduler/agents/enroll" => drop(answer.refused(409, "ENROLMENT_DISABLED")),
            "/api/v1/auth/login" => drop(answer.refused(400, "INVALID_ARGUMENT")),
            signing if SIGNING_IN.contains(&signing) => assert_eq!(answer.status, 401, "{path}"),
            _ => drop(answer.refused(401, "UNAUTHENTICATED")),
        }
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
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let services = pool.services().filter(|service| service.package_name() == "orrery.v1");
    let mut called = 0;
    for method in services.flat_map(|service| service.methods().collect::<Vec<_>>()) {
        let name = format!("{}/{}", method.parent_service().name(), method.name());
        // One empty message. What streams is refused before its first one.
        let request = client
            .post(format!("http://{}/orrery.v1.{name}", world.grpc))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(vec![0; 5]);
        let answer = request.send().await.unwrap();
        let status = answer.headers().get("grpc-status").map(|status| status.to_str().unwrap().to_owned());
        let expected = match name.as_str() {
            open if OPEN_METHODS.contains(&open) => None,
            "EnrolmentService/Enroll" => Some("10"),
            "AuthService/Login" => Some("3"),
            signing if SIGNING_IN_METHODS.contains(&signing) => Some("16"),
            _ => Some("16"),
        };
        assert_eq!(status.as_deref(), expected, "{name}");
        called += 1;
    }
    assert!(called > 40, "{called}");
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
