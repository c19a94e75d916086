//! Hints between coordinators over Redis, beside those of the database. Who hears a hint twice looks twice at most: loops keep one permit, and
//! look for themselves. Losing one costs latency only.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use redis::RedisError;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{CONNECTING, PULSE, Redis};
use crate::reconcile::Signals;
use crate::store::Wake;

/// At most one message in this time.
const PAUSE: Duration = Duration::from_millis(5);
/// How often something is said, so that a subscription that hears nothing at all is known to be dead.
const BEAT: Duration = Duration::from_secs(5);
/// Silence after which a subscription is made anew.
const SILENCE: Duration = Duration::from_secs(12);
/// The kinds that travel, by their name.
const KINDS: [(&str, Wake); 4] =
    [("plan", Wake::Plan), ("work", Wake::Work), ("cancel", Wake::Cancel), ("room", Wake::Room)];

/// Publishes the hints that were told in this process, and passes those of other coordinators on to its loops, until the end.
///
/// `told` has the hints of this process alone: to publish those that came from elsewhere would make echoes.
pub async fn share_hints(
    redis: Redis,
    told: broadcast::Receiver<Wake>,
    signals: Arc<Signals>,
    shutdown: CancellationToken,
) {
    // Publish and subscribe know no databases; deployments that share a server are kept apart by the number all the same.
    let channel = format!("scheduler:hints:{}", redis.database());
    let origin = Uuid::new_v4().to_string();
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = publish(&redis, told, &channel, &origin) => {}
        () = listen(&redis, &signals, &channel, &origin) => {}
    }
}

async fn publish(redis: &Redis, mut told: broadcast::Receiver<Wake>, channel: &str, origin: &str) {
    let mut beat = Instant::now() + BEAT;
    loop {
        let first = tokio::time::timeout_at(beat, told.recv()).await;
        let mut hints = Vec::new();
        match first {
            Ok(Ok(hint)) => hints.push(hint),
            Ok(Err(RecvError::Lagged(_))) => hints.extend(KINDS.map(|(_, hint)| hint)),
            Ok(Err(RecvError::Closed)) => return,
            Err(_) => {}
        }
        // What has come together goes together.
        while let Ok(hint) = told.try_recv() {
            hints.push(hint);
        }
        let names: Vec<&str> = KINDS.iter().filter(|(_, kind)| hints.contains(kind)).map(|(name, _)| *name).collect();
        if names.is_empty() && first.is_ok() {
            continue;
        }
        beat = Instant::now() + BEAT;
        let message = format!("{origin} {}", names.join(" "));
        let _ = redis.command::<i64>("publish", redis::cmd("PUBLISH").arg(channel).arg(message)).await;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn listen(redis: &Redis, signals: &Signals, channel: &str, origin: &str) {
    loop {
        if redis.is_up()
            && let Err(error) = receive(redis, signals, channel, origin).await
        {
            tracing::debug!(kind = ?error.kind(), "hints cannot be heard over Redis; trying again");
        }
        tokio::time::sleep(PULSE).await;
    }
}

/// Returns when the subscription is lost.
async fn receive(redis: &Redis, signals: &Signals, channel: &str, origin: &str) -> Result<(), RedisError> {
    let subscribing = async {
        let mut subscription = redis.inner.client.get_async_pubsub().await?;
        subscription.subscribe(channel).await?;
        Ok::<_, RedisError>(subscription)
    };
    let Ok(subscribed) = tokio::time::timeout(CONNECTING, subscribing).await else { return Ok(()) };
    let mut messages = subscribed?.into_on_message();
    // What was said meanwhile is lost, so look at everything.
    for (_, hint) in KINDS {
        signals.heard(hint);
    }
    while let Ok(Some(message)) = tokio::time::timeout(SILENCE, messages.next()).await {
        let text: String = message.get_payload()?;
        let mut words = text.split(' ');
        if words.next() == Some(origin) {
            continue;
        }
        for word in words {
            if let Some((_, hint)) = KINDS.iter().find(|(name, _)| *name == word) {
                signals.heard(*hint);
            }
        }
    }
    Ok(())
}
