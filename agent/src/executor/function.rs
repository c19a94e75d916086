//! Functions of Python and Node modules, each call in a process of its own.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use orrery_proto::Json;
use orrery_proto::v1::ErrorType;
use orrery_sdk::config::{FunctionConfig, ProcessConfig, Runtime};
use orrery_sdk::executor::{Context, Executor, Outcome, Task};
use orrery_sdk::secret::Redactor;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::command::{Blame, failure, unbuffered};
use super::environment::environment;
use super::module::{Module, resolve};
use super::process::{End, Finished, Launch, run};
use super::{ExecutorSettings, invalid, stopped};

const PYTHON_RUNNER: &str = include_str!("runner.py");
const NODE_RUNNER: &str = include_str!("runner.js");
/// What `{"success":true,"result":...}` takes beside the result.
const FRAME: usize = 32;
/// The most bytes of a stack trace that are kept.
const MAX_STACK: usize = 16 * 1024;

/// Calls functions of the modules in the allowed directories.
pub(super) struct Function(pub(super) Arc<ExecutorSettings>);

/// What a runner reports of a call.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Report {
    /// What the function returned.
    Returned(Box<RawValue>),
    /// The module has no such function.
    NoFunction(String),
    /// It raised, or returned what is no JSON.
    Raised { message: String, stack: String },
    /// It returned so many bytes of JSON, which is more than allowed.
    TooLarge(u64),
}

#[async_trait]
impl Executor for Function {
    async fn run(&self, task: Task, context: Context) -> Outcome {
        let config = match FunctionConfig::parse(&task.config.text) {
            Ok(config) => config,
            Err(problems) => return invalid(&problems),
        };
        let parameters = match laid_over(config.parameters.as_deref(), task.parameters.as_ref()) {
            Ok(parameters) => parameters,
            Err(error) => return invalid(&[("parameters".into(), format!("are no JSON: {error}"))]),
        };
        let module = match resolve(&self.0.function_dirs, &config.module_path, config.runtime) {
            Ok(module) => module,
            Err(problem) => return invalid(&[problem]),
        };
        match self.call(&module, &config, &parameters, &task, &context).await {
            Ok(outcome) => outcome,
            Err(error) => {
                let message = format!("the files for the call of a function: {error}");
                Outcome::failure(ErrorType::SystemError, message)
            }
        }
    }
}

impl Function {
    async fn call(
        &self,
        module: &Module,
        config: &FunctionConfig,
        parameters: &str,
        task: &Task,
        context: &Context,
    ) -> io::Result<Outcome> {
        let settings = &*self.0;
        // Apart from stdin and stdout, which belong to the function. Only the agent's user can read it.
        let exchange = tempfile::Builder::new().prefix("orrery-call-").tempdir()?;
        let (input, output) = (exchange.path().join("parameters.json"), exchange.path().join("report.json"));
        tokio::fs::write(&input, parameters).await?;
        let (program, flags, blame) = match module.runtime {
            Runtime::Python => (&settings.python, ["-c", PYTHON_RUNNER].as_slice(), "the agent's python"),
            Runtime::Node => (&settings.node, ["-e", NODE_RUNNER, "--"].as_slice(), "the agent's node"),
        };
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut args: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        args.extend([
            text(&module.root),
            text(&module.file),
            config.function_name.clone(),
            text(&input),
            text(&output),
        ]);
        args.push(settings.max_result_bytes.saturating_sub(FRAME).to_string());
        let mut process = ProcessConfig::default();
        unbuffered(&mut process);
        let program = text(program);
        let launch = Launch {
            program: program.clone(),
            args,
            directory: Some(text(&module.root)),
            environment: environment(task, process.environment),
        };
        let finished = run(settings, launch, task.timeout, context).await;
        let outcome = match context.stop_reason() {
            Some(reason) => stopped(reason, task),
            None => {
                let blame = Blame { program: blame, text: "config.functionName" };
                let report = read_report(&output).await.map(|report| report.redacted(context.redactor()));
                judge(&finished, report, config, (&program, &blame), settings)
            }
        };
        Ok(outcome.with_usage(finished.usage))
    }
}

impl Report {
    /// Without secrets in what is cut to a length later: half of one would not be known any more.
    fn redacted(self, redactor: Option<&Redactor>) -> Self {
        match (self, redactor) {
            (Self::Raised { message, stack }, Some(redactor)) => {
                Self::Raised { message, stack: redactor.text(&stack).into_owned() }
            }
            (report, _) => report,
        }
    }
}

/// What the runner has written, if it came to that.
async fn read_report(path: &Path) -> Option<Report> {
    let text = tokio::fs::read(path).await.ok()?;
    serde_json::from_slice(&text).ok()
}

fn judge(
    finished: &Finished,
    report: Option<Report>,
    config: &FunctionConfig,
    (program, blame): (&str, &Blame),
    settings: &ExecutorSettings,
) -> Outcome {
    let FunctionConfig { module_path, function_name, .. } = config;
    let report = match (&finished.end, report) {
        (End::Exited(0), Some(report)) => report,
        (End::Exited(code), _) => {
            let message =
                format!("the process of {module_path}#{function_name} exited with code {code} before it returned");
            let (stderr, _) = finished.stderr.text(MAX_STACK);
            return Outcome::failure(ErrorType::UserError, message).with_stack(stderr);
        }
        (end, _) => match failure(end, program, blame) {
            Some(failure) => return failure,
            None => return Outcome::failure(ErrorType::SystemError, "the call of the function left no report"),
        },
    };
    match report {
        Report::Returned(value) => Outcome::success(Json::new(format!(r#"{{"success":true,"result":{value}}}"#))),
        Report::NoFunction(message) => invalid(&[("config.functionName".into(), message)]),
        Report::Raised { message, stack } => {
            let stack = &stack[..stack.floor_char_boundary(MAX_STACK)];
            Outcome::failure(ErrorType::UserError, message).with_stack(stack)
        }
        Report::TooLarge(bytes) => {
            let most = settings.max_result_bytes.saturating_sub(FRAME);
            Outcome::failure(ErrorType::UserError, format!("result is {bytes} bytes, more than {most}"))
        }
    }
}

/// The parameters of a run over those of the job: field by field where both are objects, else in their place.
fn laid_over(base: Option<&RawValue>, over: Option<&Json>) -> Result<String, serde_json::Error> {
    let over = over.map(|json| json.text.as_str()).filter(|text| !text.is_empty());
    let (base, over) = match (base.map(RawValue::get), over) {
        (base, None) => return Ok(base.unwrap_or("null").to_owned()),
        (None, Some(over)) => return Ok(over.to_owned()),
        (Some(base), Some(over)) => (base, over),
    };
    type Fields<'a> = BTreeMap<String, &'a RawValue>;
    match (serde_json::from_str::<Fields>(base), serde_json::from_str::<Fields>(over)) {
        (Ok(mut fields), Ok(more)) => {
            fields.extend(more);
            serde_json::to_string(&fields)
        }
        _ => Ok(over.to_owned()),
    }
}
