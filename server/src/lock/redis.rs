//! Locks on Redis: `SET key holder PX ttl NX`, and by script, comparing the holder first, extended and deleted.

use std::sync::LazyLock;
use std::time::Duration;

use redis::Script;
use tokio::time::Instant;

use crate::redis::{PULSE, Redis, Unavailable};

static EXTEND: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0",
    )
});
static UNLOCK: LazyLock<Script> = LazyLock::new(|| {
    Script::new("if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0")
});
/// How often an unlock is repeated once Redis answers again. A Redis that was stopped reads what was sent to it before in no certain order, so
/// that it may take a lock after it was told to give it back.
const REPEATS: u32 = 3;

#[derive(Clone)]
pub(super) struct RedisLocks {
    redis: Redis,
}

impl RedisLocks {
    pub(super) fn new(redis: Redis) -> Self {
        Self { redis }
    }

    pub(super) fn is_up(&self) -> bool {
        self.redis.is_up()
    }

    /// Takes a lock if it is free.
    ///
    /// # Errors
    /// Where Redis did not answer. Should it have taken the lock all the same, that is taken back later.
    pub(super) async fn lock(&self, key: &str, holder: &str, ttl: Duration) -> Result<bool, Unavailable> {
        if !self.redis.is_up() {
            return Err(Unavailable);
        }
        let mut set = redis::cmd("SET");
        set.arg(key).arg(holder).arg("PX").arg(milliseconds(ttl)).arg("NX");
        match self.redis.command::<Option<String>>("lock", &set).await {
            Ok(set) => Ok(set.is_some()),
            Err(unavailable) => {
                self.take_back(key, holder, ttl);
                Err(unavailable)
            }
        }
    }

    pub(super) async fn extend(&self, key: &str, holder: &str, ttl: Duration) -> Result<bool, Unavailable> {
        let mut extend = EXTEND.key(key);
        extend.arg(holder).arg(milliseconds(ttl));
        self.redis.script::<i64>("extend_lock", &extend).await.map(|extended| extended == 1)
    }

    /// Gives a lock back: now, or else once Redis answers again.
    pub(super) async fn unlock(&self, key: &str, holder: &str, ttl: Duration) {
        if self.delete(key, holder).await.is_err() {
            self.take_back(key, holder, ttl);
        }
    }

    async fn delete(&self, key: &str, holder: &str) -> Result<bool, Unavailable> {
        let mut unlock = UNLOCK.key(key);
        unlock.arg(holder);
        self.redis.script::<i64>("unlock", &unlock).await.map(|deleted| deleted == 1)
    }

    /// Without this, the lock of a call that is long over would keep others waiting for its whole life after a stall of Redis.
    fn take_back(&self, key: &str, holder: &str, ttl: Duration) {
        let (locks, key, holder) = (self.clone(), key.to_owned(), holder.to_owned());
        // Beyond this nothing is known of how long the stall was; the pulse of a Redis that is gone is cheap.
        let end = Instant::now() + ttl.max(Duration::from_secs(60));
        tokio::spawn(async move {
            let mut repeated = 0;
            while repeated < REPEATS && Instant::now() < end {
                tokio::time::sleep(PULSE / 2).await;
                match locks.delete(&key, &holder).await {
                    Ok(true) => return,
                    Ok(false) => repeated += 1,
                    Err(Unavailable) => repeated = 0,
                }
            }
        });
    }
}

fn milliseconds(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)
}
