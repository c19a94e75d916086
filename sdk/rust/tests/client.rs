//! The client against a server over a real socket.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::pin::Pin;
use std::sync::Mutex;
use std::time::Duration;

use orrery_sdk::v1::execution_service_server::{ExecutionService, ExecutionServiceServer};
use orrery_sdk::v1::{self, Execution, ExecutionStatus};
use orrery_sdk::{Client, ClientOptions};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

type Answers<T> = Pin<Box<dyn futures_util::Stream<Item = Result<T, Status>> + Send>>;
/// What one call of WatchExecution answers.
type Watch = Result<Vec<Result<Execution, Status>>, Status>;

/// Answers each call with what the test put there.
struct Scripted {
    watches: Mutex<Vec<Watch>>,
    reads: Mutex<Vec<Result<Execution, Status>>>,
}

fn unused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not in this test"))
}

#[tonic::async_trait]
impl ExecutionService for Scripted {
    type WatchExecutionStream = Answers<Execution>;
    type FollowExecutionLogsStream = Answers<v1::LogEntry>;

    async fn watch_execution(
        &self,
        request: Request<v1::WatchExecutionRequest>,
    ) -> Result<Response<Self::WatchExecutionStream>, Status> {
        assert_eq!(request.metadata().get("authorization").expect("a credential"), "Bearer secret");
        let answers = self.watches.lock().expect("lock").remove(0)?;
        Ok(Response::new(Box::pin(tokio_stream::iter(answers))))
    }

    async fn get_execution(&self, _: Request<v1::GetExecutionRequest>) -> Result<Response<Execution>, Status> {
        self.reads.lock().expect("lock").remove(0).map(Response::new)
    }

    async fn list_executions(
        &self,
        _: Request<v1::ListExecutionsRequest>,
    ) -> Result<Response<v1::ListExecutionsResponse>, Status> {
        std::future::pending().await
    }

    async fn get_execution_stats(
        &self,
        _: Request<v1::GetExecutionStatsRequest>,
    ) -> Result<Response<v1::ExecutionStats>, Status> {
        unused()
    }

    async fn cancel_execution(&self, _: Request<v1::CancelExecutionRequest>) -> Result<Response<Execution>, Status> {
        unused()
    }

    async fn retry_execution(&self, _: Request<v1::RetryExecutionRequest>) -> Result<Response<Execution>, Status> {
        unused()
    }

    async fn explain_execution(
        &self,
        _: Request<v1::ExplainExecutionRequest>,
    ) -> Result<Response<v1::Explanation>, Status> {
        unused()
    }

    async fn list_execution_logs(
        &self,
        _: Request<v1::ListExecutionLogsRequest>,
    ) -> Result<Response<v1::ListExecutionLogsResponse>, Status> {
        unused()
    }

    async fn follow_execution_logs(
        &self,
        _: Request<v1::FollowExecutionLogsRequest>,
    ) -> Result<Response<Self::FollowExecutionLogsStream>, Status> {
        unused()
    }
}

async fn client(
    watches: Vec<Watch>,
    reads: Vec<Result<Execution, Status>>,
    timeout: Duration,
) -> (Client, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let service = ExecutionServiceServer::new(Scripted { watches: Mutex::new(watches), reads: Mutex::new(reads) });
    let server = tokio::spawn(async move {
        let incoming = TcpListenerStream::new(listener);
        let _ = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await;
    });
    let client = Client::connect(&ClientOptions {
        endpoint,
        api_key: Some("secret".into()),
        timeout,
        ..ClientOptions::default()
    });
    (client.expect("a client"), AbortOnDropHandle::new(server))
}

fn execution(status: ExecutionStatus) -> Execution {
    Execution { id: "e".into(), status: status.into(), ..Execution::default() }
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn waiting_survives_lost_streams() {
    let running = || execution(ExecutionStatus::Running);
    let watches = vec![
        Ok(vec![Ok(running()), Err(Status::unavailable("cut"))]),
        Ok(vec![Ok(execution(ExecutionStatus::Failed))]),
    ];
    let (client, _server) = client(watches, vec![Ok(running())], LONG).await;
    assert_eq!(client.wait("e").await.expect("an end").status(), ExecutionStatus::Failed);
}

#[tokio::test]
async fn waiting_asks_where_it_cannot_watch() {
    let reads = vec![Err(Status::unavailable("just now")), Ok(execution(ExecutionStatus::Completed))];
    let (client, _server) = client(vec![Err(Status::unimplemented("no streams"))], reads, LONG).await;
    assert_eq!(client.wait("e").await.expect("an end").status(), ExecutionStatus::Completed);
}

#[tokio::test]
async fn waiting_for_nothing_is_told_by_its_code() {
    let details = ErrorDetails::with_error_info("EXECUTION_NOT_FOUND", "orrery", []);
    let status = Status::with_error_details(Code::NotFound, "no execution e", details);
    let (client, _server) = client(vec![Err(status)], Vec::new(), LONG).await;
    let error = client.wait("e").await.expect_err("there is none");
    assert_eq!((error.code(), error.message()), ("EXECUTION_NOT_FOUND", "no execution e"));
}

#[tokio::test]
async fn a_server_that_hangs_does_not_keep_the_caller() {
    let (client, _server) = client(Vec::new(), Vec::new(), Duration::from_millis(50)).await;
    let error = client.list_executions(v1::ListExecutionsRequest::default()).await.expect_err("no answer");
    assert_eq!(error.grpc_code(), Code::DeadlineExceeded, "{error}");
}

#[tokio::test]
async fn nobody_there_is_unavailable() {
    let options = ClientOptions { endpoint: "http://127.0.0.1:1".into(), ..ClientOptions::default() };
    let client = Client::connect(&options).expect("a client");
    let error = client.get_status(v1::GetStatusRequest {}).await.expect_err("nobody");
    assert_eq!(error.code(), "UNAVAILABLE", "{error}");
    assert!(error.is_transient());
}
