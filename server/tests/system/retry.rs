//! What fails is repeated as its job says, and every attempt can be seen.

use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::rest::id;
use crate::target::Target;
use crate::world::World;

on_each_engine!(attempts_are_visible, statuses_decide, a_finished_one_is_repeated);

async fn attempts_are_visible(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    let script = "echo \"try $ORRERY_ATTEMPT\"; test \"$ORRERY_ATTEMPT\" -ge 4 || exit 7";
    let retry =
        json!({"maxRetries": 5, "retryDelayMs": 200, "exponentialBackoff": true, "retryOnErrorTypes": ["USER_ERROR"]});
    let job = rest
        .create(json!({
            "name": "stumbles", "manual": true, "jobType": "shell", "config": {"command": script}, "retryConfig": retry,
        }))
        .await;
    let run = rest.run(&job).await;
    assert_eq!((&run["status"], &run["retryCount"]), (&json!("completed"), &json!(3)), "{run:#}");

    let attempts = run["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 4, "{run:#}");
    for (index, attempt) in attempts.iter().enumerate() {
        assert_eq!((&attempt["number"], &attempt["epoch"]), (&json!(index + 1), &json!(index + 1)), "{attempt:#}");
        assert_ne!(attempt["workerName"], "", "{attempt:#}");
        assert!(time(&attempt["startedAt"]) <= time(&attempt["endedAt"]), "{attempt:#}");
    }
    for attempt in &attempts[..3] {
        assert_eq!(
            (&attempt["outcome"], &attempt["errorType"]),
            (&json!("failed"), &json!("USER_ERROR")),
            "{attempt:#}"
        );
        assert!(attempt["errorMessage"].as_str().unwrap().contains('7'), "{attempt:#}");
    }
    assert_eq!(attempts[3]["outcome"], "completed");

    // 200 ms, then twice as much each time; what comes on top is the machine's.
    for (pair, delay) in attempts.windows(2).zip([200, 400, 800]) {
        let waited = (time(&pair[1]["startedAt"]) - time(&pair[0]["endedAt"])).num_milliseconds();
        assert!((delay..delay + 700).contains(&waited), "{waited} ms after a delay of {delay}");
    }
}

async fn statuses_decide(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    let target = Target::answering(|number, arrival| match (arrival.path.as_str(), number) {
        ("/teapot", _) => StatusCode::IM_A_TEAPOT,
        (_, 0 | 1) => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::OK,
    })
    .await;
    let job = |name: &str, path: &str| {
        json!({
            "name": name, "manual": true, "jobType": "http",
            "config": {"url": target.url(path), "retryOnStatusCodes": [503]},
            "retryConfig": {"maxRetries": 3, "retryDelayMs": 50},
        })
    };
    let flaky = rest.create(job("flaky", "/")).await;
    let run = rest.run(&flaky).await;
    assert_eq!((&run["status"], &run["retryCount"]), (&json!("completed"), &json!(2)), "{run:#}");
    let keys: Vec<String> = target.arrivals().iter().map(|a| a.header("idempotency-key").to_owned()).collect();
    assert_eq!(keys, vec![id(&run); 3], "all attempts carry one key");
    let epochs: Vec<String> = target.arrivals().iter().map(|a| a.header("x-orrery-epoch").to_owned()).collect();
    assert_eq!(epochs, ["1", "2", "3"]);

    let teapot = rest.create(job("teapot", "/teapot")).await;
    let run = rest.run(&teapot).await;
    assert_eq!(
        (&run["status"], &run["retryCount"]),
        (&json!("failed"), &json!(0)),
        "418 is not to be retried: {run:#}"
    );
    assert_eq!(run["errorMessage"], "expected status 200, got 418");
}

async fn a_finished_one_is_repeated(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    let job = rest.create_manual("repeat", "shell", json!({"command": "printf %s \"$ORRERY_PARAMETERS\""})).await;
    let made = rest.post(&format!("/jobs/{job}/trigger"), json!({"parameters": {"day": 3}})).await.ok();
    let first = rest.finished(&id(&made)).await;

    let again = rest.post(&format!("/executions/{}/retry", id(&first)), json!({})).await.ok();
    assert_eq!((&again["triggerType"], &again["retryOf"]), (&json!("retry"), &first["id"]), "{again:#}");
    let second = rest.finished(&id(&again)).await;
    assert_eq!(second["status"], "completed", "{second:#}");
    let parameters: Value = serde_json::from_str(second["result"]["result"]["stdout"].as_str().unwrap()).unwrap();
    assert_eq!(parameters, json!({"day": 3}), "it has not the parameters of the first");
    assert_ne!(second["id"], first["id"]);
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap_or_else(|| panic!("no instant: {value}")).parse().unwrap()
}
