//! A worker: holds a session with a coordinator and runs what it is granted.

mod attempt;
mod backoff;
mod builder;
mod crew;
mod finished;
pub mod journal;
mod lease;
mod line;
mod link;
mod logs;
mod output;
mod reports;
mod runner;
mod ship;
mod state;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub use self::builder::WorkerBuilder;
use self::journal::{Journal, Left};
pub(crate) use self::output::TaskOutput;
use self::runner::{Parts, Runner};
use crate::error::Error;

/// The longest from the end of a stopped task's grace to its report.
pub const AFTER_GRACE: Duration = attempt::AFTER_GRACE;
/// The longest grace that a worker takes; see [`WorkerBuilder::grace`].
pub const LONGEST_GRACE: Duration = attempt::LONGEST_GRACE;

/// A worker that is ready to run. Made by [`Worker::builder`].
pub struct Worker {
    make: Box<dyn FnOnce(Left) -> Parts + Send>,
    journal: Arc<dyn Journal>,
}

/// Why a worker cannot run. Coordinators that cannot be reached or refuse it are no reason: it tries on for ever.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// An address or a credential cannot be used.
    #[error("{0}")]
    Options(#[from] Error),
    /// Something it cannot do without is missing, or makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The journal cannot be opened or read.
    #[error("the journal of results: {0}")]
    Journal(#[from] io::Error),
}

impl Worker {
    /// Begins to describe a worker.
    pub fn builder() -> WorkerBuilder {
        WorkerBuilder::default()
    }

    /// Runs until `shutdown`: then it takes no further work, waits for what runs (up to the drain timeout, after which that is
    /// stopped), sends the results and ends its session, so that what was stopped before it was done runs elsewhere, as far as its job allows
    /// that. Dropping the future instead ends everything at once: tasks are dropped where they
    /// wait, and results are told by the next process if there is a journal.
    ///
    /// # Errors
    /// [`WorkerError::Journal`] where the journal cannot be read.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), WorkerError> {
        let left = Left {
            session_id: self.journal.session().await?,
            results: self.journal.load().await?,
            logs: self.journal.tails().await?,
        };
        if !left.results.is_empty() {
            tracing::info!(
                results = left.results.len(),
                session = left.session_id,
                "an earlier run left results untold"
            );
        }
        let runner = Runner::new((self.make)(left));
        // On a thread of the runtime's own, where waking it and its tasks costs little, wherever the caller is.
        match AbortOnDropHandle::new(tokio::spawn(runner.run(shutdown))).await {
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            _ => Ok(()),
        }
    }
}
