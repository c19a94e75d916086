//! From the end of an executor to the result that can be told: its output is stored, and it is journalled.

use std::panic::AssertUnwindSafe;

use chrono::Utc;
use futures_util::FutureExt;
use orrery_proto::v1::Finished;
use tokio::time::Instant;
use tracing::error;

use super::{Runner, Workshop};
use crate::worker::attempt::FLUSH;
use crate::worker::finished::{Cause, Ending, conclude};
use crate::worker::lease::LeaseKey;
use crate::worker::reports::Report;

/// Batches that are journalled at a time: the second is queued at the journal while the first is written. What ends meanwhile is one batch.
const BATCHES: usize = 2;

impl Runner {
    /// Takes all that the attempts have told by now.
    pub(super) fn take_reports(&mut self) {
        let mut taken = std::mem::take(&mut self.taken);
        self.reports.take(&mut taken);
        let now = Instant::now();
        for report in taken.drain(..) {
            match report {
                Report::Waits(key, abort) => {
                    self.crew.goes_on(&key, abort);
                    self.state.goes_on(&key);
                }
                Report::Ended(key, ending) => self.ended(&key, ending, now),
                Report::Closed(key, finished) => self.state.ended(&key, finished, now),
                Report::Recorded(results) => {
                    self.recording -= 1;
                    for finished in results {
                        self.state.ended(&LeaseKey::from(&finished), Some(finished), now);
                    }
                }
            }
        }
        self.taken = taken;
    }

    /// An executor has ended, or is given up.
    pub(super) fn ended(&mut self, key: &LeaseKey, ending: Ending, now: Instant) {
        // Given up before, it has ended at last: that is told already.
        let Some(member) = self.crew.end(key) else { return };
        let output = member.context.task_output();
        if let Some(percent) = output.and_then(|output| output.take_progress()) {
            self.state.progressed(key, percent);
        }
        let ending = match output {
            Some(output) => output.redacted(ending),
            None => ending,
        };
        let left_behind = matches!(ending, Ending::LeftBehind);
        let took = now.saturating_duration_since(member.begin);
        let finished = conclude(key, ending, member.cause, member.timeout, took, self.workshop.limits);
        self.left_behind |= left_behind && finished.is_none();
        let silent = output.is_none_or(|output| output.end_silent());
        match finished {
            Some(mut finished) => {
                if !silent {
                    // The result waits for its output on another stream.
                    self.state.goes_on(key);
                }
                self.state.worked(key, &mut finished);
                if silent {
                    self.unrecorded.push(finished);
                } else {
                    self.close(self.workshop.clone().store(key.clone(), finished));
                }
            }
            None if silent => self.state.ended(key, None, now),
            // It could not be stopped. Its lease is still its own, so its output is told all the same.
            None if member.cause == Some(Cause::ShutDown) => self.close(self.workshop.clone().flush(key.clone())),
            None => {
                self.workshop.desk.logs.discard(key);
                self.state.ended(key, None, now);
            }
        }
    }

    /// Journals what has ended since, together.
    pub(super) fn record(&mut self) {
        if self.unrecorded.is_empty() || self.recording >= BATCHES {
            return;
        }
        self.recording += 1;
        let results = std::mem::take(&mut self.unrecorded);
        let (journal, reports) = (self.workshop.journal.clone(), self.reports.clone());
        tokio::spawn(async move {
            // A journal of the caller's may panic: that costs its results their safety, and not the worker.
            let stored = AssertUnwindSafe(journal.record_all(&results)).catch_unwind().await;
            if let Err(error) = stored.unwrap_or_else(|_| Err(std::io::Error::other("the journal panicked"))) {
                error!(%error, results = results.len(), "results cannot be journalled; they are lost if this process ends now");
            }
            reports.push(Report::Recorded(results), false);
        });
    }

    /// Sees an attempt that has written something to its end, apart.
    fn close(&self, closing: impl Future<Output = (LeaseKey, Option<Finished>)> + Send + 'static) {
        let reports = self.reports.clone();
        tokio::spawn(async move {
            let (key, finished) = closing.await;
            reports.push(Report::Closed(key, finished), false);
        });
    }
}

impl Workshop {
    /// Journals a result with the end of its output, while that is being stored.
    async fn store(self, key: LeaseKey, finished: Finished) -> (LeaseKey, Option<Finished>) {
        let logs = &self.desk.logs;
        let tail = logs.seal(&key, Utc::now());
        let stored = AssertUnwindSafe(self.journal.record_with(&finished, &tail)).catch_unwind();
        let (stored, ()) = tokio::join!(stored, logs.close(&key, Utc::now(), FLUSH));
        if let Err(error) = stored.unwrap_or_else(|_| Err(std::io::Error::other("the journal panicked"))) {
            error!(%error, lease = %key, "the result cannot be journalled; it is lost if this process ends now");
        }
        (key, Some(finished))
    }

    /// Waits until its output is stored.
    async fn flush(self, key: LeaseKey) -> (LeaseKey, Option<Finished>) {
        self.desk.logs.close(&key, Utc::now(), FLUSH).await;
        (key, None)
    }
}
