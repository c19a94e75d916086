//! Where results wait until a coordinator has acknowledged them.

mod disk;
mod file;
mod frame;
mod old;
mod replace;

use std::io;

use async_trait::async_trait;
use futures_util::future::join_all;
use orrery_proto::v1::{Finished, LogChunk};

pub use file::FileJournal;

/// Keeps results until they are acknowledged, so that what was done is told even by the next process. Results can be told only under the
/// session that their leases belong to, so it keeps that as well.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// Stores a result. Once it has returned, the result survives what the journal promises to survive.
    ///
    /// # Errors
    /// Where it cannot be stored. The worker says so in its log and sends the result all the same.
    async fn record(&self, finished: &Finished) -> io::Result<()>;

    /// The same with the last output of the attempt that no coordinator has acknowledged. A journal that does not keep it stores the result.
    ///
    /// # Errors
    /// As those of [`Journal::record`].
    async fn record_with(&self, finished: &Finished, _tail: &[LogChunk]) -> io::Result<()> {
        self.record(finished).await
    }

    /// Stores several results that ended together, none of which has output to keep. Once it has returned, all of them survive.
    ///
    /// # Errors
    /// Where any of them cannot be stored.
    async fn record_all(&self, results: &[Finished]) -> io::Result<()> {
        let stored = join_all(results.iter().map(|finished| self.record(finished))).await;
        stored.into_iter().collect()
    }

    /// The output that was stored with results which are still wanted, that of each attempt in order.
    ///
    /// # Errors
    /// Where the journal cannot be read.
    async fn tails(&self) -> io::Result<Vec<LogChunk>> {
        Ok(Vec::new())
    }

    /// The result of this execution and epoch is wanted no more. Never blocks; where the removal is lost, the result is told once more and
    /// refused.
    fn forget(&self, execution_id: &str, epoch: i64);

    /// What earlier processes left.
    ///
    /// # Errors
    /// Where the journal cannot be read.
    async fn load(&self) -> io::Result<Vec<Finished>>;

    /// Whether [`Journal::keep_session`] keeps anything. A worker that ends with results untold then leaves its session open, so that the
    /// next process can resume it.
    fn keeps_session(&self) -> bool {
        false
    }

    /// Stores the id of the worker's session in place of the one before; `None` where it is over.
    ///
    /// # Errors
    /// Where it cannot be stored. The worker says so in its log; the next process will not be able to tell results of this one.
    async fn keep_session(&self, _session_id: Option<&str>) -> io::Result<()> {
        Ok(())
    }

    /// The id of the session that was stored last, if it was not over.
    ///
    /// # Errors
    /// Where the journal cannot be read.
    async fn session(&self) -> io::Result<Option<String>> {
        Ok(None)
    }
}

/// What an earlier process left.
#[derive(Debug, Default)]
pub(super) struct Left {
    pub(super) session_id: Option<String>,
    pub(super) results: Vec<Finished>,
    pub(super) logs: Vec<LogChunk>,
}

/// Keeps nothing: a worker holds its results in memory anyway, and with the process they are lost.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoJournal;

#[async_trait]
impl Journal for NoJournal {
    async fn record(&self, _: &Finished) -> io::Result<()> {
        Ok(())
    }

    async fn record_all(&self, _: &[Finished]) -> io::Result<()> {
        Ok(())
    }

    fn forget(&self, _: &str, _: i64) {}

    async fn load(&self) -> io::Result<Vec<Finished>> {
        Ok(Vec::new())
    }
}
