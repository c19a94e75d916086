use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use orrery_proto::v1::{Finished, LogChunk};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tracing::warn;

use super::disk::{Batch, Disk};
use super::replace::{remove, replace};
use super::{Journal, old};
use crate::worker::lease::LeaseKey;

/// How long removals wait to be written with something else. Where they are lost, results are told once more and refused.
const LINGER: Duration = Duration::from_millis(50);
/// How many of them wait.
const REMOVALS: usize = 8 * 1024;

/// A journal in a directory: `results-NUMBER.log`, segments that hold results and their removals, and `session`, the id of the session that
/// they belong to. Results that end at the same time share one write and one fsync. A journal of the form before, `results.jsonl`, is
/// taken over.
#[derive(Clone, Debug)]
pub struct FileJournal {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    disk: Mutex<Disk>,
    /// The file of the session's id.
    session: PathBuf,
}

/// What is to be written next.
#[derive(Debug, Default)]
struct Queue {
    batch: Batch,
    /// Who waits for it.
    waiting: Vec<oneshot::Sender<io::Result<()>>>,
    /// Somebody writes, and looks here again afterwards.
    writing: bool,
    /// Somebody will come for removals that wait alone.
    lingering: bool,
    /// The memory of an earlier batch.
    spare: Batch,
}

impl FileJournal {
    /// Opens the journal in `directory`, which is made if it is not there.
    ///
    /// # Errors
    /// Where it cannot be read or written, or another process holds it (`ErrorKind::WouldBlock`).
    pub fn open(directory: impl AsRef<Path>) -> io::Result<Self> {
        let directory = directory.as_ref();
        fs::create_dir_all(directory)?;
        let lock = File::create(directory.join("results.lock"))?;
        lock.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => io::Error::new(
                io::ErrorKind::WouldBlock,
                format!("another process uses the journal in {}", directory.display()),
            ),
            TryLockError::Error(e) => e,
        })?;
        let before = directory.join("results.jsonl");
        let disk = Disk::open(directory, old::read(&before)?, lock)?;
        // What was in it is in a segment now.
        remove(&before)?;
        let shared = Shared { queue: Mutex::default(), disk: Mutex::new(disk), session: directory.join("session") };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Queues results and waits until they are on disk.
    async fn store(&self, fill: impl FnOnce(&mut Batch) -> io::Result<()>) -> io::Result<()> {
        let (told, outcome) = oneshot::channel();
        {
            let mut queue = self.shared.queue();
            fill(&mut queue.batch)?;
            queue.waiting.push(told);
        }
        self.write();
        outcome.await.unwrap_or_else(|_| Err(io::Error::other("the journal was not written")))
    }

    /// Sees to it that what is queued is written.
    fn write(&self) {
        let writing = std::mem::replace(&mut self.shared.queue().writing, true);
        // Without the lock: a runtime that ends drops the writer here and now.
        if !writing {
            let writer = Writer { shared: self.shared.clone(), done: false };
            spawn_blocking(move || writer.run());
        }
    }

    /// All that is wanted, removals that wait counted.
    async fn read(&self) -> io::Result<Vec<(Finished, Vec<LogChunk>)>> {
        let shared = self.shared.clone();
        let read = move || {
            shared.flush();
            shared.disk().read()
        };
        spawn_blocking(read).await.map_err(io::Error::other)?
    }
}

#[async_trait]
impl Journal for FileJournal {
    async fn record(&self, finished: &Finished) -> io::Result<()> {
        self.record_with(finished, &[]).await
    }

    async fn record_with(&self, finished: &Finished, tail: &[LogChunk]) -> io::Result<()> {
        self.store(|batch| batch.record(finished, tail)).await
    }

    async fn record_all(&self, results: &[Finished]) -> io::Result<()> {
        self.store(|batch| results.iter().try_for_each(|finished| batch.record(finished, &[]))).await
    }

    fn forget(&self, execution_id: &str, epoch: i64) {
        let (many, alone) = {
            let mut queue = self.shared.queue();
            queue.batch.forget(LeaseKey::new(execution_id, epoch));
            let many = queue.batch.len() >= REMOVALS;
            (many, !many && !queue.writing && !std::mem::replace(&mut queue.lingering, true))
        };
        if many {
            self.write();
        } else if alone {
            tokio::spawn(linger(Arc::downgrade(&self.shared)));
        }
    }

    async fn load(&self) -> io::Result<Vec<Finished>> {
        Ok(self.read().await?.into_iter().map(|(finished, _)| finished).collect())
    }

    async fn tails(&self) -> io::Result<Vec<LogChunk>> {
        Ok(self.read().await?.into_iter().flat_map(|(_, tail)| tail).collect())
    }

    fn keeps_session(&self) -> bool {
        true
    }

    async fn keep_session(&self, session_id: Option<&str>) -> io::Result<()> {
        let (shared, id) = (self.shared.clone(), session_id.map(str::to_owned));
        let write = move || match id {
            Some(id) => replace(&shared.session, id.as_bytes()),
            None => remove(&shared.session),
        };
        spawn_blocking(write).await.map_err(io::Error::other)?
    }

    async fn session(&self) -> io::Result<Option<String>> {
        match fs::read(&self.shared.session) {
            Ok(bytes) => Ok(String::from_utf8(bytes).ok().filter(|id| !id.is_empty())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Writes removals that nothing else came to be written with.
async fn linger(shared: Weak<Shared>) {
    tokio::time::sleep(LINGER).await;
    let Some(shared) = shared.upgrade() else { return };
    let waits = {
        let mut queue = shared.queue();
        queue.lingering = false;
        !queue.batch.is_empty()
    };
    if waits {
        FileJournal { shared }.write();
    }
}

/// Who writes what is queued, for as long as there is something.
struct Writer {
    shared: Arc<Shared>,
    done: bool,
}

impl Writer {
    fn run(mut self) {
        while self.shared.flush() {}
        self.done = true;
    }
}

impl Drop for Writer {
    /// It never came to write, as at the end of a runtime: nobody is left waiting for it, and the next result that comes is written.
    fn drop(&mut self) {
        if !self.done {
            let mut queue = self.shared.queue();
            queue.writing = false;
            queue.waiting.clear();
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what is queued and tells those who wait for it; `false` where there was nothing.
    fn flush(&self) -> bool {
        let mut disk = self.disk();
        let (mut batch, waiting) = {
            let mut queue = self.queue();
            if queue.batch.is_empty() {
                // Under the lock: who queues after this sees that nobody writes any more.
                queue.writing = false;
                return false;
            }
            let spare = std::mem::take(&mut queue.spare);
            (std::mem::replace(&mut queue.batch, spare), std::mem::take(&mut queue.waiting))
        };
        let written = disk.write(&batch);
        drop(disk);
        if let Err(error) = &written
            && waiting.is_empty()
        {
            warn!(%error, "the journal of results cannot be written");
        }
        for told in waiting {
            let outcome = written.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()));
            let _ = told.send(outcome.copied());
        }
        batch.clear();
        self.queue().spare = batch;
        true
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
