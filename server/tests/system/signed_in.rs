//! The first administrator, and people who sign in at the command line.

use serde_json::Value;

use crate::process::Process;
use crate::token::SECRET;
use crate::wait::SOON;
use crate::world::{Server, World};

on_each_engine!(an_administrator_signs_in, a_session_outlives_the_server);

/// `orrery` with these arguments, as somebody whose session is kept in this world.
fn somebody(world: &World, server: Option<&Server>, args: &[&str]) -> Process {
    let file = world.path("session.json").display().to_string();
    let mut environment = vec![("ORRERY_SESSION_FILE", file.as_str())];
    match server {
        Some(server) => environment.push(("ORRERY_SERVER", &server.grpc)),
        None => environment.extend([("DATABASE_URL", world.database_url()), ("ORRERY_JWT_SECRET", SECRET)]),
    }
    world.orrery(args[0], args, &environment)
}

async fn ended(mut process: Process, code: i32) -> (String, String) {
    let status = process.ended(SOON).await;
    let (out, err) = (process.stdout(), process.stderr());
    assert_eq!(status.code(), Some(code), "{out}{err}");
    (out, err)
}

/// Its output; it must have gone well.
async fn ok(world: &World, server: Option<&Server>, args: &[&str]) -> String {
    ended(somebody(world, server, args), 0).await.0
}

/// Signs in with a password.
async fn login(server: &Server, password: &str) -> Value {
    let body = serde_json::json!({"name": "root", "password": password});
    let answer = server.rest().at("/api/v1/auth/login", &body).await;
    serde_json::from_str(&answer).unwrap()
}

async fn an_administrator_signs_in(world: World) {
    let made = ok(&world, None, &["admin", "create", "--name", "root"]).await;
    let password = made.trim();
    let (_, again) = ended(somebody(&world, None, &["admin", "create", "--name", "ROOT"]), 2).await;
    assert!(again.contains("--reset"), "{again}");
    let reset = ok(&world, None, &["admin", "create", "--name", "root", "--reset"]).await;
    assert_ne!(reset, made);
    let server = world.server(&[]).await;
    assert_eq!(login(&server, password).await["error"]["code"], "WRONG_CREDENTIALS");
    let signed = login(&server, reset.trim()).await;
    assert_eq!(signed["user"]["roles"], serde_json::json!(["admin"]));
    let token = signed["accessToken"].as_str().unwrap();
    let key = ["key", "create", "--name", "ci", "--permission", "jobs:read", "--api-key", token];
    let secret = ok(&world, Some(&server), &key).await;
    server.rest().with(Some(secret.trim())).get("/jobs").await.ok();
    let list = ok(&world, Some(&server), &["key", "list", "--json", "--api-key", token]).await;
    let list: Value = serde_json::from_str(&list).unwrap();
    let id = list["keys"].as_array().unwrap().iter().find(|key| key["name"] == "ci").unwrap()["id"].clone();
    ok(&world, Some(&server), &["key", "revoke", id.as_str().unwrap(), "--api-key", token]).await;
    server.rest().with(Some(secret.trim())).get("/jobs").await.refused(401, "UNAUTHENTICATED");
    // Without a session or a key there is nobody.
    ended(somebody(&world, Some(&server), &["whoami"]), 5).await;
}

async fn a_session_outlives_the_server(world: World) {
    let made = ok(&world, None, &["admin", "create", "--name", "root"]).await;
    let server = world.server(&[]).await;
    let signed = login(&server, made.trim()).await;
    let session = serde_json::json!({
        "server": server.grpc, "accessToken": signed["accessToken"], "refreshToken": signed["refreshToken"], "expiresAt": 0
    });
    std::fs::write(world.path("session.json"), session.to_string()).unwrap();
    // The access token is over, as the file has it: it is refreshed, once, and kept.
    assert!(ok(&world, Some(&server), &["whoami"]).await.contains("root"));
    assert!(ok(&world, Some(&server), &["whoami"]).await.contains("root"));
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(world.path("session.json")).unwrap()).unwrap();
    assert_ne!(kept["refreshToken"], signed["refreshToken"]);
    let token = kept["accessToken"].as_str().unwrap().to_owned();
    drop(server);
    let server = world.server(&[]).await;
    server.rest().with(Some(&token)).get("/jobs").await.ok();
    let body = serde_json::json!({"refreshToken": kept["refreshToken"]});
    server.rest().at("/api/v1/auth/logout", &body).await;
    server.rest().with(Some(&token)).get("/jobs").await.refused(401, "UNAUTHENTICATED");
}
