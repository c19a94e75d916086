//! Those who guess wait, longer each time: by their address, and by the account they guess at (OWASP, Authentication Cheat Sheet; NIST SP
//! 800-63B, 5.2.2). One account of it for all coordinators in Redis where it is there, otherwise one in each process.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::Script;
use sha2::{Digest, Sha256};

use super::penalty::Penalty;
use super::{RETRY_AFTER, network, whole_seconds};
use crate::error::{Error, Kind};
use crate::redis::Redis;
use crate::telemetry::Metrics;

const QUARTER: Duration = Duration::from_secs(900);
/// Of an address. Many may share it, and a key of 256 bits is not guessed: it is the work of looking them up that is bounded.
const OF_ADDRESS: Penalty =
    Penalty { free: 100, first: Duration::from_secs(1), longest: Duration::from_secs(300), forgotten: QUARTER };
/// Of an account, whose password may be guessable. Its owner never waits longer than a minute for what others do.
const OF_ACCOUNT: Penalty =
    Penalty { free: 5, first: Duration::from_secs(1), longest: Duration::from_secs(60), forgotten: QUARTER };
/// The most addresses and accounts, and the most credentials, that are remembered.
const MOST: usize = 50_000;
/// How long credentials that were good are taken for good before the address has to wait with them too.
const GOOD: Duration = QUARTER;

/// Counts a failure; answers with the milliseconds to wait. `KEYS`: the count, and the wait, which is there as long as it lasts.
static FAIL: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local failures = redis.call('INCR', KEYS[1])
         redis.call('PEXPIRE', KEYS[1], ARGV[4])
         local over = failures - ARGV[1]
         if over <= 0 then return 0 end
         local wait = math.min(ARGV[2] * 2 ^ math.min(over - 1, 30), tonumber(ARGV[3]))
         redis.call('SET', KEYS[2], '1', 'PX', string.format('%.0f', wait))
         return wait",
    )
});

/// Makes those wait who guess. Cheap to clone.
#[derive(Clone)]
pub struct Guard {
    inner: Arc<Inner>,
}

struct Inner {
    of_address: Option<Penalty>,
    redis: Option<Redis>,
    failures: Mutex<HashMap<String, Failures>>,
    /// What was shown, by a hash that only this process knows: when it was last good, or that an address has shown it in vain.
    seen: Mutex<HashMap<u64, Seen>>,
    hasher: RandomState,
    clock: Clock,
    metrics: Metrics,
}

/// Tells the time. Tests have one of their own.
type Clock = Box<dyn Fn() -> Instant + Send + Sync>;

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
    until: Instant,
}

#[derive(Clone, Copy)]
struct Seen {
    good: bool,
    at: Instant,
}

/// Whose failures are counted.
#[derive(Clone, Copy, Debug)]
enum Subject<'a> {
    Address(IpAddr),
    Account(&'a str),
}

impl Subject<'_> {
    /// Names of accounts are not written down: Redis may be read by others.
    fn key(self) -> String {
        match self {
            Self::Address(address) => format!("scheduler:failures:address:{}", network(address)),
            Self::Account(name) => {
                let hash = Sha256::digest(name.trim().to_lowercase().as_bytes());
                let short: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
                format!("scheduler:failures:account:{short}")
            }
        }
    }
}

impl Guard {
    /// A guard under which an address has so many failures free; 0: it never waits. Accounts always do.
    pub fn new(free_of_address: u32, redis: Option<Redis>, metrics: Metrics) -> Self {
        Self::by(Box::new(Instant::now), free_of_address, redis, metrics)
    }

    fn by(clock: Clock, free_of_address: u32, redis: Option<Redis>, metrics: Metrics) -> Self {
        let of_address = (free_of_address > 0).then_some(Penalty { free: free_of_address, ..OF_ADDRESS });
        let inner = Inner {
            of_address,
            redis,
            failures: Mutex::default(),
            seen: Mutex::default(),
            hasher: RandomState::new(),
            clock,
            metrics,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Before the credentials of a call are looked at. Those that were good a moment ago pass, whatever others at the address do.
    ///
    /// # Errors
    /// TOO_MANY_ATTEMPTS.
    pub(crate) async fn before_call(&self, address: Option<IpAddr>, credentials: &[u8]) -> Result<(), Error> {
        match (address, self.inner.of_address) {
            (Some(_), Some(_)) if !self.was_good(credentials) => self.before(address).await,
            _ => Ok(()),
        }
    }

    /// The credentials of a call were good.
    pub(crate) fn was_right(&self, credentials: &[u8]) {
        if self.inner.of_address.is_some() && !self.was_good(credentials) {
            self.remember(self.inner.hasher.hash_one(credentials), true);
        }
    }

    /// The credentials of a call were wrong. The same ones again are no further guess: a program that was set up wrong repeats itself.
    pub(crate) async fn was_wrong(&self, address: Option<IpAddr>, credentials: &[u8]) {
        let (Some(address), Some(penalty)) = (address, self.inner.of_address) else { return };
        if self.remember(self.inner.hasher.hash_one((network(address), credentials)), false) {
            self.fail(Subject::Address(address), &penalty).await;
        }
    }

    /// Before the message of a call is looked at in which credentials are.
    ///
    /// # Errors
    /// TOO_MANY_ATTEMPTS.
    pub(crate) async fn before(&self, address: Option<IpAddr>) -> Result<(), Error> {
        match (address, self.inner.of_address) {
            (Some(address), Some(_)) => self.check(Subject::Address(address)).await,
            _ => Ok(()),
        }
    }

    /// Those credentials were wrong.
    pub(crate) async fn failed(&self, address: Option<IpAddr>) {
        if let (Some(address), Some(penalty)) = (address, self.inner.of_address) {
            self.fail(Subject::Address(address), &penalty).await;
        }
    }

    /// Runs one attempt to prove that somebody is `account`, such as a login, unless those who try it have to wait. An attempt counts as a
    /// failure from its beginning, so that many at once are not free, and is forgiven where it is none.
    ///
    /// # Errors
    /// TOO_MANY_ATTEMPTS, or the attempt's own.
    pub async fn attempt<T>(&self, account: &str, attempt: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let account = Subject::Account(account);
        self.check(account).await?;
        let wait = self.fail(account, &OF_ACCOUNT).await;
        let done = attempt.await;
        match &done {
            Ok(_) => self.forgive(account, true).await,
            // From now on, however long the attempt itself took.
            Err(error) if error.kind == Kind::Unauthenticated || error.code == "WRONG_CREDENTIALS" => {
                self.shut(account, wait).await;
            }
            // It was never found out.
            Err(_) => self.forgive(account, false).await,
        }
        done
    }

    async fn check(&self, subject: Subject<'_>) -> Result<(), Error> {
        let key = subject.key();
        let now = self.now();
        let known = held(&self.inner.failures).get(&key).map(|failures| failures.until.saturating_duration_since(now));
        let wait = match (known.filter(|wait| !wait.is_zero()), &self.inner.redis) {
            (Some(wait), _) => wait,
            // Another coordinator may have seen more.
            (None, Some(redis)) => {
                let mut ask = redis::cmd("PTTL");
                ask.arg(until_key(&key));
                let left = redis.command::<i64>("attempts", &ask).await.unwrap_or_default();
                Duration::from_millis(u64::try_from(left).unwrap_or_default())
            }
            (None, None) => Duration::ZERO,
        };
        if wait.is_zero() {
            return Ok(());
        }
        self.inner.metrics.call_refused("attempts");
        let seconds = whole_seconds(wait);
        let message = format!("too many wrong credentials; try again in {seconds} s");
        Err(Error::new(Kind::Exhausted, "TOO_MANY_ATTEMPTS", message).with(RETRY_AFTER, seconds))
    }

    /// Counts a failure: how long to wait.
    async fn fail(&self, subject: Subject<'_>, penalty: &Penalty) -> Duration {
        let key = subject.key();
        let mut wait = self.fail_here(&key, penalty);
        if let Some(redis) = &self.inner.redis {
            let mut fail = FAIL.key(&key);
            fail.key(until_key(&key)).arg(penalty.free);
            for time in [penalty.first, penalty.longest, penalty.forgotten] {
                fail.arg(millis(time));
            }
            if let Ok(shared) = redis.script::<u64>("attempts", &fail).await {
                wait = wait.max(Duration::from_millis(shared));
            }
        }
        self.shut_here(&key, wait);
        wait
    }

    /// Lets nobody try for so long.
    async fn shut(&self, subject: Subject<'_>, wait: Duration) {
        if wait.is_zero() {
            return;
        }
        let key = subject.key();
        self.shut_here(&key, wait);
        if let Some(redis) = &self.inner.redis {
            let mut shut = redis::cmd("SET");
            shut.arg(until_key(&key)).arg(1).arg("PX").arg(millis(wait));
            let _ = redis.command::<String>("attempts", &shut).await;
        }
    }

    fn shut_here(&self, key: &str, wait: Duration) {
        let until = self.now() + wait;
        if let Some(failures) = held(&self.inner.failures).get_mut(key) {
            failures.until = failures.until.max(until);
        }
    }

    /// Counts a failure in this process: how long to wait by its own count.
    fn fail_here(&self, key: &str, penalty: &Penalty) -> Duration {
        let now = self.now();
        let mut all = held(&self.inner.failures);
        if all.len() >= MOST && !all.contains_key(key) {
            all.retain(|_, failures| failures.until > now);
            if all.len() >= MOST {
                all.clear();
            }
        }
        let failures = all.entry(key.to_owned()).or_insert(Failures { count: 0, last: now, until: now });
        if now.duration_since(failures.last) > penalty.forgotten {
            failures.count = 0;
        }
        failures.count = failures.count.saturating_add(1);
        failures.last = now;
        penalty.wait(failures.count)
    }

    /// Takes back the last failure, or all of them.
    async fn forgive(&self, subject: Subject<'_>, all: bool) {
        let key = subject.key();
        {
            let mut known = held(&self.inner.failures);
            if all {
                known.remove(&key);
            } else if let Some(failures) = known.get_mut(&key) {
                failures.count = failures.count.saturating_sub(1);
                failures.until = self.now();
            }
        }
        if let Some(redis) = &self.inner.redis {
            let mut forget = redis::cmd(if all { "DEL" } else { "DECR" });
            forget.arg(&key);
            // Where it is away, the count there ends by itself.
            let _ = redis.command::<i64>("attempts", &forget).await;
            let mut open = redis::cmd("DEL");
            open.arg(until_key(&key));
            let _ = redis.command::<i64>("attempts", &open).await;
        }
    }

    fn was_good(&self, credentials: &[u8]) -> bool {
        let (hash, now) = (self.inner.hasher.hash_one(credentials), self.now());
        held(&self.inner.seen).get(&hash).is_some_and(|seen| seen.good && seen.is_recent(now))
    }

    /// Notes what was shown; whether it was not known.
    fn remember(&self, hash: u64, good: bool) -> bool {
        let now = self.now();
        let mut seen = held(&self.inner.seen);
        if seen.len() >= MOST && !seen.contains_key(&hash) {
            // What is good is worth more than what is not.
            seen.retain(|_, seen| seen.good && seen.is_recent(now));
            if seen.len() >= MOST {
                seen.clear();
            }
        }
        let old = seen.insert(hash, Seen { good, at: now });
        old.is_none_or(|old| !old.is_recent(now))
    }

    fn now(&self) -> Instant {
        (self.inner.clock)()
    }
}

impl Seen {
    fn is_recent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < GOOD
    }
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("of_address", &self.inner.of_address).finish_non_exhaustive()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn until_key(key: &str) -> String {
    format!("{key}:until")
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Time that passes where the test says so.
    #[derive(Clone)]
    struct Time(Arc<Mutex<Instant>>);

    impl Time {
        fn advance(&self, by: Duration) {
            *self.0.lock().unwrap() += by;
        }
    }

    fn guard(free: u32) -> (Guard, Time) {
        let time = Time(Arc::new(Mutex::new(Instant::now())));
        let clock = time.clone();
        (Guard::by(Box::new(move || *clock.0.lock().unwrap()), free, None, Metrics::default()), time)
    }

    fn wrong() -> Error {
        Error::new(Kind::Unauthenticated, "UNAUTHENTICATED", "no")
    }

    fn address(n: u8) -> Option<IpAddr> {
        Some([203, 0, 113, n].into())
    }

    async fn login(guard: &Guard, account: &str, right: bool) -> Result<(), &'static str> {
        let done = async { if right { Ok(()) } else { Err(wrong()) } };
        guard.attempt(account, done).await.map_err(|error| error.code)
    }

    #[tokio::test]
    async fn who_guesses_at_an_account_waits_longer_each_time() {
        let (guard, time) = guard(100);
        for _ in 1..=6 {
            assert_eq!(login(&guard, "Anna ", false).await, Err("UNAUTHENTICATED"));
        }
        for seconds in [1, 2, 4, 8] {
            assert_eq!(login(&guard, "anna", true).await, Err("TOO_MANY_ATTEMPTS"), "the right password too");
            time.advance(Duration::from_secs(seconds) - Duration::from_millis(1));
            assert_eq!(login(&guard, "anna", true).await, Err("TOO_MANY_ATTEMPTS"));
            time.advance(Duration::from_millis(1));
            assert_eq!(login(&guard, "ANNA", false).await, Err("UNAUTHENTICATED"));
        }
        assert_eq!(login(&guard, "berta", true).await, Ok(()), "others do not wait");
        time.advance(Duration::from_secs(16));
        assert_eq!(login(&guard, "anna", true).await, Ok(()));
        assert_eq!(login(&guard, "anna", false).await, Err("UNAUTHENTICATED"));
        assert_eq!(login(&guard, "anna", true).await, Ok(()), "a right one is forgiven all before it");
    }

    #[tokio::test]
    async fn many_guesses_at_once_are_not_free() {
        let (guard, _) = guard(1000);
        let (told, tried) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
        let guesses = (0..100).map(|_| async {
            let slow = async {
                *tried.lock().unwrap() += 1;
                tokio::task::yield_now().await;
                Err::<(), _>(wrong())
            };
            let code = guard.attempt("anna", slow).await.unwrap_err().code;
            told.lock().unwrap().push(code);
        });
        futures_util::future::join_all(guesses).await;
        assert_eq!(*tried.lock().unwrap(), 6, "five are free, and the sixth makes the others wait");
    }

    #[tokio::test]
    async fn what_was_never_found_out_is_no_failure() {
        let (guard, _) = guard(1);
        for _ in 0..20 {
            let away = async { Err::<(), _>(Error::new(Kind::Unavailable, "DATABASE_UNAVAILABLE", "away")) };
            assert_eq!(guard.attempt("anna", away).await.unwrap_err().code, "DATABASE_UNAVAILABLE");
        }
    }

    /// Calls with credentials, as the layer of authentication makes them: how many were looked at.
    async fn calls(guard: &Guard, from: u8, credentials: impl IntoIterator<Item = String>) -> usize {
        let mut looked = 0;
        for credential in credentials {
            if guard.before_call(address(from), credential.as_bytes()).await.is_ok() {
                looked += 1;
                match credential.starts_with("right") {
                    true => guard.was_right(credential.as_bytes()),
                    false => guard.was_wrong(address(from), credential.as_bytes()).await,
                }
            }
        }
        looked
    }

    #[tokio::test]
    async fn an_address_that_guesses_waits_and_those_who_were_there_do_not() {
        let (guard, time) = guard(10);
        let wrong = |range: std::ops::Range<usize>| range.map(|n| format!("wrong {n}"));
        assert_eq!(calls(&guard, 1, ["right a".to_owned()]).await, 1);
        assert_eq!(calls(&guard, 1, wrong(0..10_000)).await, 11);
        assert_eq!(calls(&guard, 1, ["right a".to_owned()]).await, 1, "it was good before");
        assert_eq!(calls(&guard, 1, ["right b".to_owned()]).await, 0, "it could be a guess");
        assert_eq!(calls(&guard, 2, ["right b".to_owned()]).await, 1, "another address");
        time.advance(Duration::from_secs(1));
        assert_eq!(calls(&guard, 1, wrong(10_000..10_010)).await, 1);
        time.advance(Duration::from_millis(1999));
        assert_eq!(calls(&guard, 1, wrong(20_000..20_010)).await, 0);
        // Without a failure for long, all is forgotten.
        time.advance(QUARTER + Duration::from_secs(1));
        assert_eq!(calls(&guard, 1, wrong(30_000..30_100)).await, 11);
        assert_eq!(calls(&super::Guard::new(0, None, Metrics::default()), 1, wrong(0..1000)).await, 1000);
    }

    #[tokio::test]
    async fn the_same_mistake_again_is_no_guess() {
        let (guard, _) = guard(10);
        assert_eq!(calls(&guard, 1, (0..1000).map(|_| "wrong".to_owned())).await, 1000);
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded() {
        let (guard, _) = guard(1);
        for n in 0..(MOST as u32 + 5000) {
            let from = Some(IpAddr::from((n + (1 << 28)).to_be_bytes()));
            guard.was_wrong(from, b"wrong").await;
        }
        assert!(held(&guard.inner.failures).len() <= MOST);
        assert!(held(&guard.inner.seen).len() <= MOST);
    }
}
