//! The caller's JSON goes through whole: to the target, to the history and back, digit by digit.

use reqwest::Method;
use serde_json::{Value, json};

use crate::rest::{Rest, id};
use crate::target::Target;
use crate::world::World;

/// Numbers that a 64-bit float does not hold, or does not write so.
const EXACT: &str = r#"{"n":30000,"big":123456789012345678901234567890,"f":1.50}"#;

on_each_engine!(a_body_keeps_its_digits, parameters_keep_their_digits, odd_output_completes);

async fn a_body_keeps_its_digits(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    let target = Target::answering(|_, _| ([("content-type", "application/json")], EXACT)).await;
    let config = format!(r#"{{"url":"{}","method":"POST","body":{EXACT}}}"#, target.url("/"));
    let job = create(&rest, "exact", "http", &config).await;

    let read = rest.get(&format!("/jobs/{job}")).await;
    assert!(read.text.contains(EXACT), "{}", read.text);
    let run = rest.run(&job).await;
    assert_eq!(run["status"], "completed", "{run:#}");
    let arrival = &target.arrivals()[0];
    assert_eq!((arrival.method.as_str(), arrival.header("content-type")), ("POST", "application/json"));
    assert_eq!(arrival.text(), EXACT, "not byte for byte");
    let stored = rest.get(&format!("/executions/{}", id(&run))).await;
    // Neither the order of the fields nor the space between them is promised.
    let packed = stored.text.replace(' ', "");
    for field in EXACT.trim_matches(['{', '}']).split(',') {
        assert!(packed.contains(field), "{field} is not in {}", stored.text);
    }
}

async fn parameters_keep_their_digits(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    let config = r#"{"command":"sh","args":["-c","printf %s \"$ORRERY_PARAMETERS\""]}"#;
    let job = create(&rest, "parameters", "command", config).await;
    let body = format!(r#"{{"parameters":{EXACT}}}"#);
    let made = rest.send(Method::POST, &format!("/jobs/{job}/trigger"), &[], Some(body)).await;
    let run = rest.finished(&id(&made.ok())).await;
    assert_eq!(run["result"]["result"]["stdout"], EXACT, "{run:#}");
    assert!(made.text.contains(EXACT), "{}", made.text);

    let config = format!(r#"{{"modulePath":"m","functionName":"f","parameters":{EXACT}}}"#);
    let function = create(&rest, "function", "function", &config).await;
    let read = rest.get(&format!("/jobs/{function}")).await;
    assert!(read.text.contains(EXACT), "{}", read.text);
}

/// What no database or JSON reader likes to hold ends no execution.
async fn odd_output_completes(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    let config = json!({"command": "printf", "args": ["a\\0b\\377c"]});
    let job = rest.create_manual("nul", "command", config).await;
    let run = rest.run(&job).await;
    assert_eq!(run["status"], "completed", "{run:#}");
    let output = run["result"]["result"]["stdout"].as_str().unwrap();
    assert!(output.starts_with('a') && output.ends_with('c') && output.contains('b'), "{output:?}");

    let target =
        Target::answering(|_, _| ([("content-type", "application/json")], r#"{"half":"\ud800","nul":"\u0000"}"#)).await;
    let job = rest.create_manual("surrogate", "http", json!({"url": target.url("/")})).await;
    let run = rest.trigger(&job).await;
    // Not read as JSON: a lone surrogate is none to readers as strict as this test's.
    let ended = crate::wait::until("it ends", crate::wait::SOON, async || {
        let text = rest.get(&format!("/executions/{run}")).await.text;
        ["\"completed\"", "\"failed\""].iter().any(|end| text.contains(end)).then_some(text)
    })
    .await;
    assert!(ended.contains(r#""status":"completed""#), "{ended}");
    assert!(ended.contains("half"), "{ended}");
}

async fn create(rest: &Rest, name: &str, job_type: &str, config: &str) -> String {
    let body = format!(r#"{{"name":"{name}","manual":true,"jobType":"{job_type}","config":{config}}}"#);
    let made: Value = rest.send(Method::POST, "/jobs", &[], Some(body)).await.ok();
    id(&made)
}
