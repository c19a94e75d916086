//! The jobs that are a process: a command, a shell script, a Python script.

use std::io;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use orrery_proto::Json;
use orrery_proto::v1::ErrorType;
use orrery_sdk::config::{CommandConfig, ProcessConfig, PythonConfig, PythonSource, ShellConfig};
use orrery_sdk::executor::{Context, Executor, Outcome, Task};
use rustix::process::Signal;
use serde_json::json;

use super::environment::environment;
use super::process::{End, Finished, Launch, run};
use super::{ExecutorSettings, invalid, stopped};

/// Runs a program.
pub(super) struct Command(pub(super) Arc<ExecutorSettings>);

/// Runs a text by `/bin/sh`.
pub(super) struct Shell(pub(super) Arc<ExecutorSettings>);

/// Runs Python source.
pub(super) struct Python(pub(super) Arc<ExecutorSettings>);

#[async_trait]
impl Executor for Command {
    async fn run(&self, task: Task, context: Context) -> Outcome {
        match CommandConfig::parse(&task.config.text) {
            Ok(CommandConfig { command, args, process }) => {
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
        let program = self.0.python.to_string_lossy().into_owned();
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

async fn execute(
    settings: &ExecutorSettings,
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
    let environment = environment(task, process.environment);
    let launch = Launch { program: program.clone(), args, directory: process.working_directory, environment };
    let finished = run(settings, launch, task.timeout, context).await;
    let outcome = match context.stop_reason() {
        Some(reason) => stopped(reason, task),
        None => match failure(&finished.end, &program, blame) {
            Some(failure) => failure,
            None => Outcome::success(Json::default()),
        },
    };
    let outcome = outcome.with_usage(finished.usage);
    match result(&finished, outcome.failure.is_none(), settings) {
        Some(result) => outcome.with_result(result),
        None => outcome,
    }
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
fn result(finished: &Finished, success: bool, settings: &ExecutorSettings) -> Option<Json> {
    // As shells count: 128 and the signal.
    let (code, signal) = match finished.end {
        End::Exited(code) => (Some(code), None),
        End::Killed(signal) => (Some(128 + signal), Some(signal)),
        End::Deadline | End::LeaseOver => (Some(128 + Signal::KILL.as_raw()), Some(Signal::KILL.as_raw())),
        End::Lost(_) => (None, None),
        End::NotStarted(_) => return None,
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
        let text = json!({"success": success, "result": body}).to_string();
        if text.len() <= settings.max_result_bytes || limit == 0 {
            return Some(Json::new(text));
        }
        // Escapes and replaced bytes have made it longer than the output.
        limit /= 2;
    }
}
