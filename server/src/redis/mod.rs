//! Redis is optional, and never the truth. It carries hints, caches, limits and locks that spare work; what decides is the database.
//!
//! Two rules keep a dead or stalled Redis from being felt. A call waits [`PATIENCE`] at most. And a [`Breaker`] stands before all calls: after
//! some failures in a row, or once the connection is lost, nobody asks any more; a loop of its own ([`Redis::keep`]) looks whether
//! Redis is back, so that no caller ever pays for looking. Whoever gets [`Unavailable`] goes on without Redis.
//!
//! This is one multiplexed connection that the loop replaces. The crate's own connection manager is not used: after a handshake that Redis
//! itself refused (it loads its data, has too many clients, or the password is being changed) it never connects again.

mod hints;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, IntoConnectionInfo, RedisError, ScriptInvocation};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::hints::share_hints;
pub use crate::breaker::BreakerState;
use crate::breaker::{self, Breaker};
use crate::telemetry::Metrics;

/// How long a call may take before it has failed.
pub const PATIENCE: Duration = Duration::from_millis(150);
/// How long connecting may take; nobody waits for it but the loop, and the start.
const CONNECTING: Duration = Duration::from_secs(1);
/// When Redis is not asked any more.
const BREAKER: breaker::Patience = breaker::Patience { failures: 3, rest: Duration::from_millis(400) };
/// How often the loop looks after Redis.
pub(crate) const PULSE: Duration = Duration::from_millis(500);
/// What looking after Redis is counted as.
const PING: &str = "ping";
/// Calls that may be on their way to the connection before further ones wait.
const IN_FLIGHT: usize = 1024;

/// Redis was not asked, or did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Redis is not available")]
pub struct Unavailable;

/// Why an address is none.
#[derive(Debug, thiserror::Error)]
#[error(
    "REDIS_URL: {reason}; give redis://[USER:PASSWORD@]HOST:PORT[/DATABASE], with rediss:// for TLS, or leave it empty to go without Redis"
)]
pub struct AddressError {
    /// Never a part of the address, which may hold a password.
    reason: &'static str,
}

/// A Redis that may be there. Cheap to clone.
#[derive(Clone)]
pub struct Redis {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    /// How long a call may take.
    patience: Duration,
    link: Mutex<Link>,
    /// Wakes the loop when the connection is lost.
    lost: Notify,
    /// How often it was found (again): what was believed before may be old.
    findings: AtomicU64,
    metrics: Metrics,
}

struct Link {
    breaker: Breaker,
    connection: Option<MultiplexedConnection>,
}

impl Redis {
    /// Reads the address; nothing is connected yet.
    ///
    /// # Errors
    /// Where it is no address of a Redis.
    pub fn new(url: &str, metrics: Metrics) -> Result<Self, AddressError> {
        Self::with_patience(url, PATIENCE, metrics)
    }

    /// The same, with another time for a call than [`PATIENCE`].
    ///
    /// # Errors
    /// As [`Redis::new`].
    pub fn with_patience(url: &str, patience: Duration, metrics: Metrics) -> Result<Self, AddressError> {
        let schemes = ["redis://", "rediss://", "unix://", "redis+unix://"];
        if !schemes.iter().any(|scheme| url.starts_with(scheme)) {
            return Err(AddressError { reason: "is no address of a Redis" });
        }
        let info = url.into_connection_info().map_err(|_| AddressError { reason: "cannot be read" })?;
        let client = Client::open(info).map_err(|_| AddressError { reason: "cannot be used" })?;
        let link = Link { breaker: Breaker::open(BREAKER), connection: None };
        metrics.redis_breaker(link.breaker.state());
        let inner = Inner {
            client,
            patience,
            link: Mutex::new(link),
            lost: Notify::new(),
            findings: AtomicU64::new(0),
            metrics,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Whether calls are let through.
    pub fn is_up(&self) -> bool {
        self.link().breaker.state() == BreakerState::Closed
    }

    /// How often Redis was found since the start. Between two equal answers it has not been away, as far as this process has seen.
    pub(crate) fn findings(&self) -> u64 {
        self.inner.findings.load(Ordering::Acquire)
    }

    /// Sends a command. `operation` is what it is counted as where it fails.
    ///
    /// # Errors
    /// Where Redis is not to be had, or refused it.
    pub async fn command<T: FromRedisValue>(&self, operation: &'static str, command: &Cmd) -> Result<T, Unavailable> {
        let mut connection = self.connection()?;
        self.bounded(operation, async { command.query_async(&mut connection).await }).await
    }

    /// Runs a script.
    ///
    /// # Errors
    /// As [`Redis::command`].
    pub async fn script<T: FromRedisValue>(
        &self,
        operation: &'static str,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, Unavailable> {
        let mut connection = self.connection()?;
        self.bounded(operation, async { script.invoke_async(&mut connection).await }).await
    }

    fn connection(&self) -> Result<MultiplexedConnection, Unavailable> {
        let link = self.link();
        if link.breaker.state() != BreakerState::Closed {
            return Err(Unavailable);
        }
        link.connection.clone().ok_or(Unavailable)
    }

    async fn bounded<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, Unavailable> {
        let answer = tokio::time::timeout(self.inner.patience, call).await;
        let failure = match answer {
            Ok(Ok(value)) => {
                self.link().breaker.succeeded();
                return Ok(value);
            }
            Ok(Err(error)) => Failure::of(&error),
            Err(_) => Failure::Late,
        };
        self.failed(operation, &failure);
        Err(Unavailable)
    }

    fn failed(&self, operation: &'static str, failure: &Failure) {
        self.inner.metrics.redis_failed(operation);
        tracing::debug!(operation, ?failure, "Redis did not do what it was asked");
        let mut link = self.link();
        let opened = match failure {
            // It is there and answers, so nobody has to wait for it. One that refuses even a PING is of no use.
            Failure::Refused(_) if operation != PING => {
                link.breaker.succeeded();
                return;
            }
            Failure::Late => link.breaker.failed(Instant::now()),
            Failure::Lost(_) | Failure::Refused(_) => link.breaker.lost(Instant::now()),
        };
        if opened {
            link.connection = None;
            self.inner.metrics.redis_breaker(link.breaker.state());
            drop(link);
            tracing::warn!(?failure, "Redis is not to be had; going on without it");
            self.inner.lost.notify_one();
        }
    }

    /// Looks after the connection until the end: connects, sees that Redis still answers, and finds it again when it is back.
    pub async fn keep(self, shutdown: CancellationToken) {
        loop {
            self.look().await;
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(PULSE) => {}
                // The connection was lost just now, which may be a restart: look at once, and then by the pulse.
                () = self.inner.lost.notified() => {}
            }
        }
    }

    /// Looks once whether Redis is there.
    pub async fn look(&self) {
        let connection = {
            let mut link = self.link();
            if !link.breaker.probes(Instant::now()) {
                return;
            }
            self.inner.metrics.redis_breaker(link.breaker.state());
            link.connection.clone()
        };
        match connection {
            Some(mut connection) => {
                let ping = redis::cmd("PING");
                let _ = self.bounded(PING, async { ping.query_async::<String>(&mut connection).await }).await;
            }
            None => self.connect().await,
        }
    }

    async fn connect(&self) {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECTING))
            // Beyond what a call waits: that is what says when it is late.
            .set_response_timeout(Some(CONNECTING.max(self.inner.patience)))
            .set_pipeline_buffer_size(IN_FLIGHT);
        let connecting = async {
            let mut connection = self.inner.client.get_multiplexed_async_connection_with_config(&config).await?;
            redis::cmd("PING").query_async::<String>(&mut connection).await?;
            Ok::<_, RedisError>(connection)
        };
        let found = match tokio::time::timeout(CONNECTING, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(Failure::of(&error)),
            Err(_) => Err(Failure::Late),
        };
        let mut link = self.link();
        match found {
            Ok(connection) => {
                link.connection = Some(connection);
                link.breaker.found();
                self.inner.findings.fetch_add(1, Ordering::AcqRel);
                self.inner.metrics.redis_breaker(link.breaker.state());
                drop(link);
                tracing::info!("Redis is there");
            }
            Err(failure) => {
                let first = link.breaker.not_found(Instant::now());
                self.inner.metrics.redis_breaker(link.breaker.state());
                drop(link);
                self.inner.metrics.redis_failed("connect");
                if first {
                    tracing::warn!(?failure, "Redis cannot be reached; going on without it");
                }
            }
        }
    }

    /// The number of the database in the address.
    fn database(&self) -> i64 {
        self.inner.client.get_connection_info().redis_settings().db()
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.inner.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Redis {
    /// Without the address, which may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").field("breaker", &self.link().breaker).finish_non_exhaustive()
    }
}

/// What went wrong with a call. Kinds and codes only: texts of errors are not known to be free of secrets.
#[derive(Debug)]
enum Failure {
    /// No answer in time.
    Late,
    /// The connection is of no use any more.
    Lost(#[allow(dead_code, reason = "for the log")] redis::ErrorKind),
    /// Redis answered with an error.
    Refused(#[allow(dead_code, reason = "for the log")] String),
}

impl Failure {
    fn of(error: &RedisError) -> Self {
        if error.is_timeout() {
            Self::Late
        } else if let Some(code) = error.code() {
            Self::Refused(code.to_owned())
        } else {
            Self::Lost(error.kind())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_none_is_named_and_not_shown() {
        let bad =
            ["localhost:6379", "http://u:s3cret@host", "redis://u:s3cret@host:port", "redis://u:s3cret@h/notanumber"];
        for url in bad {
            let message = Redis::new(url, Metrics::default()).unwrap_err().to_string();
            assert!(message.starts_with("REDIS_URL: "), "{message}");
            assert!(!message.contains("s3cret"), "{message}");
        }
        Redis::new("redis://127.0.0.1:6379/3", Metrics::default()).unwrap();
        Redis::new("rediss://u:s3cret@host", Metrics::default()).unwrap();
    }

    #[test]
    fn the_password_is_not_shown() {
        let redis = Redis::new("redis://user:s3cret@127.0.0.1:1/0", Metrics::default()).unwrap();
        assert!(!format!("{redis:?}").contains("s3cret"));
    }
}
