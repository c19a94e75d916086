//! The calls, and what engines and model have in common: the pure decisions and how things are shown.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use orrery_proto::v1::{Delivery, ErrorType, ExecutionStatus, JobStatus, OverlapPolicy};
use orrery_server::execution::{Event, Execution, Report, State};
use orrery_server::firing;
use orrery_server::job::{Job, ScheduleKind};
use orrery_server::schedule::{Schedule, fires_between};
use orrery_server::store::*;
use proptest::prelude::*;
use proptest::sample::Index;
use uuid::Uuid;

use crate::support::{job_of, omission, report, spec};

#[derive(Clone, Debug)]
pub enum Call {
    Create(Box<NewSpec>),
    /// So many fires of each job at most.
    Plan {
        fires: usize,
    },
    Release,
    Trigger {
        job: Index,
        key: Option<u8>,
        later: bool,
    },
    Claim {
        agent: usize,
        limit: usize,
    },
    Arm {
        agent: usize,
        limit: usize,
    },
    /// One batch: (execution, whether as its holder, epochs back, what).
    Say(Vec<(Index, bool, i64, Word)>),
    Kill {
        agent: usize,
    },
    /// With the attachment so many before the newest.
    Renew {
        agent: usize,
        back: i64,
    },
    Close {
        agent: usize,
        back: i64,
    },
    /// Names every lease whose place in the list has its bit set.
    Resume {
        agent: usize,
        keep: u8,
        continued: bool,
    },
    Reap {
        overdue: bool,
    },
    Change {
        job: Index,
        what: What,
    },
}

#[derive(Clone, Debug)]
pub struct NewSpec {
    pub max_concurrent: i32,
    pub max_executions: Option<i64>,
    pub priority: i32,
    pub other_queue: bool,
    pub overlap: OverlapPolicy,
    pub retries: i32,
    pub slow_retry: bool,
    pub once: bool,
    pub hasty: bool,
    pub ends: bool,
}

#[derive(Clone, Copy, Debug)]
pub enum Word {
    Started,
    Progressed,
    Completed,
    Failed,
    Released,
    Cancel,
    TimedOut,
    Expired,
}

#[derive(Clone, Copy, Debug)]
pub enum What {
    Pause,
    Resume,
    Stop,
    Delete,
    Edit,
}

const WORDS: [Word; 8] = [
    Word::Started,
    Word::Progressed,
    Word::Completed,
    Word::Failed,
    Word::Released,
    Word::Cancel,
    Word::TimedOut,
    Word::Expired,
];
const OVERLAPS: [OverlapPolicy; 4] =
    [OverlapPolicy::Allow, OverlapPolicy::Forbid, OverlapPolicy::QueueOne, OverlapPolicy::Replace];
const CHANGES: [What; 6] = [What::Pause, What::Resume, What::Resume, What::Stop, What::Delete, What::Edit];

fn new_spec() -> impl Strategy<Value = NewSpec> {
    let rare = || prop::bool::weighted(0.2);
    let limits = (0..3, prop::option::weighted(0.3, 1_i64..4), 0..2, rare(), prop::sample::select(OVERLAPS.to_vec()));
    (limits, (0..3, rare(), rare(), rare(), rare())).prop_map(|(limits, (retries, slow_retry, once, hasty, ends))| {
        let (max_concurrent, max_executions, priority, other_queue, overlap) = limits;
        NewSpec {
            max_concurrent,
            max_executions,
            priority,
            other_queue,
            overlap,
            retries,
            slow_retry,
            once,
            hasty,
            ends,
        }
    })
}

fn call() -> impl Strategy<Value = Call> {
    let index = any::<Index>;
    let agent = || 0_usize..2;
    let back = || prop_oneof![5 => Just(0_i64), 1 => Just(1)];
    let word = (index(), prop::bool::weighted(0.9), back(), prop::sample::select(WORDS.to_vec()));
    prop_oneof![
        2 => new_spec().prop_map(|spec| Call::Create(Box::new(spec))),
        4 => (1_usize..4).prop_map(|fires| Call::Plan { fires }),
        4 => Just(Call::Release),
        2 => (index(), prop::option::weighted(0.3, 0_u8..3), prop::bool::weighted(0.2))
            .prop_map(|(job, key, later)| Call::Trigger { job, key, later }),
        5 => (agent(), 1_usize..6).prop_map(|(agent, limit)| Call::Claim { agent, limit }),
        4 => (agent(), 1_usize..6).prop_map(|(agent, limit)| Call::Arm { agent, limit }),
        7 => proptest::collection::vec(word, 1..5).prop_map(Call::Say),
        1 => agent().prop_map(|agent| Call::Kill { agent }),
        1 => (agent(), back()).prop_map(|(agent, back)| Call::Renew { agent, back }),
        1 => (agent(), back()).prop_map(|(agent, back)| Call::Close { agent, back }),
        2 => (agent(), any::<u8>(), any::<bool>())
            .prop_map(|(agent, keep, continued)| Call::Resume { agent, keep, continued }),
        2 => any::<bool>().prop_map(|overdue| Call::Reap { overdue }),
        2 => (index(), prop::sample::select(CHANGES.to_vec())).prop_map(|(job, what)| Call::Change { job, what }),
    ]
}

/// Each series begins with two jobs and what they have to fire, so that not every second one is about nothing.
pub fn calls() -> impl Strategy<Value = Vec<Call>> {
    let first = (new_spec(), new_spec()).prop_map(|(one, two)| {
        vec![Call::Create(Box::new(one)), Call::Create(Box::new(two)), Call::Plan { fires: 3 }, Call::Release]
    });
    (first, proptest::collection::vec(call(), 8..60)).prop_map(|(mut calls, more)| {
        calls.extend(more);
        calls
    })
}

/// What all three hold in common: where time begins, and names for what has random ids.
#[derive(Clone)]
pub struct Shared {
    /// Fires lie 50 s before and after it, and every 100 s from there, so that a series may take half a minute.
    pub base: DateTime<Utc>,
    /// Sets its jobs apart from those of other series: stores keep definitions in memory.
    series: u64,
    pub jobs: Vec<Uuid>,
    /// Executions that were asked for or planned, by name.
    pub executions: BTreeMap<String, Uuid>,
    /// Sessions in the order in which they were opened.
    pub sessions: Vec<Uuid>,
}

pub const AHEAD: TimeDelta = TimeDelta::seconds(100);
const STEP: TimeDelta = TimeDelta::seconds(100);

impl Shared {
    pub fn new(now: DateTime<Utc>) -> Self {
        static SERIES: AtomicU64 = AtomicU64::new(1);
        let series = SERIES.fetch_add(1, Ordering::Relaxed);
        Self { base: now.trunc_subsecs(0), series, jobs: vec![], executions: BTreeMap::new(), sessions: vec![] }
    }

    fn first(&self) -> DateTime<Utc> {
        self.base - TimeDelta::seconds(350)
    }

    pub fn schedule(&self) -> Schedule {
        Schedule::every(STEP.to_std().unwrap(), self.first()).unwrap()
    }

    pub fn new_job(&self, n: usize, new: &NewSpec) -> Job {
        let mut spec = spec(&format!("job {n}"));
        spec.schedule.kind = ScheduleKind::Every(STEP.num_milliseconds());
        (spec.max_concurrent, spec.max_executions, spec.priority) =
            (new.max_concurrent, new.max_executions, new.priority);
        spec.overlap = new.overlap;
        (spec.retry.max_retries, spec.retry.delay_ms) = (new.retries, i64::from(new.slow_retry) * 3_600_000);
        if new.other_queue {
            spec.queue = "other".to_owned();
        }
        if new.once {
            spec.delivery = Delivery::AtMostOnce;
        }
        if new.hasty {
            spec.config = r#"{"url":"http://localhost","timeout":0.001}"#.to_owned();
        }
        spec.end_date = new.ends.then_some(self.base);
        // Whatever is late happens: misfires are for the planner's own tests.
        spec.misfire.grace_seconds = i32::MAX;
        let mut job = job_of(crate::support::TENANT, spec);
        (job.id, job.cursor, job.created_at) =
            (Uuid::from_u64_pair(self.series, n as u64), Some(self.first()), self.first());
        job
    }

    pub fn job(&self, index: Index) -> Option<Uuid> {
        (!self.jobs.is_empty()).then(|| self.jobs[index.index(self.jobs.len())])
    }

    pub fn execution(&self, index: Index) -> Option<Uuid> {
        let known = &self.executions;
        (!known.is_empty()).then(|| *known.values().nth(index.index(known.len())).unwrap())
    }

    /// Plans, and remembers what was planned.
    pub fn plan(&mut self, candidate: &PlanCandidate, fires: usize) -> JobPlan {
        let plan = firing::plan_some(candidate, &self.schedule(), fires);
        for at in &plan.fires {
            let id = orrery_server::execution::fire_id(candidate.job.tenant_id, candidate.job.id, *at);
            self.executions.insert(format!("{}{:+}", self.job_name(candidate.job.id), self.offset(*at)), id);
        }
        plan
    }

    pub fn offset(&self, at: DateTime<Utc>) -> i64 {
        (at - self.base).num_seconds()
    }

    /// Who speaks of an execution: who holds it or held it last, or somebody else.
    pub fn speaker(&self, e: &Execution, holder: bool) -> Uuid {
        let last = e.attempts.last().map(|a| a.session_id);
        let held = e.lease().map(|lease| lease.session_id).or(last).unwrap_or(self.sessions[0]);
        if holder { held } else { *self.sessions.iter().find(|s| **s != held).unwrap() }
    }

    pub fn job_name(&self, id: Uuid) -> String {
        format!("j{}", self.jobs.iter().position(|j| *j == id).map_or("?".to_owned(), |n| n.to_string()))
    }

    pub fn name(&self, id: Uuid) -> String {
        self.executions.iter().find(|(_, known)| **known == id).map_or("?".to_owned(), |(name, _)| name.clone())
    }

    pub fn names(&self, ids: impl IntoIterator<Item = Uuid>) -> Vec<String> {
        let mut names: Vec<String> = ids.into_iter().map(|id| self.name(id)).collect();
        names.sort();
        names
    }

    fn session_name(&self, id: Uuid) -> String {
        format!("s{}", self.sessions.iter().position(|s| *s == id).map_or("?".to_owned(), |n| n.to_string()))
    }

    /// An execution, without what depends on the clock.
    pub fn shown(&self, e: &Execution) -> String {
        let state = match &e.state {
            State::Done(o) => format!(
                "{}({:?} {})",
                o.status.as_json_str(),
                o.error_type,
                o.session_id.map_or("-".into(), |s| self.session_name(s))
            ),
            State::Leased(lease) | State::Running(lease) => {
                format!("{}({})", e.state.name(), self.session_name(lease.session_id))
            }
            other => other.name().to_owned(),
        };
        let attempts: Vec<String> = e
            .attempts
            .iter()
            .map(|a| format!("{}/{} {} {}", a.number, a.epoch, a.outcome.as_str(), self.session_name(a.session_id)))
            .collect();
        format!(
            "{} {state} attempt {} epoch {} losses {} version {} {}% {} {} cancel {} {attempts:?}",
            self.name(e.id),
            e.attempt,
            e.epoch,
            e.losses,
            e.job_version,
            e.progress,
            e.queue,
            e.priority,
            e.cancel_requested_at.is_some(),
        )
    }

    pub fn shown_all<'a>(&self, executions: impl IntoIterator<Item = &'a Execution>) -> String {
        let mut lines: Vec<String> = executions.into_iter().map(|e| self.shown(e)).collect();
        lines.sort();
        lines.join("\n  ")
    }

    pub fn shown_job(&self, job: &Job, omissions: &[NewOmission]) -> String {
        let mut omitted: Vec<String> = omissions
            .iter()
            .map(|o| format!("{} {:+}..{:+} x{}", o.reason, self.offset(o.from), self.offset(o.to), o.count))
            .collect();
        omitted.sort();
        format!(
            "{} {} version {} cursor {:?} count {} {} {} {omitted:?}",
            self.job_name(job.id),
            job.status.as_json_str(),
            job.version,
            job.cursor.map(|at| self.offset(at)),
            job.execution_count,
            job.spec.queue,
            job.spec.priority,
        )
    }

    /// What a change makes of a job, as the API has it.
    pub fn changed(&self, job: &Job, now: DateTime<Utc>, what: What) -> JobChange {
        let schedule = self.schedule();
        let missed = |since: DateTime<Utc>, reason: &str| {
            let range = fires_between(&schedule, since, now, 1000)?;
            Some(NewOmission { to: range.to, count: range.count.cast_signed(), ..omission(reason, range.from) })
        };
        let next = schedule.next_after(now).filter(|at| job.spec.end_date.is_none_or(|end| *at <= end));
        let behind = job.cursor.filter(|at| *at <= now && job.status == JobStatus::Active);
        let left = behind.and_then(|at| missed(at - TimeDelta::microseconds(1), "misfire"));
        let mut after = job.clone();
        let mut cancel = None;
        match what {
            What::Resume => {
                (after.status, after.cursor, after.halted_at) = (JobStatus::Active, next, None);
            }
            What::Edit => {
                after.spec.priority = 1 - job.spec.priority;
                after.spec.queue = if job.spec.queue == "other" { "default" } else { "other" }.to_owned();
                after.cursor = next.filter(|_| job.status == JobStatus::Active);
            }
            What::Pause | What::Stop | What::Delete => {
                let stops = !matches!(what, What::Pause);
                after.status = if stops { JobStatus::Inactive } else { JobStatus::Paused };
                (after.cursor, after.halted_at) = (None, Some(now));
                cancel = stops.then(|| "enough".to_owned());
                after.deleted_at = matches!(what, What::Delete).then_some(now);
            }
        }
        JobChange { job: after, unplan: true, cancel, omission: left }
    }
}

/// The event of a word over an execution's lease of so many epochs ago.
pub fn event(word: Word, session_id: Uuid, epoch: i64) -> Event {
    let finished = |report: Report| Event::Finished { session_id, epoch, report: Box::new(report) };
    match word {
        Word::Started => Event::Started { session_id, epoch },
        Word::Progressed => Event::Progressed { session_id, epoch, percent: 40 },
        Word::Released => Event::Released { session_id, epoch },
        Word::Completed => finished(report(ExecutionStatus::Completed)),
        Word::Failed => {
            finished(Report { error_type: Some(ErrorType::NetworkError), ..report(ExecutionStatus::Failed) })
        }
        Word::Cancel => Event::CancelRequested { reason: "enough".to_owned() },
        Word::TimedOut => Event::TimedOut { epoch },
        Word::Expired => Event::LeaseExpired { session_id, epoch },
    }
}
