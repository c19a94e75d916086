use std::sync::Arc;
use std::time::Duration;

use orrery_proto::v1::coordinator_message::Kind;
use orrery_proto::v1::{HeartbeatAck, HeldLease};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Dispatch;
use crate::store::DynStore;

/// A heartbeat that waits to be stored.
#[derive(Clone, Debug)]
pub(crate) struct Beat {
    pub(crate) session: Uuid,
    pub(crate) attachment: i64,
    pub(crate) sequence: u64,
    /// Leases the agent named that are not its own.
    pub(crate) revoked: Vec<HeldLease>,
}

/// The way in for heartbeats.
#[derive(Clone)]
pub(crate) struct Heart {
    beats: mpsc::Sender<Beat>,
}

/// Renews sessions, all that have beaten in one statement, and acknowledges once it is stored: an agent must never trust its session for
/// longer than the database does.
pub struct Renewals {
    store: DynStore,
    dispatch: Arc<Dispatch>,
    ttl: Duration,
    beats: mpsc::Receiver<Beat>,
}

impl Heart {
    /// Takes a heartbeat.
    pub(crate) async fn beat(&self, beat: Beat) {
        let _ = self.beats.send(beat).await;
    }
}

impl Renewals {
    pub(crate) fn new(store: DynStore, dispatch: Arc<Dispatch>, ttl: Duration) -> (Heart, Self) {
        let (sender, beats) = mpsc::channel(8192);
        (Heart { beats: sender }, Self { store, dispatch, ttl, beats })
    }

    /// Renews until the end.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut batch = Vec::new();
        loop {
            let came = tokio::select! {
                () = shutdown.cancelled() => return,
                came = self.beats.recv_many(&mut batch, 8192) => came,
            };
            if came == 0 {
                return;
            }
            self.renew(&batch).await;
            batch.clear();
        }
    }

    async fn renew(&self, batch: &[Beat]) {
        let sessions: Vec<(Uuid, i64)> = batch.iter().map(|beat| (beat.session, beat.attachment)).collect();
        match self.store.renew_sessions(&sessions, self.ttl).await {
            Ok(renewed) => {
                for beat in batch {
                    if renewed.contains(&beat.session) {
                        let ack = HeartbeatAck { sequence: beat.sequence, revoked: beat.revoked.clone() };
                        self.dispatch
                            .on(beat.session, beat.attachment, |attached| attached.send(Kind::HeartbeatAck(ack)));
                    } else {
                        tracing::warn!(session = %beat.session, "a heartbeat came for a session that is over; its agent begins anew");
                        self.dispatch.expel_from(beat.session, beat.attachment);
                    }
                }
            }
            // No acknowledgement: agents count from the last one, and beat again.
            Err(error) => tracing::warn!(%error, sessions = sessions.len(), "sessions could not be renewed"),
        }
    }
}
