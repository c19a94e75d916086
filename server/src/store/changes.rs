use std::sync::Arc;

use tokio::sync::broadcast;
use uuid::Uuid;

/// Batches of executions that a slow watcher may lag behind; it then looks again at what it watches.
const CAPACITY: usize = 1024;

/// Tells those who watch executions, in this process, which of them have changed.
pub(super) struct Changes {
    watchers: broadcast::Sender<Arc<[Uuid]>>,
}

impl Default for Changes {
    fn default() -> Self {
        Self { watchers: broadcast::Sender::new(CAPACITY) }
    }
}

impl Changes {
    /// Costs nothing where nobody watches.
    pub(super) fn tell(&self, executions: &[Uuid]) {
        if !executions.is_empty() && self.watchers.receiver_count() > 0 {
            let _ = self.watchers.send(executions.into());
        }
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Arc<[Uuid]>> {
        self.watchers.subscribe()
    }
}
