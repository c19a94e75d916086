//! All state, behind few and wide methods. Engines keep rows and transactions; what is to happen is decided by pure functions that the
//! callers hand in, or by [`crate::execution::apply`]. One conformance suite (`server/tests/store`) passes on every engine.
//!
//! Every instant that decides anything is the database's own clock, read in the statement or transaction that uses it.

mod changes;
mod error;
mod histogram;
pub mod postgres;
mod rows;
pub mod sqlite;
mod tally;
mod text;
mod types;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::broadcast;
use tokio::time::Instant;
use uuid::Uuid;

pub use error::StoreError;
pub use types::*;

use crate::admission::{Gate, Room};
use crate::audit::{Head, Link, Place, Seal};
use crate::execution::{Event, Execution, Rejected};
use crate::job::Job;
use crate::tenant::Tenant;

/// What every engine does. A call is one transaction: all of it happened, or none.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// A store of any engine.
pub type DynStore = Arc<dyn Store>;

/// Everything that a coordinator needs of its database.
#[async_trait]
pub trait Store:
    Jobs
    + Fires
    + Leases
    + Gates
    + DeadLetters
    + Sessions
    + Agents
    + Logs
    + Reads
    + Keys
    + Tenants
    + Users
    + Roles
    + Secrets
    + Audit
    + Upkeep
    + Sharing
{
    /// `postgres` or `sqlite`.
    fn engine(&self) -> &'static str;

    /// The database's clock.
    async fn now(&self) -> Result<DateTime<Utc>>;

    /// The database's clock, and when it was asked for at the earliest, as nearly as an engine can tell.
    async fn read_clock(&self) -> Result<(Instant, DateTime<Utc>)> {
        let asked = Instant::now();
        Ok((asked, self.now().await?))
    }

    /// Tells all coordinators, this one included, that there may be work. Cheap, and may be lost: everybody looks by a timer as well.
    async fn wake(&self, hint: Wake) -> Result<()>;

    /// Tells those who watch executions, in this process, that these have changed. Costs nothing where nobody watches.
    fn changed(&self, executions: &[Uuid]);

    /// What [`Store::changed`] tells.
    fn changes(&self) -> broadcast::Receiver<Arc<[Uuid]>>;

    /// The hints of [`Store::wake`], those of other coordinators included.
    fn hints(&self) -> broadcast::Receiver<Wake>;

    /// Only those of [`Store::wake`] in this process, for passing them on by another way.
    fn told(&self) -> broadcast::Receiver<Wake>;
}

/// Definitions.
#[async_trait]
pub trait Jobs: Send + Sync {
    /// Inserts jobs, all or none.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`] with the index of the job; [`StoreError::QuotaExceeded`] where the tenant would have more than
    /// `quota` jobs; [`StoreError::IdempotencyKeyReused`] where a key came with another request. A key that came with the same request
    /// answers with the job that it made.
    async fn create_jobs(&self, jobs: Vec<NewJob>, quota: Option<i64>) -> Result<Vec<Job>>;

    /// One job, unless deleted or another tenant's.
    async fn job(&self, tenant: Uuid, id: Uuid) -> Result<Option<Job>>;

    /// Jobs, newest first.
    async fn jobs(&self, tenant: Uuid, filter: &JobFilter, page: &Page) -> Result<Vec<Job>>;

    /// The tags of those of these jobs that the tenant has, deleted ones included.
    async fn job_tags(&self, tenant: Uuid, jobs: &[Uuid]) -> Result<Vec<(Uuid, Vec<String>)>>;

    /// Jobs with any of these tags, deleted ones included, newest first.
    async fn jobs_tagged(&self, tenant: Uuid, tags: &[String], limit: i64) -> Result<Vec<Uuid>>;

    /// Reads a job under a lock, lets `change` decide, and writes what it says: the row (if its version is still the one read), the
    /// planned fires to take back, the executions to cancel, an omission. One transaction.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::NameTaken`]; [`StoreError::Refused`] with what `change` refused.
    async fn change_job(&self, tenant: Uuid, id: Uuid, change: &ChangeJob<'_>) -> Result<Changed>;
}

/// From schedules to executions.
#[async_trait]
pub trait Fires: Send + Sync {
    /// Locks jobs whose cursor lies before now + `ahead` (skipping those that another coordinator has locked), lets `decide` say which
    /// fires to make, and in one transaction inserts their executions (state Scheduled) and moves the cursors on. Jobs whose cursor is late
    /// (see [`crate::execution::ON_TIME`]) get half of the places at most, and are handed to `decide` after the others. A job that cannot be
    /// read is put off, with an omission, and holds nobody up.
    async fn plan(&self, ahead: Duration, limit: usize, decide: &DecidePlan<'_>) -> Result<Planned>;

    /// Executions whose `run_at` has come become Pending, or, for fires that `decide` omits, an omission. Counts the executions of their
    /// jobs; a job that has reached its maximum, or has nothing left to fire, becomes inactive. What is late gets half of the places at
    /// most. What cannot be read is put off for a minute.
    async fn release(&self, limit: usize, decide: &DecideDue<'_>) -> Result<Releases> {
        self.release_within(limit, 0, decide).await
    }

    /// The same, where tenants without an hourly quota of their own have this one; 0 is none. Fires know what their tenant may still begin,
    /// and those that are admitted are counted.
    async fn release_within(&self, limit: usize, hourly: i64, decide: &DecideDue<'_>) -> Result<Releases>;

    /// Grants planned fires ahead of their instant, to sessions that `assign` gives them to: those that `decide` lets, within the limits of
    /// queue, tenant and key, counted as in [`Leases::claim`]. They are counted as executions of their jobs now, unless they were before and
    /// came back. What is not granted stays planned.
    async fn arm(&self, arm: &Arm<'_>, decide: &DecideArm<'_>, assign: &Assign<'_>) -> Result<Armed>;

    /// Makes executions that somebody asked for, all or none: Pending, or Scheduled where their `run_at` lies ahead.
    ///
    /// # Errors
    /// [`StoreError::TriggerRefused`] with the index and what `decide` refused, [`StoreError::IdempotencyKeyReused`].
    async fn trigger(&self, triggers: Vec<Trigger>, decide: &DecideTrigger<'_>) -> Result<Vec<Execution>>;

    /// Makes executions that callers asked for one by one, in as few transactions as it takes. Each has its own answer, in their order, as if
    /// it had come alone: one that is refused does not hinder the others. What nothing limits may be granted in the transaction that
    /// makes it, where `at_once` has a session for it that lives and is on the attachment named.
    ///
    /// # Errors
    /// Of each: [`StoreError::TriggerRefused`], [`StoreError::IdempotencyKeyReused`]. Of all: where the database is away.
    async fn trigger_each(
        &self,
        triggers: Vec<Trigger>,
        decide: &DecideTrigger<'_>,
        at_once: Option<AtOnce<'_>>,
    ) -> Result<Vec<Result<Made>>>;

    /// Lanes with a greater id, by id. Lanes never change and are few. Ids are handed out before they are committed, so that a lane may
    /// appear below one that has been seen: ask from 0 now and then.
    async fn lanes_after(&self, id: i64) -> Result<Vec<Lane>>;
}

/// From executions to their end.
#[async_trait]
pub trait Leases: Send + Sync {
    /// Takes up to `limit` pending executions of `lanes`, the highest priority first and in turns between lanes; lets `assign` give them
    /// to sessions; and grants a lease to each that it gave. What has a limit, by job, key, queue or tenant, is only offered while fewer
    /// leases live than that (see [`crate::admission`]); they are counted in the same transaction, under locks that keep other claims
    /// from counting at the same time. However much waits of what is at its limit, a claim passes over it as a whole.
    async fn claim(&self, claim: &Claim<'_>, assign: &Assign<'_>) -> Result<Claimed>;

    /// Applies events, in order, each with its answer. What agents say counts only while their session lives, which is checked in the
    /// same transaction. One that fails does not hinder the others. The end of an attempt that was written before is answered by
    /// [`Rejected::Repeated`].
    async fn apply(&self, changes: Vec<Change>) -> Result<Vec<std::result::Result<Execution, Rejected>>>;

    /// Ends sessions whose expiry has passed, and takes their leases back (event LeaseExpired); ends attempts whose deadline passed more
    /// than `slack` ago (event TimedOut).
    async fn reap(&self, slack: Duration, limit: usize) -> Result<Reaped>;

    /// Of these sessions, the leases whose executions somebody wants to end, and those that were granted ahead of their instant by a
    /// definition that is not their job's any more.
    async fn cancels(&self, sessions: &[Uuid]) -> Result<Vec<Wanted>>;
}

/// Limits on what runs at once.
#[async_trait]
pub trait Gates: Send + Sync {
    /// The rooms behind those of these gates that have a limit. `tenant_limit` is that of tenants without one of their own; 0 is none.
    async fn rooms(&self, gates: &[Gate], tenant_limit: i64) -> Result<Vec<(Gate, Room)>>;

    /// Limits a queue of a tenant; 0 takes the limit away.
    async fn set_queue_limit(&self, tenant: Uuid, queue: &str, limit: i32, by: Uuid) -> Result<()>;
}

/// Executions that were given up because their agents were lost. They are written by the transaction that ends the execution.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Dead letters, newest first by [`DeadLetter::id`].
    async fn dead_letters(&self, tenant: Uuid, filter: &DeadLetterFilter, page: &Page) -> Result<Vec<DeadLetter>>;

    /// That of an execution.
    async fn dead_letter(&self, tenant: Uuid, execution: Uuid) -> Result<Option<DeadLetter>>;

    /// Puts a dead letter aside; one that has been already stays as it is.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Refused`] (DEAD_LETTER_RELEASED).
    async fn discard_dead_letter(&self, discard: &Discard) -> Result<DeadLetter>;

    /// Makes the execution that repeats a dead letter, of which `trigger.retry_of` is the execution, and marks it as released, in one
    /// transaction. One that has been released already answers with the execution of that time.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Refused`] (DEAD_LETTER_DISCARDED); [`StoreError::TriggerRefused`] with what `decide`
    /// refused.
    async fn release_dead_letter(&self, trigger: &Trigger, decide: &DecideTrigger<'_>) -> Result<Execution>;
}

/// Agents, as their sessions show them.
#[async_trait]
pub trait Sessions: Send + Sync {
    /// Opens a session that lives for `ttl` from now.
    async fn open_session(&self, session: &NewSession, ttl: Duration) -> Result<Session>;

    /// Attaches a living session to a coordinator, under the next attachment number, and renews it. `None` where it is over or belongs
    /// to another tenant, name or enrolled agent. In the same transaction the leases that the agent does not name in `held` are taken
    /// back: they were granted to a stream that was lost, or the agent has lost them. A claim for an older attachment either is seen here
    /// or finds that the attachment has changed.
    async fn resume_session(
        &self,
        id: Uuid,
        session: &NewSession,
        held: &Holding<'_>,
        ttl: Duration,
    ) -> Result<Option<Resumed>>;

    /// Renews living sessions by their current attachment. It waits for no lock, and for no other work of this store.
    async fn renew_sessions(&self, sessions: &[(Uuid, i64)], ttl: Duration) -> Result<Renewed>;

    /// Lets every session live for `grace` from now at least, unless a coordinator other than this one was seen in the last `quiet`: where
    /// nobody could reach the database, nobody could renew. Only what the store holds to be alive is changed by it: an agent
    /// trusts its session for no longer than it was told. Sessions of agents that may not connect are not spared. Answers with how many
    /// sessions live longer now.
    async fn spare_sessions(&self, coordinator: Uuid, quiet: Duration, grace: Duration) -> Result<u64>;

    /// The stream is lost; the session lives on until it expires.
    async fn detach_session(&self, id: Uuid, attachment: i64) -> Result<()>;

    /// The agent has gone in good order: the session ends, and what it still held is taken back.
    async fn close_session(&self, id: Uuid, attachment: i64) -> Result<()>;

    /// Marks a session as taking no further work. `false` where there is none (of that tenant, where one is given).
    async fn drain_session(&self, tenant: Option<Uuid>, id: Uuid) -> Result<bool>;

    /// The leases that a session holds.
    async fn held(&self, session: Uuid) -> Result<Vec<Held>>;

    /// Living sessions that may serve a tenant (its own and shared ones), with their load, by id.
    async fn sessions(&self, tenant: Uuid, page: &Page) -> Result<Vec<Session>>;
}

/// Agents that have enrolled, and the tokens by which they may.
#[async_trait]
pub trait Agents: Send + Sync {
    /// Stores a token that may be used for `ttl` from now. Those that were over a month ago are forgotten.
    async fn insert_join_token(&self, token: &NewJoinToken, ttl: Duration) -> Result<JoinToken>;

    /// The token with this hash, unless it has been used or has expired.
    async fn join_token(&self, hash: &[u8; 32]) -> Result<Option<JoinToken>>;

    /// Uses a token up and stores the agent that came with it, in one transaction. `None` where the token is unknown, has expired, or has
    /// been used: of several that come with one token, one enrols.
    async fn enrol(&self, hash: &[u8; 32], id: Uuid, certificate: &Certified) -> Result<Option<EnrolledAgent>>;

    /// An agent, whatever its state and its tenant.
    async fn enrolled_agent(&self, id: Uuid) -> Result<Option<EnrolledAgent>>;

    /// Agents of a tenant and those that serve all tenants, newest first by id.
    async fn enrolled_agents(&self, tenant: Uuid, page: &Page) -> Result<Vec<EnrolledAgent>>;

    /// Notes an agent's new certificate. `None` where there is no such agent, or it has been revoked.
    async fn renew_agent(&self, id: Uuid, certificate: &Certified) -> Result<Option<EnrolledAgent>>;

    /// Takes an agent's identity away, and ends its sessions: from now on nothing that it says counts. One that is revoked stays as it is.
    /// `None` where there is no such agent (of that tenant, where one is given).
    async fn revoke_agent(&self, tenant: Option<Uuid>, id: Uuid, by: Uuid) -> Result<Option<EnrolledAgent>>;

    /// Those of these agents that may not be connected: they are revoked or unknown, or their newest certificate has expired. Their sessions are
    /// ended.
    async fn end_refused_agents(&self, agents: &[Uuid]) -> Result<Vec<Uuid>>;
}

/// What executions print.
#[async_trait]
pub trait Logs: Send + Sync {
    /// Stores lines of attempts whose epoch is their execution's newest; others are dropped. A line that is stored already is skipped.
    /// An execution keeps at most `max_bytes`; what is beyond is dropped and said once, in a system line. Only executions of `tenant`
    /// are written to, where one is given.
    async fn append_logs(&self, tenant: Option<Uuid>, lines: Vec<LogLine>, max_bytes: i64) -> Result<()>;

    /// Says in the logs of executions that results came too late and were refused; see [`RefusedResult::line`]. What is said already is not
    /// said again.
    async fn note_refused(&self, refused: &[RefusedResult]) -> Result<()>;

    /// Lines after a sequence number, oldest first.
    async fn logs(&self, tenant: Uuid, execution: Uuid, after: i64, limit: i64) -> Result<Vec<LogLine>>;
}

/// What people ask.
#[async_trait]
pub trait Reads: Send + Sync {
    /// One execution, live or from history.
    async fn execution(&self, tenant: Uuid, id: Uuid) -> Result<Option<Execution>>;

    /// Executions, newest first by id, live and from history. Fires that are planned ahead and not yet due are left out.
    async fn executions(&self, tenant: Uuid, filter: &ExecutionFilter, page: &Page) -> Result<Vec<Execution>>;

    /// Totals and durations of executions scheduled in `from..to`. What is over is counted exactly; of what waits, an engine may estimate
    /// more than 10,000. Percentiles are within 1/128 of the true ones.
    async fn stats(&self, tenant: Uuid, job: Option<Uuid>, from: DateTime<Utc>, to: DateTime<Utc>) -> Result<Stats>;

    /// Omitted fires of a job, newest first.
    async fn omissions(&self, tenant: Uuid, job: Uuid, page: &Page) -> Result<Vec<OmissionRow>>;

    /// Depth by queue, by name. An engine may estimate what is more than 10,000.
    async fn queues(&self, tenant: Uuid) -> Result<Vec<QueueDepth>>;

    /// Counts of jobs and live executions: of one tenant, or of all. An engine may estimate more than 10,000 that wait in a queue.
    async fn counts(&self, tenant: Option<Uuid>) -> Result<Counts>;

    /// How many executions of a job are active (see [`Execution::is_active`]), and how many of them hold a lease.
    async fn job_load(&self, tenant: Uuid, job: Uuid) -> Result<JobLoad>;

    /// The coordinators seen in the last minute.
    async fn coordinators(&self) -> Result<Vec<CoordinatorRow>>;
}

/// API keys.
#[async_trait]
pub trait Keys: Send + Sync {
    /// Stores a key's hash.
    async fn insert_key(&self, key: &ApiKey) -> Result<()>;

    /// The key that one of these is the hash of, unless it has expired or been revoked.
    async fn key_by_hash(&self, hashes: &[KeyHash]) -> Result<Option<ApiKey>>;

    /// Keys, newest first, those that are over included.
    async fn keys(&self, of: KeysOf, page: &Page) -> Result<Vec<ApiKey>>;

    /// Revokes a key; one that was revoked stays as it is.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    async fn revoke_key(&self, of: KeysOf, id: Uuid) -> Result<ApiKey>;

    /// Says that keys were used so long ago. What is stored is the latest use.
    async fn keys_used(&self, uses: &[(Uuid, Duration)]) -> Result<()>;
}

/// Tenants. Whatever changes one goes through [`Tenants::change_tenant`].
#[async_trait]
pub trait Tenants: Send + Sync {
    /// Makes a tenant as it is given, at version 1.
    ///
    /// # Errors
    /// [`StoreError::Refused`] (TENANT_EXISTS, TENANT_NAME_TAKEN).
    async fn create_tenant(&self, tenant: &Tenant) -> Result<Tenant>;

    /// One tenant; `None` where it has no row.
    async fn tenant(&self, id: Uuid) -> Result<Option<Tenant>>;

    /// Tenants, newest first by id.
    async fn tenants(&self, page: &Page) -> Result<Vec<Tenant>>;

    /// Reads a tenant under a lock, lets `change` decide, and writes what it says at the next version. Where that suspends the tenant, or ends
    /// its suspension, its jobs are told in the same transaction, also those that are being made.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Refused`] with what `change` refused, and (TENANT_NAME_TAKEN).
    async fn change_tenant(&self, id: Uuid, change: &ChangeTenant<'_>) -> Result<Tenant>;

    /// The executions that are counted for a tenant in this hour.
    async fn hour_of(&self, tenant: Uuid) -> Result<i64>;

    /// Counts up to so many executions of a tenant in this hour, as far as its quota lets; all of them where it has none. `default` is the
    /// quota of tenants without one of their own; 0 is none.
    async fn set_aside(&self, tenant: Uuid, wanted: i64, default: i64) -> Result<SetAside>;
}

/// People who sign in with a password, and their sessions.
#[async_trait]
pub trait Users: Send + Sync {
    /// Makes a user. `made_roles`: those of its roles that the tenant has made, and that must be there.
    ///
    /// # Errors
    /// [`StoreError::Refused`] (USER_NAME_TAKEN, INVALID_ROLE).
    async fn create_user(&self, user: &User, made_roles: &[String]) -> Result<()>;

    /// One user, unless another tenant's.
    async fn user(&self, tenant: Uuid, id: Uuid) -> Result<Option<User>>;

    /// The user of a name, in lower case.
    async fn user_by_name(&self, tenant: Uuid, name: &str) -> Result<Option<User>>;

    /// Users, newest first.
    async fn users(&self, tenant: Uuid, page: &Page) -> Result<Vec<User>>;

    /// Changes a user, and ends the sessions that the change says.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Refused`] (INVALID_ROLE) where a role that it is given is not there.
    async fn change_user(&self, tenant: Uuid, id: Uuid, change: &UserChange) -> Result<User>;

    /// Begins a session, and notes the login. `false` where the user has been disabled, or is none.
    async fn begin_user_session(&self, session: &NewUserSession) -> Result<bool>;

    /// A session, unless it is over or its user is disabled.
    async fn user_session(&self, id: Uuid) -> Result<Option<UserSession>>;

    /// Uses a refresh token, in whose place `next` counts from now on. A token that was used before ends its session.
    async fn rotate_refresh_token(&self, hash: &[u8; 32], next: &[u8; 32]) -> Result<Rotation>;

    /// Ends the session that a refresh token belongs to; answers with its id where there was one.
    async fn end_user_session(&self, hash: &[u8; 32]) -> Result<Option<Uuid>>;

    /// Deletes sessions whose time was over more than a day ago, with their tokens; answers with how many.
    async fn forget_user_sessions(&self) -> Result<u64>;
}

/// How many versions of a secret are kept; older ones go when another is put.
pub const KEPT_VERSIONS: i64 = 10;

/// Encrypts a value as the version that it will be.
pub type SealSecret<'a> = dyn Fn(i64) -> std::result::Result<SealedSecret, crate::error::Error> + Send + Sync + 'a;

/// Secrets of tenants. A store only ever sees them encrypted. Values of sensitive fields, which jobs bring along ([`crate::job::JobSpec::sealed`]),
/// stand among them, and are neither listed nor deleted here.
#[async_trait]
pub trait Secrets: Send + Sync {
    /// The keys that secrets of any tenant are encrypted under.
    async fn encryption_keys(&self) -> Result<Vec<EncryptionKey>>;

    /// Forgets the keys, other than the current one, that nothing is encrypted under any more. Answers with them.
    async fn retire_keys(&self, current: &str) -> Result<Vec<String>>;

    /// Stores another version of a secret, or its first one, encrypted by `seal`. Only the newest [`KEPT_VERSIONS`] are kept.
    ///
    /// # Errors
    /// [`StoreError::Refused`] with what `seal` refused.
    async fn put_secret(&self, tenant: Uuid, name: &str, by: Uuid, seal: &SealSecret<'_>) -> Result<SecretRow>;

    /// Secrets by name, those after a name.
    async fn list_secrets(&self, tenant: Uuid, after: Option<&str>, limit: i64) -> Result<Vec<SecretRow>>;

    /// Of these names, the secrets that there are.
    async fn secrets_named(&self, tenant: Uuid, names: &[String]) -> Result<Vec<SecretRow>>;

    /// Deletes a secret with all its versions, or one version that is not the newest.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Refused`] (SECRET_VERSION_IN_USE) for the newest version.
    async fn delete_secret(&self, tenant: Uuid, name: &str, version: Option<i64>, by: Uuid) -> Result<()>;

    /// Encrypted versions, each with what it was asked by; those that are not there are left out.
    async fn sealed_secrets(&self, tenant: Uuid, wanted: &[WantedSecret]) -> Result<Vec<(WantedSecret, SealedSecret)>>;

    /// Versions that are to be encrypted anew, by name and version.
    async fn stale_secrets(&self, stale: &StaleSecrets<'_>) -> Result<Vec<SealedSecret>>;

    /// Replaces what is encrypted, where it still is what was read; values stay what they are. Answers with how many were replaced.
    async fn replace_sealed(&self, pairs: &[(SealedSecret, SealedSecret)]) -> Result<u64>;

    /// The tenants that have any.
    async fn tenants_with_secrets(&self) -> Result<Vec<Uuid>>;
}

/// Roles that tenants make, and who has which.
#[async_trait]
pub trait Roles: Send + Sync {
    /// Stores a role.
    ///
    /// # Errors
    /// [`StoreError::Refused`] (ROLE_NAME_TAKEN).
    async fn create_role(&self, role: &Role) -> Result<()>;

    /// Roles of a tenant with a greater name, by name.
    async fn roles(&self, tenant: Uuid, after: &str, limit: i64) -> Result<Vec<Role>>;

    /// One role.
    async fn role(&self, tenant: Uuid, name: &str) -> Result<Option<Role>>;

    /// Replaces what a role may do.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    async fn change_role(&self, tenant: Uuid, name: &str, description: &str, permissions: &[String]) -> Result<Role>;

    /// Deletes a role that nobody has.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Refused`] (ROLE_IN_USE) with who has it.
    async fn delete_role(&self, tenant: Uuid, name: &str) -> Result<()>;

    /// Binds a role, and answers with the binding: with the one that is there, where the same role is bound to the same for the same tag. With
    /// `is_made` the role must be one that the tenant has made.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] where there is no such role.
    async fn bind_role(&self, binding: &RoleBinding, is_made: bool) -> Result<RoleBinding>;

    /// Bindings, newest first.
    async fn role_bindings(&self, tenant: Uuid, filter: &BindingFilter, page: &Page) -> Result<Vec<RoleBinding>>;

    /// One binding.
    async fn role_binding(&self, tenant: Uuid, id: Uuid) -> Result<Option<RoleBinding>>;

    /// Takes a binding away.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    async fn unbind_role(&self, tenant: Uuid, id: Uuid) -> Result<RoleBinding>;

    /// The roles that somebody has: those that are bound to it, and what is known of those that it is said to have.
    async fn granted(&self, to: &Grantee<'_>) -> Result<Vec<Granted>>;
}

/// Those of these roles that are not there.
fn absent(names: &[String], there: &[String]) -> Vec<String> {
    names.iter().filter(|name| !there.contains(&text::plain(name).into_owned())).cloned().collect()
}

/// Why a role is not deleted: who would lose it.
fn role_in_use(name: &str, users: &[String], bindings: i64) -> Option<StoreError> {
    if users.is_empty() && bindings == 0 {
        return None;
    }
    let mut who = users.to_vec();
    if bindings > 0 {
        who.push(format!("{bindings} bindings (orrery role bindings --role {name})"));
    }
    let message = format!("the role {name} is that of {}; take it away from them first", who.join(", "));
    let error = crate::error::Error::new(crate::error::Kind::Conflict, "ROLE_IN_USE", message);
    Some(StoreError::Refused(Box::new(error.with("bindings", bindings))))
}

/// The newest version goes only with its secret.
fn refuse_newest(name: &str, version: Option<i64>, newest: i64) -> Result<()> {
    if version != Some(newest) {
        return Ok(());
    }
    let message =
        format!("version: {newest} is the newest of {name}; put another one first, or delete the secret as a whole");
    let error = crate::error::Error::new(crate::error::Kind::Conflict, "SECRET_VERSION_IN_USE", message);
    Err(StoreError::Refused(Box::new(error)))
}

/// What was done, by whom. Entries are written by the calls that do something, in their own transactions, where a caller is known (see
/// [`crate::audit`]); here is what is written beside them, and what is read. The tenant nil is the deployment itself.
#[async_trait]
pub trait Audit: Send + Sync {
    /// Writes entries of what changes nothing, such as calls that were denied.
    async fn record(&self, entries: &[AuditEntry]) -> Result<()>;

    /// Entries, newest first.
    async fn audit_entries(&self, tenant: Uuid, filter: &AuditFilter, page: &Page) -> Result<Vec<AuditRow>>;

    /// One entry.
    async fn audit_entry(&self, tenant: Uuid, id: Uuid) -> Result<Option<AuditRow>>;

    /// The tenants whose entries wait to be sealed, how many do, and since when.
    async fn unsealed(&self) -> Result<Vec<Unsealed>>;

    /// Takes entries of a tenant that wait, the oldest first and [`IN_A_SEAL`](crate::audit::IN_A_SEAL) at most, and stores the seal that `seal`
    /// makes of them, with the head. Only one coordinator does it at a time: `None` where another one is at it, or nothing waits.
    async fn seal_audit(&self, tenant: Uuid, seal: &SealAudit<'_>) -> Result<Option<Sealed>>;

    /// Seals after a sequence, in order.
    async fn audit_seals(&self, tenant: Uuid, after: i64, limit: i64) -> Result<Vec<Seal>>;

    /// The seals that may hold an entry, by their ends.
    async fn audit_seals_around(&self, tenant: Uuid, entry: Uuid) -> Result<Vec<Seal>>;

    /// A signed place of the chain.
    async fn audit_head(&self, tenant: Uuid, place: Place) -> Result<Option<Head>>;

    /// Of these ids, the entries that there are.
    async fn audit_entries_of(&self, tenant: Uuid, ids: &[Uuid]) -> Result<Vec<AuditEntry>>;

    /// Ids of entries that do not wait to be sealed: after one, up to another one or to the end, in order.
    async fn audit_ids(&self, tenant: Uuid, after: Uuid, through: Option<Uuid>, limit: i64) -> Result<Vec<Uuid>>;

    /// The greatest id in seals up to a sequence; nil where there are none.
    async fn highest_sealed(&self, tenant: Uuid, sequence: i64) -> Result<Uuid>;

    /// Ids that have waited to be sealed for longer than `age`, at most so many; each with whether its entry is there.
    async fn left_unsealed(&self, tenant: Uuid, age: Duration, limit: i64) -> Result<Vec<(Uuid, bool)>>;

    /// Drops seals of a tenant, from the first on, all of whose entries are older than `age`, with these, and stores the checkpoint that
    /// `checkpoint` signs in their place. With `only_copied`, no seal that has not been copied. So many seals at most; answers with how many.
    async fn drop_audit(&self, tenant: Uuid, drop: &DropAudit, checkpoint: &SignCheckpoint<'_>) -> Result<usize>;

    /// The tenants that have seals.
    async fn audited_tenants(&self) -> Result<Vec<Uuid>>;

    /// Tenants with seals that have not been copied, up to where they have been, and since when the next one waits.
    async fn uncopied(&self) -> Result<Vec<Uncopied>>;

    /// Notes that a tenant's seals have been copied up to a sequence.
    async fn copied(&self, tenant: Uuid, sequence: i64) -> Result<()>;
}

/// Makes a seal of entries, in order, that follows on a link, and signs where the chain is then.
pub type SealAudit<'a> = dyn Fn(Link, &[AuditEntry], DateTime<Utc>) -> (Seal, Head) + Send + Sync + 'a;

/// Signs a checkpoint: up to a link, whose entries are of this instant at the latest, the chain is dropped.
pub type SignCheckpoint<'a> = dyn Fn(Link, DateTime<Utc>) -> Head + Send + Sync + 'a;

/// What keeps the store well.
#[async_trait]
pub trait Upkeep: Send + Sync {
    /// Makes the partitions of this month and `ahead` further ones; drops (or deletes, in batches) history, logs, omissions and keys of
    /// idempotency that are older than `retention` allows. Only one coordinator does it at a time.
    async fn upkeep(&self, ahead: u32, retention: &Retention) -> Result<UpkeepDone>;

    /// Adds a part of what has been finished since the last time to the totals that statistics are read from. They are complete at any
    /// moment; this keeps what they are read from small. Answers with whether there may be more. Only one coordinator does it at a time.
    async fn add_up(&self) -> Result<bool>;

    /// Says that a coordinator lives, and since when; answers with the database's clock.
    async fn beat(&self, coordinator: &CoordinatorRow) -> Result<DateTime<Utc>>;

    /// The coordinator has gone in good order.
    async fn retire(&self, coordinator: Uuid) -> Result<()>;

    /// Keeps a sample of the scheduler's own numbers; samples older than a week are dropped.
    async fn record_metrics(&self, coordinator: Uuid, sample: &BTreeMap<String, f64>) -> Result<()>;
}

/// What coordinators share beside the jobs.
#[async_trait]
pub trait Sharing: Send + Sync {
    /// Takes a lock for `ttl` from now, unless another holder has it and it has not expired. `false` where it has.
    async fn lock(&self, key: &str, holder: &str, ttl: Duration) -> Result<bool>;

    /// Holds a lock for `ttl` from now. `false` where it has expired or is another's.
    async fn extend_lock(&self, key: &str, holder: &str, ttl: Duration) -> Result<bool>;

    /// Gives a lock back. `false` where it was not this holder's any more.
    async fn unlock(&self, key: &str, holder: &str) -> Result<bool>;

    /// The generation of what is cached outside of the database; what is of an older one may be wrong.
    async fn cache_generation(&self) -> Result<i64>;

    /// Begins the next generation.
    async fn next_cache_generation(&self) -> Result<i64>;
}

/// Decides over a change of a job: sees it as it stands and the database's clock.
pub type ChangeJob<'a> =
    dyn Fn(&Job, DateTime<Utc>) -> std::result::Result<JobChange, crate::error::Error> + Send + Sync + 'a;

/// Decides over a change of a tenant: sees it as it stands and the database's clock. The store sets `version` and `updated_at`.
pub type ChangeTenant<'a> =
    dyn Fn(&Tenant, DateTime<Utc>) -> std::result::Result<Tenant, crate::error::Error> + Send + Sync + 'a;

/// Decides which fires of a job to make.
pub type DecidePlan<'a> = dyn Fn(&PlanCandidate) -> JobPlan + Send + Sync + 'a;

/// Decides over fires that have come due, in their order. As many verdicts as fires.
pub type DecideDue<'a> = dyn Fn(&[DueFire], DateTime<Utc>) -> Vec<DueVerdict> + Send + Sync + 'a;

/// Decides which planned fires may be granted ahead of their instant. As many answers as fires, in their order.
pub type DecideArm<'a> = dyn Fn(&[DueFire]) -> Vec<bool> + Send + Sync + 'a;

/// Decides whether a job takes a trigger, given the active executions it has with those of the same call. They are counted where they decide
/// (see [`crate::firing::counts_active`]), and 0 elsewhere.
pub type DecideTrigger<'a> =
    dyn Fn(&Job, i64, &Trigger) -> std::result::Result<(), crate::error::Error> + Send + Sync + 'a;

/// Gives candidates to sessions; as many answers as candidates, `None` for those that nobody can take.
pub type Assign<'a> = dyn Fn(&[Candidate<'_>]) -> Vec<Option<Assignment>> + Send + Sync + 'a;

/// One event for one execution.
#[derive(Clone, Debug)]
pub struct Change {
    pub execution: Uuid,
    /// Only where the execution is this tenant's.
    pub tenant: Option<Uuid>,
    pub event: Event,
    /// The execution as the sender knows it since it was granted or last changed, if it does. An engine may decide on it instead of reading,
    /// and then compares when it writes; what it is wrong about costs time, never truth.
    pub known: Option<Arc<Execution>>,
}
