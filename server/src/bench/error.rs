use std::path::Path;

use crate::run::RunError;
use crate::store::StoreError;

/// Why something could not be measured. The texts are for the person at the terminal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("a statement failed: {0}")]
    Sql(#[from] sqlx::Error),
    #[error("the database cannot be prepared: {0}")]
    Store(#[from] StoreError),
    #[error("a call failed: {0}")]
    Call(#[from] orrery_sdk::Error),
    #[error("a REST call failed: {0}")]
    Rest(#[from] reqwest::Error),
    #[error("a worker failed: {0}")]
    Worker(#[from] orrery_sdk::WorkerError),
    #[error(transparent)]
    Run(#[from] RunError),
    /// Something is missing on this machine, or a setting makes no sense.
    #[error("{0}")]
    Setting(String),
    /// It did not come to what was waited for.
    #[error("{0}")]
    Failed(String),
    /// SIGINT or SIGTERM.
    #[error("interrupted")]
    Interrupted,
}

/// What a measurement ends with.
pub(super) type Result<T, E = BenchError> = std::result::Result<T, E>;

/// An error that says what did not happen.
pub(super) fn failed(text: impl Into<String>) -> BenchError {
    BenchError::Failed(text.into())
}

/// Says what was tried where the system refused it.
pub(super) trait Tried<T> {
    /// The result, with `what` in its error.
    fn tried(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Tried<T> for std::io::Result<T> {
    fn tried(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| BenchError::Io { what: what(), source })
    }
}

/// Text for errors about a path.
pub(super) fn path(what: &str, path: &Path) -> impl FnOnce() -> String {
    let text = format!("{what} {}", path.display());
    move || text
}
