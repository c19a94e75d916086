//! What stands between callers and the API: addresses, browsers, and those who guess.

use futures_util::StreamExt as _;
use orrery_proto::v1::ListJobsRequest;
use orrery_proto::v1::job_service_client::JobServiceClient;
use orrery_server::edge::EdgeArgs;
use reqwest::Method;
use serde_json::json;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::world::{Answer, JOBS, World, id, limits};

const TENANT: Uuid = Uuid::from_u128(7);

/// Calls come from this host, and a proxy on it may speak for others.
fn proxied() -> EdgeArgs {
    EdgeArgs { trusted_proxies: "127.0.0.1".parse().unwrap(), ..EdgeArgs::default() }
}

async fn world(edge: EdgeArgs) -> World {
    World::edged(false, limits(), 0, edge).await
}

/// GET of a path by a caller at an address, with a key or without.
async fn from(world: &World, address: &str, key: &str, path: &str) -> Answer {
    let request = world.client.get(world.url(path)).header("x-forwarded-for", address);
    let request = if key.is_empty() { request } else { request.bearer_auth(key) };
    world.send(request).await
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers.get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn every_answer_tells_browsers_what_it_is() {
    let world = World::new().await;
    let foreign = || world.client.get(world.url(JOBS)).header("host", "evil.example");
    let answers = [
        world.get(JOBS).await,
        world.get("/health").await,
        world.get("/docs").await,
        world.get("/openapi.json").await,
        world.get("/nowhere").await,
        world.post_text(JOBS, "{").await,
        world.send(foreign()).await,
        world.send(world.client.request(Method::OPTIONS, world.url(JOBS))).await,
    ];
    for answer in answers {
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
            ("cache-control", "no-store"),
            ("strict-transport-security", ""),
            ("access-control-allow-origin", ""),
        ] {
            assert_eq!(header(&answer, name), value, "{name} of {answer:?}");
        }
        let policy = header(&answer, "content-security-policy");
        assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{answer:?}");
    }
    let world = self::world(EdgeArgs { hsts_seconds: Some(600), ..EdgeArgs::default() }).await;
    for path in ["/health", JOBS, "/nowhere"] {
        let strict = world.get(path).await;
        assert_eq!(header(&strict, "strict-transport-security"), "max-age=600; includeSubDomains");
    }
}

/// Markup is text here: it comes back in JSON, as JSON, and no browser takes it for a page.
#[tokio::test]
async fn stored_markup_is_never_a_page() {
    let world = World::new().await;
    for name in
        ["<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "</script><svg/onload=alert(1)>", "{{7*7}}"]
    {
        let job = world.job(name, json!({"description": name, "tags": ["<b>"]})).await;
        let path = format!("{JOBS}/{}", id(&job));
        let encoded: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
        for answer in [
            world.get(&path).await,
            world.get(JOBS).await,
            world.post(JOBS, json!({"name": name, "manual": true, "jobType": name, "config": {}})).await,
            world.get(&format!("{JOBS}?status={encoded}")).await,
            world.get(&format!("{JOBS}/{encoded}")).await,
            world.get(&format!("/{encoded}")).await,
        ] {
            assert!(header(&answer, "content-type").starts_with("application/json"), "{answer:?}");
            assert_eq!(header(&answer, "x-content-type-options"), "nosniff");
            assert!(header(&answer, "content-security-policy").starts_with("default-src 'none'"));
            // It is JSON to the end: nothing in it has ended a string.
            answer.json();
        }
        assert_eq!(world.get(&path).await.ok()["name"], name);
        assert!(!world.get("/docs").await.text.contains(name));
    }
}

#[tokio::test]
async fn pages_of_other_origins_call_where_they_are_named() {
    let asks = |world: &World, origin: &str| {
        let request = world.client.request(Method::OPTIONS, world.url(JOBS)).header("origin", origin);
        request
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization")
    };
    let none = world(EdgeArgs::default()).await;
    let answer = none.send(asks(&none, "https://console.example")).await;
    assert_eq!((answer.status, header(&answer, "access-control-allow-origin")), (401, ""));

    let origins = "https://console.example,http://localhost:5173".parse().unwrap();
    let world = world(EdgeArgs { cors_origins: origins, ..EdgeArgs::default() }).await;
    for origin in ["https://console.example", "http://localhost:5173"] {
        let answer = world.send(asks(&world, origin)).await;
        assert_eq!((answer.status, header(&answer, "access-control-allow-origin")), (200, origin));
        assert!(header(&answer, "access-control-allow-headers").contains("authorization"));
        assert!(header(&answer, "access-control-allow-methods").contains("POST"));
        assert_eq!(header(&answer, "access-control-allow-credentials"), "");
        // Refusals can be read by the page as well.
        let refused = world.send(world.client.get(world.url(JOBS)).header("origin", origin)).await;
        refused.refused(401, "UNAUTHENTICATED");
        assert_eq!(header(&refused, "access-control-allow-origin"), origin);
        assert!(header(&refused, "access-control-expose-headers").contains("retry-after"));
        assert!(header(&refused, "vary").contains("origin"));
    }
    for origin in ["https://evil.example", "null", "https://console.example.evil.example", "http://console.example"] {
        let answer = world.send(asks(&world, origin)).await;
        assert_eq!(header(&answer, "access-control-allow-origin"), "", "{origin}");
    }
}

#[tokio::test]
async fn only_addresses_on_the_list_may_call() {
    let edge = EdgeArgs { ip_allow: "203.0.113.0/24".parse().unwrap(), ..proxied() };
    let world = world(edge).await;
    let key = world.make_key(Some(TENANT), &["*"]).await;
    from(&world, "203.0.113.9", &key, JOBS).await.ok();
    // The nearest address that no proxy of ours has is the caller's, whatever it has written before.
    from(&world, "8.8.8.8, 203.0.113.9", &key, JOBS).await.ok();
    for address in ["198.51.100.1", "203.0.113.9, 198.51.100.1", "127.0.0.1", "unknown"] {
        for path in [JOBS, "/docs", "/openapi.json"] {
            let error = from(&world, address, &key, path).await.refused(403, "ADDRESS_NOT_ALLOWED");
            assert!(error["message"].as_str().unwrap().contains("ORRERY_IP_ALLOW"), "{error}");
        }
        assert_eq!(from(&world, address, "", "/health").await.status, 200, "probes come from anywhere");
    }
    let channel = Channel::from_shared(format!("http://{}", world.grpc)).unwrap().connect().await.unwrap();
    let mut jobs = JobServiceClient::new(channel);
    let mut call = Request::new(ListJobsRequest::default());
    call.metadata_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    let status = jobs.list_jobs(call).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(status.get_details_error_info().unwrap().reason, "ADDRESS_NOT_ALLOWED");
    assert!(world.metrics.encode().contains("scheduler_refused_calls_total{reason=\"address\"} 13"));
}

#[tokio::test]
async fn administrators_of_the_deployment_call_from_their_networks() {
    let edge = EdgeArgs { admin_ip_allow: "203.0.113.0/24".parse().unwrap(), ..proxied() };
    let world = world(edge).await;
    let (all, one) = (world.make_key(None, &["*"]).await, world.make_key(Some(TENANT), &["*"]).await);
    from(&world, "203.0.113.9", &all, JOBS).await.ok();
    from(&world, "198.51.100.1", &one, JOBS).await.ok();
    let error = from(&world, "198.51.100.1", &all, JOBS).await.refused(403, "ADDRESS_NOT_ALLOWED");
    assert!(error["message"].as_str().unwrap().contains("ORRERY_ADMIN_IP_ALLOW"), "{error}");
}

/// Whoever guesses waits, and meanwhile is not even looked at: no guess is right. Those who were there before are not kept out by it.
#[tokio::test]
async fn ten_thousand_wrong_keys_find_nothing() {
    let world = world(EdgeArgs { free_attempts: 20, ..proxied() }).await;
    let known = world.make_key(Some(TENANT), &["*"]).await;
    let unknown = world.make_key(Some(TENANT), &["*"]).await;
    from(&world, "203.0.113.9", &known, JOBS).await.ok();
    const AT_ONCE: usize = 32;
    let began = std::time::Instant::now();
    let guesses = futures_util::stream::iter(0..10_000).map(|n| {
        let guess = format!("ork_{n:043}");
        let world = &world;
        async move {
            let answer = from(world, "203.0.113.9", &guess, JOBS).await;
            if answer.status == 429 {
                answer.refused(429, "TOO_MANY_ATTEMPTS");
                assert!(header(&answer, "retry-after").parse::<u64>().unwrap() >= 1);
            } else {
                answer.refused(401, "UNAUTHENTICATED");
            }
            answer.status
        }
    });
    let told: Vec<u16> = guesses.buffer_unordered(AT_ONCE).collect().await;
    let looked_at = told.iter().filter(|status| **status == 401).count();
    // Those that are free, those under way when the last of these failed; and one after each wait of 1, 2, 4, ... seconds.
    let waits = (began.elapsed().as_secs() + 2).ilog2() as usize + 1;
    assert!((20..=20 + AT_ONCE * (1 + waits)).contains(&looked_at), "{looked_at} in {:?}", began.elapsed());
    assert_eq!(looked_at, refusals(&world, "credentials"));
    assert_eq!(10_000 - looked_at, refusals(&world, "attempts"));
    from(&world, "203.0.113.9", &known, JOBS).await.ok();
    from(&world, "203.0.113.9", &unknown, JOBS).await.refused(429, "TOO_MANY_ATTEMPTS");
    from(&world, "203.0.113.10", &unknown, JOBS).await.ok();

    // By gRPC it is the same account.
    let channel = Channel::from_shared(format!("http://{}", world.grpc)).unwrap().connect().await.unwrap();
    let mut call = Request::new(ListJobsRequest::default());
    call.metadata_mut().insert("authorization", "Bearer ork_guess".parse().unwrap());
    call.metadata_mut().insert("x-forwarded-for", "203.0.113.9".parse().unwrap());
    let status = JobServiceClient::new(channel).list_jobs(call).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.get_details_error_info().unwrap().reason, "TOO_MANY_ATTEMPTS");
    assert!(status.metadata().contains_key("retry-after"));
}

fn refusals(world: &World, reason: &str) -> usize {
    let line = format!("scheduler_refused_calls_total{{reason=\"{reason}\"}} ");
    let text = world.metrics.encode();
    text.lines().find_map(|found| found.strip_prefix(&line)).unwrap().parse().unwrap()
}

#[tokio::test]
async fn what_is_refused_for_its_permissions_is_counted() {
    let world = World::new().await.with_key(Some(TENANT), &["executions:read"]).await;
    world.get(JOBS).await.refused(403, "PERMISSION_DENIED");
    assert_eq!(refusals(&world, "permission"), 1);
}
