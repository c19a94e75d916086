//! The agent as a program: what `orrery-agent` and `orrery agent` do.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use crate::config::{AgentArgs, LogFormat};
use crate::{Agent, AgentOptions};

/// Runs an agent until it is told to end. The program must come to [`crate::executor::supervise`] when its first argument is `supervise`.
pub fn run_program(args: AgentArgs) -> ExitCode {
    if let Err(message) = log(&args) {
        eprintln!("orrery-agent: {message}");
        return ExitCode::from(2);
    }
    // Jobs at the level none are processes of the agent's own user: its environment and memory hold what is not theirs.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable) {
        warn!(%error, "other processes of this user can read the agent's memory");
    }
    match start(args) {
        Ok(code) => code,
        Err(error) => {
            error!(%error, "cannot run");
            ExitCode::FAILURE
        }
    }
}

fn start(args: AgentArgs) -> io::Result<ExitCode> {
    let itself = std::env::current_exe()?;
    let supervisor = itself.to_str().map(|path| vec![path.to_owned(), "supervise".to_owned()]);
    let options = args.options(supervisor)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let code = runtime.block_on(run(options));
    // What is left was told to end at once; a thread that is stuck in a blocking call must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(2));
    code
}

/// Runs the agent. The first SIGTERM or SIGINT drains it, the second ends it at once.
async fn run(options: AgentOptions) -> io::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = CancellationToken::new();
    let agent = Box::pin(Agent::run(options, shutdown.clone()));
    tokio::pin!(agent);
    loop {
        tokio::select! {
            ended = &mut agent => return match ended {
                Ok(()) => Ok(ExitCode::SUCCESS),
                Err(error) => Err(io::Error::other(error)),
            },
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if shutdown.is_cancelled() {
            warn!("told to end twice; ending at once");
            return Ok(ExitCode::from(130));
        }
        info!("draining; a second signal ends at once");
        shutdown.cancel();
    }
}

fn log(args: &AgentArgs) -> Result<(), String> {
    let filter = EnvFilter::try_new(&args.log_level)
        .map_err(|e| format!("{:?} is no log level or filter: {e}", args.log_level))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let set = match args.log_format {
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).try_init(),
    };
    set.map_err(|e| format!("cannot write logs: {e}"))
}
