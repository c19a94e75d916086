//! What executions print can be listed and followed while they print it, and every change of state can be watched.

use orrery_proto::v1::{ExecutionStatus, FollowExecutionLogsRequest, LogStream, WatchExecutionRequest};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::process::is_alive;
use crate::rest::Rest;
use crate::stopping::pid_in;
use crate::wait::SOON;
use crate::world::World;

on_each_engine!(
    logs_are_listed_in_order,
    logs_are_followed_over_rest,
    logs_are_followed_over_grpc,
    changes_are_watched
);

/// Writes a line, and goes on once somebody has made the file `go`.
const TALKS: &str = r#"
    echo one; echo two >&2; echo $$ > "$DIR/pid"
    until [ -e "$DIR/go" ]; do sleep 0.05; done
    echo three; echo four >&2
"#;

async fn talker(world: &World, rest: &Rest) -> String {
    let config = json!({"command": TALKS, "environment": {"DIR": world.directory().display().to_string()}});
    let job = rest.create_manual("talks", "shell", config).await;
    rest.trigger(&job).await
}

fn go_on(world: &World) {
    std::fs::write(world.path("go"), "").unwrap();
}

async fn logs_are_listed_in_order(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    let script = "for n in 1 2 3; do echo out $n; echo err $n >&2; done";
    let job = rest.create_manual("prints", "shell", json!({"command": script})).await;
    let run = rest.trigger(&job).await;
    let (out, err, entries) = crate::wait::until("all of it is listed", SOON, async || {
        let entries = crate::rest::list(&rest.get(&format!("/executions/{run}/logs")).await.ok(), "entries");
        let text = |stream: &str| -> String {
            entries.iter().filter(|e| e["stream"] == stream).map(|e| e["text"].as_str().unwrap()).collect()
        };
        let (out, err) = (text("stdout"), text("stderr"));
        (out.contains("out 3") && err.contains("err 3")).then_some((out, err, entries))
    })
    .await;
    assert_eq!(out.split_whitespace().collect::<Vec<_>>(), ["out", "1", "out", "2", "out", "3"]);
    assert_eq!(err.split_whitespace().collect::<Vec<_>>(), ["err", "1", "err", "2", "err", "3"]);
    let numbers: Vec<i64> = entries.iter().map(|e| e["sequence"].as_i64().unwrap()).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
}

async fn logs_are_followed_over_rest(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    let run = talker(&world, &rest).await;
    let mut events = Events::open(&rest, &format!("/executions/{run}/logs/follow")).await;
    let mut text = String::new();
    while !(text.contains("one") && text.contains("two")) {
        text += events.next().await.expect("it goes on")["text"].as_str().unwrap();
    }
    assert!(is_alive(pid_in(&world.path("pid")).await), "it was seen only when it was over");
    go_on(&world);
    while let Some(entry) = events.next().await {
        text += entry["text"].as_str().unwrap();
    }
    assert!(text.contains("three") && text.contains("four"), "{text:?}");
    assert_eq!(rest.execution(&run).await["status"], "completed", "the stream ended before the execution did");
}

async fn logs_are_followed_over_grpc(world: World) {
    let system = world.system().await;
    let (rest, client) = (system.rest(), system.client());
    let run = talker(&world, &rest).await;
    let mut entries =
        client.follow_execution_logs(FollowExecutionLogsRequest { id: run.clone(), after: 0 }).await.unwrap();
    let first = tokio::time::timeout(SOON, entries.message()).await.unwrap().unwrap().unwrap();
    assert!(is_alive(pid_in(&world.path("pid")).await), "it was seen only when it was over");
    go_on(&world);
    let (mut out, mut err) = (String::new(), String::new());
    let mut next = Some(first);
    while let Some(entry) = next {
        match entry.stream() {
            LogStream::Stdout => out += &entry.text,
            LogStream::Stderr => err += &entry.text,
            other => panic!("{other:?}: {}", entry.text),
        }
        next = tokio::time::timeout(SOON, entries.message()).await.unwrap().unwrap();
    }
    assert_eq!(out.split_whitespace().collect::<Vec<_>>(), ["one", "three"]);
    assert_eq!(err.split_whitespace().collect::<Vec<_>>(), ["two", "four"]);
}

async fn changes_are_watched(world: World) {
    let system = world.system().await;
    let (rest, client) = (system.rest(), system.client());
    let run = talker(&world, &rest).await;
    let mut over_rest = Events::open(&rest, &format!("/executions/{run}/watch")).await;
    let mut over_grpc = client.watch_execution(WatchExecutionRequest { id: run.clone() }).await.unwrap();
    rest.running(&run).await;
    go_on(&world);
    let mut seen = Vec::new();
    while let Some(execution) = over_rest.next().await {
        seen.push(execution["status"].as_str().unwrap().to_owned());
    }
    assert_eq!(seen.last().unwrap(), "completed", "{seen:?}");
    assert_eq!(seen.iter().filter(|status| *status == "completed").count(), 1, "{seen:?}");
    assert!(seen.iter().any(|status| status == "running"), "{seen:?}");
    let mut last = None;
    while let Some(execution) = tokio::time::timeout(SOON, over_grpc.message()).await.unwrap().unwrap() {
        last = Some(execution.status());
    }
    assert_eq!(last, Some(ExecutionStatus::Completed));
}

/// A stream of server-sent events.
struct Events {
    response: Response,
    unread: String,
}

impl Events {
    async fn open(rest: &Rest, path: &str) -> Self {
        let response = rest.request(Method::GET, path).header("accept", "text/event-stream").send().await.unwrap();
        assert_eq!(response.status(), 200);
        let kind = response.headers()["content-type"].to_str().unwrap();
        assert!(kind.starts_with("text/event-stream"), "{kind}");
        Self { response, unread: String::new() }
    }

    /// The data of the next event; none at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            while let Some((event, rest)) = self.unread.split_once("\n\n") {
                let data: String = event.lines().filter_map(|line| line.strip_prefix("data:")).collect();
                let found = (!data.trim().is_empty()).then(|| serde_json::from_str(&data).unwrap());
                self.unread = rest.to_owned();
                if found.is_some() {
                    return found;
                }
            }
            let more = tokio::time::timeout(SOON, self.response.chunk()).await.expect("the stream says something");
            self.unread += std::str::from_utf8(&more.unwrap()?).unwrap();
        }
    }
}
