use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use chrono::Utc;
use orrery_proto::v1::LogStream;
use tokio::sync::Notify;

use super::lease::LeaseKey;
use super::logs::Logs;
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

/// What a task writes to.
pub(super) struct TaskOutput {
    pub(super) key: LeaseKey,
    pub(super) logs: Arc<Logs>,
    pub(super) progress: Arc<ProgressBoard>,
}

impl Output for TaskOutput {
    fn log(&self, stream: LogStream, data: Bytes) {
        if !data.is_empty() {
            self.logs.push(&self.key, stream, &data, Utc::now());
        }
    }

    fn progress(&self, percent: i32) {
        self.progress.set(&self.key, percent.clamp(0, 100));
    }
}
