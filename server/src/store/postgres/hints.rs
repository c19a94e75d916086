//! Hints between coordinators, over LISTEN and NOTIFY. Losing one costs latency only. Where no other coordinator is known to live, nothing is
//! sent: a NOTIFY is a transaction, and this process has heard already.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use crate::store::Wake;

/// Hints that a slow receiver may lag behind; it then looks at everything.
const CAPACITY: usize = 4096;
/// At most one notification of each kind in this time: every NOTIFY takes a lock of the whole database when it commits.
const PAUSE: Duration = Duration::from_millis(5);
/// The kinds that travel, by their bit.
const KINDS: [(u8, &str, Wake); 4] =
    [(1, "plan", Wake::Plan), (2, "work", Wake::Work), (4, "cancel", Wake::Cancel), (8, "room", Wake::Room)];

/// What a coordinator says when it begins to listen, so that others begin to speak to it.
const HERE: &str = "here";
/// How long a sign of another coordinator counts, although its row has not been seen: it may have begun to listen before it was written.
const A_SIGN: Duration = Duration::from_secs(10);

/// Gives hints to everybody here, and passes them on to other coordinators.
pub(super) struct Hints {
    local: broadcast::Sender<Wake>,
    /// Those that were told here, without those that came from elsewhere.
    told: broadcast::Sender<Wake>,
    waiting: Arc<Waiting>,
    others: Arc<Others>,
    /// Ends the tasks when the store goes.
    _tasks: JoinSet<()>,
}

/// Kinds that are still to be sent.
#[derive(Default)]
struct Waiting {
    kinds: AtomicU8,
    some: Notify,
}

/// Whether other coordinators live, as far as is known here: the newest sign of one.
struct Others(Mutex<Option<Instant>>);

impl Others {
    /// One has said something, or is seen among the coordinators.
    fn seen(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// None is among the coordinators.
    fn none_seen(&self, now: Instant) {
        let mut sign = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sign.take_if(|at| now.saturating_duration_since(*at) >= A_SIGN);
    }

    fn may_live(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

impl Hints {
    pub(super) fn start(pool: PgPool, connect: PgConnectOptions, scope: i64) -> Self {
        let (local, _) = broadcast::channel(CAPACITY);
        let waiting = Arc::new(Waiting::default());
        let channel = format!("orrery_{scope:016x}");
        // A coordinator knows its own notifications by this, and does not hear them twice.
        let origin = Uuid::new_v4();
        // Until it is known better.
        let others = Arc::new(Others(Mutex::new(Some(Instant::now()))));
        let mut tasks = JoinSet::new();
        tasks.spawn(send(pool, channel.clone(), origin, waiting.clone()));
        tasks.spawn(listen(connect, channel, origin, local.clone(), others.clone()));
        Self { local, told: broadcast::Sender::new(CAPACITY), waiting, others, _tasks: tasks }
    }

    pub(super) fn tell(&self, hint: Wake) {
        // No receiver is no error: nobody listens yet.
        let _ = self.local.send(hint);
        let _ = self.told.send(hint);
        if let Some((bit, ..)) = KINDS.iter().find(|(.., kind)| *kind == hint)
            && self.others.may_live()
        {
            self.waiting.kinds.fetch_or(*bit, Ordering::AcqRel);
            self.waiting.some.notify_one();
        }
    }

    /// Whether there were others when this coordinator last looked at the list of them.
    pub(super) fn beside_others(&self, others: bool) {
        if others { self.others.seen() } else { self.others.none_seen(Instant::now()) }
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

async fn listen(
    connect: PgConnectOptions,
    channel: String,
    origin: Uuid,
    local: broadcast::Sender<Wake>,
    others: Arc<Others>,
) {
    let mut wait = Duration::from_millis(100);
    loop {
        match listener(&connect, &channel, origin).await {
            Ok(mut listener) => {
                wait = Duration::from_millis(100);
                // What was said meanwhile is lost, so look at everything.
                for (.., hint) in KINDS {
                    let _ = local.send(hint);
                }
                receive(&mut listener, origin, &local, &others).await;
            }
            Err(error) => {
                tracing::debug!(%error, "cannot listen for hints; trying again");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(5));
            }
        }
    }
}

async fn listener(connect: &PgConnectOptions, channel: &str, origin: Uuid) -> sqlx::Result<PgListener> {
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
    let here = format!("{HERE} {origin}");
    sqlx::query("select pg_notify($1, $2)").bind(channel).bind(here).execute(&mut listener).await?;
    Ok(listener)
}

/// Returns when the connection is lost.
async fn receive(listener: &mut PgListener, origin: Uuid, local: &broadcast::Sender<Wake>, others: &Others) {
    while let Ok(Some(notification)) = listener.try_recv().await {
        let Some((name, from)) = notification.payload().split_once(' ') else { continue };
        if from == origin.to_string() {
            continue;
        }
        others.seen();
        if let Some((.., hint)) = KINDS.iter().find(|(_, kind, _)| *kind == name) {
            let _ = local.send(*hint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_said_something_is_spoken_to_until_the_list_has_nobody() {
        let others = Others(Mutex::new(None));
        assert!(!others.may_live());
        others.seen();
        let now = Instant::now();
        others.none_seen(now);
        assert!(others.may_live(), "it may not be on the list yet");
        others.none_seen(now + A_SIGN);
        assert!(!others.may_live());
        others.none_seen(now);
        others.seen();
        assert!(others.may_live());
    }
}
