//! Who may do what: every call, by gRPC and by REST, for each role. The calls are those of the contract and what they need is the table's,
//! so that a call and a role that are added are here.

use orrery_server::auth::{BUILT_IN, DEFAULT_TENANT, Needs};
use reqwest::Method;
use serde_json::{Value, json};

use crate::contract::{Told, Way, grpc, ways};
use crate::world::{SECRET, World, hourly, limits};

/// A token of somebody with these roles.
fn token(roles: &[&str]) -> String {
    let now = chrono::Utc::now().timestamp();
    let claims = json!({
        "sub": "anna", "iss": "orrery", "aud": "orrery", "nbf": now - 60, "exp": now + 600, "tenant": DEFAULT_TENANT, "roles": roles,
    });
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
}

/// Whether an answer is that the caller may not: exactly the documented one.
fn is_denied(way: &Way, told: &Told) -> bool {
    let expected = if way.method.is_some() { "403 PERMISSION_DENIED" } else { "PermissionDenied PERMISSION_DENIED" };
    told.code == expected
}

fn is_unauthenticated(told: &Told) -> bool {
    told.code.starts_with("401") || told.code.starts_with("Unauthenticated")
}

#[tokio::test]
async fn each_role_may_what_it_may_and_nothing_else() {
    let world = World::with(false, limits()).await;
    let (grpc, ways) = (grpc(), ways());
    let roles = BUILT_IN.iter().map(|role| (role.name, Some(role))).chain([("guest", None)]);
    let (mut let_pass, mut refused) = (0, 0);
    for (name, role) in roles {
        let token = token(&[name]);
        for way in &ways {
            let told = way.make(&world, &grpc, Some(&token)).await;
            let context = format!("{name}: {}: {told:?}", way.name());
            let missing = way.needs.permission().filter(|permission| !role.is_some_and(|role| role.may(permission)));
            match missing {
                Some(permission) => {
                    assert!(is_denied(way, &told), "{context}");
                    assert!(told.message.contains(&format!("{permission} is needed")), "{context}");
                    refused += 1;
                }
                None => {
                    assert!(!is_denied(way, &told), "{context}");
                    let by_message = matches!(way.needs, Needs::SignsIn | Needs::Joins);
                    assert!(by_message || !is_unauthenticated(&told), "{context}");
                    let_pass += 1;
                }
            }
        }
    }
    assert!(let_pass > 300 && refused > 300, "{let_pass} passed, {refused} refused");
}

#[test]
fn whoever_only_reads_calls_nothing_that_changes() {
    for way in ways() {
        let reads = matches!(way.method, None | Some(Method::GET));
        // A definition that is checked is not saved.
        let harmless = ["JobService/ValidateJob", "AuditService/VerifyAudit"].contains(&way.call.as_str());
        if let Some(permission) = way.needs.permission() {
            assert!(reads || harmless || !permission.ends_with(":read"), "{} takes {permission} only", way.name());
        }
    }
}

#[tokio::test]
async fn two_roles_may_what_either_may() {
    let world = World::with(false, limits()).await;
    let get = async |roles: &[&str], path: &str| {
        let request = world.client.get(world.url(path)).bearer_auth(token(roles));
        world.send(request).await.status
    };
    assert_eq!(get(&["auditor"], "/api/v1/auth/users").await, 200);
    assert_eq!(get(&["operator"], "/api/v1/auth/users").await, 403);
    assert_eq!(get(&["operator", "auditor"], "/api/v1/auth/users").await, 200);
    // A role that there is not gives nothing, whatever it is called.
    for unknown in ["*", "jobs:read", "Admin", "admin "] {
        assert_eq!(get(&[unknown], "/api/v1/scheduler/jobs").await, 403, "{unknown}");
    }
}

#[tokio::test]
async fn whoever_saves_a_job_for_a_shell_may_run_shells() {
    let world = World::with(false, limits()).await;
    let jobs = "/api/v1/scheduler/jobs";
    let post = async |roles: &[&str], path: &str, body: &Value| {
        world.send(world.client.post(world.url(path)).bearer_auth(token(roles)).body(body.to_string())).await
    };
    let with = |name: &str, kind: &str, config: Value| {
        let mut job = hourly(name);
        (job["jobType"], job["config"]) = (json!(kind), config);
        job
    };
    let plain = with("plain", "command", json!({"command": "printf", "args": ["sh", "-c", "x"]}));
    let made = post(&["developer"], jobs, &plain).await.ok();
    for (kind, config) in [
        ("shell", json!({"script": "true"})),
        ("command", json!({"command": "/bin/bash", "args": ["-ec", "true"]})),
        ("command", json!({"command": "env", "args": ["A=b", "sh", "-c", "true"]})),
    ] {
        let job = with(&format!("{kind} {config}"), kind, config);
        let error = post(&["developer"], jobs, &job).await.refused(403, "PERMISSION_DENIED");
        assert!(error["message"].as_str().unwrap().contains("shell:run"), "{error}");
        let batch = json!({"jobs": [hourly("beside"), job]});
        let error =
            post(&["developer"], &format!("{jobs}/batch-create"), &batch).await.refused(403, "PERMISSION_DENIED");
        assert!(error["message"].as_str().unwrap().starts_with("jobs[1]."), "{error}");
        let path = format!("{jobs}/{}", made["id"].as_str().unwrap());
        let put = world.client.put(world.url(&path)).bearer_auth(token(&["developer"])).body(job.to_string());
        world.send(put).await.refused(403, "PERMISSION_DENIED");
        let checked = post(&["developer"], &format!("{jobs}/validate"), &job).await.ok();
        assert_eq!((&checked["valid"], &checked["errors"][0]["code"]), (&json!(false), &json!("PERMISSION_DENIED")));
        let inside = world.client.post(world.url("/internal/jobs/create")).body(job.to_string());
        let inside = world.send(inside.header("x-service-token", crate::world::SERVICE_TOKEN)).await;
        assert_eq!((inside.status, &inside.json()["errorCode"]), (403, &json!("PERMISSION_DENIED")));
        post(&["admin"], jobs, &job).await.ok();
    }
    let listed = world.send(world.client.get(world.url(jobs)).bearer_auth(token(&["viewer"]))).await.ok();
    assert_eq!(listed["jobs"].as_array().unwrap().len(), 4, "what was refused was not made");
}
