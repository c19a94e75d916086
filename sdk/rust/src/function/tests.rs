use std::sync::Mutex;

use bytes::Bytes;
use serde_json::json;

use super::*;
use crate::executor::Output;

#[derive(Default)]
struct Recorder {
    lines: Mutex<Vec<String>>,
    percents: Mutex<Vec<i32>>,
}

impl Output for Recorder {
    fn log(&self, _: LogStream, data: Bytes) {
        self.lines.lock().expect("lock").push(String::from_utf8_lossy(&data).into_owned());
    }

    fn progress(&self, percent: i32) {
        self.percents.lock().expect("lock").push(percent);
    }
}

#[derive(Deserialize)]
struct Input {
    region: String,
    #[serde(default)]
    depth: u32,
}

fn registry() -> FunctionRegistry {
    let mut registry = FunctionRegistry::new();
    registry.register("reports", "daily", |input: Input, context: FunctionContext| async move {
        context.progress(50);
        context.log(format!("attempt {} for {}", context.attempt(), input.region));
        if input.region == "nowhere" {
            return Err(FunctionError::new("no such region").with_type(ErrorType::NetworkError).retryable(true));
        }
        Ok(json!({"region": input.region, "depth": input.depth, "key": context.idempotency_key()}))
    });
    registry.register("reports", "parse", |text: String, _| async move { text.parse::<i32>() });
    registry.register("reports", "wait", |(): (), _| std::future::pending::<Result<(), FunctionError>>());
    registry
}

fn task(function: &str, parameters: Option<&str>, run: Option<&str>) -> Task {
    let parameters = parameters.unwrap_or("null");
    Task {
        execution_id: "e".into(),
        epoch: 4,
        job_id: "j".into(),
        job_name: "job".into(),
        tenant_id: "t".into(),
        executor: "function".into(),
        config: Json::new(format!(
            "{{\"modulePath\":\"reports\",\"functionName\":\"{function}\",\"parameters\":{parameters},\"timeout\":1000}}"
        )),
        parameters: run.map(Json::new),
        attempt: 2,
        scheduled_at: None,
        timeout: Duration::from_secs(1),
        idempotency_key: "idem".into(),
        traceparent: None,
        egress_allow: Vec::new(),
        egress_deny: Vec::new(),
        sandbox_level: String::new(),
        shell_allowed: true,
    }
}

async fn run(function: &str, parameters: Option<&str>, over: Option<&str>) -> (Outcome, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    let executor = registry().into_executor(None);
    (executor.run(task(function, parameters, over), Context::new(recorder.clone())).await, recorder)
}

fn failure(outcome: Outcome) -> Failure {
    outcome.failure.expect("a failure")
}

#[tokio::test]
async fn input_and_result_are_typed() {
    let (outcome, recorder) = run("daily", Some("{\"region\":\"eu\",\"depth\":1}"), Some("{\"depth\":2}")).await;
    let result: serde_json::Value = outcome.result.expect("a result").read().expect("JSON");
    assert_eq!(result, json!({"success": true, "result": {"region": "eu", "depth": 2, "key": "idem"}}));
    assert_eq!(*recorder.lines.lock().expect("lock"), ["attempt 2 for eu\n"]);
    assert_eq!(*recorder.percents.lock().expect("lock"), [50]);
}

#[tokio::test]
async fn parameters_that_do_not_fit_name_the_reason() {
    let failure = failure(run("daily", Some("{\"region\":7}"), None).await.0);
    assert_eq!(failure.error_type, ErrorType::ValidationError);
    assert!(failure.message.contains("invalid type: integer `7`, expected a string"), "{}", failure.message);
}

#[tokio::test]
async fn an_unknown_function_is_told_with_the_known_ones() {
    let failure = failure(run("yearly", None, None).await.0);
    assert_eq!(failure.error_type, ErrorType::ValidationError);
    assert_eq!(
        failure.message,
        "no function yearly in module reports; this worker has: reports#daily, reports#parse, reports#wait"
    );
}

#[tokio::test]
async fn errors_keep_what_they_say() {
    let told = failure(run("daily", Some("{\"region\":\"nowhere\"}"), None).await.0);
    assert_eq!((told.error_type, told.retryable), (ErrorType::NetworkError, Some(true)));
    let told = failure(run("parse", Some("\"x\""), None).await.0);
    assert_eq!((told.error_type, told.message.as_str()), (ErrorType::UserError, "invalid digit found in string"));
}

#[tokio::test]
async fn one_whose_lease_is_lost_is_dropped_at_once() {
    let executor = registry().into_executor(None);
    let context = Context::new(Arc::new(Recorder::default()));
    let stop = context.clone();
    let (outcome, ()) = tokio::join!(executor.run(task("wait", None, None), context), async {
        tokio::task::yield_now().await;
        stop.stop(StopReason::Revoked);
    });
    assert_eq!(failure(outcome).message, "the function was stopped");
}

struct Any;

#[async_trait]
impl Executor for Any {
    async fn run(&self, task: Task, _: Context) -> Outcome {
        Outcome::success(task.config)
    }
}

#[tokio::test]
async fn what_is_not_registered_goes_to_the_fallback() {
    let executor = registry().into_executor(Some(Arc::new(Any)));
    let context = Context::new(Arc::new(Recorder::default()));
    let outcome = executor.run(task("yearly", None, None), context).await;
    assert!(outcome.failure.is_none());
}
