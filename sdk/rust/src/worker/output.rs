use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use chrono::Utc;
use orrery_proto::v1::LogStream;
use tokio::sync::Notify;

use super::lease::LeaseKey;
use super::logs::{Logs, Voice};
use crate::executor::Output;

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
}

impl TaskOutput {
    pub(super) fn new(key: LeaseKey, attempt: i32, desk: Arc<Desk>) -> Self {
        Self { key, attempt, desk, voice: Voice::default(), progressed: AtomicBool::new(false) }
    }

    /// The attempt is over, so what it writes from now on is lost. Whether it has written nothing.
    pub(super) fn end_silent(&self) -> bool {
        self.voice.end_silent()
    }

    /// The newest progress that has not been taken.
    pub(super) fn take_progress(&self) -> Option<i32> {
        self.progressed.load(Ordering::Acquire).then(|| self.desk.progress.take(&self.key)).flatten()
    }
}

impl Output for TaskOutput {
    fn log(&self, stream: LogStream, data: Bytes) {
        if !data.is_empty() {
            self.desk.logs.write(&self.key, self.attempt, &self.voice, stream, &data, Utc::now());
        }
    }

    fn progress(&self, percent: i32) {
        self.progressed.store(true, Ordering::Release);
        self.desk.progress.set(&self.key, percent.clamp(0, 100));
    }
}
