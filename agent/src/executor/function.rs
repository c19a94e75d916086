//! Functions of Python and Node modules, each call in a process of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use orrery_proto::Json;
use orrery_proto::v1::ErrorType;
use orrery_sdk::config::{FunctionConfig, ProcessConfig, Runtime};
use orrery_sdk::executor::{Context, Executor, Outcome, Task};
use orrery_sdk::secret::Redactor;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::command::{Blame, blamed, failure, unbuffered};
use super::environment::environment;
use super::module::{Module, resolve};
use super::process::{End, Finished, Launch, run};
use super::{ExecutorSettings, Place, invalid, stopped};
use crate::sandbox::{Need, Sandbox, Scratch};

const PYTHON_RUNNER: &str = include_str!("runner.py");
const NODE_RUNNER: &str = include_str!("runner.js");
/// What `{"success":true,"result":...}` takes beside the result, also where it says how the call was contained.
const FRAME: usize = 32;
const FRAME_OF_SANDBOX: usize = 256;
/// The most bytes of a stack trace that are kept.
const MAX_STACK: usize = 16 * 1024;
/// The most bytes of a report beside what was returned: a message and a stack trace, of which more is cut off.
const MAX_REPORT: usize = 1024 * 1024;

/// Calls functions of the modules in the allowed directories.
pub(super) struct Function(pub(super) Arc<Place>);

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
        let module = match resolve(&self.0.settings.function_dirs, &config.module_path, config.runtime) {
            Ok(module) => module,
            Err(problem) => return invalid(&[problem]),
        };
        let need = Need { scratch: true, readable: Some(&module.root) };
        let sandbox = match self.0.sandbox(&task, config.sandbox.as_ref(), need).await {
            Ok(sandbox) => sandbox,
            Err(failure) => return failure,
        };
        let outcome = self.call((&module, &sandbox), &config, &parameters, &task, &context).await;
        sandbox.leave().await;
        outcome.unwrap_or_else(|error| {
            let message = format!("the files for the call of a function: {error}");
            Outcome::failure(ErrorType::SystemError, message)
        })
    }
}

/// What a function is called with, and where it leaves what it returned. The function may do with the paths what it likes: the agent reads
/// the very file that it has made, and no other that is put in its place.
struct Exchange {
    input: PathBuf,
    output: PathBuf,
    report: File,
}

impl Exchange {
    fn new(scratch: &Scratch, user: Option<u32>, parameters: &str) -> io::Result<Self> {
        let (input, output) = (scratch.call().join("parameters.json"), scratch.call().join("report.json"));
        let new = |path: &Path| File::options().read(true).write(true).create_new(true).mode(0o600).open(path);
        new(&input)?.write_all(parameters.as_bytes())?;
        let report = new(&output)?;
        scratch.give(&input, user)?;
        scratch.give(&output, user)?;
        Ok(Self { input, output, report })
    }

    /// What the runner has written, if it came to that, and it is not larger than any report of `most` bytes can be.
    fn read(mut self, most: usize) -> Option<Report> {
        let mut text = Vec::new();
        self.report.rewind().ok()?;
        let bound = u64::try_from(most.saturating_add(MAX_REPORT)).ok()?;
        (&self.report).take(bound).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }
}

impl Function {
    async fn call(
        &self,
        (module, sandbox): (&Module, &Sandbox),
        config: &FunctionConfig,
        parameters: &str,
        task: &Task,
        context: &Context,
    ) -> io::Result<Outcome> {
        let settings = &self.0.settings;
        let scratch = sandbox.scratch().ok_or_else(|| io::Error::other("there is no directory for them"))?;
        // Apart from stdin and stdout, which belong to the function.
        let exchange = Exchange::new(scratch, sandbox.user(), parameters)?;
        let most = largest(settings, sandbox);
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
            text(&sandbox.seen(&exchange.input)),
            text(&sandbox.seen(&exchange.output)),
        ]);
        args.push(most.to_string());
        let mut process = ProcessConfig::default();
        unbuffered(&mut process);
        let program = text(program);
        let launch = Launch {
            program: program.clone(),
            args,
            directory: Some(text(&module.root)),
            environment: environment(task, process.environment, sandbox.home().as_deref()),
            // The module itself: no path to it is followed once more.
            stdin: Some(module.source.clone()),
            confinement: sandbox.confinement.clone(),
        };
        let finished = run(settings, launch, task.timeout, context).await;
        let outcome = match context.stop_reason() {
            Some(reason) => stopped(reason, task),
            None => {
                let blame = Blame { program: blame, text: "config.functionName" };
                let report = exchange.read(most).map(|report| report.redacted(context.redactor()));
                let judged = judge(&finished, report, config, (&program, &blame), (most, sandbox));
                blamed(judged, sandbox.blame(finished.hits))
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

/// The most bytes of what a function returns.
fn largest(settings: &ExecutorSettings, sandbox: &Sandbox) -> usize {
    let frame = if sandbox.metadata().is_some() { FRAME_OF_SANDBOX } else { FRAME };
    settings.max_result_bytes.saturating_sub(frame)
}

fn judge(
    finished: &Finished,
    report: Option<Report>,
    config: &FunctionConfig,
    (program, blame): (&str, &Blame),
    (most, sandbox): (usize, &Sandbox),
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
        Report::Returned(value) => {
            let metadata = sandbox.metadata().map(|metadata| format!(r#","metadata":{metadata}"#)).unwrap_or_default();
            Outcome::success(Json::new(format!(r#"{{"success":true,"result":{value}{metadata}}}"#)))
        }
        Report::NoFunction(message) => invalid(&[("config.functionName".into(), message)]),
        Report::Raised { message, stack } => {
            let stack = &stack[..stack.floor_char_boundary(MAX_STACK)];
            Outcome::failure(ErrorType::UserError, message).with_stack(stack)
        }
        Report::TooLarge(bytes) => {
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
