//! What an operator can set. Every value has a default, an environment variable and a flag; the flag wins.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::job::Timeouts;
use crate::limiter::Rates;
use crate::redis::{AddressError, Redis};
use crate::secret::{EncryptionError, KeySource};
use crate::sibling::{self, Sibling};
use crate::telemetry::Metrics;
use crate::tenant::Quotas;

/// Executions of a tenant in an hour, as it is documented.
const MAX_EXECUTIONS_PER_HOUR: i64 = 10_000;

/// Settings of a coordinator, whatever the way it is started.
#[derive(Clone, Debug, Args)]
pub struct Limits {
    /// Jobs that a tenant may have.
    #[arg(long, env = "MAX_JOBS_PER_TENANT", default_value_t = 1000)]
    pub max_jobs_per_tenant: i64,
    /// Executions that a tenant may begin in an hour of the clock, where it has no quota of its own; 0 is no limit [default: 10000; none in
    /// `orrery dev`]
    #[arg(long, env = "MAX_EXECUTIONS_PER_HOUR", value_parser = clap::value_parser!(i64).range(0..))]
    pub max_executions_per_hour: Option<i64>,
    /// Whether jobs of tenants that do not say so themselves may hand texts to a shell [default: false; true in `orrery dev`]
    #[arg(long, env = "ORRERY_ALLOW_SHELL", num_args = 0..=1, default_missing_value = "true")]
    pub allow_shell: Option<bool>,
    /// Time-out of an attempt where neither its job nor the job's config names one, in milliseconds.
    #[arg(long, env = "SCHEDULER_JOB_TIMEOUT_MS", default_value_t = 300_000)]
    pub scheduler_job_timeout_ms: u64,
    /// Longest time-out of an attempt, in milliseconds; caps what jobs ask for.
    #[arg(long, env = "JOB_EXECUTION_TIMEOUT", default_value_t = 600_000)]
    pub job_execution_timeout_ms: u64,
    /// Executions that this coordinator's agents hold at once.
    #[arg(long, env = "SCHEDULER_MAX_CONCURRENT_JOBS", default_value_t = 1000)]
    pub max_concurrent_jobs: usize,
    /// Executions of one tenant that may run at once, where the tenant has no limit of its own; 0 is no limit.
    #[arg(long, env = "ORRERY_TENANT_MAX_CONCURRENT", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..=1_000_000))]
    pub tenant_max_concurrent: i64,
    /// Largest body of a REST request, in bytes.
    #[arg(long, env = "ORRERY_MAX_BODY_BYTES", default_value_t = 4 << 20)]
    pub max_body_bytes: usize,
    /// Largest log of one execution, in bytes; what is beyond is dropped, and said.
    #[arg(long, env = "ORRERY_MAX_LOG_BYTES", default_value_t = 10 << 20)]
    pub max_log_bytes: i64,
    /// How long an agent's session lives after a heartbeat, in milliseconds.
    #[arg(long, env = "ORRERY_SESSION_TTL_MS", default_value_t = 15_000)]
    pub session_ttl_ms: u64,
    /// How long before their instant planned fires may be handed to agents, in milliseconds; 0: not before it. Above 5000 they are planned
    /// earlier, too.
    #[arg(long, env = "ORRERY_ARM_AHEAD_MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pub arm_ahead_ms: u64,
    /// How agents are chosen where several could take an execution.
    #[arg(long, env = "ORRERY_STRATEGY", value_enum, default_value_t = Strategy::LeastLoaded)]
    pub strategy: Strategy,
    /// How long finished executions are kept, in days.
    #[arg(long, env = "ORRERY_RETENTION_DAYS", default_value_t = 90)]
    pub retention_days: u32,
    /// How long logs of executions are kept, in days.
    #[arg(long, env = "ORRERY_LOG_RETENTION_DAYS", default_value_t = 30)]
    pub log_retention_days: u32,
    /// How long the audit log is kept, in days; 0: for ever.
    #[arg(long, env = "ORRERY_AUDIT_RETENTION_DAYS", default_value_t = 400)]
    pub audit_retention_days: u32,
}

/// What coordinators share beside the database, and how much callers may ask.
#[derive(Clone, Args)]
pub struct Sharing {
    /// redis://[USER:PASSWORD@]HOST:PORT[/DATABASE], or rediss:// for TLS: hints, caches, limits and locks. Without it the database does.
    #[arg(long, env = "REDIS_URL", hide_env_values = true)]
    pub redis_url: Option<String>,
    /// A service that gets a copy of the audit log, such as http://audit-service:3008. What it does not take is kept for it.
    #[arg(long, env = "AUDIT_SERVICE_URL")]
    pub audit_service_url: Option<String>,
    /// How long the lock of a job outlives a coordinator that dies with it, in milliseconds.
    #[arg(long, env = "SCHEDULER_LOCK_TTL_MS", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
    pub lock_ttl_ms: u64,
    /// Calls that a principal may make in a minute, which may come at once; 0 is no limit [default: 6000; none in `orrery dev`]
    #[arg(long, env = "ORRERY_RATE_LIMIT_PER_MINUTE")]
    pub rate_limit_per_minute: Option<u32>,
    /// Calls that an address may make in a minute without valid credentials; 0 is no limit [default: 100; none in `orrery dev`]
    #[arg(long, env = "ORRERY_ADDRESS_RATE_LIMIT_PER_MINUTE")]
    pub address_rate_limit_per_minute: Option<u32>,
}

/// How an agent is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Strategy {
    /// The one with the smallest share of its slots in use.
    LeastLoaded,
    /// One after the other.
    RoundRobin,
}

/// Where a coordinator listens.
#[derive(Clone, Debug, Args)]
pub struct Listen {
    /// REST, health and API documentation.
    #[arg(long, env = "ORRERY_HTTP")]
    pub http: Option<SocketAddr>,
    /// gRPC: clients and agents.
    #[arg(long, env = "ORRERY_GRPC")]
    pub grpc: Option<SocketAddr>,
    /// Prometheus metrics.
    #[arg(long, env = "ORRERY_METRICS")]
    pub metrics: Option<SocketAddr>,
}

/// How callers are known.
#[derive(Clone, Args)]
pub struct Identity {
    /// Secret of HS256 tokens, at least 32 bytes.
    #[arg(long, env = "ORRERY_JWT_SECRET", hide_env_values = true)]
    pub jwt_secret: Option<String>,
    /// PEM files of public keys of tokens: RSA (RS256), P-256 (ES256) or Ed25519 (EdDSA); separated by commas. With KID= before a file its key
    /// counts for tokens of that key id only.
    #[arg(long, env = "ORRERY_JWT_PUBLIC_KEY", value_name = "[KID=]FILE", value_delimiter = ',')]
    pub jwt_public_key: Vec<String>,
    /// File or https:// address of the JWK set of an identity provider.
    #[arg(long, env = "ORRERY_JWKS", value_name = "FILE|URL")]
    pub jwks: Option<String>,
    /// The `iss` that tokens must have; needed with public keys, and `orrery` where there is only a secret.
    #[arg(long, env = "ORRERY_JWT_ISSUER")]
    pub jwt_issuer: Option<String>,
    /// The `aud` that tokens must have.
    #[arg(long, env = "ORRERY_JWT_AUDIENCE", default_value = AUDIENCE)]
    pub jwt_audience: String,
    /// How far the clocks of those who sign tokens may differ, in seconds.
    #[arg(long, env = "ORRERY_JWT_LEEWAY_SECONDS", default_value_t = LEEWAY, value_parser = clap::value_parser!(u64).range(0..=120))]
    pub jwt_leeway_seconds: u64,
    /// Take tokens without `nbf`, as several identity providers issue them.
    #[arg(long, env = "ORRERY_JWT_WITHOUT_NBF", default_value_t = false, action = clap::ArgAction::Set)]
    pub jwt_without_nbf: bool,
    /// A service that is asked whose tokens are whose, instead of checking them here.
    #[arg(long, env = "AUTH_SERVICE_URL")]
    pub auth_service_url: Option<String>,
    /// A service that is asked what people may do, instead of the roles that are stored here.
    #[arg(long, env = "RBAC_SERVICE_URL")]
    pub rbac_service_url: Option<String>,
    #[command(flatten)]
    pub internal: Internal,
    /// How long an access token of somebody who signed in is good, in minutes.
    #[arg(long, env = "ORRERY_ACCESS_TOKEN_MINUTES", default_value_t = ACCESS_MINUTES, value_parser = clap::value_parser!(u64).range(1..=15))]
    pub access_token_minutes: u64,
    /// How long somebody stays signed in, in days.
    #[arg(long, env = "ORRERY_SESSION_DAYS", default_value_t = SESSION_DAYS, value_parser = clap::value_parser!(u64).range(1..=90))]
    pub session_days: u64,
    #[command(flatten)]
    pub server_secret: ServerSecret,
}

const AUDIENCE: &str = "orrery";
const LEEWAY: u64 = 30;
const ACCESS_MINUTES: u64 = 15;
const SESSION_DAYS: u64 = 14;

/// How sibling services are known.
#[derive(Clone, Default, Args)]
pub struct Internal {
    /// Token that sibling services call /internal with, at least 32 bytes; without it /internal is off.
    #[arg(long, env = "INTERNAL_SERVICE_TOKEN", hide_env_values = true)]
    pub internal_service_token: Option<String>,
}

/// What API keys are hashed under, and access tokens signed with.
#[derive(Clone, Default, Args)]
pub struct ServerSecret {
    /// Secret that API keys are hashed under and access tokens signed with, at least 32 bytes and the same for all coordinators. Several,
    /// separated by commas: the first is used for what is new, the others still count. Derived from ORRERY_JWT_SECRET where absent.
    #[arg(long, env = "ORRERY_KEY_PEPPER", hide_env_values = true, value_delimiter = ',')]
    pub key_pepper: Vec<String>,
    /// File of that secret instead; made where it is missing.
    #[arg(long, env = "ORRERY_KEY_FILE", value_name = "FILE")]
    pub key_file: Option<PathBuf>,
}

impl Default for Identity {
    fn default() -> Self {
        Self {
            jwt_secret: None,
            jwt_public_key: Vec::new(),
            jwks: None,
            jwt_issuer: None,
            jwt_audience: AUDIENCE.to_owned(),
            jwt_leeway_seconds: LEEWAY,
            jwt_without_nbf: false,
            auth_service_url: None,
            rbac_service_url: None,
            internal: Internal::default(),
            access_token_minutes: ACCESS_MINUTES,
            session_days: SESSION_DAYS,
            server_secret: ServerSecret::default(),
        }
    }
}

impl std::fmt::Debug for Identity {
    /// Without the secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("jwt_secret", &self.jwt_secret.is_some())
            .field("jwt_public_key", &self.jwt_public_key)
            .field("jwks", &self.jwks)
            .field("jwt_issuer", &self.jwt_issuer)
            .field("jwt_audience", &self.jwt_audience)
            .field("auth_service_url", &self.auth_service_url.is_some())
            .field("rbac_service_url", &self.rbac_service_url.is_some())
            .field("internal", &self.internal)
            .field("server_secret", &self.server_secret)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Internal {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Internal").field("service_token", &self.internal_service_token.is_some()).finish()
    }
}

impl std::fmt::Debug for ServerSecret {
    /// Without the secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { key_pepper, key_file } = self;
        f.debug_struct("ServerSecret").field("peppers", &key_pepper.len()).field("key_file", key_file).finish()
    }
}

/// The keys that secrets are encrypted under. The variable ORRERY_ENCRYPTION_KEY holds them as well; it is no flag, since every user of a host
/// sees the arguments of its programs.
#[derive(Clone, Debug, Default, Args)]
pub struct Encryption {
    /// File of the keys that secrets are encrypted under, one ID:KEY a line, KEY 32 bytes in base64; the first encrypts, all decrypt. Without it
    /// and ORRERY_ENCRYPTION_KEY secrets cannot be used.
    #[arg(long, env = "ORRERY_ENCRYPTION_KEY_FILE", value_name = "FILE")]
    pub encryption_key_file: Option<PathBuf>,
}

impl Encryption {
    /// Where the keys come from.
    ///
    /// # Errors
    /// Where both ways are used at once.
    pub fn source(&self) -> Result<KeySource, EncryptionError> {
        KeySource::of(self.encryption_key_file.as_deref())
    }
}

impl Sharing {
    /// The Redis of the deployment; an empty address is none.
    ///
    /// # Errors
    /// Where the address is none.
    pub fn redis(&self, metrics: &Metrics) -> Result<Option<Redis>, AddressError> {
        let url = self.redis_url.as_deref().map(str::trim).filter(|url| !url.is_empty());
        url.map(|url| Redis::new(url, metrics.clone())).transpose()
    }

    /// The address of the audit service; an empty one is none.
    ///
    /// # Errors
    /// Where it is no address.
    pub fn audit_service(&self) -> Result<Option<Sibling>, sibling::AddressError> {
        let url = self.audit_service_url.as_deref().map(str::trim).filter(|url| !url.is_empty());
        url.map(|url| Sibling::new("AUDIT_SERVICE_URL", url)).transpose()
    }

    /// How many calls callers may make. A program that does its work by calling hardly reaches a hundred in a second for minutes; who has no
    /// credentials has little to call for.
    pub fn rates(&self) -> Rates {
        Rates {
            principal: self.rate_limit_per_minute.unwrap_or(6000),
            address: self.address_rate_limit_per_minute.unwrap_or(100),
        }
    }

    /// The same without any limit that was not set.
    #[must_use]
    pub fn unlimited(mut self) -> Self {
        self.rate_limit_per_minute.get_or_insert(0);
        self.address_rate_limit_per_minute.get_or_insert(0);
        self
    }

    /// How long a lock lives without being extended.
    pub fn lock_ttl(&self) -> Duration {
        Duration::from_millis(self.lock_ttl_ms)
    }
}

impl std::fmt::Debug for Sharing {
    /// Without the address of Redis, which may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { redis_url, lock_ttl_ms, .. } = self;
        f.debug_struct("Sharing")
            .field("redis", &redis_url.is_some())
            .field("lock_ttl_ms", lock_ttl_ms)
            .field("rates", &self.rates())
            .finish()
    }
}

impl Limits {
    /// What tenants may have that say nothing else; 0 is no limit.
    pub fn quotas(&self) -> Quotas {
        Quotas {
            max_jobs: Some(self.max_jobs_per_tenant),
            max_executions_per_hour: Some(self.hourly()),
            max_concurrent: Some(i32::try_from(self.tenant_max_concurrent).unwrap_or(i32::MAX)),
            max_log_bytes: Some(self.max_log_bytes),
            max_result_bytes: Some(0),
        }
    }

    /// Executions that a tenant may begin in an hour of the clock, where it has no quota of its own; 0 is no limit.
    pub fn hourly(&self) -> i64 {
        self.max_executions_per_hour.unwrap_or(MAX_EXECUTIONS_PER_HOUR)
    }

    /// The same without the quotas and bounds of tenants that were not set: for one's own host.
    #[must_use]
    pub fn unlimited(mut self) -> Self {
        self.max_executions_per_hour.get_or_insert(0);
        self.allow_shell.get_or_insert(true);
        self
    }

    /// How long an agent's session lives after a heartbeat.
    pub fn session_ttl(&self) -> Duration {
        Duration::from_millis(self.session_ttl_ms.max(1000))
    }

    /// How long before their instant planned fires may be handed to agents.
    pub fn arm_ahead(&self) -> Duration {
        Duration::from_millis(self.arm_ahead_ms)
    }

    /// How long attempts may take.
    pub fn timeouts(&self) -> Timeouts {
        let ms = |ms: u64| Duration::from_millis(ms.max(1));
        Timeouts { default: ms(self.scheduler_job_timeout_ms), cap: ms(self.job_execution_timeout_ms) }
    }
}
