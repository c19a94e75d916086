//! What the agent can run: http calls, commands, shell and Python scripts, and functions of Python and Node modules.

mod capture;
mod command;
mod entrance;
mod environment;
mod function;
mod http;
mod leader;
mod module;
mod place;
mod process;
mod supervise;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use orrery_proto::v1::ErrorType;
use orrery_sdk::config::Problem;
use orrery_sdk::executor::{Executor, Outcome, StopReason, Task};

pub(crate) use self::place::Place;
pub use self::supervise::supervise;
use crate::egress::Policy;
use crate::sandbox::SandboxSettings;

/// How the executors of an agent behave.
#[derive(Clone, Debug)]
pub struct ExecutorSettings {
    /// From SIGTERM to SIGKILL, when a process is cancelled or out of time.
    pub grace: Duration,
    /// Where Python and Node modules may come from; functions are not run at all where there is none.
    pub function_dirs: Vec<PathBuf>,
    /// The Python of python jobs and functions: a path, or a name that is looked up in PATH.
    pub python: PathBuf,
    /// The Node of functions: a path, or a name that is looked up in PATH.
    pub node: PathBuf,
    /// The most bytes of JSON that a result has; what is longer is cut and says so.
    pub max_result_bytes: usize,
    /// The most bytes of stdout, and of stderr, that a result has. All of it goes to the log.
    pub max_output_bytes: usize,
    /// What http jobs call themselves.
    pub user_agent: String,
    /// Where http jobs may connect to; by default to the public internet only.
    pub egress: Policy,
    /// Program and leading arguments that end up in [`supervise`], such as the agent's own path and `supervise`. It lets processes end
    /// even where the agent dies by SIGKILL; where absent, the agent starts them itself and that is not so.
    pub supervisor: Option<Vec<String>>,
    /// How processes are contained. Without a supervisor none can be.
    pub sandbox: SandboxSettings,
}

impl Default for ExecutorSettings {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(5),
            function_dirs: Vec::new(),
            python: "python3".into(),
            node: "node".into(),
            max_result_bytes: 256 * 1024,
            max_output_bytes: 64 * 1024,
            user_agent: concat!("orrery-agent/", env!("CARGO_PKG_VERSION")).into(),
            egress: Policy::default(),
            supervisor: None,
            sandbox: SandboxSettings::default(),
        }
    }
}

/// The executors of an agent by the name of their job type. `function` is among them where there are directories for its modules.
pub fn executors(settings: ExecutorSettings) -> Vec<(String, Arc<dyn Executor>)> {
    executors_at(&Arc::new(Place::new(settings)))
}

/// The executors that work in a place.
pub(crate) fn executors_at(place: &Arc<Place>) -> Vec<(String, Arc<dyn Executor>)> {
    let mut all: Vec<(String, Arc<dyn Executor>)> = vec![
        ("http".into(), Arc::new(http::Http::new(&place.settings))),
        ("command".into(), Arc::new(command::Command(place.clone()))),
        ("shell".into(), Arc::new(command::Shell(place.clone()))),
        ("python".into(), Arc::new(command::Python(place.clone()))),
    ];
    if !place.settings.function_dirs.is_empty() {
        all.push(("function".into(), Arc::new(function::Function(place.clone()))));
    }
    all
}

/// The outcome of a config that cannot be run.
fn invalid(problems: &[Problem]) -> Outcome {
    let lines: Vec<String> = problems.iter().map(|(field, message)| format!("{field} {message}")).collect();
    Outcome::failure(ErrorType::ValidationError, lines.join("; "))
}

/// The outcome of a task that was told to stop. Its caller knows the reason as well and puts the right error type on it.
fn stopped(reason: StopReason, task: &Task) -> Outcome {
    let message = match reason {
        StopReason::Cancelled => "cancelled".into(),
        StopReason::TimedOut => format!("timed out after {} ms", task.timeout.as_millis()),
        StopReason::Revoked => "stopped, since the lease was lost".into(),
    };
    Outcome::failure(ErrorType::SystemError, message)
}
