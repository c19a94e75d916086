//! The output of all tasks on its way to the coordinator: a bounded buffer that never makes a task wait.

mod buffer;
#[cfg(test)]
mod tests;
mod utf8;

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use orrery_proto::v1::{LogChunk, LogStream};
use tokio::sync::Notify;

pub(super) use self::buffer::Batch;
use self::buffer::Inner;
use super::lease::LeaseKey;

/// The largest chunk.
const CHUNK: usize = 64 * 1024;

/// How much of an attempt's output is journalled with its result, in bytes.
const TAIL: usize = 16 * 1024;

/// Whether an attempt has written anything: most write nothing, and cost nothing here.
#[derive(Debug, Default)]
pub(super) struct Voice(AtomicU8);

const SILENT: u8 = 0;
const SPEAKS: u8 = 1;
const OVER: u8 = 2;

impl Voice {
    /// The attempt is over. Whether it has been silent; what it still writes is lost then.
    pub(super) fn end_silent(&self) -> bool {
        self.0.compare_exchange(SILENT, OVER, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Whether this is the first output.
    fn speaks_up(&self) -> bool {
        self.0.compare_exchange(SILENT, SPEAKS, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// How much output is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Of one attempt in all, in bytes.
    pub(super) attempt: u64,
    /// Of all attempts together, until it is acknowledged, in bytes.
    pub(super) buffer: usize,
}

/// The buffer. Shared by the tasks, which write, and the one that ships.
#[derive(Debug)]
pub(super) struct Logs {
    inner: Mutex<Inner>,
    /// Something can be shipped.
    grown: Notify,
    /// Something has been acknowledged.
    drained: Notify,
}

impl Logs {
    pub(super) fn new(budget: Budget) -> Self {
        Self { inner: Mutex::new(Inner::new(budget)), grown: Notify::new(), drained: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins the output of an attempt.
    #[cfg(test)]
    fn open(&self, key: &LeaseKey, attempt: i32) {
        self.lock().open(key, attempt);
    }

    /// Takes output of an attempt; drops and counts what does not fit. A character that is not whole yet waits for its rest.
    pub(super) fn write(
        &self,
        key: &LeaseKey,
        attempt: i32,
        voice: &Voice,
        stream: LogStream,
        data: &[u8],
        at: DateTime<Utc>,
    ) {
        let mut inner = self.lock();
        if voice.speaks_up() {
            inner.open(key, attempt);
        }
        self.add(inner, key, stream, data, at);
    }

    /// The same for an attempt that is open.
    #[cfg(test)]
    fn push(&self, key: &LeaseKey, stream: LogStream, data: &[u8], at: DateTime<Utc>) {
        self.add(self.lock(), key, stream, data, at);
    }

    fn add(&self, mut inner: MutexGuard<'_, Inner>, key: &LeaseKey, stream: LogStream, data: &[u8], at: DateTime<Utc>) {
        let was_idle = inner.ready.is_empty();
        inner.push(key, stream, data, at);
        if inner.used >= CHUNK {
            inner.urgent = true;
        }
        if (was_idle || inner.urgent) && !inner.ready.is_empty() {
            self.grown.notify_one();
        }
    }

    /// Ends the output of an attempt. Answers with the newest of it that is not stored, as far as it is kept for the next process.
    pub(super) fn seal(&self, key: &LeaseKey, at: DateTime<Utc>) -> Vec<LogChunk> {
        let mut inner = self.lock();
        inner.close(key, at);
        self.grown.notify_one();
        inner.tail(key, TAIL)
    }

    /// Takes up what earlier processes did not ship.
    pub(super) fn restore(&self, tails: Vec<LogChunk>) {
        let mut inner = self.lock();
        for chunk in tails {
            inner.restore(chunk);
        }
        self.grown.notify_one();
    }

    /// Ends the output of an attempt, says how much was dropped, and waits until all of it is stored, but no longer than `patience`.
    pub(super) async fn close(&self, key: &LeaseKey, at: DateTime<Utc>, patience: Duration) {
        if self.lock().close(key, at) {
            return;
        }
        self.grown.notify_one();
        let stored = async {
            loop {
                let drained = self.drained.notified();
                tokio::pin!(drained);
                // Registered before it looks: an acknowledgement between the look and the wait would be missed otherwise.
                drained.as_mut().enable();
                if !self.lock().tasks.contains_key(key) {
                    return;
                }
                drained.await;
            }
        };
        let _ = tokio::time::timeout(patience, stored).await;
    }

    /// Forgets the output of an attempt whose lease is lost.
    pub(super) fn discard(&self, key: &LeaseKey) {
        self.lock().discard(key);
        self.drained.notify_waiters();
    }

    /// Forgets all output; attempts that are open may go on.
    pub(super) fn clear(&self) {
        self.lock().clear();
        self.drained.notify_waiters();
    }

    /// Waits until a batch should be shipped: at once if it is urgent, after `window` otherwise, so that small pieces are joined.
    pub(super) async fn ready(&self, window: Duration) {
        loop {
            let grown = self.grown.notified();
            let (some, urgent) = {
                let inner = self.lock();
                (!inner.ready.is_empty(), inner.urgent)
            };
            if some && urgent {
                return;
            }
            if some {
                let _ = tokio::time::timeout(window, self.urgent()).await;
                return;
            }
            grown.await;
        }
    }

    async fn urgent(&self) {
        loop {
            let grown = self.grown.notified();
            if self.lock().urgent {
                return;
            }
            grown.await;
        }
    }

    /// The next batch, if there is output.
    pub(super) fn take(&self) -> Option<Batch> {
        self.lock().take()
    }

    /// A batch is stored.
    pub(super) fn settle(&self, batch: &Batch) {
        self.end(batch, true);
    }

    /// A batch is refused and given up; what was in it counts as dropped.
    pub(super) fn give_up(&self, batch: &Batch) {
        self.end(batch, false);
    }

    fn end(&self, batch: &Batch, stored: bool) {
        self.lock().settle(batch, stored, Utc::now());
        self.grown.notify_one();
        self.drained.notify_waiters();
    }
}
