use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use orrery_proto::Json;
use orrery_proto::v1::{
    BatchCreateJobsRequest, CreateJobRequest, Delivery, ErrorType, JobType, OverlapPolicy, RetryConfig,
};
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::json;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::error::{Result, world};
use crate::world::{MARK, World};

/// When a job fires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// Six fields, seconds first.
    Cron(&'static str),
    /// From the start on, every so many milliseconds.
    Every(i64),
    /// When somebody asks.
    Asked,
}

/// A job, and what must hold of it.
#[derive(Clone, Debug)]
pub struct JobPlan {
    pub name: &'static str,
    pub when: When,
    pub overlap: OverlapPolicy,
    /// Leases at once; 0 is no limit.
    pub limit: i32,
    /// How long its work takes at least and at most, in milliseconds.
    pub work_ms: (u64, u64),
    pub retries: i32,
    /// Attempts up to this number fail.
    pub failing: i64,
    pub at_most_once: bool,
    /// Its work kills the agent that runs it.
    pub poison: bool,
}

impl JobPlan {
    /// One that takes no time, never fails, and has no limit.
    pub fn named(name: &'static str) -> Self {
        Self {
            name,
            when: When::Asked,
            overlap: OverlapPolicy::Allow,
            limit: 0,
            work_ms: (0, 0),
            retries: 0,
            failing: 0,
            at_most_once: false,
            poison: false,
        }
    }

    fn request(&self, world: &World, span: &Span) -> CreateJobRequest {
        let number = |n: u64| n.to_string();
        let mut args = vec![
            "ledger".to_owned(),
            "--file".to_owned(),
            ledger_file(world).display().to_string(),
            "--least-ms".to_owned(),
            number(self.work_ms.0),
            "--most-ms".to_owned(),
            number(self.work_ms.1),
            "--failing".to_owned(),
            self.failing.to_string(),
        ];
        if self.poison {
            args.push("--poison".to_owned());
        }
        let config =
            json!({"command": world.programs.chaos, "args": args, "environment": {MARK: world.id.to_string()}});
        let mut request = CreateJobRequest {
            name: self.name.to_owned(),
            job_type: JobType::Command.into(),
            config: Some(Json::new(config.to_string())),
            max_concurrent: Some(self.limit),
            overlap: Some(self.overlap.into()),
            timeout: Some(30),
            ..CreateJobRequest::default()
        };
        if self.retries > 0 {
            request.retry_config = Some(RetryConfig {
                max_retries: self.retries,
                retry_delay_ms: 200,
                retry_on_error_types: vec![ErrorType::UserError.into(), ErrorType::SystemError.into()],
                ..RetryConfig::default()
            });
        }
        if self.at_most_once {
            request.delivery = Some(Delivery::AtMostOnce.into());
        }
        match self.when {
            When::Cron(expression) => request.cron_expression = expression.to_owned(),
            When::Every(millis) => request.interval_ms = Some(millis),
            When::Asked => request.manual = true,
        }
        if self.when != When::Asked {
            request.start_date = Some(span.start.into());
            request.end_date = Some(span.end.into());
        }
        request
    }
}

/// From when to when jobs fire.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub start: DateTime<Utc>,
    pub end: DateTime<Utc>,
}

impl Span {
    /// One that begins on a whole second soon, once the jobs are made, and lasts this long.
    pub fn from_now(lasting: Duration) -> Self {
        let soon = Utc::now().timestamp() + 6;
        let start = DateTime::from_timestamp(soon, 0).unwrap_or_default();
        Self { start, end: start + TimeDelta::from_std(lasting).unwrap_or_default() }
    }
}

/// The jobs of a scenario.
#[derive(Clone, Debug)]
pub struct Workload {
    pub span: Span,
    /// Jobs with the ids that they were given.
    pub jobs: Vec<(Uuid, JobPlan)>,
}

/// The job that clients trigger, and the one that they trigger and cancel.
pub const ASKED: &str = "asked";
pub const CANCELLED: &str = "cancelled";

/// Where the jobs of a world write.
pub fn ledger_file(world: &World) -> PathBuf {
    world.directory.join("ledger")
}

/// A seeded choice of every kind of job. About five runs a second.
pub fn plans(rng: &mut StdRng) -> Vec<JobPlan> {
    let mut between = |least: u64, most: u64| rng.random_range(least..=most);
    let (forbid, queued, once, long) = (between(100, 400), between(500, 900), between(200, 600), between(3000, 4000));
    let every = i64::try_from(between(600, 900)).unwrap_or(700);
    let job = JobPlan::named;
    vec![
        JobPlan { when: When::Cron("* * * * * *"), ..job("each-second") },
        JobPlan {
            when: When::Cron("* * * * * *"),
            overlap: OverlapPolicy::Forbid,
            limit: 1,
            work_ms: (forbid, 3 * forbid),
            ..job("alone")
        },
        JobPlan {
            when: When::Cron("*/2 * * * * *"),
            overlap: OverlapPolicy::QueueOne,
            limit: 1,
            work_ms: (queued, 3 * queued),
            ..job("one-waits")
        },
        JobPlan { when: When::Every(every), ..job("interval") },
        JobPlan { when: When::Every(2300), retries: 2, failing: 1, work_ms: (50, 150), ..job("fails-once") },
        JobPlan { when: When::Every(4700), retries: 1, failing: 100, ..job("fails") },
        JobPlan { when: When::Every(1900), at_most_once: true, work_ms: (once, 2 * once), ..job("at-most-once") },
        JobPlan { when: When::Every(3100), limit: 4, work_ms: (long, 2 * long), ..job("long") },
        JobPlan { work_ms: (20, 200), ..job(ASKED) },
        JobPlan { work_ms: (4000, 6000), ..job(CANCELLED) },
    ]
}

/// Makes the jobs, whatever coordinator answers.
///
/// # Errors
/// Where they are not all made before the first must fire.
pub async fn create(world: &World, plans: Vec<JobPlan>, lasting: Duration) -> Result<Workload> {
    let client = world.client(0, Duration::from_secs(20))?;
    let span = Span::from_now(lasting);
    let request = BatchCreateJobsRequest { jobs: plans.iter().map(|plan| plan.request(world, &span)).collect() };
    let made = client.batch_create_jobs(request).await?.jobs;
    let id = |text: &str| text.parse().map_err(|_| crate::error::world(format!("no id: {text}")));
    let ids: Result<Vec<Uuid>> = made.iter().map(|job| id(&job.id)).collect();
    let jobs = ids?.into_iter().zip(plans).collect();
    if Utc::now() >= span.start {
        return Err(crate::error::world("the machine is too slow: the jobs were not made before their start"));
    }
    Ok(Workload { span, jobs })
}

impl Workload {
    /// The id of a job by its name.
    ///
    /// # Errors
    /// Where there is none.
    pub fn id(&self, name: &str) -> Result<Uuid> {
        let found = self.jobs.iter().find(|(_, plan)| plan.name == name);
        found.map(|(id, _)| *id).ok_or_else(|| world(format!("there is no job {name}")))
    }

    /// Waits until nothing is left to be done, and nothing left to be planned. Where that takes too long: what is left.
    ///
    /// # Errors
    /// Where the database cannot be asked.
    pub async fn unrest(&self, world: &World, within: Duration) -> Result<Option<String>> {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            let left: i64 = sqlx::query_scalar(
                "select (select count(*) from live_executions)
                    + (select count(*) from scheduled_jobs where status = 'active' and next_execution_at is not null)",
            )
            .fetch_one(&world.pool)
            .await?;
            if left == 0 {
                return Ok(None);
            }
            sleep(Duration::from_millis(50)).await;
        }
        let left: Vec<String> = sqlx::query_scalar(
            "select format('%s of %s: state %s, epoch %s, attempt %s, run_at %s, session %s (%s)', e.id, j.name, e.state, e.epoch,
                e.attempt, e.run_at, e.session_id,
                (select format('attached %s, expires %s', s.attached, s.expires_at) from agent_sessions s where s.id = e.session_id))
             from live_executions e join scheduled_jobs j on j.id = e.job_id
             union all
             select format('cursor of %s: %s', name, next_execution_at) from scheduled_jobs
             where status = 'active' and next_execution_at is not null limit 20",
        )
        .fetch_all(&world.pool)
        .await?;
        Ok(Some(format!("after {within:?} there is still: {}", left.join("; "))))
    }
}
