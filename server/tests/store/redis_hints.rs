//! Hints between coordinators over Redis.

use std::sync::Arc;
use std::time::Duration;

use orrery_server::reconcile::Signals;
use orrery_server::redis::{Redis, share_hints};
use orrery_server::store::Wake;
use orrery_server::telemetry::Metrics;
use tokio::sync::broadcast;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::locks::url;

struct Coordinator {
    told: broadcast::Sender<Wake>,
    signals: Arc<Signals>,
    _loops: DropGuard,
}

impl Coordinator {
    async fn new() -> Self {
        // A database of its own, so that other tests are not heard.
        let redis = Redis::new(&format!("{}/11", url()), Metrics::default()).unwrap();
        redis.look().await;
        assert!(redis.is_up(), "the Redis of ORRERY_TEST_REDIS_URL does not answer");
        let (told, signals, loops) = (broadcast::Sender::new(16), Arc::<Signals>::default(), CancellationToken::new());
        tokio::spawn(redis.clone().keep(loops.clone()));
        tokio::spawn(share_hints(redis, told.subscribe(), signals.clone(), loops.clone()));
        let coordinator = Self { told, signals, _loops: loops.drop_guard() };
        // Whoever begins to listen looks at everything once.
        for signal in [
            &coordinator.signals.plan,
            &coordinator.signals.work,
            &coordinator.signals.room,
            &coordinator.signals.cancel,
        ] {
            signal.notified().await;
        }
        coordinator
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hints_reach_other_coordinators_and_make_no_echo() {
    let talk = async {
        let (one, two) = (Coordinator::new().await, Coordinator::new().await);
        one.signals.release.notified().await;
        for (hint, signal) in [
            (Wake::Cancel, &two.signals.cancel),
            (Wake::Room, &two.signals.room),
            (Wake::Work, &two.signals.work),
            (Wake::Plan, &two.signals.plan),
        ] {
            one.told.send(hint).unwrap();
            signal.notified().await;
        }
        // What the first said has come back to it by now, as this has come to it.
        two.told.send(Wake::Work).unwrap();
        one.signals.work.notified().await;
        let echo = tokio::time::timeout(Duration::ZERO, one.signals.cancel.notified()).await;
        assert!(echo.is_err(), "a coordinator has heard itself");
    };
    tokio::time::timeout(Duration::from_secs(30), talk).await.expect("a hint was lost");
}
