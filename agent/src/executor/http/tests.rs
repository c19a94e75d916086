//! What jobs must not reach, whatever way they ask for it. Names are looked up in a table of the test; all that could be connected to is on
//! this host.

mod redirects;
mod spellings;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orrery_proto::Json;
use orrery_proto::v1::{ErrorType, LogStream};
use orrery_sdk::executor::{Context, Executor as _, Outcome, Output, Task};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::Http;
use crate::egress::{Lookup, Policy, Rules};
use crate::executor::ExecutorSettings;

/// Answers with the next of the addresses of a name; the last one stays.
#[derive(Debug, Default)]
struct Table {
    names: Mutex<HashMap<String, Vec<Vec<IpAddr>>>>,
    asked: AtomicUsize,
}

impl Table {
    fn of(name: &str, answers: &[&[&str]]) -> Arc<Self> {
        let table = Self::default();
        table.set(name, answers);
        Arc::new(table)
    }

    fn set(&self, name: &str, answers: &[&[&str]]) {
        let read = |texts: &&[&str]| texts.iter().map(|text| text.parse().expect(text)).collect();
        self.names.lock().expect("names").insert(name.to_owned(), answers.iter().map(read).collect());
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Lookup for Table {
    fn lookup(&self, name: &str) -> std::pin::Pin<Box<dyn Future<Output = std::io::Result<Vec<IpAddr>>> + Send>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut names = self.names.lock().expect("names");
        // "*" stands for every other name.
        let known = if names.contains_key(name) { name } else { "*" };
        let found =
            names.get_mut(known).map(|answers| if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() });
        Box::pin(async move { found.ok_or_else(|| std::io::Error::other("no such name")) })
    }
}

/// A server that gives every request the same answer, keeps connections, and keeps account.
struct Target {
    at: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Target {
    async fn at(address: &str, answer: String) -> Self {
        let listener = TcpListener::bind(address).await.expect(address);
        let at = listener.local_addr().expect("an address");
        let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (connected, heard) = (connections.clone(), requests.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connected.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, answer.clone(), heard.clone()));
            }
        });
        Self { at, connections, requests }
    }

    async fn start(answer: String) -> Self {
        Self::at("127.0.0.1:0", answer).await
    }

    fn port(&self) -> u16 {
        self.at.port()
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("requests").clone()
    }
}

async fn serve(mut stream: TcpStream, answer: String, heard: Arc<Mutex<Vec<String>>>) {
    let mut bytes = Vec::new();
    while stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        if body.len() >= length {
            heard.lock().expect("requests").push(text);
            bytes.clear();
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    }
}

fn ok() -> String {
    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".into()
}

fn redirect(status: u16, location: &str) -> String {
    format!("HTTP/1.1 {status} Go\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n")
}

struct Silent;

impl Output for Silent {
    fn log(&self, _: LogStream, _: bytes::Bytes) {}

    fn progress(&self, _: i32) {}
}

fn rules(text: &str) -> Rules {
    text.parse().expect(text)
}

fn http(policy: Policy, table: &Arc<Table>) -> Http {
    Http::asking(&ExecutorSettings { egress: policy, ..ExecutorSettings::default() }, table.clone())
}

fn allowing(allow: &str, table: &Arc<Table>) -> Http {
    http(Policy { allow: rules(allow), delegate: Rules::default() }, table)
}

async fn call(http: &Http, config: Value, lease: &[&str]) -> Outcome {
    let task = Task {
        execution_id: "e-1".into(),
        epoch: 1,
        job_id: "j-1".into(),
        job_name: "job".into(),
        tenant_id: "t-1".into(),
        executor: "http".into(),
        config: Json::new(config.to_string()),
        parameters: None,
        attempt: 1,
        scheduled_at: None,
        timeout: Duration::from_secs(30),
        idempotency_key: "key-1".into(),
        traceparent: None,
        egress_deny: Vec::new(),
        egress_allow: lease.iter().map(ToString::to_string).collect(),
        sandbox_level: String::new(),
        shell_allowed: true,
    };
    http.run(task, Context::new(Arc::new(Silent))).await
}

async fn get(http: &Http, url: impl std::fmt::Display) -> Outcome {
    call(http, json!({"url": url.to_string(), "timeout": 5000}), &[]).await
}

/// The message of what must have been refused for good.
#[track_caller]
fn refused(outcome: &Outcome) -> &str {
    let failure = outcome.failure.as_ref().expect("a failure");
    assert_eq!(failure.error_type, ErrorType::ValidationError, "{failure:?}");
    &failure.message
}

#[tokio::test]
async fn a_name_is_looked_up_once_and_what_was_checked_is_connected_to() {
    let open = Target::at("127.0.0.2:0", ok()).await;
    let closed = Target::at(&format!("127.0.0.1:{}", open.port()), ok()).await;
    // The first answer is the one that is checked. A second look-up would be told the other one.
    let table = Table::of("a.example", &[&["127.0.0.2"], &["127.0.0.1"]]);
    let http = allowing("127.0.0.2", &table);
    let url = format!("http://a.example:{}/", open.port());
    assert_eq!(get(&http, &url).await.failure, None);
    assert_eq!((table.asked(), open.connections(), closed.connections()), (1, 1, 0));
    // Another client has no connection to it, looks it up, and is told the other address.
    let anew = allowing("127.0.0.2", &table);
    assert!(refused(&get(&anew, &url).await).contains("resolves to a loopback address"));
    assert_eq!(closed.connections(), 0);
}

#[tokio::test]
async fn of_several_addresses_only_open_ones_are_tried() {
    let closed = Target::start(ok()).await;
    let open = Target::at(&format!("127.0.0.3:{}", closed.port()), ok()).await;
    let table = Table::of("a.example", &[&["127.0.0.1", "::1", "127.0.0.3", "127.0.0.1"]]);
    let outcome = get(&allowing("127.0.0.3", &table), format!("http://a.example:{}/", open.port())).await;
    assert_eq!(outcome.failure, None);
    assert_eq!((open.connections(), closed.connections()), (1, 0));
}

/// A connection that one tenant's lease opened is not used for another's, who would be served without a check.
#[tokio::test]
async fn connections_are_not_shared_by_those_who_may_reach_different_things() {
    let target = Target::start(ok()).await;
    let table = Table::of("a.internal", &[&["127.0.0.1"]]);
    let http = http(Policy { allow: Rules::default(), delegate: rules("*.internal") }, &table);
    let config = json!({"url": format!("http://a.internal:{}/", target.port())});
    for _ in 0..2 {
        assert_eq!(call(&http, config.clone(), &["a.internal"]).await.failure, None);
    }
    assert_eq!(target.connections(), 1, "the same tenant uses it again");
    refused(&call(&http, config.clone(), &[]).await);
    refused(&call(&http, config.clone(), &["b.internal", "no rule!"]).await);
    let port = target.port() + 1;
    refused(&call(&http, config.clone(), &[&format!("a.internal:{port}")]).await);
    assert_eq!(target.requests().len(), 2);
    assert_eq!(call(&http, config, &[&format!("a.internal:{}", target.port())]).await.failure, None);
}

#[tokio::test]
async fn a_lease_opens_nothing_that_the_agent_does_not_let_it() {
    let target = Target::start(ok()).await;
    let table = Arc::new(Table::default());
    let config = json!({"url": format!("http://127.0.0.1:{}/", target.port())});
    let outcome = call(&allowing("", &table), config.clone(), &["127.0.0.0/8"]).await;
    assert!(refused(&outcome).contains("ORRERY_EGRESS_DELEGATE=127.0.0.1"), "{outcome:?}");
    assert_eq!(target.connections(), 0);
    let letting = http(Policy { allow: Rules::default(), delegate: rules("127.0.0.1") }, &table);
    assert_eq!(call(&letting, config, &["127.0.0.0/8"]).await.failure, None);
}

/// A body is kept as it came: a small one cannot unfold to gigabytes.
#[tokio::test]
async fn bodies_are_not_unfolded() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 7\r\n\r\nno gzip".to_owned();
    let target = Target::start(answer).await;
    let http = allowing("127.0.0.1", &Arc::new(Table::default()));
    let outcome = get(&http, format!("http://127.0.0.1:{}/", target.port())).await;
    assert!(outcome.result.expect("a result").text.starts_with(r#"{"success":true,"result":"no gzip""#));
    assert!(!target.requests()[0].contains("accept-encoding"));
}

/// Neither does an answer that never ends hold the agent up: it is cut at the bound of results.
#[tokio::test]
async fn an_endless_answer_is_cut() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await.is_ok_and(|read| read > 0) {}
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
    });
    let outcome = get(&allowing("127.0.0.1", &Arc::new(Table::default())), format!("http://127.0.0.1:{port}/")).await;
    let result = outcome.result.expect("a result").text;
    assert!(result.len() <= ExecutorSettings::default().max_result_bytes, "{}", result.len());
    assert!(result.contains(r#""truncated":true"#));
}
