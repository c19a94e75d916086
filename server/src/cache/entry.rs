//! One entry of a cache: a hash that holds a value (`generation`, `value`), the `lease` of who fills it in, or the `fence` of who changes what
//! it is about. Each step is a script, so that nothing comes between.

use std::sync::LazyLock;
use std::time::Duration;

use redis::Script;
use uuid::Uuid;

use crate::redis::{Redis, Unavailable};

/// How long a lease stands: longer than what is filled in may have taken to read.
const LEASE: Duration = Duration::from_secs(10);
/// How long a fence stands where nobody takes it away, since who put it up has died: longer than its change can take.
const FENCE: Duration = Duration::from_secs(120);

static GET: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local found = redis.call('HMGET', KEYS[1], 'generation', 'value')
         if found[2] and tonumber(found[1]) >= tonumber(ARGV[1]) then return {'value', found[2]} end
         if not found[2] and redis.call('EXISTS', KEYS[1]) == 1 then return {'busy', ''} end
         redis.call('DEL', KEYS[1])
         redis.call('HSET', KEYS[1], 'lease', ARGV[2])
         redis.call('PEXPIRE', KEYS[1], ARGV[3])
         return {'lease', ''}",
    )
});
static RENEW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('HEXISTS', KEYS[1], 'fence') == 1 then return 0 end
         redis.call('DEL', KEYS[1])
         redis.call('HSET', KEYS[1], 'lease', ARGV[1])
         redis.call('PEXPIRE', KEYS[1], ARGV[2])
         return 1",
    )
});
static FILL: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('HGET', KEYS[1], 'lease') ~= ARGV[1] then return 0 end
         redis.call('DEL', KEYS[1])
         redis.call('HSET', KEYS[1], 'generation', ARGV[2], 'value', ARGV[3])
         redis.call('PEXPIRE', KEYS[1], ARGV[4])
         return 1",
    )
});
static PUT_UP: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "for _, key in ipairs(KEYS) do
           redis.call('DEL', key)
           redis.call('HSET', key, 'fence', ARGV[1])
           redis.call('PEXPIRE', key, ARGV[2])
         end
         return 1",
    )
});
/// Another's fence stays: its change may be on its way. Without a fence, Redis has lost its memory meanwhile, and a value may be of before.
static CLEAR: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "for _, key in ipairs(KEYS) do
           local fence = redis.call('HGET', key, 'fence')
           if not fence or fence == ARGV[1] then redis.call('DEL', key) end
         end
         return 1",
    )
});

/// What stands under a key.
pub(super) enum Found {
    Value(String),
    /// Nothing; the asker may fill it in under this lease.
    Lease(String),
    /// Somebody else fills it in, or changes what it is about.
    Busy,
}

pub(super) struct Entries {
    redis: Redis,
}

impl Entries {
    pub(super) fn new(redis: Redis) -> Self {
        Self { redis }
    }

    pub(super) fn redis(&self) -> &Redis {
        &self.redis
    }

    /// What is there of this generation or a newer one, or a lease.
    pub(super) async fn get(&self, key: &str, generation: i64) -> Result<Found, Unavailable> {
        let lease = token();
        let mut get = GET.key(key);
        get.arg(generation).arg(&lease).arg(milliseconds(LEASE));
        let (kind, value): (String, String) = self.redis.script("cache_get", &get).await?;
        Ok(match kind.as_str() {
            "value" => Found::Value(value),
            "lease" => Found::Lease(lease),
            _ => Found::Busy,
        })
    }

    /// A lease in place of a value that is of no use, unless there is a fence by now.
    pub(super) async fn renew(&self, key: &str) -> Result<Option<String>, Unavailable> {
        let lease = token();
        let mut renew = RENEW.key(key);
        renew.arg(&lease).arg(milliseconds(LEASE));
        let renewed: i64 = self.redis.script("cache_get", &renew).await?;
        Ok((renewed == 1).then_some(lease))
    }

    /// Fills in a value, if the lease still stands.
    pub(super) async fn fill(
        &self,
        key: &str,
        lease: &str,
        generation: i64,
        value: &str,
        life: Duration,
    ) -> Result<bool, Unavailable> {
        let mut fill = FILL.key(key);
        fill.arg(lease).arg(generation).arg(value).arg(milliseconds(life));
        self.redis.script::<i64>("cache_fill", &fill).await.map(|filled| filled == 1)
    }

    /// Puts fences up, and says what to take them away by.
    pub(super) async fn put_up(&self, keys: &[String]) -> Result<String, Unavailable> {
        let fence = token();
        let mut put_up = PUT_UP.prepare_invoke();
        for key in keys {
            put_up.key(key);
        }
        put_up.arg(&fence).arg(milliseconds(FENCE));
        self.redis.script::<i64>("cache_fence", &put_up).await?;
        Ok(fence)
    }

    /// Takes fences away, and whatever else stands there but fences of others.
    pub(super) async fn clear(&self, keys: &[String], fence: &str) -> Result<(), Unavailable> {
        let mut clear = CLEAR.prepare_invoke();
        for key in keys {
            clear.key(key);
        }
        clear.arg(fence);
        self.redis.script::<i64>("cache_clear", &clear).await.map(drop)
    }
}

fn token() -> String {
    Uuid::new_v4().to_string()
}

fn milliseconds(life: Duration) -> u64 {
    u64::try_from(life.as_millis()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests;
