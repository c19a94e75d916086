//! What runs work: the contract between a worker session and the executors behind it.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use orrery_proto::Json;
use orrery_proto::v1::{ErrorType, LogStream};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::secret::Redactor;
use crate::worker::TaskOutput;

/// One attempt of an execution, as its lease describes it.
#[derive(Clone)]
pub struct Task {
    /// UUID of the execution.
    pub execution_id: String,
    /// The lease's epoch; it rises with every grant of the execution, so that targets can fence.
    pub epoch: i64,
    /// UUID of the job.
    pub job_id: String,
    /// The job's name.
    pub job_name: String,
    /// The tenant that owns the job.
    pub tenant_id: String,
    /// http, command, shell, python or function.
    pub executor: String,
    /// The job's config, with the values of secrets in the places of their references.
    pub config: Json,
    /// Parameters of this run, if any.
    pub parameters: Option<Json>,
    /// From 1.
    pub attempt: i32,
    /// The instant of the fire.
    pub scheduled_at: Option<DateTime<Utc>>,
    /// How long the attempt may take from its start.
    pub timeout: Duration,
    /// The same for all attempts of an execution.
    pub idempotency_key: String,
    /// W3C trace context to hand on to the target, if the execution is traced.
    pub traceparent: Option<String>,
    /// What its calls may reach beside public addresses, by the word of the coordinator: networks, addresses and hosts, each with a port or
    /// without one. The executor's own settings bound it.
    pub egress_allow: Vec<String>,
    /// What its calls may not reach, whatever is open.
    pub egress_deny: Vec<String>,
    /// The least sandbox level of its tenant: none, process or container; none where empty.
    pub sandbox_level: String,
    /// Whether its tenant may run shells.
    pub shell_allowed: bool,
}

impl fmt::Debug for Task {
    /// Without config and parameters, which may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("execution_id", &self.execution_id)
            .field("epoch", &self.epoch)
            .field("job_id", &self.job_id)
            .field("job_name", &self.job_name)
            .field("executor", &self.executor)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// Why a task is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// Somebody cancelled it: stop in good order (SIGTERM, then SIGKILL after a grace).
    Cancelled,
    /// Its time is over: the same.
    TimedOut,
    /// The lease is lost: stop at once and without grace, since somebody else may already run it. No result is wanted.
    Revoked,
}

/// Where a task's output goes. Implementations never block for long: what does not fit a budget is dropped and counted.
pub trait Output: Send + Sync {
    /// Takes a piece of output, cut wherever it was read.
    fn log(&self, stream: LogStream, data: Bytes);
    /// Reports progress, 0 to 100; values outside are clamped.
    fn progress(&self, percent: i32);
}

/// What a running task is given beside itself. Cheap to clone.
#[derive(Clone)]
pub struct Context(Arc<Shared>);

struct Shared {
    output: Sink,
    /// The first reason.
    reason: OnceLock<StopReason>,
    revoked: AtomicBool,
    /// One of the two has changed.
    changed: Notify,
    trust: Option<watch::Receiver<Instant>>,
}

/// Where the output goes.
enum Sink {
    Given(Arc<dyn Output>),
    Task(TaskOutput),
}

impl Context {
    /// A context that writes to `output`, of work that is under no lease.
    pub fn new(output: Arc<dyn Output>) -> Self {
        Self::writing(Sink::Given(output), None)
    }

    /// The context of an attempt that a worker runs.
    pub(crate) fn of_task(output: TaskOutput, trust: watch::Receiver<Instant>) -> Self {
        Self::writing(Sink::Task(output), Some(trust))
    }

    fn writing(output: Sink, trust: Option<watch::Receiver<Instant>>) -> Self {
        let (reason, revoked) = (OnceLock::new(), AtomicBool::new(false));
        Self(Arc::new(Shared { output, reason, revoked, changed: Notify::new(), trust }))
    }

    /// The same for work under a lease that can be trusted until the instant that `trust` shows. To be called before the context is cloned.
    #[must_use]
    pub fn under(mut self, trust: watch::Receiver<Instant>) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.0) {
            shared.trust = Some(trust);
        }
        self
    }

    /// Until when the lease can be trusted, if there is one: later with each renewal. What runs outside of this process must end by
    /// itself when that instant passes without a renewal, since this process may be frozen then, and somebody else may run the work.
    /// Inside of it [`Context::revoked`] comes at that instant.
    pub fn trust(&self) -> Option<watch::Receiver<Instant>> {
        self.0.trust.clone()
    }

    /// What the worker's own attempts write to.
    pub(crate) fn task_output(&self) -> Option<&TaskOutput> {
        match &self.0.output {
            Sink::Task(output) => Some(output),
            Sink::Given(_) => None,
        }
    }

    /// What looks for the secrets of the attempt, if it has any. All that it writes, returns and fails with is redacted anyway; an executor that
    /// keeps only a part of some output redacts it before, so that no secret is cut in two, of which neither half would be known.
    pub fn redactor(&self) -> Option<&Redactor> {
        self.task_output()?.redactor()
    }

    fn output(&self) -> &dyn Output {
        match &self.0.output {
            Sink::Task(output) => output,
            Sink::Given(output) => output.as_ref(),
        }
    }

    /// Writes output of the task.
    pub fn log(&self, stream: LogStream, data: impl Into<Bytes>) {
        self.output().log(stream, data.into());
    }

    /// Reports progress, 0 to 100.
    pub fn progress(&self, percent: i32) {
        self.output().progress(percent.clamp(0, 100));
    }

    /// Tells the task to stop. The first reason holds, but for [`StopReason::Revoked`], which hurries a stop under way: ask
    /// [`Context::revoked`].
    pub fn stop(&self, reason: StopReason) {
        let _ = self.0.reason.set(reason);
        if reason == StopReason::Revoked {
            self.0.revoked.store(true, Ordering::SeqCst);
        }
        self.0.changed.notify_waiters();
    }

    /// Completes once the task is to stop, and says why.
    pub async fn stopped(&self) -> StopReason {
        self.until(|| self.stop_reason()).await
    }

    /// Completes once the lease is lost, also where the task was being stopped already: whatever grace was given ends now.
    pub async fn revoked(&self) {
        self.until(|| self.0.revoked.load(Ordering::SeqCst).then_some(())).await;
    }

    /// Why the task is to stop, if it is.
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.0.reason.get().copied()
    }

    async fn until<T>(&self, look: impl Fn() -> Option<T>) -> T {
        loop {
            // Made before the look: a change between that and the wait would be missed otherwise.
            let changed = self.0.changed.notified();
            if let Some(seen) = look() {
                return seen;
            }
            changed.await;
        }
    }
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// What it returned, also where it failed.
    pub result: Option<Json>,
    /// Set where it failed.
    pub failure: Option<Failure>,
    /// What it used, where that was measured.
    pub usage: Usage,
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// Decides, with the job's retry policy, whether it is retried.
    pub error_type: ErrorType,
    /// For people; one line where possible.
    pub message: String,
    /// A stack trace, if there is one.
    pub stack: String,
    /// Overrides the policy, where set.
    pub retryable: Option<bool>,
}

/// What an attempt used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Peak resident memory in MiB.
    pub memory_peak_mb: Option<f64>,
    /// User and system time in milliseconds.
    pub cpu_time_ms: Option<i64>,
}

impl Outcome {
    /// A success.
    pub fn success(result: Json) -> Self {
        Self { result: Some(result), failure: None, usage: Usage::default() }
    }

    /// A failure without a result.
    pub fn failure(error_type: ErrorType, message: impl Into<String>) -> Self {
        let failure = Failure { error_type, message: message.into(), stack: String::new(), retryable: None };
        Self { result: None, failure: Some(failure), usage: Usage::default() }
    }

    /// The same outcome with a result.
    #[must_use]
    pub fn with_result(mut self, result: Json) -> Self {
        self.result = Some(result);
        self
    }

    /// The same outcome with what it used.
    #[must_use]
    pub fn with_usage(mut self, usage: Usage) -> Self {
        self.usage = usage;
        self
    }

    /// The same failure with a stack trace; a success is left as it is.
    #[must_use]
    pub fn with_stack(mut self, stack: impl Into<String>) -> Self {
        if let Some(failure) = &mut self.failure {
            failure.stack = stack.into();
        }
        self
    }
}

/// Runs tasks of one kind.
#[async_trait]
pub trait Executor: Send + Sync + 'static {
    /// Runs one attempt to its end. It must watch [`Context::stopped`] and end soon after; once it has returned, nothing of the
    /// attempt may go on. The caller tells it when `task.timeout` is over and puts the right error type on what was stopped.
    async fn run(&self, task: Task, context: Context) -> Outcome;

    /// The same as a future that owns what it needs. Workers call this; it only has to be written where it can be made cheaper than by
    /// [`Executor::run`].
    fn begin(self: Arc<Self>, task: Task, context: Context) -> Running {
        Box::pin(async move { self.run(task, context).await })
    }
}

/// An attempt under way.
pub type Running = Pin<Box<dyn Future<Output = Outcome> + Send>>;
