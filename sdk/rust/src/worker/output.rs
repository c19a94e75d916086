use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use chrono::Utc;
use orrery_proto::Json;
use orrery_proto::v1::LogStream;
use tokio::sync::Notify;

use super::finished::Ending;
use super::lease::LeaseKey;
use super::logs::{Logs, Voice};
use crate::executor::{Failure, Outcome, Output};
use crate::secret::{Redactor, Stream};

/// The newest progress of each task that has any to report. Values between two looks at it are lost, the last never is.
#[derive(Debug, Default)]
pub(super) struct ProgressBoard {
    values: Mutex<HashMap<LeaseKey, i32>>,
    changed: Notify,
}

impl ProgressBoard {
    fn set(&self, key: &LeaseKey, percent: i32) {
        self.values.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), percent);
        self.changed.notify_one();
    }

    /// Completes once there may be something to take.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(super) fn take_all(&self) -> Vec<(LeaseKey, i32)> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner).drain().collect()
    }

    pub(super) fn take(&self, key: &LeaseKey) -> Option<i32> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner).remove(key)
    }
}

/// What the outputs of all tasks share.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) logs: Arc<Logs>,
    pub(super) progress: ProgressBoard,
}

/// What a task writes to. One that says nothing leaves no trace in what all share.
pub(crate) struct TaskOutput {
    pub(super) key: LeaseKey,
    pub(super) attempt: i32,
    pub(super) desk: Arc<Desk>,
    voice: Voice,
    progressed: AtomicBool,
    /// Where its lease came with secrets.
    redacting: Option<Redacting>,
}

/// What takes secrets out of all that an attempt says.
struct Redacting {
    redactor: Redactor,
    /// The streams of output that have begun; `None` once the attempt is over.
    streams: Mutex<Option<BTreeMap<LogStream, Stream>>>,
}

impl TaskOutput {
    pub(super) fn new(key: LeaseKey, attempt: i32, desk: Arc<Desk>) -> Self {
        Self { key, attempt, desk, voice: Voice::default(), progressed: AtomicBool::new(false), redacting: None }
    }

    /// The same, of which nothing passes that `redactor` looks for.
    pub(super) fn redacted_by(self, redactor: Redactor) -> Self {
        let streams = Mutex::new(Some(BTreeMap::new()));
        Self { redacting: Some(Redacting { redactor, streams }), ..self }
    }

    /// What looks for the attempt's secrets, if it has any.
    pub(crate) fn redactor(&self) -> Option<&Redactor> {
        self.redacting.as_ref().map(|redacting| &redacting.redactor)
    }

    /// The attempt is over, so what it writes from now on is lost. Whether it has written nothing.
    pub(super) fn end_silent(&self) -> bool {
        if let Some(redacting) = &self.redacting {
            // What was held back is no secret, now that nothing follows.
            for (stream, mut held) in redacting.streams().take().unwrap_or_default() {
                self.write(stream, &held.finish());
            }
        }
        self.voice.end_silent()
    }

    /// How the attempt ended, without its secrets.
    pub(super) fn redacted(&self, ending: Ending) -> Ending {
        let Some(redactor) = self.redactor() else { return ending };
        let text = |text: String| redactor.text(&text).into_owned();
        match ending {
            Ending::Returned(Outcome { result, failure, usage }) => Ending::Returned(Outcome {
                result: result.map(|json| Json::new(redactor.json(&json.text))),
                failure: failure.map(|failure| Failure {
                    message: text(failure.message),
                    stack: text(failure.stack),
                    ..failure
                }),
                usage,
            }),
            Ending::Panicked(message) => Ending::Panicked(text(message)),
            Ending::Aborted | Ending::LeftBehind => ending,
        }
    }

    fn write(&self, stream: LogStream, data: &[u8]) {
        if !data.is_empty() {
            self.desk.logs.write(&self.key, self.attempt, &self.voice, stream, data, Utc::now());
        }
    }

    /// The newest progress that has not been taken.
    pub(super) fn take_progress(&self) -> Option<i32> {
        self.progressed.load(Ordering::Acquire).then(|| self.desk.progress.take(&self.key)).flatten()
    }
}

impl Redacting {
    fn streams(&self) -> MutexGuard<'_, Option<BTreeMap<LogStream, Stream>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Output for TaskOutput {
    fn log(&self, stream: LogStream, data: Bytes) {
        let Some(redacting) = &self.redacting else { return self.write(stream, &data) };
        // Held while it is written, so that pieces stay in their order.
        let mut streams = redacting.streams();
        if let Some(streams) = streams.as_mut() {
            let begun = streams.entry(stream).or_insert_with(|| redacting.redactor.stream());
            self.write(stream, &begun.push(&data));
        }
    }

    fn progress(&self, percent: i32) {
        self.progressed.store(true, Ordering::Release);
        self.desk.progress.set(&self.key, percent.clamp(0, 100));
    }
}
