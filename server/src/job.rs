//! A job: what is to run, and when.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use orrery_proto::v1::{Delivery, DstGap, DstOverlap, ErrorType, JobStatus, JobType, MisfirePolicy, OverlapPolicy};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::concurrency::Concurrency;
use crate::schedule::{self, DstPolicy, Misfire, Schedule, ScheduleError};
use crate::store::SealedSecret;

/// How long attempts may take, where a deployment says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Where neither the job nor its config names a time-out.
    pub default: Duration,
    /// Whatever is named.
    pub cap: Duration,
}

/// A job's definition. Immutable under its (job, version): a change makes a new version, and a run keeps the one it started with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// 1 to 200 characters, unique in the tenant among jobs not deleted.
    pub name: String,
    pub description: String,
    pub schedule: ScheduleSpec,
    pub job_type: JobType,
    /// JSON text, as the caller gave it, but for sensitive fields.
    pub config: String,
    /// Fields of the config, such as `headers.Authorization`, in which references stand for values that are stored encrypted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sensitive: Vec<String>,
    /// Values of sensitive fields on their way into the store, which keeps them with the job; no part of the definition.
    #[serde(skip)]
    pub sealed: Vec<SealedSecret>,
    pub retry: RetryPolicy,
    /// Seconds an attempt may take, as the caller gave it; see [`JobSpec::timeout`].
    pub timeout_seconds: Option<i32>,
    /// Executions at once; 0 is no limit.
    pub max_concurrent: i32,
    /// The higher number runs first.
    pub priority: i32,
    pub start_date: Option<DateTime<Utc>>,
    /// No fire after this instant.
    pub end_date: Option<DateTime<Utc>>,
    pub max_executions: Option<i64>,
    pub tags: Vec<String>,
    pub queue: String,
    /// Labels that an agent must carry.
    pub selector: BTreeMap<String, String>,
    pub overlap: OverlapPolicy,
    pub misfire: MisfireSpec,
    pub delivery: Delivery,
    /// Seconds after its instant by which an execution must have begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_deadline_seconds: Option<i32>,
    /// Shared with other jobs of the tenant; absent in definitions that are older than it.
    #[serde(default)]
    pub concurrency: Option<Concurrency>,
}

/// When a job fires by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScheduleSpec {
    pub kind: ScheduleKind,
    /// IANA zone of a cron expression.
    pub timezone: String,
    pub dst_gap: DstGap,
    pub dst_overlap: DstOverlap,
}

/// The four ways in which a job may fire.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    Cron(String),
    /// Milliseconds, counted from the start date or the creation.
    Every(i64),
    Once(DateTime<Utc>),
    /// Only when somebody triggers it.
    Manual,
}

/// What happens to missed fires.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MisfireSpec {
    pub policy: MisfirePolicy,
    pub grace_seconds: i32,
    pub max_count: i32,
    pub max_lateness_seconds: Option<i64>,
}

/// When and how often a failed attempt is repeated.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Further attempts after the first.
    pub max_retries: i32,
    pub delay_ms: i64,
    pub exponential: bool,
    /// What is retried; the defaults of the documentation where empty.
    pub on: Vec<ErrorType>,
    pub max_delay_ms: Option<i64>,
    pub jitter: bool,
}

/// A job as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub id: Uuid,
    pub tenant_id: Uuid,
    pub spec: JobSpec,
    pub status: JobStatus,
    /// From 1; rises with every change.
    pub version: i64,
    /// The next instant that no execution has been made for; `None` where it never fires again by itself.
    pub cursor: Option<DateTime<Utc>>,
    /// Executions that came due; omitted fires do not count.
    pub execution_count: i64,
    pub last_execution_at: Option<DateTime<Utc>>,
    /// Since when it has been paused or stopped.
    pub halted_at: Option<DateTime<Utc>>,
    /// Read only: since when its tenant is suspended.
    pub tenant_suspended_at: Option<DateTime<Utc>>,
    pub created_by: Uuid,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub deleted_at: Option<DateTime<Utc>>,
    /// Read only: the next fire that has not started (a planned execution, or else the cursor).
    pub next_execution_at: Option<DateTime<Utc>>,
}

/// The part of a config that every job type may have.
#[derive(Deserialize)]
struct ConfigTimeout {
    #[serde(default)]
    timeout: Option<f64>,
}

impl JobSpec {
    /// How long an attempt may take: the smaller of the job's and the config's time-out, the default where neither is given, and never
    /// more than the cap.
    pub fn timeout(&self, timeouts: Timeouts) -> Duration {
        let of_config = serde_json::from_str::<ConfigTimeout>(&self.config)
            .ok()
            .and_then(|config| config.timeout)
            .filter(|ms| ms.is_finite() && *ms > 0.0)
            .map(|ms| Duration::from_secs_f64((ms / 1000.0).min(1e9)));
        let of_job = self.timeout_seconds.and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs);
        let smaller = match (of_job, of_config) {
            (Some(job), Some(config)) => job.min(config),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => timeouts.default,
        };
        smaller.min(timeouts.cap)
    }

    /// When an execution of this instant must have begun, if it must.
    pub fn start_by(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.start_deadline_seconds.map(|seconds| at + chrono::Duration::seconds(i64::from(seconds)))
    }

    /// What an agent must offer to run it: `http`, `command`, ..., or `function:MODULE#NAME`.
    pub fn executor(&self) -> String {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Function {
            module_path: String,
            function_name: String,
        }
        let kind = self.job_type.as_json_str();
        match (self.job_type, serde_json::from_str::<Function>(&self.config)) {
            (JobType::Function, Ok(f)) => format!("{kind}:{}#{}", f.module_path, f.function_name),
            _ => kind.to_owned(),
        }
    }
}

impl JobSpec {
    /// The schedule, parsed. Intervals count from the start date, or else from `created_at`. `None` for a job that only fires when
    /// triggered.
    ///
    /// # Errors
    /// Where the expression, zone or interval is wrong.
    pub fn schedule(&self, created_at: DateTime<Utc>) -> Result<Option<Schedule>, ScheduleError> {
        self.schedule.parse(self.start_date.unwrap_or(created_at))
    }
}

impl RetryPolicy {
    /// The policy in the documented JSON, as `scheduled_jobs.retry_config` shows it.
    pub fn documented(&self) -> serde_json::Value {
        serde_json::json!({
            "maxRetries": self.max_retries,
            "retryDelayMs": self.delay_ms,
            "exponentialBackoff": self.exponential,
            "retryOnErrorTypes": self.on,
            "maxRetryDelayMs": self.max_delay_ms,
            "jitter": self.jitter,
        })
    }
}

impl ScheduleSpec {
    /// The schedule, parsed; intervals count from `anchor`. `None` where there is none.
    ///
    /// # Errors
    /// Where the expression, zone or interval is wrong.
    pub fn parse(&self, anchor: DateTime<Utc>) -> Result<Option<Schedule>, ScheduleError> {
        match &self.kind {
            ScheduleKind::Cron(expression) => Schedule::cron(expression, &self.timezone, self.dst()).map(Some),
            ScheduleKind::Every(ms) => {
                Schedule::every(Duration::from_millis(u64::try_from(*ms).unwrap_or(0)), anchor).map(Some)
            }
            ScheduleKind::Once(at) => Ok(Some(Schedule::once(*at))),
            ScheduleKind::Manual => Ok(None),
        }
    }

    /// What was chosen for changes of the clock.
    fn dst(&self) -> DstPolicy {
        let gap = match self.dst_gap {
            DstGap::FireAtEnd => schedule::DstGap::FireAtEnd,
            DstGap::Skip => schedule::DstGap::Skip,
            _ => schedule::DstGap::Auto,
        };
        let overlap = match self.dst_overlap {
            DstOverlap::First => schedule::DstOverlap::First,
            DstOverlap::Second => schedule::DstOverlap::Second,
            DstOverlap::Both => schedule::DstOverlap::Both,
            _ => schedule::DstOverlap::Auto,
        };
        DstPolicy { gap, overlap }
    }
}

impl MisfireSpec {
    /// The policy as planning reads it.
    pub fn policy(&self) -> Misfire {
        let policy = match self.policy {
            MisfirePolicy::Skip => schedule::MisfirePolicy::Skip,
            MisfirePolicy::FireAll => schedule::MisfirePolicy::FireAll,
            _ => schedule::MisfirePolicy::FireOnce,
        };
        let seconds = |s: i64| Duration::from_secs(u64::try_from(s).unwrap_or(0));
        Misfire {
            policy,
            grace: seconds(i64::from(self.grace_seconds)),
            max_count: u32::try_from(self.max_count).unwrap_or(0),
            max_lateness: self.max_lateness_seconds.map(seconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeout(of_job: Option<i32>, config: &str) -> u64 {
        let spec = JobSpec { timeout_seconds: of_job, config: config.to_owned(), ..crate::firing::tests::spec() };
        let timeouts = Timeouts { default: Duration::from_secs(300), cap: Duration::from_secs(600) };
        u64::try_from(spec.timeout(timeouts).as_millis()).unwrap()
    }

    #[test]
    fn the_smaller_time_out_holds() {
        assert_eq!(timeout(None, "{}"), 300_000);
        assert_eq!(timeout(Some(60), "{}"), 60_000);
        assert_eq!(timeout(None, r#"{"timeout": 1500}"#), 1500);
        assert_eq!(timeout(None, r#"{"timeout": 400000}"#), 400_000);
        assert_eq!(timeout(Some(60), r#"{"timeout": 1500}"#), 1500);
        assert_eq!(timeout(Some(1), r#"{"timeout": 1500}"#), 1000);
        assert_eq!(timeout(Some(100_000), "{}"), 600_000, "the cap");
    }
}
