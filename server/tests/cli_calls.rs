//! The real binary against a server of the test's own: what is asked of it, and what becomes of its answers.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::pin::Pin;
use std::process::Output;
use std::sync::{Arc, Mutex};

use futures_util::{Stream, stream};
use orrery_proto::Json;
use orrery_proto::v1::execution_service_server::{ExecutionService, ExecutionServiceServer};
use orrery_proto::v1::job_service_server::{JobService, JobServiceServer};
use orrery_proto::v1::*;
use orrery_server::error::{Error, Kind};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status as Refusal};

const NIGHTLY: &str = "0190f5e2-0000-7000-8000-000000000001";

/// Answers as the test needs it, and remembers what it was asked.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    created: Vec<CreateJobRequest>,
    triggered: Vec<TriggerJobRequest>,
    updated: Vec<UpdateJobRequest>,
    key: Option<String>,
}

fn job(name: &str) -> Job {
    let config = Some(Json::new(r#"{"n":123456789012345678901234567890,"price":1.50}"#));
    Job { id: NIGHTLY.into(), name: name.into(), status: JobStatus::Active.into(), config, ..Job::default() }
}

/// The execution's id says how it ends.
fn execution(id: &str) -> Execution {
    let status = match id {
        "fails" => ExecutionStatus::Failed,
        "cancelled" => ExecutionStatus::Cancelled,
        _ => ExecutionStatus::Completed,
    };
    let error_message = if id == "fails" { "exit code 3" } else { "" }.to_owned();
    Execution {
        id: id.into(),
        job_name: "nightly".into(),
        status: status.into(),
        error_message,
        ..Execution::default()
    }
}

macro_rules! not_needed {
    ($($name:ident($request:ident) -> $answer:ident;)*) => {
        $(
            fn $name<'a, 'async_trait>(
                &'a self,
                _: Request<$request>,
            ) -> Pin<Box<dyn Future<Output = Result<Response<$answer>, Refusal>> + Send + 'async_trait>>
            where
                'a: 'async_trait,
                Self: 'async_trait,
            {
                Box::pin(async { Err(Refusal::unimplemented(stringify!($name))) })
            }
        )*
    };
}

#[tonic::async_trait]
impl JobService for Fake {
    async fn create_job(&self, request: Request<CreateJobRequest>) -> Result<Response<Job>, Refusal> {
        let request = request.into_inner();
        match request.name.as_str() {
            "taken" => Err(Error::new(Kind::Exists, "JOB_NAME_TAKEN", "name: another job has it").into()),
            "wrong" => Err(Error::field("INVALID_JOB_CONFIG", "config.url", "is no URL").into()),
            "denied" => Err(Error::new(Kind::Denied, "PERMISSION_DENIED", "jobs:write is needed").into()),
            name => {
                let answer = job(name);
                self.0.lock().unwrap().created.push(request);
                Ok(Response::new(answer))
            }
        }
    }

    async fn batch_create_jobs(
        &self,
        request: Request<BatchCreateJobsRequest>,
    ) -> Result<Response<BatchCreateJobsResponse>, Refusal> {
        let created = request.into_inner().jobs;
        let jobs = created.iter().map(|request| job(&request.name)).collect();
        self.0.lock().unwrap().created.extend(created);
        Ok(Response::new(BatchCreateJobsResponse { jobs }))
    }

    /// Two pages: what is looked for is on the second one.
    async fn list_jobs(&self, request: Request<ListJobsRequest>) -> Result<Response<ListJobsResponse>, Refusal> {
        let key = request.metadata().get("authorization").and_then(|value| value.to_str().ok()).map(str::to_owned);
        self.0.lock().unwrap().key = key;
        let (name, token) =
            if request.get_ref().page_token.is_empty() { ("nightly-old", "2") } else { ("nightly", "") };
        Ok(Response::new(ListJobsResponse { jobs: vec![job(name)], next_page_token: token.into() }))
    }

    async fn get_job(&self, request: Request<GetJobRequest>) -> Result<Response<Job>, Refusal> {
        match request.into_inner().id.as_str() {
            NIGHTLY => Ok(Response::new(job("nightly"))),
            id => Err(Error::job_not_found(id).into()),
        }
    }

    async fn update_job(&self, request: Request<UpdateJobRequest>) -> Result<Response<Job>, Refusal> {
        self.0.lock().unwrap().updated.push(request.into_inner());
        Err(Error::new(Kind::Conflict, "VERSION_CONFLICT", "passed").with("currentVersion", 7).into())
    }

    /// The idempotency key says how the execution ends.
    async fn trigger_job(&self, request: Request<TriggerJobRequest>) -> Result<Response<Execution>, Refusal> {
        let request = request.into_inner();
        let mut started = execution(&request.idempotency_key);
        started.set_status(ExecutionStatus::Pending);
        self.0.lock().unwrap().triggered.push(request);
        Ok(Response::new(started))
    }

    async fn validate_job(
        &self,
        request: Request<ValidateJobRequest>,
    ) -> Result<Response<ValidateJobResponse>, Refusal> {
        let valid = request.into_inner().name == "good";
        let error = FieldError {
            field: "cronExpression".into(),
            code: "INVALID_CRON_EXPRESSION".into(),
            message: "is empty".into(),
        };
        let errors = if valid { Vec::new() } else { vec![error] };
        Ok(Response::new(ValidateJobResponse { valid, errors, next_fires: Vec::new() }))
    }

    not_needed! {
        delete_job(DeleteJobRequest) -> DeleteJobResponse;
        batch_trigger_jobs(BatchTriggerJobsRequest) -> BatchTriggerJobsResponse;
        pause_job(PauseJobRequest) -> Job;
        resume_job(ResumeJobRequest) -> Job;
        stop_job(StopJobRequest) -> Job;
        preview_job(PreviewJobRequest) -> PreviewResponse;
        explain_job(ExplainJobRequest) -> Explanation;
        list_omissions(ListOmissionsRequest) -> ListOmissionsResponse;
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Refusal>> + Send>>;

#[tonic::async_trait]
impl ExecutionService for Fake {
    type WatchExecutionStream = Answers<Execution>;
    type FollowExecutionLogsStream = Answers<LogEntry>;

    async fn watch_execution(
        &self,
        request: Request<WatchExecutionRequest>,
    ) -> Result<Response<Self::WatchExecutionStream>, Refusal> {
        let end = execution(&request.into_inner().id);
        let mut running = end.clone();
        running.set_status(ExecutionStatus::Running);
        Ok(Response::new(Box::pin(stream::iter([Ok(running.clone()), Ok(running), Ok(end)]))))
    }

    async fn follow_execution_logs(
        &self,
        _: Request<FollowExecutionLogsRequest>,
    ) -> Result<Response<Self::FollowExecutionLogsStream>, Refusal> {
        let entry = |sequence, stream: LogStream, text: &str| {
            Ok(LogEntry { sequence, stream: stream.into(), text: text.into(), ..LogEntry::default() })
        };
        Ok(Response::new(Box::pin(stream::iter([
            entry(1, LogStream::Stdout, "one "),
            entry(2, LogStream::Stderr, "careful\n"),
            entry(3, LogStream::Stdout, "two\n"),
            entry(4, LogStream::System, "9 bytes dropped"),
        ]))))
    }

    not_needed! {
        list_executions(ListExecutionsRequest) -> ListExecutionsResponse;
        get_execution(GetExecutionRequest) -> Execution;
        get_execution_stats(GetExecutionStatsRequest) -> ExecutionStats;
        cancel_execution(CancelExecutionRequest) -> Execution;
        retry_execution(RetryExecutionRequest) -> Execution;
        explain_execution(ExplainExecutionRequest) -> Explanation;
        list_execution_logs(ListExecutionLogsRequest) -> ListExecutionLogsResponse;
    }
}

impl Fake {
    /// Serves on a free port for as long as the runtime lives.
    async fn serve(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server = Server::builder()
            .add_service(JobServiceServer::new(self.clone()))
            .add_service(ExecutionServiceServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }
}

async fn run(server: &str, args: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_orrery"));
    command.args(["--server", server]).args(args).env_remove("ORRERY_API_KEY");
    command.output().await.unwrap()
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[tokio::test]
async fn a_triggered_execution_is_followed_to_its_end() {
    let fake = Fake::default();
    let server = fake.serve().await;
    let done = run(&server, &["job", "trigger", "nightly", "--wait", "--key", "x", "--param", r#"{"n": 1.50}"#]).await;
    assert_eq!(code(&done), Some(0), "{}", stderr(&done));
    assert_eq!(stdout(&done), "one two\n");
    assert!(stderr(&done).contains("careful\n9 bytes dropped\n"), "{}", stderr(&done));
    {
        let seen = fake.0.lock().unwrap();
        assert_eq!(seen.triggered[0].id, NIGHTLY);
        assert_eq!(seen.triggered[0].parameters, Some(Json::new(r#"{"n": 1.50}"#)));
    }
    let failed = run(&server, &["job", "trigger", NIGHTLY, "--wait", "--key", "fails"]).await;
    assert_eq!(code(&failed), Some(1));
    assert!(stderr(&failed).ends_with("error[EXECUTION_FAILED]: execution fails failed: exit code 3\n"));
    let cancelled = run(&server, &["--json", "job", "trigger", NIGHTLY, "--wait", "--key", "cancelled"]).await;
    assert_eq!(code(&cancelled), Some(1));
    let json: serde_json::Value = serde_json::from_str(&stdout(&cancelled)).unwrap();
    assert_eq!(json["status"], "cancelled");
    let error: serde_json::Value = serde_json::from_str(&stderr(&cancelled)).unwrap();
    assert_eq!(error["error"]["code"], "EXECUTION_CANCELLED");
}

#[tokio::test]
async fn watching_prints_changes_once() {
    let server = Fake::default().serve().await;
    let output = run(&server, &["execution", "watch", "fails"]).await;
    assert_eq!(code(&output), Some(1));
    let text = stdout(&output);
    let lines: Vec<&str> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    assert_eq!(lines, ["running: exit code 3", "failed: exit code 3"]);
    let output = run(&server, &["execution", "watch", "x", "--json"]).await;
    let statuses: Vec<serde_json::Value> = stdout(&output)
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["status"].take())
        .collect();
    assert_eq!(statuses, ["running", "completed"]);
}

#[tokio::test]
async fn jobs_are_named_by_id_or_by_name() {
    let fake = Fake::default();
    let server = fake.serve().await;
    for name in [NIGHTLY, "nightly"] {
        let output = run(&server, &["--api-key", "secret", "job", "get", name, "--json"]).await;
        assert_eq!(code(&output), Some(0), "{}", stderr(&output));
        assert!(stdout(&output).contains("123456789012345678901234567890"), "every digit");
        assert!(stdout(&output).contains("1.50"), "every digit");
    }
    assert_eq!(fake.0.lock().unwrap().key.as_deref(), Some("Bearer secret"));
    let unknown = run(&server, &["job", "get", "night"]).await;
    assert_eq!(code(&unknown), Some(3));
    assert!(stderr(&unknown).contains("did you mean nightly-old or nightly?"), "{}", stderr(&unknown));
    let unknown = run(&server, &["job", "get", "0190f5e2-0000-7000-8000-000000000002"]).await;
    assert_eq!(code(&unknown), Some(3));
}

#[tokio::test]
async fn refusals_have_their_exit_codes() {
    let server = Fake::default().serve().await;
    let create = async |name| run(&server, &["job", "create", "--name", name, "--manual", "--command", "true"]).await;
    for (name, exit) in [("fine", 0), ("taken", 4), ("wrong", 2), ("denied", 5)] {
        assert_eq!(code(&create(name).await), Some(exit), "{name}");
    }
    let wrong = stderr(&create("wrong").await);
    assert_eq!(wrong, "error[INVALID_JOB_CONFIG]: one field is not valid\n  config.url: is no URL\n");
}

#[tokio::test]
async fn files_become_jobs() {
    let fake = Fake::default();
    let server = fake.serve().await;
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let one = write("one.yaml", "name: a\nconfig: {n: 100000000000000000000000000001}\n");
    assert_eq!(code(&run(&server, &["job", "create", "-f", &one]).await), Some(0));
    let two = write("two.yaml", "name: b\n---\nname: c\n");
    let created = run(&server, &["job", "create", "-f", &two]).await;
    assert_eq!(stdout(&created).lines().count(), 3, "{}", stdout(&created));
    {
        let seen = fake.0.lock().unwrap();
        let names: Vec<&str> = seen.created.iter().map(|request| request.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(seen.created[0].config, Some(Json::new(r#"{"n":100000000000000000000000000001}"#)));
    }
    let update = run(&server, &["--json", "job", "update", "nightly", "-f", &one, "--version", "6"]).await;
    assert_eq!(code(&update), Some(4));
    let error: serde_json::Value = serde_json::from_str(&stderr(&update)).unwrap();
    assert_eq!(error["error"]["details"]["currentVersion"], "7");
    let updated = fake.0.lock().unwrap().updated[0].clone();
    assert_eq!((updated.id.as_str(), updated.version), (NIGHTLY, Some(6)));
    let good = write("good.yaml", "- name: good\n- name: bad\n");
    let validated = run(&server, &["job", "validate", "-f", &good]).await;
    assert_eq!(code(&validated), Some(2));
    assert_eq!(stdout(&validated), "good is valid\n");
    assert!(stderr(&validated).contains("  bad: cronExpression: is empty\n"), "{}", stderr(&validated));
}

#[tokio::test]
async fn lists_are_pages_or_all() {
    let server = Fake::default().serve().await;
    let page = run(&server, &["job", "list"]).await;
    assert_eq!(stdout(&page).lines().count(), 2);
    assert!(stderr(&page).contains("--page-token 2"), "{}", stderr(&page));
    let all = run(&server, &["job", "list", "--all", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&stdout(&all)).unwrap();
    assert_eq!(json["jobs"].as_array().map(Vec::len), Some(2));
    assert_eq!(json["nextPageToken"], "");
}

#[tokio::test]
async fn wrong_usage_is_json_too_where_json_is_asked_for() {
    for args in
        [&["job", "bogus", "--json"][..], &["--json", "job", "get"], &["job", "create", "--name", "a", "--json"]]
    {
        let done = run("http://127.0.0.1:1", args).await;
        assert_eq!((code(&done), stdout(&done).as_str()), (Some(2), ""), "{args:?}");
        let told: serde_json::Value = serde_json::from_str(&stderr(&done)).unwrap();
        assert_eq!((&told["error"]["code"], &told["exitCode"]), (&"INVALID_USAGE".into(), &2.into()), "{args:?}");
    }
    assert!(stderr(&run("http://127.0.0.1:1", &["job", "bogus"]).await).starts_with("error: "));
}

#[tokio::test]
async fn the_port_of_rest_is_not_taken_for_that_of_grpc() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let missing = || async { (axum::http::StatusCode::NOT_FOUND, axum::Json(serde_json::json!({"error": {}}))) };
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(missing)).await.unwrap() });
    let done = run(&format!("http://{address}"), &["job", "list"]).await;
    assert_eq!(code(&done), Some(6));
    assert!(stderr(&done).contains("not in gRPC"), "{}", stderr(&done));
}
