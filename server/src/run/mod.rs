//! What the commands that serve do: `orrery dev`, `server` and `migrate`, and `key` and `admin`, which talk to the database.

pub mod admin;
pub mod demo;
pub mod dev;
pub mod key;
mod listen;
mod live;
pub mod migrate;
mod opened;
pub mod server;

use std::process::ExitCode;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::store::StoreError;
use crate::telemetry::LogArgs;
use crate::telemetry::logging;

/// The file beside a database of development that holds its secret.
const KEY_FILE: &str = "server.key";

/// Why a command that serves has ended. The texts are for the person at the terminal.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{what} cannot listen on {address}: {source}; choose another one with {flag}")]
    Busy { what: &'static str, address: std::net::SocketAddr, flag: &'static str, source: std::io::Error },
    #[error("{0}")]
    Setting(String),
    #[error("{context}: {source}")]
    Store { context: String, source: StoreError },
    #[error(transparent)]
    Redis(#[from] crate::redis::AddressError),
    #[error(transparent)]
    Identity(#[from] crate::auth::IdentityError),
    #[error("secrets: {0}")]
    Encryption(#[from] crate::secret::EncryptionError),
    #[error(transparent)]
    Tls(#[from] crate::tls::TlsError),
    #[error(transparent)]
    Serve(#[from] crate::coordinator::ServeError),
    #[error("{0}: {1}")]
    Io(String, std::io::Error),
    #[error(transparent)]
    Logging(#[from] logging::LoggingError),
}

impl RunError {
    /// 2 where a setting is wrong, 1 otherwise.
    fn exit_code(&self) -> u8 {
        match self {
            Self::Setting(_)
            | Self::Redis(_)
            | Self::Identity(_)
            | Self::Encryption(_)
            | Self::Tls(_)
            | Self::Logging(_) => 2,
            _ => 1,
        }
    }
}

/// Runs a command on a runtime of its own, with logging set up, to the exit code of the process.
pub fn block_on<F: Future<Output = Result<(), RunError>>>(log: &LogArgs, command: F) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&RunError::Io("threads cannot be started".into(), error)),
    };
    let done = runtime.block_on(async {
        let guard = logging::init(log)?;
        let done = Box::pin(command).await;
        drop(guard);
        done
    });
    // What is left was told to end; a thread that is stuck in a blocking call must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(2));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

fn report(error: &RunError) -> ExitCode {
    eprintln!("orrery: {error}");
    ExitCode::from(error.exit_code())
}

/// A token that SIGINT and SIGTERM cancel. A second one ends the process at once, for those who are in a hurry.
///
/// # Errors
/// Where the signals cannot be listened to.
pub fn on_signals() -> Result<CancellationToken, RunError> {
    use tokio::signal::unix::{SignalKind, signal};
    let fail = |e| RunError::Io("signals cannot be listened to".into(), e);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(fail)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(fail)?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        cancelled.cancel();
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        std::process::exit(130);
    });
    Ok(token)
}
