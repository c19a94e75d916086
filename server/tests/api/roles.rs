//! Roles of a tenant's own, and bindings: for the whole tenant, and for jobs with a tag alone.

use orrery_server::auth::{DEFAULT_TENANT, Needs};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::contract::ways;
use crate::world::{Answer, EXECUTIONS, JOBS, World, hourly, id, limits};

const ROLES: &str = "/api/v1/scheduler/roles";
const BINDINGS: &str = "/api/v1/scheduler/role-bindings";
const LETTERS: &str = "/api/v1/scheduler/dead-letters";
const KEYS: &str = "/api/v1/auth/keys";
const USERS: &str = "/api/v1/auth/users";
const PASSWORD: &str = "correct horse battery staple";

/// A server that knows its callers, and a key of an administrator for it.
async fn world() -> World {
    World::with(false, limits()).await.with_key(Some(DEFAULT_TENANT), &["*"]).await
}

/// A key that may nothing by itself but sign nobody out: its text and its id.
async fn key(world: &World, permissions: &[&str]) -> (String, String) {
    let made = world.post(KEYS, json!({"name": "tool", "permissions": permissions})).await.ok();
    (made["secret"].as_str().unwrap().to_owned(), id(&made["key"]).to_owned())
}

async fn call(world: &World, bearer: &str, method: Method, path: &str, body: Value) -> Answer {
    let body = if method == Method::GET { String::new() } else { body.to_string() };
    let request = world.client.request(method, world.url(path)).body(body).bearer_auth(bearer);
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer { status, headers, text: response.text().await.unwrap() }
}

async fn get(world: &World, bearer: &str, path: &str) -> Answer {
    call(world, bearer, Method::GET, path, Value::Null).await
}

async fn bind(world: &World, role: &str, key: &str, tag: &str) -> Answer {
    world.post(BINDINGS, json!({"role": role, "principalKind": "key", "principalId": key, "tag": tag})).await
}

#[tokio::test]
async fn a_role_is_made_bound_changed_and_taken_away() {
    let world = world().await;
    let role = json!({"name": "mailer", "description": "mails", "permissions": ["jobs:trigger", "jobs:read"]});
    let made = world.post(ROLES, role.clone()).await.ok();
    assert_eq!((&made["permissions"], &made["builtIn"]), (&json!(["jobs:read", "jobs:trigger"]), &json!(false)));
    world.post(ROLES, role).await.refused(409, "ROLE_NAME_TAKEN");
    let (secret, tool) = key(&world, &["scheduler:read"]).await;
    get(&world, &secret, JOBS).await.refused(403, "PERMISSION_DENIED");
    let bound = bind(&world, "mailer", &tool, "").await.ok();
    // At once, though it called a moment ago.
    get(&world, &secret, JOBS).await.ok();
    assert_eq!(bind(&world, "mailer", &tool, "").await.ok()["id"], bound["id"]);
    let me = get(&world, &secret, "/api/v1/auth/me").await.ok();
    assert_eq!(me["permissions"], json!(["jobs:read", "jobs:trigger", "scheduler:read"]));
    let in_use = world.delete(&format!("{ROLES}/mailer")).await.refused(409, "ROLE_IN_USE");
    assert!(in_use["message"].as_str().unwrap().contains("1 bindings"), "{in_use}");
    let path = format!("{ROLES}/mailer");
    world.put(&path, json!({"permissions": ["jobs:trigger"]})).await.ok();
    get(&world, &secret, JOBS).await.refused(403, "PERMISSION_DENIED");
    world.put(&path, json!({"permissions": ["jobs:read"]})).await.ok();
    get(&world, &secret, JOBS).await.ok();
    let listed = world.get(&format!("{BINDINGS}?role=mailer&principalId={tool}")).await.ok();
    assert_eq!(listed["bindings"], json!([bound]));
    world.delete(&format!("{BINDINGS}/{}", id(&bound))).await.ok();
    get(&world, &secret, JOBS).await.refused(403, "PERMISSION_DENIED");
    world.delete(&format!("{BINDINGS}/{}", id(&bound))).await.refused(404, "ROLE_BINDING_NOT_FOUND");
    world.delete(&path).await.ok();
    world.delete(&path).await.refused(404, "ROLE_NOT_FOUND");
    bind(&world, "mailer", &tool, "").await.refused(404, "ROLE_NOT_FOUND");
}

#[tokio::test]
async fn built_in_roles_are_listed_first_and_stay_what_they_are() {
    let world = world().await;
    for name in ["b", "a"] {
        world.post(ROLES, json!({"name": name, "permissions": ["*"]})).await.ok();
    }
    let (mut names, mut token) = (Vec::new(), String::new());
    loop {
        let page = world.get(&format!("{ROLES}?pageSize=2&pageToken={token}")).await.ok();
        names.extend(page["roles"].as_array().unwrap().iter().map(|role| role["name"].as_str().unwrap().to_owned()));
        token = page["nextPageToken"].as_str().unwrap().to_owned();
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["viewer", "operator", "developer", "auditor", "admin", "a", "b"]);
    assert_eq!(world.get(&format!("{ROLES}/admin")).await.ok()["permissions"], json!(["*"]));
    world.put(&format!("{ROLES}/viewer"), json!({"permissions": ["*"]})).await.refused(409, "ROLE_BUILT_IN");
    world.delete(&format!("{ROLES}/viewer")).await.refused(409, "ROLE_BUILT_IN");
    for (body, code) in [
        (json!({"name": "viewer", "permissions": ["*"]}), "INVALID_NAME"),
        (json!({"name": "x"}), "INVALID_PERMISSION"),
        (json!({"name": "x", "permissions": ["jobs:fly"]}), "INVALID_PERMISSION"),
        (json!({"name": "x", "permissions": ["*"], "description": "x".repeat(501)}), "INVALID_DESCRIPTION"),
    ] {
        world.post(ROLES, body).await.refused(400, code);
    }
    let somebody = Uuid::new_v4();
    for (body, code) in [
        (json!({"role": "viewer", "principalId": somebody}), "INVALID_ARGUMENT"),
        (json!({"role": "viewer", "principalKind": "user", "principalId": "anna"}), "INVALID_ID"),
        (json!({"role": "viewer", "principalKind": "user", "principalId": somebody, "tag": "a\tb"}), "INVALID_TAGS"),
    ] {
        world.post(BINDINGS, body).await.refused(400, code);
    }
}

#[tokio::test]
async fn nobody_gives_a_role_that_allows_more() {
    let world = world().await;
    let (secret, _) = key(&world, &["roles:write", "users:write", "jobs:read"]).await;
    let (_, tool) = key(&world, &["scheduler:read"]).await;
    let post = async |path: &str, body: Value| call(&world, &secret, Method::POST, path, body).await;
    let put = async |path: &str, body: Value| call(&world, &secret, Method::PUT, path, body).await;
    let binding = |role: &str| json!({"role": role, "principalKind": "key", "principalId": tool});
    post(ROLES, json!({"name": "reader", "permissions": ["jobs:read"]})).await.ok();
    post(BINDINGS, binding("reader")).await.ok();
    world.post(ROLES, json!({"name": "writer", "permissions": ["jobs:update"]})).await.ok();
    for refused in [
        post(ROLES, json!({"name": "more", "permissions": ["jobs:read", "jobs:update"]})).await,
        post(ROLES, json!({"name": "more", "permissions": ["*"]})).await,
        put(&format!("{ROLES}/reader"), json!({"permissions": ["jobs:read", "jobs:update"]})).await,
        // Nor takes: those who have it would lose what the caller could not give back.
        put(&format!("{ROLES}/writer"), json!({"permissions": ["jobs:read"]})).await,
        call(&world, &secret, Method::DELETE, &format!("{ROLES}/writer"), json!({})).await,
        post(BINDINGS, binding("writer")).await,
        post(BINDINGS, binding("viewer")).await,
        post(USERS, json!({"name": "carl", "password": PASSWORD, "roles": ["writer"]})).await,
    ] {
        refused.refused(403, "PERMISSION_DENIED");
    }
    // Whoever is bound to more is not for somebody to take over who may less.
    let user = post(USERS, json!({"name": "bert", "password": PASSWORD, "roles": ["reader"]})).await.ok();
    let password = format!("{USERS}/{}/password", id(&user));
    post(&password, json!({"password": PASSWORD})).await.ok();
    for tag in ["", "mail"] {
        let bound = json!({"role": "writer", "principalKind": "user", "principalId": id(&user), "tag": tag});
        let bound = world.post(BINDINGS, bound).await.ok();
        post(&password, json!({"password": PASSWORD})).await.refused(403, "PERMISSION_DENIED");
        world.delete(&format!("{BINDINGS}/{}", id(&bound))).await.ok();
    }
    world
        .post(USERS, json!({"name": "dora", "password": PASSWORD, "roles": ["nobody"]}))
        .await
        .refused(400, "INVALID_ROLE");
}

#[tokio::test]
async fn roles_are_their_tenants() {
    let world = world().await;
    world.post(ROLES, json!({"name": "mailer", "permissions": ["*"]})).await.ok();
    let (_, tool) = key(&world, &["scheduler:read"]).await;
    let bound = bind(&world, "mailer", &tool, "").await.ok();
    let stranger = world.with_key(Some(Uuid::from_u128(77)), &["*"]).await;
    for path in [format!("{ROLES}/mailer"), format!("{BINDINGS}/{}", id(&bound))] {
        let answer = stranger.delete(&path).await;
        assert!(answer.status == 404 && answer.text.contains("_NOT_FOUND"), "{}", answer.text);
    }
    stranger.get(&format!("{ROLES}/mailer")).await.refused(404, "ROLE_NOT_FOUND");
    stranger.put(&format!("{ROLES}/mailer"), json!({"permissions": ["*"]})).await.refused(404, "ROLE_NOT_FOUND");
    bind(&stranger, "mailer", &tool, "").await.refused(404, "ROLE_NOT_FOUND");
    assert_eq!(stranger.get(BINDINGS).await.ok()["bindings"], json!([]));
    assert_eq!(stranger.get(ROLES).await.ok()["roles"].as_array().unwrap().len(), 5);
    // A binding of one tenant to a key of another gives that key nothing.
    let theirs = stranger.post(KEYS, json!({"name": "x", "permissions": ["scheduler:read"]})).await.ok();
    let owner = stranger.with_key(Some(DEFAULT_TENANT), &["*"]).await;
    bind(&owner, "admin", id(&theirs["key"]), "").await.ok();
    let secret = theirs["secret"].as_str().unwrap();
    get(&owner, secret, JOBS).await.refused(403, "PERMISSION_DENIED");
}

/// A job of a tag with an execution that is over, and a dead letter.
struct Things {
    job: Value,
    run: Value,
}

async fn things(world: &World, name: &str, tags: Value) -> Things {
    let job = world.job(name, json!({"tags": tags})).await;
    let run = world.trigger(&job).await;
    Things { job, run }
}

impl Things {
    /// The path of a call that takes an id of these.
    fn path(&self, path: &str) -> String {
        let of = |part: &str| match part {
            "{job_id}" => id(&self.job).to_owned(),
            "{id}" if path.contains("/executions/") => id(&self.run).to_owned(),
            "{id}" => id(&self.job).to_owned(),
            "{execution_id}" => id(&self.run).to_owned(),
            part => part.to_owned(),
        };
        path.split('/').map(of).collect::<Vec<_>>().join("/")
    }
}

fn shown(answer: &Answer, list: &str) -> Vec<String> {
    let body = answer.ok();
    let mut found: Vec<String> = body[list].as_array().unwrap().iter().map(|item| id(item).to_owned()).collect();
    found.sort();
    found
}

/// Over all calls that a tag can open: what they are about is made for each, and one of another tag is not there.
#[tokio::test]
async fn a_tag_opens_its_jobs_and_no_others() {
    let world = world().await;
    let (mine, theirs) = (things(&world, "mine", json!(["mail"])).await, things(&world, "theirs", json!(["x"])).await);
    let untagged = things(&world, "untagged", json!([])).await;
    let (secret, tool) = key(&world, &["queues:update"]).await;
    bind(&world, "admin", &tool, "mail").await.ok();
    let before = world.get(&format!("{JOBS}/{}", id(&theirs.job))).await.ok();
    let mut tried = 0;
    for way in ways() {
        let (Some(method), Needs::OfJobs(_)) = (way.method.clone(), way.needs) else { continue };
        if !way.path.contains('{') {
            continue;
        }
        tried += 1;
        let body = if way.call == "JobService/UpdateJob" {
            let mut job = hourly("stolen");
            job["tags"] = json!(["mail"]);
            job
        } else {
            json!({})
        };
        for other in [&theirs, &untagged] {
            let answer = call(&world, &secret, method.clone(), &other.path(&way.path), body.clone()).await;
            let code = answer.json()["error"]["code"].as_str().unwrap_or_default().to_owned();
            let expected = answer.status == 404 && code.ends_with("_NOT_FOUND") && code != "ROUTE_NOT_FOUND";
            assert!(expected, "{}: {} {}", way.name(), answer.status, answer.text);
        }
        // The streams of what waits have no end.
        let streams = way.path.ends_with("/watch") || way.path.ends_with("/follow");
        let gone = way.call.starts_with("DeadLetterService/") || way.call == "JobService/DeleteJob";
        if !streams && !gone {
            let answer = call(&world, &secret, method, &mine.path(&way.path), body).await;
            assert!(!matches!(answer.status, 401 | 403 | 404), "{}: {} {}", way.name(), answer.status, answer.text);
        }
    }
    assert!(tried > 20, "{tried} calls");
    assert_eq!(world.get(&format!("{JOBS}/{}", id(&theirs.job))).await.ok(), before, "it was changed");
    assert_eq!(world.get(&format!("{EXECUTIONS}/{}", id(&theirs.run))).await.ok()["status"], "pending");
    let batch =
        |jobs: &[&Value]| json!({"triggers": jobs.iter().map(|job| json!({"id": id(job)})).collect::<Vec<_>>()});
    let batches = format!("{JOBS}/batch-trigger");
    let refused = call(&world, &secret, Method::POST, &batches, batch(&[&mine.job, &theirs.job])).await;
    refused.refused(404, "JOB_NOT_FOUND");
    assert_eq!(
        world.get(&format!("{JOBS}/{}/executions", id(&theirs.job))).await.ok()["executions"].as_array().unwrap().len(),
        1
    );
    // What is the whole tenant's, a tag does not open.
    for way in ways().into_iter().filter(|way| matches!(way.needs, Needs::Permission(p) if p != "queues:update")) {
        let Some(method) = way.method.clone() else { continue };
        let answer = call(&world, &secret, method, &way.path.replace(['{', '}'], ""), json!({})).await;
        assert_eq!(answer.status, 403, "{}: {}", way.name(), answer.text);
    }
}

#[tokio::test]
async fn lists_show_what_a_tag_opens() {
    let world = world().await;
    let mine = things(&world, "mine", json!(["mail", "b"])).await;
    let theirs = things(&world, "theirs", json!(["x"])).await;
    let (secret, tool) = key(&world, &["queues:update"]).await;
    bind(&world, "viewer", &tool, "mail").await.ok();
    assert_eq!(shown(&get(&world, &secret, JOBS).await, "jobs"), [id(&mine.job)]);
    assert_eq!(shown(&get(&world, &secret, &format!("{JOBS}?tag=x")).await, "jobs"), [""; 0]);
    assert_eq!(shown(&get(&world, &secret, EXECUTIONS).await, "executions"), [id(&mine.run)]);
    assert_eq!(
        shown(&get(&world, &secret, &format!("{EXECUTIONS}?status=pending")).await, "executions"),
        [id(&mine.run)]
    );
    let of = |job: &Value| format!("?jobId={}", id(job));
    get(&world, &secret, &format!("{EXECUTIONS}{}", of(&theirs.job))).await.refused(404, "JOB_NOT_FOUND");
    get(&world, &secret, &format!("{LETTERS}{}", of(&theirs.job))).await.refused(404, "JOB_NOT_FOUND");
    assert_eq!(get(&world, &secret, LETTERS).await.ok()["deadLetters"], json!([]));
    let stats = format!("{EXECUTIONS}/stats");
    get(&world, &secret, &format!("{stats}{}", of(&mine.job))).await.ok();
    get(&world, &secret, &format!("{stats}{}", of(&theirs.job))).await.refused(404, "JOB_NOT_FOUND");
    let error = get(&world, &secret, &stats).await.refused(403, "PERMISSION_DENIED");
    assert!(error["message"].as_str().unwrap().contains("jobId"), "{error}");
    // A second tag adds to the first.
    bind(&world, "viewer", &tool, "x").await.ok();
    assert_eq!(shown(&get(&world, &secret, JOBS).await, "jobs").len(), 2);
    assert_eq!(shown(&get(&world, &secret, EXECUTIONS).await, "executions").len(), 2);
}

#[tokio::test]
async fn a_job_keeps_a_tag_that_its_caller_may_write() {
    let world = world().await;
    let mine = things(&world, "mine", json!(["mail"])).await;
    let seen = things(&world, "seen", json!(["news"])).await;
    let (secret, tool) = key(&world, &["queues:update"]).await;
    bind(&world, "developer", &tool, "mail").await.ok();
    bind(&world, "viewer", &tool, "news").await.ok();
    let with = |name: &str, tags: Value| {
        let mut job = hourly(name);
        job["tags"] = tags;
        job
    };
    let post = async |path: &str, body: Value| call(&world, &secret, Method::POST, path, body).await;
    let put =
        async |job: &Value, body: Value| call(&world, &secret, Method::PUT, &format!("{JOBS}/{}", id(job)), body).await;
    post(JOBS, with("new", json!(["mail", "new"]))).await.ok();
    for bad in [json!([]), json!(["news"]), json!(["Mail"])] {
        let error = post(JOBS, with("bad", bad.clone())).await.refused(403, "PERMISSION_DENIED");
        assert!(error["message"].as_str().unwrap().starts_with("tags: give one of mail"), "{error}");
        put(&mine.job, with("mine", bad.clone())).await.refused(403, "PERMISSION_DENIED");
        let batch = json!({"jobs": [with("good", json!(["mail"])), with("bad", bad)]});
        let error = post(&format!("{JOBS}/batch-create"), batch).await.refused(403, "PERMISSION_DENIED");
        assert!(error["message"].as_str().unwrap().starts_with("jobs[1].tags"), "{error}");
    }
    put(&mine.job, with("mine", json!(["mail", "other"]))).await.ok();
    // What is seen and may not be done is denied; it cannot be taken over by giving it the own tag.
    get(&world, &secret, &format!("{JOBS}/{}", id(&seen.job))).await.ok();
    put(&seen.job, with("seen", json!(["mail"]))).await.refused(403, "PERMISSION_DENIED");
    for verb in ["trigger", "pause", "resume", "stop"] {
        post(&format!("{JOBS}/{}/{verb}", id(&seen.job)), json!({})).await.refused(403, "PERMISSION_DENIED");
        // One of it waits, so that a trigger may be one too many; it is let pass all the same.
        let answer = post(&format!("{JOBS}/{}/{verb}", id(&mine.job)), json!({})).await;
        assert!(matches!(answer.status, 200 | 201 | 409), "{verb}: {}", answer.text);
    }
    post(&format!("{EXECUTIONS}/{}/cancel", id(&seen.run)), json!({})).await.refused(403, "PERMISSION_DENIED");
    assert_eq!(world.get(&format!("{JOBS}/{}", id(&seen.job))).await.ok()["version"], seen.job["version"]);
    // Secrets are the whole tenant's.
    world.put("/api/v1/scheduler/secrets/TOKEN", json!({"value": "canary-of-the-tenant"})).await.ok();
    let mut thief = with("thief", json!(["mail"]));
    thief["config"]["headers"] = json!({"Authorization": "${secret:TOKEN}"});
    post(JOBS, thief).await.refused(403, "PERMISSION_DENIED");
    // Shells go by the tag.
    let mut shell = with("shell", json!(["mail"]));
    (shell["jobType"], shell["config"]) = (json!("shell"), json!({"script": "true"}));
    post(JOBS, shell.clone()).await.refused(403, "PERMISSION_DENIED");
    bind(&world, "admin", &tool, "mail").await.ok();
    post(JOBS, shell).await.ok();
}

#[tokio::test]
async fn dead_letters_of_other_tags_are_not_there() {
    let world = world().await;
    let (_, mine) = crate::dead_letters::poison(&world, "mine", json!({"tags": ["mail"]})).await;
    let (_, theirs) = crate::dead_letters::poison(&world, "theirs", json!({"tags": ["x"]})).await;
    let (secret, tool) = key(&world, &["queues:update"]).await;
    bind(&world, "operator", &tool, "mail").await.ok();
    let listed = get(&world, &secret, LETTERS).await.ok();
    let listed: Vec<&str> =
        listed["deadLetters"].as_array().unwrap().iter().filter_map(|letter| letter["executionId"].as_str()).collect();
    assert_eq!(listed, [&mine]);
    get(&world, &secret, &format!("{LETTERS}/{theirs}")).await.refused(404, "DEAD_LETTER_NOT_FOUND");
    let post = async |path: &str| call(&world, &secret, Method::POST, path, json!({})).await;
    for verb in ["discard", "release"] {
        post(&format!("{LETTERS}/{theirs}/{verb}")).await.refused(404, "DEAD_LETTER_NOT_FOUND");
    }
    // Whoever may see it is told that it may not.
    bind(&world, "viewer", &tool, "x").await.ok();
    get(&world, &secret, &format!("{LETTERS}/{theirs}")).await.ok();
    for verb in ["discard", "release"] {
        post(&format!("{LETTERS}/{theirs}/{verb}")).await.refused(403, "PERMISSION_DENIED");
    }
    assert_eq!(world.get(&format!("{LETTERS}/{theirs}")).await.ok()["state"], "open");
    post(&format!("{LETTERS}/{mine}/release")).await.ok();
}

#[tokio::test]
async fn the_command_line_makes_gives_and_takes_roles() {
    let world = World::new().await;
    let run = async |args: &[&str]| crate::dead_letters::said(&crate::dead_letters::orrery(&world, args).await);
    let ok = async |args: &[&str]| {
        let (code, text) = run(args).await;
        assert_eq!(code, 0, "{args:?}: {text}");
        text
    };
    ok(&["role", "create", "mailer", "--permission", "jobs:read", "--permission", "jobs:trigger"]).await;
    ok(&["role", "set", "mailer", "--permission", "jobs:read"]).await;
    assert_eq!(ok(&["role", "get", "mailer"]).await.trim(), "jobs:read");
    let listed = ok(&["role", "list"]).await;
    assert!(listed.contains("auditor") && listed.contains("mailer"), "{listed}");
    let user = world.post(USERS, json!({"name": "bert", "password": PASSWORD})).await.ok();
    let made = world.post(KEYS, json!({"name": "tool", "permissions": ["scheduler:read"]})).await.ok();
    let bound = ok(&["role", "bind", "mailer", "--user", "Bert", "--tag", "mail"]).await;
    assert!(bound.contains(id(&user)), "{bound}");
    ok(&["role", "bind", "viewer", "--key", "tool"]).await;
    let found: Value = serde_json::from_str(&ok(&["--json", "role", "bindings", "--user", "bert"]).await).unwrap();
    let binding = &found["bindings"][0];
    assert_eq!((&binding["principalId"], &binding["tag"]), (&user["id"], &json!("mail")));
    let (code, text) = run(&["role", "delete", "mailer"]).await;
    assert!(code != 0 && text.contains("ROLE_IN_USE"), "{text}");
    ok(&["role", "unbind", id(binding)]).await;
    ok(&["role", "delete", "mailer"]).await;
    let of_key = ok(&["role", "bindings", "--key", "tool"]).await;
    assert!(of_key.contains(id(&made["key"])), "{of_key}");
    for (args, code) in [
        (["role", "bind", "viewer", "--user", "nobody"], "USER_NOT_FOUND"),
        (["role", "bind", "nobody", "--key", "tool"], "ROLE_NOT_FOUND"),
    ] {
        let (exit, text) = run(&args).await;
        assert!(exit != 0 && text.contains(code), "{text}");
    }
}
