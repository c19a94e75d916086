//! How many calls a caller may make. One budget for all coordinators in Redis where it is there, otherwise one in each process.

mod gcra;
mod guard;
mod local;
mod penalty;

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use redis::Script;

use http::HeaderMap;

use self::gcra::Quota;
pub use self::guard::Guard;
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
         if early > 0 then return {math.ceil(early), math.ceil(full - now - ARGV[1])} end
         redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000))
         return {0, math.ceil(full - now)}",
    )
});

/// Limits calls. Cheap to clone.
#[derive(Clone)]
pub struct Limiter {
    inner: Arc<Inner>,
}

struct Inner {
    of_principal: Option<Quota>,
    of_address: Option<Quota>,
    redis: Option<Redis>,
    local: Local,
    metrics: Metrics,
}

/// Calls a minute; 0 is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Of each principal.
    pub principal: u32,
    /// Of each address without valid credentials.
    pub address: u32,
}

/// What is left of a budget after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Calls a minute.
    pub limit: u32,
    /// Calls that may come at once.
    pub remaining: u32,
    /// Seconds until it is full again.
    pub reset: u64,
}

impl Budget {
    /// Writes it for the caller, in the fields that most clients read and in those of their draft standard
    /// (draft-ietf-httpapi-ratelimit-headers).
    pub fn write(&self, headers: &mut HeaderMap) {
        let Self { limit, remaining, reset } = self;
        for (name, value) in [
            ("ratelimit-limit", limit.to_string()),
            ("ratelimit-remaining", remaining.to_string()),
            ("ratelimit-reset", reset.to_string()),
            ("ratelimit-policy", format!("{limit};w=60")),
        ] {
            if let Ok(value) = value.parse() {
                headers.insert(name, value);
            }
        }
    }
}

/// Whose calls are counted.
pub enum Caller<'a> {
    Known(&'a Principal),
    /// Without credentials, or with wrong ones.
    At(IpAddr),
}

impl Caller<'_> {
    /// What its calls are counted under.
    pub(crate) fn key(&self) -> String {
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
    /// Limits at these rates; `None` where there is no limit.
    pub fn new(rates: Rates, redis: Option<Redis>, metrics: Metrics) -> Option<Self> {
        let (of_principal, of_address) = (Quota::per_minute(rates.principal), Quota::per_minute(rates.address));
        if of_principal.is_none() && of_address.is_none() {
            return None;
        }
        Some(Self { inner: Arc::new(Inner { of_principal, of_address, redis, local: Local::default(), metrics }) })
    }

    /// Takes one call from the caller's budget; `None` where there is none.
    ///
    /// # Errors
    /// RATE_LIMITED, with the seconds after which to try again as the detail `retryAfter`; and the budget that is used up.
    pub async fn admit(&self, caller: &Caller<'_>) -> Result<Option<Budget>, (Error, Budget)> {
        let quota = match caller {
            Caller::Known(_) => &self.inner.of_principal,
            Caller::At(_) => &self.inner.of_address,
        };
        let Some(quota) = quota else { return Ok(None) };
        let key = caller.key();
        let shared = match &self.inner.redis {
            Some(redis) => self.shared(redis, quota, &key).await,
            None => None,
        };
        let (wait, ahead) = shared.unwrap_or_else(|| self.inner.local.admit(quota, &key));
        let (limit, reset) = (quota.most_per_minute(), whole_seconds(ahead));
        if wait.is_zero() {
            return Ok(Some(Budget { limit, remaining: quota.remaining(ahead), reset }));
        }
        self.inner.metrics.rate_limited();
        self.inner.metrics.call_refused("rate_limit");
        let seconds = whole_seconds(wait);
        let message = format!("more than {limit} calls a minute; try again in {seconds} s");
        let error = Error::new(Kind::Exhausted, "RATE_LIMITED", message).with(RETRY_AFTER, seconds);
        Err((error, Budget { limit, remaining: 0, reset }))
    }

    /// How long to wait and how far ahead the budget is full, by Redis; `None` where that is not to be had.
    async fn shared(&self, redis: &Redis, quota: &Quota, key: &str) -> Option<(Duration, Duration)> {
        let mut admit = ADMIT.key(key);
        admit.arg(micros(quota.emission())).arg(micros(quota.burst()));
        let (wait, ahead) = redis.script::<(u64, u64)>("rate_limit", &admit).await.ok()?;
        Some((Duration::from_micros(wait), Duration::from_micros(ahead)))
    }
}

tokio::task_local! {
    /// What guards the call being served.
    static GUARDED: Guard;
}

/// Serves a call under a guard.
pub(crate) async fn guarded<F: Future>(guard: Guard, call: F) -> F::Output {
    GUARDED.scope(guard, call).await
}

/// Runs one attempt of the call being served to prove that it is `account`, such as a login: see [`Guard::attempt`]. An attempt that fails
/// must do so as UNAUTHENTICATED, and take as long for an account that there is not as for a wrong password.
///
/// # Errors
/// TOO_MANY_ATTEMPTS, or the attempt's own. INTERNAL_ERROR where the call has not passed the layer of authentication: nobody could be made
/// to wait then.
pub async fn guard<T>(account: &str, attempt: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let Ok(guard) = GUARDED.try_with(Clone::clone) else {
        tracing::error!("an attempt to prove an identity has not passed the layer");
        return Err(Error::new(Kind::Internal, "INTERNAL_ERROR", "internal error; see the server's log"));
    };
    guard.attempt(account, attempt).await
}

/// The detail of RATE_LIMITED and TOO_MANY_ATTEMPTS that becomes the `Retry-After` header.
pub const RETRY_AFTER: &str = "retryAfter";

/// In whole seconds, begun ones as well: whoever comes after them does not come too early.
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

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
        let limiter = Limiter::new(Rates { principal: 0, address: 2 }, None, Metrics::default()).unwrap();
        let caller = Caller::At("10.0.0.1".parse().unwrap());
        let first = limiter.admit(&caller).await.unwrap();
        assert_eq!(first, Some(Budget { limit: 2, remaining: 1, reset: 30 }));
        limiter.admit(&caller).await.unwrap();
        let (error, budget) = limiter.admit(&caller).await.unwrap_err();
        assert_eq!((error.code, error.kind), ("RATE_LIMITED", Kind::Exhausted));
        assert_eq!(error.details[RETRY_AFTER], "30");
        assert_eq!(budget, Budget { limit: 2, remaining: 0, reset: 60 });
        let mut headers = HeaderMap::new();
        budget.write(&mut headers);
        assert_eq!(
            (&headers["ratelimit-limit"], &headers["ratelimit-policy"]),
            (&"2".parse().unwrap(), &"2;w=60".parse().unwrap())
        );
        limiter.admit(&Caller::At("10.0.0.2".parse().unwrap())).await.unwrap();
        assert!(Limiter::new(Rates { principal: 0, address: 0 }, None, Metrics::default()).is_none());
    }

    #[tokio::test]
    async fn an_attempt_outside_of_any_guard_is_none() {
        let done = guard("anna", async { Ok(()) }).await;
        assert_eq!(done.unwrap_err().code, "INTERNAL_ERROR");
        let guarding = Guard::new(1, None, Metrics::default());
        guarded(guarding, guard("anna", async { Ok(()) })).await.unwrap();
    }
}
