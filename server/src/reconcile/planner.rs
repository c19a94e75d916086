use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Backoff, POLL, Pace, Ramp, Signals, rest};
use crate::clock::DatabaseClock;
use crate::firing;
use crate::schedule::Schedule;
use crate::store::{DynStore, JobPlan, Places, PlanCandidate, Planned, StoreError};
use crate::telemetry::Metrics;

/// Jobs of one round. Small enough that a round's locks are short.
const JOBS_A_ROUND: usize = 200;

/// Parsed schedules kept; at about a kilobyte each.
const SCHEDULES_KEPT: usize = 20_000;

/// Makes the executions of fires that are near, and moves the cursors of their jobs on.
pub struct Planner {
    pub store: DynStore,
    pub clock: Arc<DatabaseClock>,
    pub signals: Arc<Signals>,
    pub metrics: Metrics,
    /// How long ahead fires are planned.
    pub ahead: Duration,
}

/// Fires that one round makes of all its jobs, and the time it takes to think of them: a job with much to catch up on is not to keep the
/// others of its round locked. What is left has its turn in the next one.
const FIRES_A_ROUND: usize = 1000;
const THINKING: Duration = Duration::from_millis(250);

/// What a round may still spend.
struct Budget {
    fires: AtomicUsize,
    until: Instant,
}

/// Schedules by job and version. Parsing costs a hundred times what asking for the next instant does.
#[derive(Default)]
struct Schedules {
    parsed: Mutex<HashMap<(Uuid, i64), Option<Schedule>>>,
}

impl Planner {
    /// Plans until the end.
    pub async fn run(self, shutdown: CancellationToken) {
        let schedules = Schedules::default();
        let (mut backoff, mut pace, mut ramp) = (Backoff::default(), Pace::default(), Ramp::new(JOBS_A_ROUND));
        loop {
            let asked = Instant::now();
            let next = match self.round(&schedules, asked, ramp.places()).await {
                Ok(planned) => {
                    backoff.reset();
                    let ramp = if planned.late > 0 { ramp.after(asked.elapsed()) } else { Duration::ZERO };
                    self.after(&planned, pace.after(planned.jobs > 0), ramp)
                }
                Err(error) => {
                    tracing::warn!(%error, source = ?std::error::Error::source(&error), "planning failed; trying again");
                    Instant::now() + backoff.next()
                }
            };
            if !rest(&self.signals.plan, next, &shutdown).await {
                return;
            }
        }
    }

    async fn round(&self, schedules: &Schedules, asked: Instant, places: Places) -> Result<Planned, StoreError> {
        let budget = Budget { fires: AtomicUsize::new(FIRES_A_ROUND), until: Instant::now() + THINKING };
        let decide = |candidate: &PlanCandidate| schedules.plan(candidate, &budget);
        let planned = self.store.plan_some(self.ahead, places, &decide).await?;
        self.clock.observe(asked, planned.now);
        self.metrics.omitted("misfire", planned.omissions as u64);
        Ok(planned)
    }

    /// When to look again: after `pause`, or after `ramp` where something was late.
    fn after(&self, planned: &Planned, pause: Duration, ramp: Duration) -> Instant {
        let now = Instant::now();
        if planned.fires > 0 {
            tracing::debug!(fires = planned.fires, jobs = planned.jobs, "planned");
            self.signals.release.notify_one();
        }
        let progress = planned.fires > 0 || planned.omissions > 0;
        match planned.next_cursor {
            // More is due to be planned: at once, unless this round could do nothing about it (another coordinator is at it).
            Some(at) if self.clock.local(at) <= now + self.ahead => match planned.jobs - planned.late {
                _ if !progress => now + POLL / 10,
                // So many were on time that there may be more.
                on_time if on_time >= JOBS_A_ROUND / 2 => now,
                _ if planned.late > 0 => now + ramp,
                _ => now,
            },
            Some(at) => (self.clock.local(at) - self.ahead).min(now + pause),
            None => now + pause,
        }
    }
}

impl Schedules {
    fn plan(&self, candidate: &PlanCandidate, budget: &Budget) -> JobPlan {
        let job = &candidate.job;
        if Instant::now() > budget.until {
            return JobPlan { cursor: job.cursor, ..JobPlan::default() };
        }
        match self.schedule(candidate) {
            Ok(Some(schedule)) => {
                let plan = firing::plan_some(candidate, &schedule, budget.fires.load(Ordering::Relaxed));
                let left = |fires: usize| Some(fires.saturating_sub(plan.fires.len()));
                let _ = budget.fires.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
                plan
            }
            Ok(None) => JobPlan::default(),
            Err(error) => {
                tracing::error!(job = %job.id, %error, "the schedule of a job cannot be read; it is put off");
                firing::unplannable(job.cursor.unwrap_or(candidate.now), candidate.now, &error.to_string())
            }
        }
    }

    fn schedule(&self, candidate: &PlanCandidate) -> Result<Option<Schedule>, crate::schedule::ScheduleError> {
        let job = &candidate.job;
        let key = (job.id, job.version);
        if let Some(parsed) = self.lock().get(&key) {
            return Ok(parsed.clone());
        }
        let parsed = job.spec.schedule(job.created_at)?;
        let mut held = self.lock();
        if held.len() >= SCHEDULES_KEPT {
            held.clear();
        }
        held.insert(key, parsed.clone());
        Ok(parsed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(Uuid, i64), Option<Schedule>>> {
        self.parsed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
