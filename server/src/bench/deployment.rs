use std::time::Duration;

use orrery_sdk::client::{Client, ClientOptions};
use orrery_sdk::v1::{BatchTriggerJobsRequest, CreateJobRequest, GetStatusRequest, JobType, TriggerJobRequest};
use orrery_sdk::{ClientTls, Json};
use rustix::process::Signal;

use super::authority::Authority;
use super::bed::Bed;
use super::child::Child;
use super::database::Database;
use super::error::{Result, failed};
use super::settings::Engine;
use super::wait::until;
use super::worker::MODULE;

/// How long a program may take to start or to end.
pub(super) const START: Duration = Duration::from_secs(60);

/// How long before their instant fires are handed to agents, where it is not said otherwise.
const ARM_AHEAD: Duration = Duration::from_millis(1500);

/// Triggers in one call.
pub(super) const BATCH: u64 = 1000;

/// One coordinator on a database of its own, with a client.
pub(super) struct Deployment {
    pub(super) database: Database,
    coordinator: Child,
    /// Where it is measured with TLS and agents that have certificates.
    pub(super) authority: Option<Authority>,
    pub(super) http: String,
    pub(super) grpc: String,
    pub(super) client: Client,
}

impl Deployment {
    /// Starts it.
    ///
    /// # Errors
    /// Where it does not serve.
    pub(super) async fn start(bed: &Bed, engine: Engine) -> Result<Self> {
        Self::start_by(bed, engine, None, ARM_AHEAD).await
    }

    /// Starts it on PostgreSQL, with fires that are handed to agents so long before their instant.
    ///
    /// # Errors
    /// Where it does not serve.
    pub(super) async fn start_armed(bed: &Bed, ahead: Duration) -> Result<Self> {
        Self::start_by(bed, Engine::Postgres, None, ahead).await
    }

    /// Starts it with TLS, and agents known by certificates of this authority.
    ///
    /// # Errors
    /// Where it does not serve.
    pub(super) async fn start_secured(bed: &Bed, engine: Engine) -> Result<Self> {
        Self::start_by(bed, engine, Some(Authority::new(bed)?), ARM_AHEAD).await
    }

    async fn start_by(bed: &Bed, engine: Engine, authority: Option<Authority>, ahead: Duration) -> Result<Self> {
        let database = Database::new(bed, engine).await?;
        let mut command = Child::orrery(&["server"])?;
        command.envs([
            ("DATABASE_URL", database.url.as_str()),
            ("ORRERY_KEY_PEPPER", &database.pepper),
            ("ORRERY_ARM_AHEAD_MS", &ahead.as_millis().to_string()),
            ("ORRERY_HTTP", "127.0.0.1:0"),
            ("ORRERY_GRPC", "127.0.0.1:0"),
            ("ORRERY_METRICS", "127.0.0.1:0"),
            ("LOG_LEVEL", "warn"),
            // Limits that would stop the measurement, not the machine.
            ("SCHEDULER_MAX_CONCURRENT_JOBS", "1000000"),
            ("MAX_JOBS_PER_TENANT", "10000000"),
            ("ORRERY_RATE_LIMIT_PER_MINUTE", "0"),
            ("MAX_EXECUTIONS_PER_HOUR", "0"),
        ]);
        command.envs(authority.iter().flat_map(Authority::settings));
        let mut coordinator = Child::start("coordinator", bed.directory(), command)?;
        let ready = coordinator.line_with("ready ", START).await?;
        let (mut http, mut grpc) = (address(&ready, "http")?, address(&ready, "grpc")?);
        let mut tls = ClientTls::default();
        if let Some(authority) = &authority {
            tls = authority.tls.clone();
            for address in [&mut http, &mut grpc] {
                *address = address.replace("http://", "https://");
            }
        }
        let client = client_by(&grpc, &database.keys.caller, tls)?;
        Ok(Self { database, coordinator, authority, http, grpc, client })
    }

    /// The coordinator's process.
    pub(super) fn pid(&self) -> i32 {
        self.coordinator.pid()
    }

    /// Makes a job that runs one of the bench's functions when somebody asks; answers with its id.
    ///
    /// # Errors
    /// Where it is refused.
    pub(super) async fn asked_job(&self, client: &Client, name: &str, function: &str) -> Result<String> {
        let request = CreateJobRequest { manual: true, ..function_job(name, function) };
        Ok(client.create_job(request).await?.id)
    }

    /// Triggers a job so often, in batches.
    ///
    /// # Errors
    /// Where a call fails.
    pub(super) async fn trigger(&self, client: &Client, job: &str, times: u64) -> Result<()> {
        let mut left = times;
        while left > 0 {
            let count = left.min(BATCH);
            let one = TriggerJobRequest { id: job.to_owned(), ..TriggerJobRequest::default() };
            let triggers = std::iter::repeat_n(one, usize::try_from(count).unwrap_or(0)).collect();
            client.batch_trigger_jobs(BatchTriggerJobsRequest { triggers }).await?;
            left -= count;
        }
        Ok(())
    }

    /// Waits until so many agents are attached.
    ///
    /// # Errors
    /// Where they are not in time.
    pub(super) async fn has_agents(&self, count: usize, within: Duration) -> Result<()> {
        let what = format!("{count} agents are attached");
        until(&what, within, Duration::from_millis(50), async || {
            let workers = self.client.get_status(GetStatusRequest {}).await?.workers;
            Ok((usize::try_from(workers).unwrap_or(0) == count).then_some(()))
        })
        .await
    }

    /// Waits until nothing waits or runs, as the API tells it.
    ///
    /// # Errors
    /// Where it takes too long.
    pub(super) async fn is_idle(&self, within: Duration, pause: Duration) -> Result<()> {
        until("nothing waits or runs", within, pause, async || {
            let status = self.client.get_status(GetStatusRequest {}).await?;
            Ok((status.pending_executions + status.running_executions == 0).then_some(()))
        })
        .await
    }

    /// Ends the coordinator. The database stays.
    pub(super) async fn stop(self) -> Database {
        self.coordinator.end_by(Signal::TERM, START).await;
        self.database
    }
}

/// A client of its own connection.
pub(super) fn client(grpc: &str, key: &str) -> Result<Client> {
    client_by(grpc, key, ClientTls::default())
}

fn client_by(grpc: &str, key: &str, tls: ClientTls) -> Result<Client> {
    let options = ClientOptions {
        endpoint: grpc.to_owned(),
        api_key: Some(key.to_owned()),
        timeout: Duration::from_secs(120),
        tls,
    };
    Ok(Client::connect(&options)?)
}

/// A job of one of the bench's functions, as many of it at once as there are slots; when it fires is yet to be said.
pub(super) fn function_job(name: &str, function: &str) -> CreateJobRequest {
    let config = format!(r#"{{"modulePath":"{MODULE}","functionName":"{function}"}}"#);
    CreateJobRequest {
        name: name.to_owned(),
        job_type: JobType::Function.into(),
        config: Some(Json::new(config)),
        max_concurrent: Some(0),
        timeout: Some(3600),
        ..CreateJobRequest::default()
    }
}

/// An address in the line that says that a server serves.
///
/// # Errors
/// Where it is not in it.
pub(super) fn address(ready: &str, name: &str) -> Result<String> {
    let found = ready.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    found.map(|address| format!("http://{address}")).ok_or_else(|| failed(format!("no {name} in {ready:?}")))
}
