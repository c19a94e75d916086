//! Streams that follow an execution. They subscribe to hints before they read, read again at every hint that concerns them, and read
//! by a timer as well, since hints may be lost.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream};
use orrery_proto::v1;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tonic::Status;
use uuid::Uuid;

use super::{Api, CoordinatorInfo, convert};
use crate::error::{Error, Kind};
use crate::execution::Execution;
use crate::store::{DynStore, LogLine};

/// How long a lost hint can go unnoticed.
const INTERVAL: Duration = Duration::from_secs(1);
/// Lines that are read at once.
const LINES: i64 = 1000;
/// How often the output of a finished execution is still looked for: it travels apart from the result and may come after it.
const LAST_LOOKS: u32 = 2;

/// An execution that somebody follows.
pub(super) struct Watched {
    store: DynStore,
    info: Arc<CoordinatorInfo>,
    tenant: Uuid,
    id: Uuid,
    changes: Receiver<Arc<[Uuid]>>,
}

impl Watched {
    /// Subscribes; the first read must come after this.
    pub(super) fn subscribe(api: &Api, tenant: Uuid, id: Uuid) -> Self {
        let changes = api.store.changes();
        Self { store: Arc::clone(&api.store), info: Arc::clone(&api.info), tenant, id, changes }
    }

    /// The execution as it stands.
    pub(super) async fn read(&self) -> Result<Execution, Error> {
        if self.info.is_draining() {
            return Err(Error::new(Kind::Unavailable, "SHUTTING_DOWN", "the coordinator shuts down; follow it again"));
        }
        let found = self.store.execution(self.tenant, self.id).await?;
        found.ok_or_else(|| Error::execution_not_found(self.id))
    }

    /// Waits until the execution may have changed.
    async fn changed(&mut self) {
        let until = Instant::now() + INTERVAL;
        loop {
            match tokio::time::timeout_at(until, self.changes.recv()).await {
                Ok(Ok(changed)) if changed.contains(&self.id) => return,
                Ok(Ok(_)) => {}
                // Hints were missed; one of them may have been for this execution.
                Ok(Err(RecvError::Lagged(_))) => return,
                // There will be no more hints: the timer is left.
                Ok(Err(RecvError::Closed)) => return tokio::time::sleep_until(until).await,
                Err(_) => return,
            }
        }
    }
}

/// The execution now and at every change, until it is over.
pub(super) fn executions(
    watched: Watched,
    first: Execution,
) -> impl Stream<Item = Result<v1::Execution, Status>> + Send + 'static {
    let shown = convert::execution(&first);
    let start = Some((watched, shown.clone(), first.is_done()));
    let changes = stream::unfold(start, |state| async move {
        let (mut watched, shown, done) = state?;
        if done {
            return None;
        }
        loop {
            watched.changed().await;
            let execution = match watched.read().await {
                Ok(execution) => execution,
                Err(error) => return Some((Err(Status::from(error)), None)),
            };
            let now = convert::execution(&execution);
            if now != shown {
                return Some((Ok(now.clone()), Some((watched, now, execution.is_done()))));
            }
        }
    });
    futures_util::StreamExt::chain(stream::iter([Ok(shown)]), changes)
}

struct Following {
    watched: Watched,
    /// The sequence of the last line that was read.
    after: i64,
    lines: VecDeque<LogLine>,
    looks_left: u32,
}

/// What the execution printed and prints, until it is over.
pub(super) fn logs(watched: Watched, after: i64) -> impl Stream<Item = Result<v1::LogEntry, Status>> + Send + 'static {
    let start = Some(Following { watched, after, lines: VecDeque::new(), looks_left: LAST_LOOKS });
    stream::unfold(start, |state| async move {
        let mut following = state?;
        loop {
            if let Some(line) = following.lines.pop_front() {
                return Some((Ok(convert::log_entry(&line)), Some(following)));
            }
            match following.look().await {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some((Err(Status::from(error)), None)),
            }
        }
    })
}

impl Following {
    /// Reads what there is, and waits where there is nothing; `false` where nothing more will come.
    async fn look(&mut self) -> Result<bool, Error> {
        // Whether it is over is read before the lines: lines that were stored before its end are then seen for sure.
        let done = self.watched.read().await?.is_done();
        let Watched { store, tenant, id, .. } = &self.watched;
        let lines = store.logs(*tenant, *id, self.after, LINES).await?;
        if let Some(last) = lines.last() {
            self.after = last.sequence;
            self.lines = lines.into();
            return Ok(true);
        }
        if done {
            if self.looks_left == 0 {
                return Ok(false);
            }
            self.looks_left -= 1;
        }
        self.watched.changed().await;
        Ok(true)
    }
}
