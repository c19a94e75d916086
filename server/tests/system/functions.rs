//! Functions of Python and Node modules, and of workers of the Rust SDK.

use orrery_sdk::{FunctionContext, FunctionError, FunctionRegistry, Worker};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;
use crate::rest::{Rest, id};
use crate::wait::{SOON, until};
use crate::world::{Server, World};

async fn function(rest: &Rest, module: &str, name: &str, parameters: Value) -> String {
    let config = json!({"modulePath": module, "functionName": name, "parameters": parameters});
    rest.create_manual(&format!("{module}-{name}"), "function", config).await
}

async fn with_modules() -> (World, Server) {
    let world = World::new(Engine::Sqlite).await;
    let modules = world.path("modules");
    std::fs::create_dir(&modules).unwrap();
    let python = "def add(p):\n    return {'sum': p['a'] + p['b']}\n\ndef fails(p):\n    raise ValueError('no moon')\n";
    std::fs::write(modules.join("sums.py"), python).unwrap();
    let node = "exports.add = async (p) => ({ sum: p.a + p.b });\n";
    std::fs::write(modules.join("sums_js.js"), node).unwrap();
    let server = world.dev(&["--no-demo", "--function-dir", &modules.display().to_string()]).await;
    (world, server)
}

#[tokio::test]
async fn modules_have_functions() {
    let (_world, server) = with_modules().await;
    let rest = server.rest();
    for module in ["sums", "sums_js"] {
        let job = function(&rest, module, "add", json!({"a": 1, "b": 2})).await;
        let run = rest.run(&job).await;
        assert_eq!(run["result"], json!({"success": true, "result": {"sum": 3}}), "{module}: {run:#}");
        // Laid over the job's own.
        let made = rest.post(&format!("/jobs/{job}/trigger"), json!({"parameters": {"b": 40}})).await.ok();
        let run = rest.finished(&id(&made)).await;
        assert_eq!(run["result"]["result"]["sum"], 41, "{module}: {run:#}");
    }
}

#[tokio::test]
async fn what_a_module_lacks_is_said() {
    let (_world, server) = with_modules().await;
    let rest = server.rest();
    for (module, name, told) in
        [("sums", "subtract", "subtract"), ("sums_js", "subtract", "subtract"), ("products", "add", "products")]
    {
        let run = rest.run(&function(&rest, module, name, json!({})).await).await;
        assert_eq!((&run["status"], &run["errorType"]), (&json!("failed"), &json!("VALIDATION_ERROR")), "{run:#}");
        assert!(run["errorMessage"].as_str().unwrap().contains(told), "{run:#}");
    }
    let run = rest.run(&function(&rest, "sums", "fails", json!({})).await).await;
    assert_eq!((&run["status"], &run["errorType"]), (&json!("failed"), &json!("USER_ERROR")), "{run:#}");
    assert!(run["errorMessage"].as_str().unwrap().contains("no moon"), "{run:#}");
    assert!(run["errorStack"].as_str().unwrap().contains("sums.py"), "{run:#}");
}

#[derive(Deserialize)]
struct Text {
    text: String,
    #[serde(default)]
    loud: bool,
}

#[derive(Serialize)]
struct Counted {
    characters: usize,
    text: String,
}

async fn count(input: Text, context: FunctionContext) -> Result<Counted, FunctionError> {
    context.log("counting");
    if input.text.is_empty() {
        return Err(FunctionError::new("there is nothing to count"));
    }
    let text = if input.loud { input.text.to_uppercase() } else { input.text };
    Ok(Counted { characters: text.chars().count(), text })
}

#[tokio::test]
async fn workers_have_functions() {
    let world = World::new(Engine::Sqlite).await;
    let server = world.server(&[]).await;
    let rest = server.rest();
    let job = function(&rest, "texts", "count", json!({"text": "moon"})).await;
    let waiting = rest.trigger(&job).await;
    let why = rest.get(&format!("/executions/{waiting}/explain")).await.ok();
    assert_eq!(why["reasons"][0]["code"], "NO_AGENT", "{why:#}");

    let mut functions = FunctionRegistry::new();
    functions.register("texts", "count", count);
    let builder = Worker::builder().endpoint(&server.grpc).api_key(crate::token::token()).name("counter");
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(builder.functions(functions).build().unwrap().run(shutdown.clone()));

    let run = rest.finished(&waiting).await;
    assert_eq!(run["result"], json!({"success": true, "result": {"characters": 4, "text": "moon"}}), "{run:#}");
    assert_eq!(run["workerName"], "counter");
    let made = rest.post(&format!("/jobs/{job}/trigger"), json!({"parameters": {"loud": true}})).await.ok();
    assert_eq!(rest.finished(&id(&made)).await["result"]["result"]["text"], "MOON");
    let made = rest.post(&format!("/jobs/{job}/trigger"), json!({"parameters": {"text": ""}})).await.ok();
    let failed = rest.finished(&id(&made)).await;
    assert_eq!(failed["errorMessage"], "there is nothing to count", "{failed:#}");
    let made = rest.post(&format!("/jobs/{job}/trigger"), json!({"parameters": {"text": 5}})).await.ok();
    let failed = rest.finished(&id(&made)).await;
    assert_eq!(failed["errorType"], "VALIDATION_ERROR", "{failed:#}");

    // A function that nobody has registered waits, and says so.
    let unknown = function(&rest, "texts", "weigh", json!({})).await;
    let waiting = rest.trigger(&unknown).await;
    let why = rest.get(&format!("/executions/{waiting}/explain")).await.ok();
    assert_eq!(why["reasons"][0]["code"], "NO_AGENT", "{why:#}");
    assert!(why["summary"].as_str().unwrap().contains("texts#weigh"), "{why:#}");
    rest.post(&format!("/executions/{waiting}/cancel"), json!({})).await.ok();

    shutdown.cancel();
    running.await.unwrap().unwrap();
    until("its session is over", SOON, async || rest.workers().await.is_empty().then_some(())).await;
}
