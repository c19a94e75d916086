//! Callers of another tenant, who know every id: over all calls of the contract, by gRPC and by REST. Nothing that is not theirs is there.
//!
//! The calls are those of the descriptors. Each that takes an id is made with that of a thing of the first tenant; each other one must
//! answer without anything of it. A call with a field that this test knows no id for fails it, so that nobody forgets to say which.

use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MessageDescriptor, MethodDescriptor, ReflectMessage, Value};
use reqwest::Method;
use serde_json::json;
use tonic::{Code, Status};

use crate::dynamic::DynamicClient;
use crate::process::Process;
use crate::rest::{Answer, Rest, id};
use crate::token::token_of;
use crate::wait::{SOON, until};
use crate::world::{Server, World};

on_each_engine!(nothing_of_another_tenant_is_there);

const FIRST: &str = "00000000-0000-0000-0000-000000000001";
const STRANGER: &str = "00000000-0000-0000-0000-00000000beef";
/// In every name and text of the first tenant.
const MARK: &str = "belongs-to-the-first";

/// What calls need beside an id to be valid: by method, in text format and as JSON.
const BESIDE: &[(&str, &str, &str)] = &[
    (
        "UpdateJob",
        r#"name: "x" manual: true job_type: JOB_TYPE_COMMAND config { text: "{\"command\": \"true\"}" }"#,
        r#"{"name": "x", "manual": true, "jobType": "command", "config": {"command": "true"}}"#,
    ),
    ("UpdateUser", r#"display_name: "x" roles: "viewer""#, r#"{"displayName": "x", "roles": ["viewer"]}"#),
    ("UpdateTenant", r#"name: "x""#, r#"{"name": "x"}"#),
    ("ResetPassword", r#"password: "correct horse staple""#, r#"{"password": "correct horse staple"}"#),
];

/// Calls that make something of the caller's own, or are asked before anybody is known. They take no id of anything that is there. Secrets and roles
/// go by their names, and agents with certificates need an authority: the tests of both have strangers of their own.
const APART: &[&str] = &[
    "CreateJob",
    "BatchCreateJobs",
    "SetQueue",
    "PreviewCron",
    "ExplainCron",
    "GetHealth",
    "GetReady",
    "Login",
    "Refresh",
    "Logout",
    "ChangePassword",
    "CreateKey",
    "CreateUser",
    "PutSecret",
    "DeleteSecret",
    "RotateSecrets",
    "CreateRole",
    "GetRole",
    "ListRoles",
    "UpdateRole",
    "DeleteRole",
    "CreateRoleBinding",
    "CreateJoinToken",
    "Enroll",
    "RevokeAgent",
    "CreateTenant",
];

/// What the first tenant has.
struct Things {
    job: String,
    run: String,
    dead: String,
    worker: String,
    key: String,
    user: String,
    binding: String,
    entry: String,
    _agent: Process,
}

impl Things {
    /// The id that a field of a call takes.
    fn id(&self, method: &MethodDescriptor, field: &str) -> &str {
        match (method.parent_service().name(), field) {
            ("JobService", "id") | (_, "job_id") => &self.job,
            ("ExecutionService", "id") => &self.run,
            ("DeadLetterService", "execution_id") => &self.dead,
            ("KeyService", "id") => &self.key,
            ("TenantService", "id") | ("AuditService", "tenant_id") => FIRST,
            ("AuditService", "id") => &self.entry,
            ("AuditService", "resource_id") => &self.job,
            ("UserService", "id") | ("RoleService", "principal_id") => &self.user,
            ("RoleService", "id") => &self.binding,
            ("SchedulerService", "id") if method.name() == "DrainWorker" => &self.worker,
            _ => panic!("{}: say in this test which id of another tenant {field} is to be", method.full_name()),
        }
    }

    fn is_in(&self, text: &str) -> bool {
        [MARK, &self.job, &self.run, &self.dead, &self.worker, &self.key, &self.user, &self.binding, &self.entry]
            .iter()
            .any(|own| text.contains(*own))
    }
}

async fn nothing_of_another_tenant_is_there(world: World) {
    let server = world.server(&[("ORRERY_SESSION_TTL_MS", "3000")]).await;
    let owner = server.rest().with(Some(&token_of(FIRST)));
    let things = things(&world, &server, &owner).await;
    let before = state(&owner, &things).await;
    let stranger = token_of(STRANGER);
    let client = DynamicClient::described(&server.grpc, stranger.clone()).await;
    let rest = owner.with(Some(&stranger));
    let mut called = 0;
    for method in methods(client.pool()) {
        let (request, takes_id) = request(&method, &things);
        called += usize::from(takes_id);
        let name = method.full_name().to_owned();
        judge(&name, takes_id, &things, client.call_with(&method, request.clone()).await);
        for (verb, path, body) in routes(&client, &method, &things) {
            let answer = rest.call(verb.clone(), &path, body).await;
            let called = format!("{name} ({verb} {path})");
            judge_rest(&called, takes_id, &things, &answer);
        }
        if is_harmless(&method) {
            // The same request is answered to whose it is: it was not refused for anything else.
            let owned = client.with(token_of(FIRST)).call_with(&method, request).await;
            assert!(owned.is_ok(), "{name} for the owner: {owned:?}");
        }
    }
    assert!(called >= 20, "{called} calls that take an id");
    assert_eq!(state(&owner, &things).await, before, "a stranger has changed something");
    keys_are_each_tenants_own(&owner, &rest).await;
}

/// Something of every kind. The first agent takes its work with it.
async fn things(world: &World, server: &Server, rest: &Rest) -> Things {
    let once = json!({
        "name": format!("once {MARK}"), "manual": true, "jobType": "command", "delivery": "at_most_once", "tags": [MARK],
        "config": {"command": "sleep", "args": ["600"]},
    });
    let mut lost = world.start_agent("lost", &[server], &[], &token_of(FIRST));
    server.has_agent("lost").await;
    let once = rest.create(once).await;
    let dead = rest.trigger(&once).await;
    rest.running(&dead).await;
    lost.kill();
    rest.finished(&dead).await;
    let agent = world.start_agent(MARK, &[server], &[], &token_of(FIRST));
    server.has_agent(MARK).await;
    let job = rest.create_manual(MARK, "command", json!({"command": "echo", "args": [MARK]})).await;
    let run = rest.trigger(&job).await;
    rest.finished(&run).await;
    until("its output is stored", SOON, async || {
        let logs = rest.get(&format!("/executions/{run}/logs")).await.ok();
        logs.to_string().contains(MARK).then_some(())
    })
    .await;
    rest.put(&format!("/queues/{MARK}"), json!({"maxConcurrent": 3})).await.ok();
    let workers = rest.workers().await;
    let worker = workers.iter().find(|worker| worker["name"] == MARK).map(id).unwrap();
    let key = json!({"name": MARK, "permissions": ["jobs:read"]});
    let key = rest.call(Method::POST, "/api/v1/auth/keys", Some(key.to_string())).await.ok()["key"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let user = json!({"name": MARK, "password": "correct horse battery", "roles": ["viewer"]});
    let user = id(&rest.call(Method::POST, "/api/v1/auth/users", Some(user.to_string())).await.ok());
    let binding = json!({"role": "viewer", "principalKind": "user", "principalId": user, "tag": MARK});
    let binding = id(&rest.post("/role-bindings", binding).await.ok());
    let entries = rest.get(&format!("/audit/entries?resourceId={job}")).await.ok();
    let entry = id(&crate::rest::list(&entries, "entries")[0]);
    Things { job, run, dead, worker, key, user, binding, entry, _agent: agent }
}

/// Everything that a stranger could have changed.
async fn state(rest: &Rest, things: &Things) -> Vec<serde_json::Value> {
    let mut state = vec![rest.job(&things.job).await, rest.execution(&things.run).await];
    state.push(rest.get(&format!("/dead-letters/{}", things.dead)).await.ok());
    state.push(rest.get("/queues").await.ok());
    state.push(rest.get("/role-bindings").await.ok());
    let worker = rest.workers().await.into_iter().find(|worker| worker["id"] == things.worker.as_str()).unwrap();
    state.push(worker["state"].clone());
    state.push(rest.get(&format!("/tenants/{FIRST}")).await.ok());
    state.push(json!(rest.executions(&things.job).await.len()));
    state
}

/// The calls of the contract that callers make.
fn methods(pool: &DescriptorPool) -> Vec<MethodDescriptor> {
    let ours =
        pool.services().filter(|service| service.package_name() == "orrery.v1" && service.name() != "AgentService");
    let methods = ours.flat_map(|service| service.methods().collect::<Vec<_>>());
    methods.filter(|method| !APART.contains(&method.name())).collect()
}

/// Whether the call only reads.
fn is_harmless(method: &MethodDescriptor) -> bool {
    ["Get", "List", "Explain", "Preview", "Watch", "Follow"].iter().any(|verb| method.name().starts_with(verb))
}

/// A request with the ids of the first tenant, and whether it has any.
fn request(method: &MethodDescriptor, things: &Things) -> (DynamicMessage, bool) {
    let beside = BESIDE.iter().find(|(name, ..)| *name == method.name()).map_or("", |(_, text, _)| *text);
    let mut message = DynamicMessage::parse_text_format(method.input(), beside).unwrap();
    let takes_id = set_ids(&mut message, method, things);
    (message, takes_id)
}

/// Sets all fields that take an id, also those of what is repeated, such as the items of a batch.
fn set_ids(message: &mut DynamicMessage, method: &MethodDescriptor, things: &Things) -> bool {
    let mut any = false;
    for field in message.descriptor().fields() {
        match field.kind() {
            Kind::String if is_id(field.name()) && !field.is_list() && !field.is_map() => {
                message.set_field(&field, Value::String(things.id(method, field.name()).to_owned()));
                any = true;
            }
            Kind::Message(item) if field.is_list() && has_ids(&item) => {
                let mut inner = DynamicMessage::new(item);
                any |= set_ids(&mut inner, method, things);
                message.set_field(&field, Value::List(vec![Value::Message(inner)]));
            }
            _ => {}
        }
    }
    any
}

fn is_id(field: &str) -> bool {
    field == "id" || field.ends_with("_id")
}

fn has_ids(message: &MessageDescriptor) -> bool {
    message.fields().any(|field| is_id(field.name()))
}

/// The requests of REST that are the same call.
fn routes(client: &DynamicClient, method: &MethodDescriptor, things: &Things) -> Vec<(Method, String, Option<String>)> {
    let extension = client.pool().get_extension_by_name("google.api.http").unwrap();
    let options = method.options();
    let rule = options.get_extension(&extension);
    let rule = rule.as_message().unwrap();
    let more = rule.get_field_by_name("additional_bindings").unwrap().into_owned();
    let mut routes = vec![route(rule, method, things)];
    routes.extend(more.as_list().unwrap().iter().map(|rule| route(rule.as_message().unwrap(), method, things)));
    routes
}

fn route(rule: &DynamicMessage, method: &MethodDescriptor, things: &Things) -> (Method, String, Option<String>) {
    let verbs = [("get", Method::GET), ("put", Method::PUT), ("post", Method::POST), ("delete", Method::DELETE)];
    let verbs = verbs.into_iter().chain([("patch", Method::PATCH)]);
    let of = |name: &str| rule.get_field_by_name(name).unwrap().as_str().unwrap().to_owned();
    let (verb, mut path) =
        verbs.map(|(name, verb)| (verb, of(name))).find(|(_, path)| !path.is_empty()).expect("a route");
    let mut rest = serde_json::Map::new();
    for field in method.input().fields() {
        let name = field.name();
        match field.kind() {
            Kind::String if is_id(name) && !field.is_list() => {
                let (id, place) = (things.id(method, name), format!("{{{name}}}"));
                if path.contains(&place) {
                    path = path.replace(&place, id);
                } else {
                    rest.insert(field.json_name().to_owned(), json!(id));
                }
            }
            Kind::Message(item) if field.is_list() && has_ids(&item) => {
                let ids = item.fields().filter(|inner| is_id(inner.name()));
                let ids = ids.map(|inner| (inner.json_name().to_owned(), json!(things.id(method, inner.name()))));
                rest.insert(field.json_name().to_owned(), json!([ids.collect::<serde_json::Map<_, _>>()]));
            }
            _ => {}
        }
    }
    assert!(!path.contains('{'), "{}: this test does not know what to put into {path}", method.full_name());
    if matches!(verb, Method::GET | Method::DELETE) {
        let query: Vec<String> = rest.iter().map(|(name, id)| format!("{name}={}", id.as_str().unwrap())).collect();
        let separator = if query.is_empty() { "" } else { "?" };
        return (verb, format!("{path}{separator}{}", query.join("&")), None);
    }
    let beside = BESIDE.iter().find(|(name, ..)| *name == method.name()).map_or("{}", |(.., json)| *json);
    let mut body: serde_json::Map<String, serde_json::Value> = serde_json::from_str(beside).unwrap();
    body.append(&mut rest);
    (verb, path, Some(serde_json::Value::Object(body).to_string()))
}

/// What takes an id is answered as if it were nobody's, or is an empty list; nothing else shows anything of the first tenant.
fn judge(name: &str, takes_id: bool, things: &Things, answer: Result<Vec<DynamicMessage>, Status>) {
    match answer {
        Ok(messages) => {
            for message in messages {
                let text = message.to_text_format();
                assert!(!things.is_in(&text), "{name} shows {text}");
                let is_empty = is_empty(&message);
                assert!(is_empty || !takes_id, "{name} is answered: {text}");
                assert!(is_empty || !name.contains(".List") || name.ends_with("ListQueues"), "{name} lists {text}");
            }
        }
        Err(status) => {
            assert!(takes_id, "{name}: {status:?}");
            assert_eq!(status.code(), Code::NotFound, "{name}: {status:?}");
        }
    }
}

/// Whether an answer is a list of nothing, or sums of nothing.
fn is_empty(message: &DynamicMessage) -> bool {
    message.fields().all(|(field, value)| match value {
        Value::List(list) => list.is_empty(),
        Value::I32(n) => *n == 0,
        Value::I64(n) => *n == 0,
        Value::F64(n) => *n == 0.0,
        // The instants of the range that was asked for.
        Value::Message(inner) => inner.descriptor().full_name() == "google.protobuf.Timestamp",
        _ => field.kind() == Kind::String && value.as_str() == Some(""),
    })
}

fn judge_rest(name: &str, takes_id: bool, things: &Things, answer: &Answer) {
    match answer.status {
        404 => {
            // The id stands in the message, since the caller has named it.
            let code = answer.json()["error"]["code"].as_str().unwrap_or_default().to_owned();
            assert!(takes_id && code.ends_with("_NOT_FOUND") && code != "ROUTE_NOT_FOUND", "{name}: {}", answer.text);
            assert!(!answer.text.contains(MARK), "{name}: {}", answer.text);
        }
        200 => {
            assert!(!things.is_in(&answer.text), "{name} shows {}", answer.text);
            let is_list = |value: &serde_json::Value| value.as_array().is_some_and(|list| !list.is_empty());
            let body = answer.json();
            let lists = body.as_object().is_some_and(|fields| fields.values().any(is_list));
            assert!(!lists || !takes_id, "{name} lists {}", answer.text);
        }
        other => panic!("{name}: {other} {}", answer.text),
    }
}

/// A key that one tenant has used is new to another.
async fn keys_are_each_tenants_own(owner: &Rest, stranger: &Rest) {
    let keyed = json!({
        "name": "keyed", "manual": true, "jobType": "command", "config": {"command": "true"}, "idempotencyKey": "k",
    });
    let (own, other) = (owner.create(keyed.clone()).await, stranger.create(keyed).await);
    assert_ne!(own, other);
    let trigger = |job: String| (format!("/jobs/{job}/trigger"), json!({"idempotencyKey": "t"}));
    let ((own_path, own_body), (other_path, other_body)) = (trigger(own), trigger(other));
    let own = id(&owner.post(&own_path, own_body).await.ok());
    let other = id(&stranger.post(&other_path, other_body).await.ok());
    assert_ne!(own, other);
    // A page of one tenant's list leads nowhere for another.
    let token = owner.get("/jobs?pageSize=1").await.ok()["nextPageToken"].as_str().unwrap().to_owned();
    assert!(!token.is_empty());
    stranger.get(&format!("/jobs?pageSize=1&pageToken={token}")).await.refused(400, "INVALID_PAGE_TOKEN");
}
