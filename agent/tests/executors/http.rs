use std::sync::Arc;
use std::time::{Duration, Instant};

use orrery_agent::egress::{Policy, Rules};
use orrery_agent::executor::ExecutorSettings;
use orrery_proto::Json;
use orrery_proto::v1::ErrorType;
use orrery_sdk::executor::StopReason;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::support::{PATIENCE, Run, failed, run, succeeded, task, value};

/// A server that answers every request with the same bytes, or with none at all, and tells what it was sent.
struct Server {
    url: String,
    requests: mpsc::UnboundedReceiver<String>,
    closed: mpsc::UnboundedReceiver<()>,
}

impl Server {
    async fn start(answer: Option<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (seen, requests) = mpsc::unbounded_channel();
        let (gone, closed) = mpsc::unbounded_channel();
        let answer = answer.map(|answer| Arc::new(answer.replace("{url}", &url)));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answer.clone(), seen.clone(), gone.clone()));
            }
        });
        Self { url, requests, closed }
    }

    async fn request(&mut self) -> String {
        tokio::time::timeout(PATIENCE, self.requests.recv()).await.expect("a request").unwrap()
    }
}

async fn serve(
    mut stream: TcpStream,
    answer: Option<Arc<String>>,
    seen: mpsc::UnboundedSender<String>,
    gone: mpsc::UnboundedSender<()>,
) {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
            if body.len() >= length {
                let _ = seen.send(text);
                bytes.clear();
                if let Some(answer) = &answer {
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            }
        }
        if stream.read_buf(&mut bytes).await.is_ok_and(|read| read == 0) {
            let _ = gone.send(());
            return;
        }
    }
}

fn answer(status: &str, content_type: &str, body: &str) -> Option<String> {
    let length = body.len();
    Some(format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\nx-a: 1\r\nx-a: 2\r\n\r\n{body}"
    ))
}

/// The servers of these tests are on this host.
fn settings() -> ExecutorSettings {
    let egress = Policy { allow: Rules::loopback(), delegate: Rules::default() };
    ExecutorSettings { egress, ..ExecutorSettings::default() }
}

const DIGITS: &str = r#"{"n":30000,"big":123456789012345678901234567890,"f":1.50, "e":1e999}"#;

#[tokio::test]
async fn every_digit_reaches_the_target_and_comes_back() {
    let mut server = Server::start(answer("200 OK", "application/json; charset=utf-8", DIGITS)).await;
    let config = format!(r#"{{"url":"{}/a?b=c","method":"POST","body":{DIGITS}}}"#, server.url);
    let outcome = run(&settings(), "http", config).await;
    succeeded(&outcome);
    let request = server.request().await;
    assert!(request.starts_with("POST /a?b=c HTTP/1.1\r\n"), "{request}");
    assert!(request.ends_with(&format!("\r\n\r\n{DIGITS}")), "{request}");
    assert!(request.contains("\r\ncontent-type: application/json\r\n"), "{request}");
    let text = &outcome.result.as_ref().unwrap().text;
    assert!(
        text.starts_with(&format!(r#"{{"success":true,"result":{DIGITS},"metadata":{{"statusCode":200,"headers":"#)),
        "{text}"
    );
    assert!(text.contains(r#""x-a":"1, 2""#), "{text}");
}

#[tokio::test]
async fn the_target_is_told_which_run_it_is_and_the_jobs_headers_win() {
    let mut server = Server::start(answer("200 OK", "text/plain", "5")).await;
    let config = json!({"url": server.url, "headers": {"Idempotency-Key": "own", "X-Größe".replace("öß", "oss"): "ü"}});
    let outcome = run(&settings(), "http", config).await;
    succeeded(&outcome);
    assert_eq!(value(&outcome)["result"], "5", "a text is a text");
    let request = server.request().await;
    for line in [
        "idempotency-key: own",
        "x-grosse: ü",
        "x-orrery-execution-id: e-1",
        "x-orrery-epoch: 7",
        "x-orrery-attempt: 2",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        concat!("user-agent: orrery-agent/", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(request.lines().any(|found| found == line), "{line} is not in {request}");
    }
    assert!(!request.contains("key-1"), "{request}");
}

#[tokio::test]
async fn a_string_is_sent_as_its_characters() {
    let mut server = Server::start(answer("204 No Content", "application/json", "")).await;
    let config = json!({"url": server.url, "method": "PUT", "body": "a \"b\"\n", "expectedStatusCode": 204});
    let outcome = run(&settings(), "http", config).await;
    succeeded(&outcome);
    assert_eq!(value(&outcome)["result"], json!(null));
    let request = server.request().await;
    assert!(request.ends_with("\r\n\r\na \"b\"\n") && !request.contains("content-type"), "{request}");
}

#[tokio::test]
async fn parameters_are_the_body_where_there_is_none() {
    let mut server = Server::start(answer("200 OK", "text/html", "<p>")).await;
    for (method, body, expected) in [
        ("POST", None, r#"{"p":1.50}"#),
        ("DELETE", None, r#"{"p":1.50}"#),
        ("GET", None, ""),
        ("POST", Some(json!([1])), "[1]"),
    ] {
        let mut task = task(json!({"url": server.url, "method": method, "body": body}));
        task.parameters = Some(Json::new(r#"{"p":1.50}"#));
        succeeded(&Run::start(&settings(), "http", task).end().await);
        let request = server.request().await;
        assert_eq!(request.split_once("\r\n\r\n").unwrap().1, expected, "{method}");
    }
}

#[tokio::test]
async fn another_status_is_a_failure_with_its_result() {
    let server = Server::start(answer("503 Service Unavailable", "application/json", r#"{"busy":true}"#)).await;
    for (listed, retryable) in [(json!([502, 503]), Some(true)), (json!([502]), None), (json!(null), None)] {
        let outcome = run(&settings(), "http", json!({"url": server.url, "retryOnStatusCodes": listed})).await;
        failed(&outcome, ErrorType::UserError, &["expected status 200, got 503"]);
        assert_eq!(outcome.failure.as_ref().unwrap().retryable, retryable);
        assert_eq!(value(&outcome)["success"], false);
        assert_eq!(value(&outcome)["result"], json!({"busy": true}));
        assert_eq!(value(&outcome)["metadata"]["statusCode"], 503);
    }
}

#[tokio::test]
async fn what_is_no_json_is_a_string() {
    for (content_type, body, expected) in [
        ("application/json", "{broken", json!("{broken")),
        ("application/json", "\"text\"", json!("text")),
        ("application/problem+json", " 7 ", json!(7)),
        ("text/plain", "true", json!("true")),
        ("text/plain", "[1]", json!([1])),
        ("text/html", "<p>ü\0</p>", json!("<p>ü\0</p>")),
    ] {
        let server = Server::start(answer("200 OK", content_type, body)).await;
        let outcome = run(&settings(), "http", json!({ "url": server.url })).await;
        assert_eq!(value(&outcome)["result"], expected, "{content_type} {body}");
    }
}

#[tokio::test]
async fn a_long_body_is_cut_and_says_so() {
    let settings = ExecutorSettings { max_result_bytes: 2_000, ..settings() };
    for (body, known) in [("ü\"".repeat(500), true), ("x".repeat(1_900), true), ("ü".repeat(500_000), true)] {
        let server = Server::start(answer("200 OK", "application/json", &body)).await;
        let outcome = run(&settings, "http", json!({ "url": server.url })).await;
        succeeded(&outcome);
        let text = &outcome.result.as_ref().unwrap().text;
        assert!(text.len() <= 2_000 && text.len() > 1_500, "{}", text.len());
        let value = value(&outcome);
        assert!(body.starts_with(value["result"].as_str().unwrap()));
        assert_eq!(value["metadata"]["truncated"], true);
        assert_eq!(value["metadata"]["bytes"] == json!(body.len()), known);
    }
    let headers: String = (0..50).map(|n| format!("x-{n}: {}\r\n", "y".repeat(100))).collect();
    let server = Server::start(Some(format!("HTTP/1.1 200 OK\r\n{headers}content-length: 2\r\n\r\nok"))).await;
    let outcome = run(&settings, "http", json!({ "url": server.url })).await;
    assert!(outcome.result.as_ref().unwrap().text.len() <= 2_000);
    assert_eq!(value(&outcome)["result"], "ok");
    assert_eq!(value(&outcome)["metadata"]["headersTruncated"], true);
}

#[tokio::test]
async fn errors_of_the_network_are_told_apart_from_time_outs() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let outcome = run(&settings(), "http", json!({"url": format!("http://{free}/?token=secret")})).await;
    failed(&outcome, ErrorType::NetworkError, &["refused"]);
    assert!(!outcome.failure.unwrap().message.contains("secret"));
    let server = Server::start(None).await;
    let start = Instant::now();
    let outcome = run(&settings(), "http", json!({"url": server.url, "timeout": 200})).await;
    failed(&outcome, ErrorType::Timeout, &["within 200 ms"]);
    assert!(start.elapsed() < Duration::from_secs(10));
    // Headers, but never the whole body.
    let server = Server::start(Some("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx".into())).await;
    let outcome = run(&settings(), "http", json!({"url": server.url, "timeout": 200})).await;
    failed(&outcome, ErrorType::Timeout, &["within 200 ms"]);
    let server = Server::start(Some("no HTTP at all\r\n\r\n".into())).await;
    let outcome = run(&settings(), "http", json!({ "url": server.url })).await;
    failed(&outcome, ErrorType::NetworkError, &[]);
    let outcome = run(&settings(), "http", json!({"url": "http://exa%mple:99999"})).await;
    failed(&outcome, ErrorType::ValidationError, &["config.url"]);
}

#[tokio::test]
async fn a_stop_drops_the_request_at_once() {
    for (reason, message) in [(StopReason::Cancelled, "cancelled"), (StopReason::TimedOut, "timed out after 60000 ms")]
    {
        let mut server = Server::start(None).await;
        let run = Run::start(&settings(), "http", task(json!({ "url": server.url })));
        server.request().await;
        run.context.stop(reason);
        failed(&run.end().await, ErrorType::SystemError, &[message]);
        tokio::time::timeout(PATIENCE, server.closed.recv()).await.expect("its connection is closed");
    }
}

#[tokio::test]
async fn redirects_are_followed_but_not_for_ever() {
    let end = Server::start(answer("200 OK", "text/plain", "there")).await;
    let location = format!("HTTP/1.1 302 Found\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", end.url);
    let server = Server::start(Some(location)).await;
    assert_eq!(value(&run(&settings(), "http", json!({ "url": server.url })).await)["result"], "there");
    let circle = Server::start(Some("HTTP/1.1 302 Found\r\nlocation: {url}\r\ncontent-length: 0\r\n\r\n".into())).await;
    let outcome = run(&settings(), "http", json!({ "url": circle.url })).await;
    failed(&outcome, ErrorType::UserError, &["redirect"]);
}
