//! How many calls a caller may make. One budget for all coordinators in Redis where it is there, otherwise one in each process.

mod gcra;
mod local;

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use redis::Script;

use self::gcra::Quota;
use self::local::Local;
use crate::auth::Principal;
use crate::error::{Error, Kind};
use crate::redis::Redis;
use crate::telemetry::Metrics;

/// The rule of [`Quota::admit`], by the clock of Redis. What is kept is the instant at which the budget is full again, in microseconds; digits
/// beyond 14 would be lost by Lua's own way of writing numbers.
static ADMIT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local time = redis.call('TIME')
         local now = time[1] * 1000000 + time[2]
         local full = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now) + ARGV[1]
         local early = full - now - ARGV[2]
         if early > 0 then return math.ceil(early) end
         redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000))
         return 0",
    )
});

/// Limits calls. Cheap to clone.
#[derive(Clone)]
pub struct Limiter {
    inner: Arc<Inner>,
}

struct Inner {
    quota: Quota,
    redis: Option<Redis>,
    local: Local,
    metrics: Metrics,
}

/// Whose calls are counted.
pub enum Caller<'a> {
    Known(&'a Principal),
    /// Without credentials, or with wrong ones.
    At(IpAddr),
}

impl Caller<'_> {
    fn key(&self) -> String {
        match self {
            Self::Known(principal) => match principal.tenant_id {
                Some(tenant) => format!("scheduler:rate:{tenant}:{}", principal.subject),
                None => format!("scheduler:rate:deployment:{}", principal.subject),
            },
            Self::At(address) => format!("scheduler:rate:address:{}", network(*address)),
        }
    }
}

/// One customer has all addresses of a /64, and could come from another one each time.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

impl Limiter {
    /// So many calls a minute; `None` where that is 0, which is no limit.
    pub fn new(per_minute: u32, redis: Option<Redis>, metrics: Metrics) -> Option<Self> {
        let quota = Quota::per_minute(per_minute)?;
        Some(Self { inner: Arc::new(Inner { quota, redis, local: Local::default(), metrics }) })
    }

    /// Takes one call from the caller's budget.
    ///
    /// # Errors
    /// RATE_LIMITED, with the seconds after which to try again as the detail `retryAfter`.
    pub async fn admit(&self, caller: &Caller<'_>) -> Result<(), Error> {
        let key = caller.key();
        let shared = match &self.inner.redis {
            Some(redis) => self.shared(redis, &key).await,
            None => None,
        };
        let wait = shared.unwrap_or_else(|| self.inner.local.admit(&self.inner.quota, &key));
        if wait.is_zero() {
            return Ok(());
        }
        self.inner.metrics.rate_limited();
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let message =
            format!("more than {} calls a minute; try again in {seconds} s", self.inner.quota.most_per_minute());
        Err(Error::new(Kind::Exhausted, "RATE_LIMITED", message).with(RETRY_AFTER, seconds))
    }

    /// How long to wait, by the budget in Redis; `None` where that is not to be had.
    async fn shared(&self, redis: &Redis, key: &str) -> Option<Duration> {
        let mut admit = ADMIT.key(key);
        admit.arg(micros(self.inner.quota.emission())).arg(micros(self.inner.quota.burst()));
        redis.script::<u64>("rate_limit", &admit).await.ok().map(Duration::from_micros)
    }
}

/// The detail of RATE_LIMITED that becomes the `Retry-After` header.
pub const RETRY_AFTER: &str = "retryAfter";

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_one_budget() {
        let key = |address: &str| Caller::At(address.parse().unwrap()).key();
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:2"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_ne!(key("10.0.0.1"), key("10.0.0.2"));
        assert_eq!(key("::ffff:10.0.0.1"), key("10.0.0.1"));
    }

    #[tokio::test]
    async fn who_has_used_up_the_budget_is_told_when_to_come_again() {
        let limiter = Limiter::new(2, None, Metrics::default()).unwrap();
        let caller = Caller::At("10.0.0.1".parse().unwrap());
        limiter.admit(&caller).await.unwrap();
        limiter.admit(&caller).await.unwrap();
        let error = limiter.admit(&caller).await.unwrap_err();
        assert_eq!((error.code, error.kind), ("RATE_LIMITED", Kind::Exhausted));
        assert_eq!(error.details[RETRY_AFTER], "30");
        limiter.admit(&Caller::At("10.0.0.2".parse().unwrap())).await.unwrap();
        assert!(Limiter::new(0, None, Metrics::default()).is_none());
    }
}
