//! The jobs that are a process: a command, a shell script, a Python script.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use orrery_proto::Json;
use orrery_proto::v1::ErrorType;
use orrery_sdk::config::{CommandConfig, Problem, ProcessConfig, PythonConfig, PythonSource, ShellConfig, shell_in};
use orrery_sdk::executor::{Context, Executor, Outcome, Task};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::environment::environment;
use super::process::{End, Finished, Launch, run};
use super::{ExecutorSettings, Place, invalid, stopped};
use crate::sandbox::{Need, Sandbox};

/// Runs a program.
pub(super) struct Command(pub(super) Arc<Place>);

/// Runs a text by `/bin/sh`.
pub(super) struct Shell(pub(super) Arc<Place>);

/// Runs Python source.
pub(super) struct Python(pub(super) Arc<Place>);

#[async_trait]
impl Executor for Command {
    async fn run(&self, task: Task, context: Context) -> Outcome {
        match CommandConfig::parse(&task.config.text) {
            Ok(CommandConfig { command, args, process }) => {
                if let Some(problem) = shell_problem(&command, &args, &task) {
                    return invalid(&[problem]);
                }
                let blame = Blame { program: "config.command", text: "config.args" };
                execute(&self.0, (command, args), process, &blame, &task, &context).await
            }
            Err(problems) => invalid(&problems),
        }
    }
}

#[async_trait]
impl Executor for Shell {
    async fn run(&self, task: Task, context: Context) -> Outcome {
        match ShellConfig::parse(&task.config.text) {
            Ok(_) if !task.shell_allowed => {
                invalid(&[("jobType".into(), "is shell, and its tenant may not run shells".into())])
            }
            Ok(ShellConfig { script, args, process }) => {
                let mut all = vec!["-c".to_owned(), script, "sh".to_owned()];
                all.extend(args);
                let blame = Blame { program: "the shell", text: "config.script" };
                execute(&self.0, ("/bin/sh".into(), all), process, &blame, &task, &context).await
            }
            Err(problems) => invalid(&problems),
        }
    }
}

#[async_trait]
impl Executor for Python {
    async fn run(&self, task: Task, context: Context) -> Outcome {
        let PythonConfig { source, args, mut process } = match PythonConfig::parse(&task.config.text) {
            Ok(config) => config,
            Err(problems) => return invalid(&problems),
        };
        let mut all = match source {
            PythonSource::Script(script) => vec!["-c".to_owned(), script],
            PythonSource::File(file) => {
                let path = Path::new(process.working_directory.as_deref().unwrap_or(".")).join(&file);
                if !tokio::fs::metadata(&path).await.is_ok_and(|found| found.is_file()) {
                    return invalid(&[("config.file".into(), format!("{} is no file on this agent", path.display()))]);
                }
                // A name that begins with a dash is a file's name all the same.
                vec![if file.starts_with('-') { format!("./{file}") } else { file }]
            }
        };
        all.extend(args);
        unbuffered(&mut process);
        let blame = Blame { program: "the agent's python", text: "config.script" };
        let program = self.0.settings.python.to_string_lossy().into_owned();
        execute(&self.0, (program, all), process, &blame, &task, &context).await
    }
}

/// So that Python's output is seen when it is written, and not in lumps.
pub(super) fn unbuffered(process: &mut ProcessConfig) {
    process.environment.entry("PYTHONUNBUFFERED".into()).or_insert_with(|| "1".into());
}

/// What to name where a program does not start.
pub(super) struct Blame {
    /// Where the program comes from.
    pub(super) program: &'static str,
    /// The argument that may be too long.
    pub(super) text: &'static str,
}

/// What stands in the way of a command of a tenant that may not run shells. The coordinator has looked at what the definition says; here
/// it is seen what the program is.
fn shell_problem(command: &str, args: &[String], task: &Task) -> Option<Problem> {
    if task.shell_allowed {
        return None;
    }
    let target = program_file(command).and_then(|file| file.canonicalize().ok());
    let real = target.as_deref().and_then(Path::to_str).unwrap_or(command);
    shell_in(command, args).or_else(|| shell_in(real, args)).map(|shell| {
        ("config.command".to_owned(), format!("{shell:?} runs a text as a shell, and its tenant may not run shells"))
    })
}

/// The file of a program: a path, or a name that is looked up in the agent's PATH.
fn program_file(command: &str) -> Option<PathBuf> {
    if command.contains('/') {
        return Some(command.into());
    }
    let path = super::environment::path();
    path.split(':').map(|dir| Path::new(dir).join(command)).find(|file| file.is_file())
}

async fn execute(
    place: &Place,
    (program, args): (String, Vec<String>),
    process: ProcessConfig,
    blame: &Blame,
    task: &Task,
    context: &Context,
) -> Outcome {
    if let Some(directory) = &process.working_directory
        && let Some(problem) = directory_problem(directory).await
    {
        return invalid(&[("config.workingDirectory".into(), problem)]);
    }
    let sandbox = match place.sandbox(task, process.sandbox.as_ref(), Need::default()).await {
        Ok(sandbox) => sandbox,
        Err(failure) => return failure,
    };
    let outcome = within(place, &sandbox, (program, args), process, blame, task, context).await;
    sandbox.leave().await;
    outcome
}

async fn within(
    place: &Place,
    sandbox: &Sandbox,
    (program, args): (String, Vec<String>),
    process: ProcessConfig,
    blame: &Blame,
    task: &Task,
    context: &Context,
) -> Outcome {
    if let Some(directory) = process.working_directory.as_deref().filter(|dir| !sandbox.shows(Path::new(dir))) {
        let hint = "leave it out, or have the agent open it to jobs by --sandbox-read or --sandbox-write";
        let message = format!("{directory} is not to be seen in a sandbox of this agent; {hint}");
        return invalid(&[("config.workingDirectory".into(), message)]);
    }
    let environment = environment(task, process.environment, sandbox.home().as_deref());
    let launch = Launch {
        program: program.clone(),
        args,
        directory: process.working_directory,
        environment,
        stdin: None,
        confinement: sandbox.confinement.clone(),
    };
    let finished = run(&place.settings, launch, task.timeout, context).await;
    let outcome = match context.stop_reason() {
        Some(reason) => stopped(reason, task),
        None => match failure(&finished.end, &program, blame) {
            Some(failure) => blamed(failure, sandbox.blame(finished.hits)),
            None => Outcome::success(Json::default()),
        },
    };
    let outcome = outcome.with_usage(finished.usage);
    match result(&finished, outcome.failure.is_none(), sandbox.metadata(), &place.settings) {
        Some(result) => outcome.with_result(result),
        None => outcome,
    }
}

/// A failure that a limit has to do with.
pub(super) fn blamed(mut outcome: Outcome, limit: Option<String>) -> Outcome {
    if let (Some(failure), Some(limit)) = (&mut outcome.failure, limit) {
        failure.message = format!("{}; {limit}", failure.message);
    }
    outcome
}

async fn directory_problem(directory: &str) -> Option<String> {
    match tokio::fs::metadata(directory).await {
        Ok(found) if found.is_dir() => None,
        Ok(_) => Some(format!("{directory} is no directory")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Some(format!("{directory} does not exist on this agent"))
        }
        Err(error) => Some(format!("{directory} cannot be used: {error}")),
    }
}

/// The failure that an end means; none where it is a success.
pub(super) fn failure(end: &End, program: &str, blame: &Blame) -> Option<Outcome> {
    let (error_type, message) = match end {
        End::Exited(0) => return None,
        End::Exited(code) => (ErrorType::UserError, format!("exited with code {code}")),
        End::Killed(signal) => (ErrorType::UserError, format!("killed by signal {signal}{}", signal_name(*signal))),
        End::Deadline => (ErrorType::Timeout, "killed at its deadline, since the agent had not stopped it".into()),
        End::LeaseOver => {
            (ErrorType::SystemError, "killed at the end of its lease, which the agent had not renewed".into())
        }
        End::Lost(message) => (ErrorType::SystemError, message.clone()),
        End::Uncontained(message) => (ErrorType::SystemError, format!("the sandbox could not be set up: {message}")),
        End::NotStarted(error) => not_started(error, program, blame),
    };
    Some(Outcome::failure(error_type, message))
}

fn not_started(error: &io::Error, program: &str, blame: &Blame) -> (ErrorType, String) {
    let Blame { program: field, text } = blame;
    match error.kind() {
        io::ErrorKind::NotFound => {
            let hint =
                "give a path or a name in PATH, and see that a script's first line names an interpreter that exists";
            (ErrorType::ValidationError, format!("{field}: {program:?} was not found on this agent; {hint}"))
        }
        io::ErrorKind::PermissionDenied => (
            ErrorType::ValidationError,
            format!("{field}: {program:?} may not be executed by this agent (permission denied)"),
        ),
        io::ErrorKind::ArgumentListTooLong => {
            let hint = "the system takes about 128 KiB for one argument or variable; put it into a file";
            (
                ErrorType::ValidationError,
                format!("{text}, or an environment variable or the parameters, is too long: {hint}"),
            )
        }
        // ENOEXEC.
        _ if error.raw_os_error() == Some(8) => {
            let hint = "a script needs a first line such as #!/bin/sh";
            (ErrorType::ValidationError, format!("{field}: {program:?} is no executable file; {hint}"))
        }
        _ => (ErrorType::SystemError, format!("{field}: {program:?} could not be started: {error}")),
    }
}

fn signal_name(signal: i32) -> String {
    let Some(signal) = Signal::from_named_raw(signal) else { return String::new() };
    let name = match signal {
        Signal::HUP => "SIGHUP",
        Signal::INT => "SIGINT",
        Signal::QUIT => "SIGQUIT",
        Signal::ILL => "SIGILL",
        Signal::ABORT => "SIGABRT",
        Signal::BUS => "SIGBUS",
        Signal::FPE => "SIGFPE",
        Signal::KILL => "SIGKILL",
        Signal::SEGV => "SIGSEGV",
        Signal::PIPE => "SIGPIPE",
        Signal::ALARM => "SIGALRM",
        Signal::TERM => "SIGTERM",
        Signal::XCPU => "SIGXCPU",
        Signal::XFSZ => "SIGXFSZ",
        _ => return String::new(),
    };
    format!(" ({name})")
}

/// The result of a process that has begun, within the bound.
fn result(finished: &Finished, success: bool, metadata: Option<Value>, settings: &ExecutorSettings) -> Option<Json> {
    // As shells count: 128 and the signal.
    let (code, signal) = match finished.end {
        End::Exited(code) => (Some(code), None),
        End::Killed(signal) => (Some(128 + signal), Some(signal)),
        End::Deadline | End::LeaseOver => (Some(128 + Signal::KILL.as_raw()), Some(Signal::KILL.as_raw())),
        End::Lost(_) => (None, None),
        End::NotStarted(_) | End::Uncontained(_) => return None,
    };
    let mut limit = settings.max_output_bytes;
    loop {
        let (stdout, stdout_cut) = finished.stdout.text(limit);
        let (stderr, stderr_cut) = finished.stderr.text(limit);
        let mut body = json!({"stdout": stdout, "stderr": stderr, "exitCode": code});
        if let Some(signal) = signal {
            body["signal"] = signal.into();
        }
        if stdout_cut {
            body["stdoutTruncated"] = true.into();
            body["stdoutBytes"] = finished.stdout.total().into();
        }
        if stderr_cut {
            body["stderrTruncated"] = true.into();
            body["stderrBytes"] = finished.stderr.total().into();
        }
        let mut whole = json!({"success": success, "result": body});
        if let Some(metadata) = &metadata {
            whole["metadata"] = metadata.clone();
        }
        let text = whole.to_string();
        if text.len() <= settings.max_result_bytes || limit == 0 {
            return Some(Json::new(text));
        }
        // Escapes and replaced bytes have made it longer than the output.
        limit /= 2;
    }
}
