//! The audit log, as callers meet it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orrery_proto::v1::auth_service_client::AuthServiceClient;
use orrery_proto::v1::{AuditOutcome, LoginRequest};
use orrery_server::audit::{Author, Copier, Deed, Resource};
use orrery_server::auth::DEFAULT_TENANT;
use orrery_server::edge::EdgeArgs;
use orrery_server::lock::Locks;
use orrery_server::reconcile::Sealer;
use orrery_server::sibling::Sibling;
use orrery_server::store::{Audit, AuditEntry, AuditFilter, DynStore, Page};
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, SqliteConnection};
use uuid::Uuid;

use crate::world::{JOBS, SERVICE_TOKEN, World, hourly, id, limits, merge};

const ENTRIES: &str = "/api/v1/scheduler/audit/entries";
const HEAD: &str = "/api/v1/scheduler/audit/head";
const VERIFY: &str = "/api/v1/scheduler/audit/verify";
const CANARY: &str = "canary-7d1b22-value";

async fn listed(world: &World, query: &str) -> Vec<Value> {
    world.get(&format!("{ENTRIES}{query}")).await.ok()["entries"].as_array().unwrap().clone()
}

async fn sealed(world: &World) {
    let sealer = Sealer { store: world.store.clone(), signer: world.signer(), metrics: world.metrics.clone() };
    sealer.look().await.unwrap();
}

/// What is wrong: code, seal, entry.
type Found = (String, i64, String);

/// The codes of what is wrong, with the seal and the entry; asked part by part.
async fn problems(world: &World, head: Option<&Value>, page_size: i32) -> Vec<Found> {
    let mut found = Vec::new();
    let mut after = 0;
    loop {
        let mut body = json!({"afterSequence": after, "pageSize": page_size});
        if let Some(head) = head {
            body["head"] = head.clone();
        }
        let part = world.post(VERIFY, body).await.ok();
        for problem in part["problems"].as_array().unwrap() {
            let text = |name: &str| problem[name].as_str().unwrap().to_owned();
            found.push((text("code"), problem["sequence"].as_i64().unwrap(), text("entryId")));
        }
        after = part["nextSequence"].as_i64().unwrap();
        if after == 0 {
            found.dedup();
            return found;
        }
    }
}

/// Somebody with the file in hand: whatever the tables refuse by themselves is out of the way.
async fn intruder(world: &World) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(world.directory().join("orrery.db"));
    let mut connection = options.connect().await.unwrap();
    for trigger in [
        "audit_entries_are_not_changed",
        "audit_entries_are_not_replaced",
        "audit_entries_are_kept",
        "audit_seals_are_not_changed",
        "audit_seals_are_kept",
    ] {
        run(&mut connection, &format!("drop trigger {trigger}")).await;
    }
    connection
}

async fn run(connection: &mut SqliteConnection, statement: &str) {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(connection).await.unwrap();
}

#[tokio::test]
async fn what_is_done_is_listed_with_who_and_from_where_and_without_secrets() {
    let world = World::with(false, limits()).await.with_key(Some(DEFAULT_TENANT), &["*"]).await;
    let name = "<script>alert(1)</script>";
    let mut definition = hourly(name);
    merge(
        &mut definition,
        json!({
            "config": {"url": "https://example.com", "headers": {"Authorization": CANARY}},
            "sensitive": ["headers.Authorization"],
        }),
    );
    let request = world.client.post(world.url(JOBS)).header("x-request-id", "req-17").body(definition.to_string());
    let job = world.send(request).await.ok();
    world.put("/api/v1/scheduler/secrets/DB", json!({"value": CANARY})).await.ok();
    world.post(&format!("{JOBS}/{}/pause", id(&job)), json!({})).await.ok();

    let listing = world.get(ENTRIES).await;
    assert!(!listing.text.contains(CANARY), "{}", listing.text);
    assert!(listing.headers["content-type"].to_str().unwrap().starts_with("application/json"));
    let entries = listing.ok()["entries"].as_array().unwrap().clone();
    let actions: Vec<&str> = entries.iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["jobs:pause", "secrets:put", "jobs:create"]);
    let created = &entries[2];
    assert_eq!((&created["actorKind"], &created["actorName"]), (&json!("key"), &json!("test key")));
    assert_eq!((&created["address"], &created["requestId"]), (&json!("127.0.0.1"), &json!("req-17")));
    assert_eq!((&created["resourceType"], &created["resourceId"]), (&json!("job"), &job["id"]));
    assert_eq!((&created["outcome"], &created["resourceName"]), (&json!("changed"), &json!(name)));
    assert_eq!(created["after"]["config"]["headers"]["Authorization"], "***");
    assert_eq!((&entries[0]["before"]["status"], &entries[0]["after"]["status"]), (&json!("active"), &json!("paused")));
    let shown = world.get(&format!("{ENTRIES}/{}", id(created))).await.ok();
    assert_eq!(&shown, created);
    world.get(&format!("{ENTRIES}/{}", Uuid::now_v7())).await.refused(404, "AUDIT_ENTRY_NOT_FOUND");
    world.get(&format!("{ENTRIES}/x")).await.refused(400, "INVALID_ID");

    assert_eq!(listed(&world, "?action=jobs:*").await.len(), 2);
    assert_eq!(listed(&world, "?actor=nobody").await.len(), 0);
    assert_eq!(listed(&world, &format!("?resourceId={}", id(&job))).await.len(), 2);
    assert_eq!(listed(&world, "?outcome=denied").await.len(), 0);
    let first = world.get(&format!("{ENTRIES}?pageSize=2")).await.ok();
    let token = first["nextPageToken"].as_str().unwrap();
    assert_eq!(listed(&world, &format!("?pageSize=2&pageToken={token}")).await, std::slice::from_ref(created));
    world.get(&format!("{ENTRIES}?action=jobs:*&pageToken={token}")).await.refused(400, "INVALID_PAGE_TOKEN");

    // Callers of the deployment see what is of no tenant; tenants see nothing of others.
    world.post("/api/v1/auth/keys", json!({"name": "k", "permissions": ["jobs:read"]})).await.ok();
    assert_eq!(listed(&world, "?tenantId=00000000-0000-0000-0000-000000000000").await.len(), 0);
    let reader = world.make_key(Some(DEFAULT_TENANT), &["audit:read"]).await;
    let request =
        world.client.get(world.url(&format!("{ENTRIES}?tenantId={}", Uuid::from_u128(99)))).bearer_auth(reader);
    assert_eq!(request.send().await.unwrap().status(), 404, "who reads the log of the default tenant reads no other");
    let mut other = world.with_key(Some(Uuid::from_u128(99)), &["*"]).await;
    assert_eq!(listed(&other, "").await.len(), 0);
    other.get(&format!("{ENTRIES}/{}", id(created))).await.refused(404, "AUDIT_ENTRY_NOT_FOUND");
    for tenant in [DEFAULT_TENANT, Uuid::nil()] {
        for path in [format!("{ENTRIES}?tenantId={tenant}"), format!("{HEAD}?tenantId={tenant}")] {
            other.get(&path).await.refused(404, "TENANT_NOT_FOUND");
        }
    }
    other.key = Some(other.make_key(None, &["*"]).await);
    assert_eq!(listed(&other, &format!("?outcome=changed&tenantId={DEFAULT_TENANT}")).await.len(), 4);
}

#[tokio::test]
async fn a_log_that_was_tampered_with_is_known_by_where_it_was() {
    let world = World::new().await;
    let job = world.job("a", json!({})).await;
    for verb in ["pause", "resume", "pause", "resume"] {
        sealed(&world).await;
        world.post(&format!("{JOBS}/{}/{verb}", id(&job)), json!({})).await.ok();
    }
    let head = world.get(HEAD).await.ok();
    assert_eq!((&head["sequence"], &head["entries"]), (&json!(4), &json!(4)));
    sealed(&world).await;
    let mut newest_first = listed(&world, "").await;
    newest_first.reverse();
    let ids: Vec<String> = newest_first.iter().map(|entry| id(entry).to_owned()).collect();
    assert_eq!(ids.len(), 5);
    for size in [1, 2, 5, 100] {
        assert_eq!(problems(&world, Some(&head), size).await, [], "in parts of {size}");
    }
    let mut intruder = intruder(&world).await;
    let blob = |id: &str| format!("x'{}'", id.replace('-', ""));
    let (third, at) = (ids[2].clone(), format!("where id = {}", blob(&ids[2])));
    let (last, of_last) = (ids[4].clone(), blob(&ids[4]));
    let other = "x'00000000000000000000000000000063'";
    let found = |code: &str, sequence: i64, entry: &str| (code.to_owned(), sequence, entry.to_owned());
    let mut cases: Vec<(String, Vec<Found>)> = Vec::new();
    for column in ["actor_name", "action", "resource_id", "address", "before", "after"] {
        let edit = format!("update audit_entries set {column} = coalesce({column}, '') || ' ' {at}");
        cases.push((edit, vec![found("ENTRY_CHANGED", 3, &third)]));
    }
    cases.extend([
        (format!("update audit_entries set outcome = 'denied' {at}"), vec![found("ENTRY_CHANGED", 3, &third)]),
        (format!("update audit_entries set at = at - 1 {at}"), vec![found("ENTRY_CHANGED", 3, &third)]),
        (format!("delete from audit_entries {at}"), vec![found("ENTRY_MISSING", 3, &third)]),
        (format!("update audit_entries set tenant_id = {other} {at}"), vec![found("ENTRY_MISSING", 3, &third)]),
        ("delete from audit_seals where sequence = 3".to_owned(), vec![found("SEAL_MISSING", 3, ""), found("ENTRY_UNKNOWN", 0, &third)]),
        (
            "update audit_seals set sequence = -1 where sequence = 2; update audit_seals set sequence = 2 where sequence = 3;
             update audit_seals set sequence = 3 where sequence = -1"
                .to_owned(),
            vec![found("SEAL_CHANGED", 2, ""), found("SEAL_CHANGED", 3, ""), found("SEAL_CHANGED", 4, "")],
        ),
        // The end, with what it holds; the head says how far it went.
        (
            format!("delete from audit_seals where sequence = 5; delete from audit_entries where id = {of_last}"),
            vec![found("TAIL_MISSING", 5, "")],
        ),
        ("update audit_heads set sequence = 4".to_owned(), vec![found("HEAD_FORGED", 4, "")]),
        ("delete from audit_heads".to_owned(), vec![found("HEAD_FORGED", 5, "")]),
        (
            format!("insert into audit_entries select {other}, id, at, actor_kind, actor_id, actor_name, action, resource_type, resource_id, \
                resource_name, address, request_id, outcome, before, after from audit_entries {at}; \
                update audit_entries set tenant_id = (select tenant_id from audit_seals limit 1), id = x'01900000000070008000000000000001' \
                where tenant_id = {other}"),
            vec![found("ENTRY_UNKNOWN", 0, "01900000-0000-7000-8000-000000000001")],
        ),
        (
            format!("update audit_entries set at = 0 where id = {of_last}; delete from audit_seals where sequence = 5; \
                update audit_heads set sequence = 5; insert into audit_unsealed select tenant_id, id from audit_entries where id = {of_last}"),
            vec![found("TAIL_MISSING", 5, ""), found("ENTRY_UNSEALED", 0, &last)],
        ),
    ]);
    for table in ["entries", "seals", "heads"] {
        run(&mut intruder, &format!("create table kept_{table} as select * from audit_{table}")).await;
    }
    for (statement, wanted) in cases {
        run(&mut intruder, &statement).await;
        for size in [1, 100] {
            let mut problems = problems(&world, None, size).await;
            problems.retain(|problem| !(problem.0 == "SEAL_CHANGED" && wanted.iter().all(|w| w.0 != "SEAL_CHANGED")));
            problems.sort();
            problems.dedup();
            let mut wanted = wanted.clone();
            wanted.sort();
            assert_eq!(problems, wanted, "{statement}, in parts of {size}");
        }
        for table in ["entries", "seals", "heads"] {
            let back = format!("delete from audit_{table}; insert into audit_{table} select * from kept_{table}");
            sqlx::raw_sql(AssertSqlSafe(back)).execute(&mut intruder).await.unwrap();
        }
        sqlx::raw_sql("delete from audit_unsealed").execute(&mut intruder).await.unwrap();
        assert_eq!(problems(&world, None, 100).await, [], "all is well again");
    }

    // The whole end is taken away, head and all, and the log goes on: only a head that was kept elsewhere knows.
    run(&mut intruder, "delete from audit_seals where sequence > 3; delete from audit_heads").await;
    run(&mut intruder, &format!("delete from audit_entries where id > {}", blob(&third))).await;
    world.post(&format!("{JOBS}/{}/pause", id(&job)), json!({})).await.ok();
    sealed(&world).await;
    assert_eq!(problems(&world, None, 100).await, []);
    assert_eq!(problems(&world, Some(&head), 100).await, [found("SEAL_CHANGED", 4, "")]);
    // A head that somebody made up is no head.
    let mut forged = head.clone();
    forged["sequence"] = json!(3);
    assert_eq!(problems(&world, Some(&forged), 100).await, [found("HEAD_FORGED", 3, "")]);
    forged["hash"] = json!("xyz");
    world.post(VERIFY, json!({"head": forged})).await.refused(400, "INVALID_AUDIT_HEAD");
    for bad in [json!({"afterSequence": -1}), json!({"unsealedMinutes": -1}), json!({"pageSize": 101})] {
        assert_eq!(world.post(VERIFY, bad).await.status, 400);
    }
}

/// Nothing is known of a tenant without a log, and that is well.
#[tokio::test]
async fn an_empty_log_is_a_good_one() {
    let world = World::new().await;
    assert_eq!(problems(&world, None, 20).await, []);
    let head = world.get(HEAD).await.ok();
    assert_eq!((&head["sequence"], &head["tenantId"]), (&json!(0), &json!(DEFAULT_TENANT)));
    let stray = AuditEntry {
        id: Uuid::now_v7(),
        at: chrono::DateTime::UNIX_EPOCH,
        author: Author { kind: "user".to_owned(), ..Author::default() }.into(),
        deed: Deed::new(DEFAULT_TENANT, "jobs:create", Resource::new("job", 1, "a")),
        outcome: orrery_proto::v1::AuditOutcome::Changed,
    };
    world.store.record(&[stray]).await.unwrap();
    // It waits, and not for long.
    assert_eq!(problems(&world, None, 20).await, []);
}

/// Until something is so.
async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let patience = std::time::Instant::now() + Duration::from_secs(30);
    while !is_so().await {
        assert!(std::time::Instant::now() < patience, "it has not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn denied_calls_are_written_and_many_alike_are_one() {
    let world = World::with(false, limits()).await.with_key(Some(DEFAULT_TENANT), &["audit:read"]).await;
    for n in 0..50 {
        world.post(JOBS, hourly(&format!("job {n}"))).await.refused(403, "PERMISSION_DENIED");
    }
    let mut entries = Vec::new();
    until(async || {
        entries = listed(&world, "?outcome=denied").await;
        entries.iter().map(|entry| entry["after"]["calls"].as_i64().unwrap()).sum::<i64>() == 50
    })
    .await;
    // A window may have ended meanwhile.
    assert!(entries.len() <= 10, "{}", entries.len());
    let entry = &entries[0];
    assert_eq!((&entry["action"], &entry["after"]["code"]), (&json!("jobs:create"), &json!("PERMISSION_DENIED")));
    assert_eq!((&entry["resourceType"], &entry["resourceId"]), (&json!("call"), &json!("JobService/CreateJob")));
    assert_eq!((&entry["actorKind"], &entry["address"]), (&json!("key"), &json!("127.0.0.1")));

    // Who is not known is the deployment's matter, and none where nothing was shown.
    assert_eq!(world.client.get(world.url(JOBS)).send().await.unwrap().status(), 401);
    let wrong = world.client.get(world.url(JOBS)).bearer_auth("ork_wrong");
    assert_eq!(wrong.send().await.unwrap().status(), 401);
    let login = json!({"name": "anna", "password": CANARY});
    let login = world.client.post(world.url("/api/v1/auth/login")).body(login.to_string());
    assert_eq!(login.send().await.unwrap().status(), 401);
    let world = world.with_key(None, &["*"]).await;
    until(async || {
        entries = listed(&world, &format!("?outcome=denied&tenantId={}", Uuid::nil())).await;
        entries.len() >= 2
    })
    .await;
    let mut told: Vec<(&str, &str)> =
        entries.iter().map(|e| (e["action"].as_str().unwrap(), e["resourceId"].as_str().unwrap())).collect();
    told.sort_unstable();
    assert_eq!(told, [("jobs:read", "JobService/ListJobs"), ("sessions:login", "")]);
    assert!(entries.iter().all(|entry| entry["actorKind"] == "unknown" && entry["after"]["calls"] == 1));
    assert!(!format!("{entries:?}").contains(CANARY));
}

/// Whose account was tried is told, unless there is none: people type passwords there.
#[tokio::test]
async fn a_failed_login_names_whom_it_was_tried_with() {
    let world = World::with(false, limits()).await.with_key(Some(DEFAULT_TENANT), &["*"]).await;
    let user = json!({"name": "Anna", "password": "correct horse battery staple", "roles": []});
    let anna = world.post("/api/v1/auth/users", user).await.ok();
    for name in ["ANNA", "anna", CANARY, &CANARY.repeat(100)] {
        let login = json!({"name": name, "password": "wrong"});
        let login = world.client.post(world.url("/api/v1/auth/login")).body(login.to_string());
        assert_eq!(login.send().await.unwrap().status(), 401);
    }
    let mut grpc = AuthServiceClient::connect(format!("http://{}", world.grpc)).await.unwrap();
    let login = LoginRequest { name: "anna".to_owned(), password: "wrong".to_owned(), ..LoginRequest::default() };
    assert_eq!(grpc.login(login).await.unwrap_err().code(), tonic::Code::Unauthenticated);
    world.denials_are_told().await;

    let calls = |entries: &[Value]| entries.iter().map(|entry| entry["after"]["calls"].as_i64().unwrap()).sum::<i64>();
    let of_anna = listed(&world, &format!("?outcome=denied&resourceId={}", anna["id"].as_str().unwrap())).await;
    assert_eq!(calls(&of_anna), 3, "{of_anna:?}");
    let world = world.with_key(None, &["*"]).await;
    let of_nobody = listed(&world, &format!("?outcome=denied&tenantId={}", Uuid::nil())).await;
    assert_eq!(calls(&of_nobody), 2, "{of_nobody:?}");
    for (entries, name, is_known) in [(&of_anna, "anna", true), (&of_nobody, "", false)] {
        for entry in entries {
            assert_eq!((&entry["action"], &entry["actorKind"]), (&json!("sessions:login"), &json!("unknown")));
            assert_eq!((&entry["resourceType"], &entry["resourceName"]), (&json!("user"), &json!(name)));
            let after = &entry["after"];
            assert_eq!((&after["userIsKnown"], &after["call"]), (&json!(is_known), &json!("AuthService/Login")));
        }
    }
    assert!(!format!("{of_anna:?}{of_nobody:?}").contains("canary"));
}

/// The right password is no guess; that the tenant may not be worked for is told all the same, under whose login it was.
#[tokio::test]
async fn a_login_into_a_suspended_tenant_is_told() {
    let world = World::with(false, limits()).await.with_key(None, &["*"]).await;
    let acme = world.post("/api/v1/scheduler/tenants", json!({"name": "acme"})).await.ok();
    let acme: Uuid = acme["id"].as_str().unwrap().parse().unwrap();
    let world = world.with_key(Some(acme), &["*"]).await;
    let user = json!({"name": "Bo", "password": "correct horse battery staple", "roles": []});
    let bo = world.post("/api/v1/auth/users", user).await.ok();
    let world = world.with_key(None, &["*"]).await;
    world.post(&format!("/api/v1/scheduler/tenants/{acme}/suspend"), json!({"reason": "unpaid"})).await.ok();

    let login = json!({"name": "bo", "password": "correct horse battery staple", "tenantId": acme});
    let login = world.client.post(world.url("/api/v1/auth/login")).body(login.to_string()).send().await.unwrap();
    assert_eq!(login.status(), 403);
    assert!(login.text().await.unwrap().contains("TENANT_SUSPENDED"));
    world.denials_are_told().await;

    let query = format!("?outcome=denied&tenantId={acme}&resourceId={}", bo["id"].as_str().unwrap());
    let entries = listed(&world, &query).await;
    assert_eq!(entries.len(), 1, "{entries:?}");
    assert_eq!((&entries[0]["action"], &entries[0]["actorKind"]), (&json!("sessions:login"), &json!("unknown")));
    assert_eq!(entries[0]["after"]["code"], "PERMISSION_DENIED");
}

/// Who calls too often, is known or not, guesses or not, leaves few entries, in which all calls are counted.
#[tokio::test]
async fn calls_over_a_rate_limit_are_few_entries() {
    let began = std::time::Instant::now();
    let edge = EdgeArgs { free_attempts: 5, ..EdgeArgs::default() };
    let world = World::edged(false, limits(), 40, edge).await.with_key(Some(DEFAULT_TENANT), &["jobs:read"]).await;
    let mut over = [0; 3];
    for n in 0..150 {
        over[0] += i64::from(world.get(JOBS).await.status == 429);
        let guess = world.client.get(world.url(JOBS)).bearer_auth(format!("ork_wrong{n}"));
        over[1] += i64::from(guess.send().await.unwrap().status() == 429);
        let login = world.client.post(world.url("/api/v1/auth/login")).body(json!({"name": "a"}).to_string());
        over[2] += i64::from(login.send().await.unwrap().status() == 429);
    }
    assert!(over.iter().all(|calls| *calls > 50), "{over:?}");
    world.denials_are_told().await;

    let minutes = usize::try_from(began.elapsed().as_secs() / 60).unwrap();
    for (tenant, actor, over) in [(DEFAULT_TENANT, "key", over[0]), (Uuid::nil(), "unknown", over[1] + over[2])] {
        let filter = AuditFilter { outcome: Some(AuditOutcome::Denied), ..AuditFilter::default() };
        let page = Page { after: None, limit: 1000 };
        let rows = world.store.audit_entries(tenant, &filter, &page).await.unwrap();
        let told = rows.into_iter().filter_map(|row| {
            let after: Value = serde_json::from_str(row.entry.deed.after.as_deref()?).unwrap();
            assert_eq!((row.entry.author.kind.as_str(), row.entry.author.address.as_str()), (actor, "127.0.0.1"));
            let is_limit = ["RATE_LIMITED", "TOO_MANY_ATTEMPTS"].contains(&after["code"].as_str().unwrap());
            is_limit.then(|| after["calls"].as_i64().unwrap())
        });
        let told: Vec<i64> = told.collect();
        // One at once, one in each minute, and one at the end.
        assert!(told.len() <= 2 + minutes, "{actor} {told:?}");
        assert_eq!(told.iter().sum::<i64>(), over, "{actor} {told:?}");
    }
}

/// How far the audit service is behind, as it was seen last.
fn lag(world: &World) -> f64 {
    let text = world.metrics.encode();
    let line = text.lines().find_map(|line| line.strip_prefix("scheduler_audit_copy_lag_seconds "));
    line.unwrap().parse().unwrap()
}

/// A service that fails at first, and then takes what it says that it did not.
async fn audit_service(got: Arc<Mutex<Vec<(String, Value)>>>) -> String {
    let asked = Arc::new(AtomicUsize::new(0));
    let take = move |headers: axum::http::HeaderMap, body: String| async move {
        assert_eq!(headers["x-service-token"], SERVICE_TOKEN);
        let turn = asked.fetch_add(1, Ordering::Relaxed);
        if turn == 0 {
            return axum::http::StatusCode::SERVICE_UNAVAILABLE;
        }
        let key = headers["idempotency-key"].to_str().unwrap().to_owned();
        got.lock().unwrap().push((key, serde_json::from_str(&body).unwrap()));
        if turn == 1 { axum::http::StatusCode::BAD_GATEWAY } else { axum::http::StatusCode::ACCEPTED }
    };
    let routes = axum::Router::new().route("/api/v1/audit/batches", axum::routing::post(take));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    format!("http://{address}")
}

#[tokio::test]
async fn a_copy_gets_to_the_audit_service_in_order_whatever_fails() {
    let world = World::new().await;
    let got = Arc::new(Mutex::new(Vec::new()));
    let url = audit_service(got.clone()).await;
    let job = world.job("a", json!({})).await;
    for verb in ["pause", "resume"] {
        sealed(&world).await;
        world.post(&format!("{JOBS}/{}/{verb}", id(&job)), json!({})).await.ok();
    }
    sealed(&world).await;
    let mut lags = Vec::new();
    // Each time another process: what is to be copied is in the database.
    until(async || {
        let store: DynStore = world.store.clone();
        let locks = Locks::new(store.clone(), None, Uuid::now_v7(), Duration::from_secs(30), world.metrics.clone());
        let service = Sibling::new("AUDIT_SERVICE_URL", &url).unwrap();
        let token = Some(SERVICE_TOKEN.to_owned());
        lags.push(lag(&world));
        Copier::new(store, locks, service, token, world.metrics.clone()).look().await.unwrap();
        // Meanwhile changes go on.
        let version = world.put(&format!("{JOBS}/{}", id(&job)), hourly("a")).await.ok();
        assert!(version["version"].as_i64().unwrap() > 3);
        world.store.uncopied().await.unwrap().is_empty()
    })
    .await;
    // What it has not got has waited for longer each time, until it has everything.
    assert!(lags.len() > 2 && lags[0] == 0.0 && lags[1] > 0.0 && lags[2] > lags[1], "{lags:?}");
    let got = got.lock().unwrap().clone();
    let key = |n: i64| format!("{DEFAULT_TENANT}/{n}");
    let keys: Vec<&String> = got.iter().map(|(key, _)| key).collect();
    assert_eq!(keys, [&key(1), &key(1), &key(2), &key(3)], "the first one twice, under one key");
    assert_eq!(got[1].1, got[0].1);
    let (second, third) = (&got[2].1, &got[3].1);
    assert_eq!((&third["sequence"], &third["previousHash"]), (&json!(3), &second["hash"]));
    let entry = &third["entries"][0];
    assert_eq!((&entry["action"], &entry["resource"]["id"]), (&json!("jobs:resume"), &job["id"]));
    assert_eq!((&entry["before"]["status"], &entry["after"]["status"]), (&json!("paused"), &json!("active")));
    let listed = listed(&world, "?action=jobs:resume").await;
    assert_eq!(listed[0]["id"], entry["id"]);
}
