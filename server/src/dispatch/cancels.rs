use std::collections::HashSet;
use std::sync::Arc;

use orrery_proto::v1::Cancel;
use orrery_proto::v1::coordinator_message::Kind;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Dispatch;
use crate::reconcile::{Pace, Signals, rest};
use crate::store::{DynStore, Wanted};

/// Tells this coordinator's agents to stop what somebody wants to end, and to give back what they hold ahead of its instant for a job that has
/// changed, wherever that was asked for.
pub struct Cancels {
    pub store: DynStore,
    pub dispatch: Arc<Dispatch>,
    pub signals: Arc<Signals>,
}

impl Cancels {
    /// Goes on until the end.
    pub async fn run(self, shutdown: CancellationToken) {
        // What has been told on which attachment: a stream that was lost may have lost the word too. A lease that is gone leaves the
        // answer of the store, and so this set.
        let mut told: HashSet<(Wanted, i64)> = HashSet::new();
        let mut pace = Pace::default();
        loop {
            let sessions = self.dispatch.ids();
            if !sessions.is_empty() {
                match self.store.cancels(&sessions).await {
                    Ok(wanted) => {
                        told = wanted.into_iter().filter_map(|wanted| self.tell(wanted, &told)).collect();
                    }
                    Err(error) => tracing::warn!(%error, "cancellations could not be read; trying again"),
                }
            }
            if !rest(&self.signals.cancel, Instant::now() + pace.after(!told.is_empty()), &shutdown).await {
                return;
            }
        }
    }

    /// Tells an agent, unless it has been told on this attachment.
    fn tell(&self, wanted: Wanted, told: &HashSet<(Wanted, i64)>) -> Option<(Wanted, i64)> {
        let held = wanted.lease;
        self.dispatch.with(held.session_id, |attached| {
            // A lease that is granted and not yet sent cannot be cancelled there: it is told once it is sent.
            if !attached.holds(held.execution_id, held.epoch) {
                return None;
            }
            let key = (wanted, attached.attachment);
            if !told.contains(&key) {
                let execution_id = held.execution_id.to_string();
                let reason = if wanted.is_recall { "recalled" } else { "cancelled" };
                attached.send(Kind::Cancel(Cancel { execution_id, epoch: held.epoch, reason: reason.into() }));
            }
            Some(key)
        })?
    }
}
