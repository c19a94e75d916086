use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use orrery_proto::v1::coordinator_message::Kind;
use orrery_proto::v1::{HeartbeatAck, HeldLease};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Dispatch;
use crate::store::DynStore;

/// When what could not be stored is tried again.
const AGAIN: Duration = Duration::from_millis(250);
const FOR_EVER: Duration = Duration::from_secs(86_400);

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
        // The newest heartbeat of each session that is not stored yet.
        let mut waiting: BTreeMap<Uuid, Beat> = BTreeMap::new();
        loop {
            let again = if waiting.is_empty() { FOR_EVER } else { AGAIN };
            let came = tokio::select! {
                () = shutdown.cancelled() => return,
                came = self.beats.recv_many(&mut batch, 8192) => came,
                () = tokio::time::sleep(again) => usize::MAX,
            };
            if came == 0 {
                return;
            }
            for beat in batch.drain(..) {
                join(&mut waiting, beat);
            }
            waiting = self.renew(waiting).await;
        }
    }

    /// Renews; answers with what is to be tried again.
    async fn renew(&self, mut beats: BTreeMap<Uuid, Beat>) -> BTreeMap<Uuid, Beat> {
        // Whose stream has ended beats no more, here at least.
        {
            let registry = self.dispatch.lock();
            beats.retain(|id, beat| registry.get(*id).is_some_and(|session| session.attachment == beat.attachment));
        }
        let sessions: Vec<(Uuid, i64)> = beats.values().map(|beat| (beat.session, beat.attachment)).collect();
        if sessions.is_empty() {
            return beats;
        }
        let done = match self.store.renew_sessions(&sessions, self.ttl).await {
            Ok(done) => done,
            Err(error) => {
                // Agents count from the last acknowledgement. As soon as the database is back they are renewed, without waiting for their
                // next heartbeat.
                tracing::warn!(%error, sessions = sessions.len(), "sessions could not be renewed; trying again");
                return beats;
            }
        };
        let renewed: HashSet<Uuid> = done.renewed.into_iter().collect();
        let busy: HashSet<Uuid> = done.busy.into_iter().collect();
        let mut again = BTreeMap::new();
        for (id, beat) in beats {
            if renewed.contains(&id) {
                let ack = HeartbeatAck { sequence: beat.sequence, revoked: beat.revoked };
                self.dispatch.on(id, beat.attachment, |attached| {
                    attached.told(beat.sequence, Instant::now());
                    attached.send(Kind::HeartbeatAck(ack))
                });
            } else if busy.contains(&id) {
                again.insert(id, beat);
            } else {
                tracing::warn!(session = %id, "a heartbeat came for a session that is over; its agent begins anew");
                self.dispatch.expel_from(id, beat.attachment);
            }
        }
        again
    }
}

/// A newer heartbeat takes the place of an older one; what the older one was to be told is told with it.
fn join(waiting: &mut BTreeMap<Uuid, Beat>, beat: Beat) {
    match waiting.get_mut(&beat.session) {
        Some(older) if older.attachment == beat.attachment => {
            let revoked = std::mem::take(&mut older.revoked);
            *older = beat;
            older.revoked.extend(revoked);
        }
        Some(newer) if newer.attachment > beat.attachment => {}
        _ => {
            waiting.insert(beat.session, beat);
        }
    }
}
