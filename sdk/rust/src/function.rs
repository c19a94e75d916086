//! Typed functions that jobs of the type `function` run.

mod error;
mod parameters;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use orrery_proto::Json;
use orrery_proto::v1::{ErrorType, LogStream};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use self::error::FunctionError;
use self::parameters::{overlaid, read};
use crate::executor::{Context, Executor, Failure, Outcome, Running, StopReason, Task};

type Function = Arc<dyn Fn(Option<Json>, FunctionContext) -> Running + Send + Sync>;

/// Functions by module and name.
#[derive(Clone)]
pub struct FunctionRegistry {
    functions: BTreeMap<String, BTreeMap<String, Function>>,
    grace: Duration,
}

impl Default for FunctionRegistry {
    fn default() -> Self {
        Self { functions: BTreeMap::new(), grace: Duration::from_secs(5) }
    }
}

impl FunctionRegistry {
    /// No functions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a function, or replaces the one of the same name.
    ///
    /// Its input is read from the job's `config.parameters`, with the parameters of the run laid over them; input that does not fit the
    /// type fails the attempt with VALIDATION_ERROR before the function is called. What it returns becomes the execution's result.
    /// The function is async: one that computes for long without waiting belongs in [`tokio::task::spawn_blocking`].
    pub fn register<T, U, E, F, R>(
        &mut self,
        module: impl Into<String>,
        name: impl Into<String>,
        function: F,
    ) -> &mut Self
    where
        T: DeserializeOwned + Send + 'static,
        U: Serialize + Send + 'static,
        E: Into<FunctionError>,
        F: Fn(T, FunctionContext) -> R + Send + Sync + 'static,
        R: Future<Output = Result<U, E>> + Send + 'static,
    {
        let function = move |parameters: Option<Json>, context: FunctionContext| -> Running {
            let input = match read::<T>(parameters.as_ref()) {
                Ok(input) => input,
                Err(message) => {
                    return Box::pin(std::future::ready(Outcome::failure(ErrorType::ValidationError, message)));
                }
            };
            let returned = function(input, context);
            Box::pin(async move { outcome_of(returned.await.map_err(Into::into)) })
        };
        self.functions.entry(module.into()).or_default().insert(name.into(), Arc::new(function));
        self
    }

    /// How long a function may go on once it is told to stop (see [`FunctionContext::cancelled`]) before it is dropped where it waits;
    /// 5 s by default. One whose lease is lost is dropped at once.
    pub fn grace(&mut self, grace: Duration) -> &mut Self {
        self.grace = grace;
        self
    }

    /// The registered (module, function) pairs, in order.
    pub fn names(&self) -> impl Iterator<Item = (&str, &str)> {
        self.functions.iter().flat_map(|(module, names)| names.keys().map(|name| (module.as_str(), name.as_str())))
    }

    /// An executor for all of them, and by `fallback`, if there is one, for any other.
    pub fn into_executor(self, fallback: Option<Arc<dyn Executor>>) -> impl Executor {
        FunctionExecutor { registry: self, fallback }
    }
}

fn outcome_of<U: Serialize>(returned: Result<U, FunctionError>) -> Outcome {
    #[derive(Serialize)]
    struct Result<'a, U> {
        success: bool,
        result: &'a U,
    }
    match returned {
        Ok(value) => match Json::of(&Result { success: true, result: &value }) {
            Ok(json) => Outcome::success(json),
            Err(error) => {
                let message = format!("what the function returned has no JSON: {error}");
                Outcome::failure(ErrorType::UserError, message)
            }
        },
        Err(error) => Outcome { result: None, failure: Some(Failure::from(error)), usage: Default::default() },
    }
}

/// What a function is given beside its input.
#[derive(Clone)]
pub struct FunctionContext {
    context: Context,
    task: Arc<Task>,
}

impl FunctionContext {
    /// Reports progress, 0 to 100.
    pub fn progress(&self, percent: i32) {
        self.context.progress(percent);
    }

    /// Writes a line to the execution's log.
    pub fn log(&self, line: impl AsRef<str>) {
        let line = line.as_ref();
        self.context.log(LogStream::Stdout, format!("{}\n", line.strip_suffix('\n').unwrap_or(line)));
    }

    /// Completes once the function is to stop, because it was cancelled or took too long; it should return soon after.
    pub async fn cancelled(&self) {
        self.context.stopped().await;
    }

    /// Whether the function is to stop.
    pub fn is_cancelled(&self) -> bool {
        self.context.stop_reason().is_some()
    }

    /// The attempt, from 1.
    pub fn attempt(&self) -> i32 {
        self.task.attempt
    }

    /// Rises with every grant of the execution: a target that remembers the highest can refuse an older one that woke up late.
    pub fn epoch(&self) -> i64 {
        self.task.epoch
    }

    /// The same for all attempts of an execution: a target can tell a repetition by it.
    pub fn idempotency_key(&self) -> &str {
        &self.task.idempotency_key
    }

    /// UUID of the execution.
    pub fn execution_id(&self) -> &str {
        &self.task.execution_id
    }

    /// All that is known of the attempt.
    pub fn task(&self) -> &Task {
        &self.task
    }
}

struct FunctionExecutor {
    registry: FunctionRegistry,
    fallback: Option<Arc<dyn Executor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config<'a> {
    #[serde(borrow)]
    module_path: Cow<'a, str>,
    #[serde(borrow)]
    function_name: Cow<'a, str>,
    #[serde(default, borrow)]
    parameters: Option<&'a RawValue>,
    #[serde(default, borrow)]
    sandbox: Option<&'a RawValue>,
}

#[async_trait]
impl Executor for FunctionExecutor {
    async fn run(&self, task: Task, context: Context) -> Outcome {
        self.running(task, context).await
    }

    fn begin(self: Arc<Self>, task: Task, context: Context) -> Running {
        self.running(task, context)
    }
}

impl FunctionExecutor {
    fn running(&self, task: Task, context: Context) -> Running {
        let (function, parameters) = match self.find(&task) {
            Ok(Some(found)) => found,
            Ok(None) => match &self.fallback {
                Some(fallback) => return fallback.clone().begin(task, context),
                None => return failed("no such function"),
            },
            Err(message) => return failed(message),
        };
        let call = FunctionContext { context: context.clone(), task: Arc::new(task) };
        let running = function(parameters, call);
        Box::pin(until_stopped(running, context, self.registry.grace))
    }

    /// The function of a task with its parameters; `None` where the fallback is to run it, a message where nobody can.
    fn find(&self, task: &Task) -> Result<Option<(Function, Option<Json>)>, String> {
        let config: Config<'_> = serde_json::from_str(&task.config.text)
            .map_err(|e| format!("the config is not that of a function: {e}"))?;
        let (module, name) = (config.module_path.as_ref(), config.function_name.as_ref());
        let Some(function) = self.registry.functions.get(module).and_then(|module| module.get(name)) else {
            return if self.fallback.is_some() { Ok(None) } else { Err(self.unknown(module, name)) };
        };
        if config.sandbox.is_some_and(|sandbox| sandbox.get() != "null") {
            let hint = "leave it out, or call the function of a Python or Node module";
            return Err(format!("config.sandbox cannot be had for {name}, which runs inside of its worker; {hint}"));
        }
        let parameters =
            overlaid(config.parameters.map(RawValue::get), task.parameters.as_ref().map(|p| p.text.as_str()));
        Ok(Some((function.clone(), parameters)))
    }

    fn unknown(&self, module: &str, name: &str) -> String {
        let known: Vec<String> = self.registry.names().map(|(module, name)| format!("{module}#{name}")).collect();
        format!("no function {name} in module {module}; this worker has: {}", known.join(", "))
    }
}

fn failed(message: impl Into<String>) -> Running {
    Box::pin(std::future::ready(Outcome::failure(ErrorType::ValidationError, message)))
}

/// A function that is told to stop may go on for the grace, and no longer than its lease.
async fn until_stopped(running: Running, context: Context, grace: Duration) -> Outcome {
    let over = async {
        if context.stopped().await != StopReason::Revoked {
            tokio::select! {
                () = tokio::time::sleep(grace) => {}
                () = context.revoked() => {}
            }
        }
    };
    tokio::select! {
        biased;
        outcome = running => outcome,
        () = over => Outcome::failure(ErrorType::UserError, "the function was stopped"),
    }
}

#[cfg(test)]
mod tests;
