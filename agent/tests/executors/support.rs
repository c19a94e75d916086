use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use orrery_agent::executor::{ExecutorSettings, executors};
use orrery_proto::Json;
use orrery_proto::v1::{ErrorType, LogStream};
use orrery_sdk::executor::{Context, Executor, Outcome, Output, Task};
use serde_json::Value;
use tokio::sync::{Notify, watch};

/// How long a test waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Settings for processes that the agent starts itself, and for those with a supervisor.
pub fn both() -> [ExecutorSettings; 2] {
    [ExecutorSettings::default(), supervised()]
}

pub fn supervised() -> ExecutorSettings {
    let supervisor = vec![env!("CARGO_BIN_EXE_orrery-agent").to_owned(), "supervise".to_owned()];
    ExecutorSettings { supervisor: Some(supervisor), ..ExecutorSettings::default() }
}

pub fn executor(settings: &ExecutorSettings, name: &str) -> Arc<dyn Executor> {
    executors(settings.clone()).into_iter().find(|(known, _)| known == name).unwrap().1
}

pub fn task(config: impl ToString) -> Task {
    Task {
        execution_id: "e-1".into(),
        epoch: 7,
        job_id: "j-1".into(),
        job_name: "nightly".into(),
        tenant_id: "t-1".into(),
        executor: String::new(),
        config: Json::new(config.to_string()),
        parameters: None,
        attempt: 2,
        scheduled_at: Some(SystemTime::UNIX_EPOCH.into()),
        timeout: Duration::from_secs(60),
        idempotency_key: "key-1".into(),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        egress_allow: Vec::new(),
        egress_deny: Vec::new(),
        sandbox_level: String::new(),
        shell_allowed: true,
    }
}

#[derive(Default)]
pub struct Recorder {
    pieces: Mutex<Vec<(LogStream, Bytes)>>,
    more: Notify,
}

impl Output for Recorder {
    fn log(&self, stream: LogStream, data: Bytes) {
        self.pieces.lock().unwrap().push((stream, data));
        self.more.notify_waiters();
    }

    fn progress(&self, _: i32) {}
}

impl Recorder {
    pub fn bytes(&self, stream: LogStream) -> Vec<u8> {
        let pieces = self.pieces.lock().unwrap();
        pieces.iter().filter(|(of, _)| *of == stream).flat_map(|(_, data)| data.to_vec()).collect()
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.bytes(LogStream::Stdout)).into_owned()
    }

    /// The first line of stdout, once it is whole.
    pub async fn line(&self) -> String {
        let line = async {
            loop {
                let more = self.more.notified();
                tokio::pin!(more);
                more.as_mut().enable();
                if let Some((line, _)) = self.stdout().split_once('\n') {
                    return line.to_owned();
                }
                more.await;
            }
        };
        tokio::time::timeout(PATIENCE, line).await.expect("a line of output")
    }
}

/// A run under way.
pub struct Run {
    pub log: Arc<Recorder>,
    pub context: Context,
    pub outcome: tokio::task::JoinHandle<Outcome>,
}

impl Run {
    pub fn start(settings: &ExecutorSettings, name: &str, task: Task) -> Self {
        Self::within(settings, name, task, |context| context)
    }

    /// The same under a lease.
    pub fn under(
        settings: &ExecutorSettings,
        name: &str,
        task: Task,
        trust: watch::Receiver<tokio::time::Instant>,
    ) -> Self {
        Self::within(settings, name, task, |context| context.under(trust))
    }

    fn within(settings: &ExecutorSettings, name: &str, task: Task, lease: impl FnOnce(Context) -> Context) -> Self {
        let log = Arc::new(Recorder::default());
        let context = lease(Context::new(log.clone()));
        let (executor, given) = (executor(settings, name), context.clone());
        let outcome = tokio::spawn(async move { executor.run(task, given).await });
        Self { log, context, outcome }
    }

    pub async fn end(self) -> Outcome {
        tokio::time::timeout(PATIENCE, self.outcome).await.expect("an end in time").unwrap()
    }
}

pub async fn run(settings: &ExecutorSettings, name: &str, config: impl ToString) -> Outcome {
    Run::start(settings, name, task(config)).end().await
}

/// The result as a value.
pub fn value(outcome: &Outcome) -> Value {
    outcome.result.as_ref().expect("a result").read().unwrap()
}

#[track_caller]
pub fn failed(outcome: &Outcome, error_type: ErrorType, parts: &[&str]) {
    let failure = outcome.failure.as_ref().expect("a failure");
    assert_eq!(failure.error_type, error_type, "{failure:?}");
    for part in parts {
        assert!(failure.message.contains(part), "{part:?} is not in {failure:?}");
    }
}

#[track_caller]
pub fn succeeded(outcome: &Outcome) {
    assert_eq!(outcome.failure, None);
}

/// Whether a process runs; a zombie does not.
pub fn runs(pid: &str) -> bool {
    state(pid).is_some_and(|state| state != 'Z' && state != 'X')
}

/// Whether a process waits for something to happen.
pub fn waits(pid: &str) -> bool {
    state(pid) == Some('S')
}

fn state(pid: &str) -> Option<char> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn signal(pid: &str, name: &str) {
    let sent = std::process::Command::new("kill").args([format!("-{name}").as_str(), "--", pid]).status().unwrap();
    assert!(sent.success());
}

/// Waits until a process is gone. It has been sent SIGKILL by now, which it cannot refuse, but a busy kernel takes its time.
pub async fn gone(pid: &str) {
    eventually("the process is gone", || !runs(pid)).await;
}
