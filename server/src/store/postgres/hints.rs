//! Hints between coordinators, over LISTEN and NOTIFY. Losing one costs latency only.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::store::Wake;

/// Hints that a slow receiver may lag behind; it then looks at everything.
const CAPACITY: usize = 4096;
/// At most one notification of each kind in this time: every NOTIFY takes a lock of the whole database when it commits.
const PAUSE: Duration = Duration::from_millis(5);
/// The kinds that travel, by their bit.
const KINDS: [(u8, &str, Wake); 3] = [(1, "plan", Wake::Plan), (2, "work", Wake::Work), (4, "cancel", Wake::Cancel)];

/// Gives hints to everybody here, and passes them on to other coordinators.
pub(super) struct Hints {
    local: broadcast::Sender<Wake>,
    /// Those that were told here, without those that came from elsewhere.
    told: broadcast::Sender<Wake>,
    waiting: Arc<Waiting>,
    /// Ends the tasks when the store goes.
    _tasks: JoinSet<()>,
}

/// Kinds that are still to be sent.
#[derive(Default)]
struct Waiting {
    kinds: AtomicU8,
    some: Notify,
}

impl Hints {
    pub(super) fn start(pool: PgPool, connect: PgConnectOptions, scope: i64) -> Self {
        let (local, _) = broadcast::channel(CAPACITY);
        let waiting = Arc::new(Waiting::default());
        let channel = format!("orrery_{scope:016x}");
        // A coordinator knows its own notifications by this, and does not hear them twice.
        let origin = Uuid::new_v4();
        let mut tasks = JoinSet::new();
        tasks.spawn(send(pool, channel.clone(), origin, waiting.clone()));
        tasks.spawn(listen(connect, channel, origin, local.clone()));
        Self { local, told: broadcast::Sender::new(CAPACITY), waiting, _tasks: tasks }
    }

    pub(super) fn tell(&self, hint: Wake) {
        // No receiver is no error: nobody listens yet.
        let _ = self.local.send(hint);
        let _ = self.told.send(hint);
        if let Some((bit, ..)) = KINDS.iter().find(|(.., kind)| *kind == hint) {
            self.waiting.kinds.fetch_or(*bit, Ordering::AcqRel);
            self.waiting.some.notify_one();
        }
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Wake> {
        self.local.subscribe()
    }

    pub(super) fn told(&self) -> broadcast::Receiver<Wake> {
        self.told.subscribe()
    }
}

async fn send(pool: PgPool, channel: String, origin: Uuid, waiting: Arc<Waiting>) {
    loop {
        waiting.some.notified().await;
        let kinds = waiting.kinds.swap(0, Ordering::AcqRel);
        let payloads: Vec<String> =
            KINDS.iter().filter(|(bit, ..)| kinds & bit != 0).map(|(_, name, _)| format!("{name} {origin}")).collect();
        if payloads.is_empty() {
            continue;
        }
        let sent = sqlx::query("select pg_notify($1, payload) from unnest($2::text[]) as payload")
            .bind(&channel)
            .bind(&payloads)
            .execute(&pool)
            .await;
        if let Err(error) = sent {
            tracing::debug!(%error, "a hint to other coordinators was lost");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn listen(connect: PgConnectOptions, channel: String, origin: Uuid, local: broadcast::Sender<Wake>) {
    let mut wait = Duration::from_millis(100);
    loop {
        match listener(&connect, &channel).await {
            Ok(mut listener) => {
                wait = Duration::from_millis(100);
                // What was said meanwhile is lost, so look at everything.
                for (.., hint) in KINDS {
                    let _ = local.send(hint);
                }
                receive(&mut listener, origin, &local).await;
            }
            Err(error) => {
                tracing::debug!(%error, "cannot listen for hints; trying again");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(5));
            }
        }
    }
}

async fn listener(connect: &PgConnectOptions, channel: &str) -> sqlx::Result<PgListener> {
    // A pool of its own, so that listening takes no connection from the store's work.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .connect_with(connect.clone())
        .await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    listener.listen(channel).await?;
    Ok(listener)
}

/// Returns when the connection is lost.
async fn receive(listener: &mut PgListener, origin: Uuid, local: &broadcast::Sender<Wake>) {
    while let Ok(Some(notification)) = listener.try_recv().await {
        let Some((name, from)) = notification.payload().split_once(' ') else { continue };
        if from == origin.to_string() {
            continue;
        }
        if let Some((.., hint)) = KINDS.iter().find(|(_, kind, _)| *kind == name) {
            let _ = local.send(*hint);
        }
    }
}
