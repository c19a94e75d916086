//! Why something is not running. Pure: facts in, reasons out, the most decisive one first.

use chrono::{DateTime, Utc};
use orrery_proto::v1::{Explanation, JobStatus, Reason};

use super::convert;
use crate::admission::{Full, Gate};
use crate::dispatch::matching::{carries, offers_executor};
use crate::execution::{Execution, State};
use crate::job::{Job, JobSpec, ScheduleKind};
use crate::store::{JobLoad, Page, Session};

/// As many agents as are looked at.
pub(super) const ALL_AGENTS: Page = Page { after: None, limit: 10_000 };

/// What is known of a job.
pub(super) struct JobFacts<'a> {
    pub(super) job: &'a Job,
    pub(super) load: JobLoad,
    /// What has no free place for it.
    pub(super) full: &'a [Full],
    pub(super) agents: &'a [Session],
    pub(super) now: DateTime<Utc>,
}

/// What is known of an execution. Its job may have been deleted.
pub(super) struct ExecutionFacts<'a> {
    pub(super) execution: &'a Execution,
    pub(super) job: Option<&'a Job>,
    /// What has no free place for it.
    pub(super) full: &'a [Full],
    pub(super) agents: &'a [Session],
}

/// Why a job is not running now.
pub(super) fn job(facts: &JobFacts<'_>) -> Explanation {
    let job = facts.job;
    let mut reasons: Vec<Reason> = suspended(job).into_iter().collect();
    match job.status {
        JobStatus::Inactive => reasons.push(inactive(job, facts.now)),
        JobStatus::Paused => {
            let since = job.halted_at.map(|at| format!(" since {at}")).unwrap_or_default();
            reasons.push(reason("JOB_PAUSED", format!("the job is paused{since}; resume it to let it fire")));
        }
        _ => {}
    }
    if facts.load.leased > 0 {
        let times = facts.load.leased;
        reasons.push(reason("RUNNING", format!("{times} of its executions run now")));
    }
    let waiting = facts.load.active - facts.load.leased;
    reasons.extend(facts.full.iter().map(at_limit));
    if waiting > 0 || job.status == JobStatus::Active {
        reasons.extend(agents(&job.spec, facts.agents));
    }
    if job.status == JobStatus::Active {
        reasons.extend(not_due(job, facts.now));
    }
    if reasons.is_empty() && waiting > 0 {
        reasons.push(reason("QUEUED", format!("{waiting} of its executions wait for their turn")));
    }
    explanation(&format!("Job {:?}", job.spec.name), reasons)
}

/// Why an execution has not run.
pub(super) fn execution(facts: &ExecutionFacts<'_>) -> Explanation {
    let execution = facts.execution;
    let mut reasons = Vec::new();
    match &execution.state {
        State::Done(outcome) => {
            let what = outcome.status.as_json_str();
            let why =
                if outcome.error_message.is_empty() { String::new() } else { format!(": {}", outcome.error_message) };
            reasons.push(reason("FINISHED", format!("it is {what} since {}{why}", outcome.completed_at)));
        }
        State::Running(lease) => {
            reasons.push(Reason {
                until: convert::time(Some(lease.deadline)),
                ..reason("RUNNING", format!("agent {} runs it", lease.worker_name))
            });
        }
        State::Leased(lease) if execution.armed_for().is_some() => {
            let (name, at) = (&lease.worker_name, execution.run_at);
            reasons.push(Reason {
                until: convert::time(Some(at)),
                ..reason("ARMED", format!("agent {name} has been given it ahead of its time, and begins it at {at}"))
            });
        }
        State::Leased(lease) => {
            reasons
                .push(reason("STARTING", format!("agent {} has been given it and has not begun", lease.worker_name)));
        }
        State::Scheduled => {
            reasons.push(waiting_for_its_time(execution));
            reasons.extend(facts.job.map(|job| agents(&job.spec, facts.agents)).unwrap_or_default());
        }
        State::Pending => {
            reasons.extend(facts.job.and_then(suspended));
            reasons.extend(facts.full.iter().map(at_limit));
            reasons.extend(facts.job.map(|job| agents(&job.spec, facts.agents)).unwrap_or_default());
            reasons.extend(execution.start_by.map(|by| Reason {
                until: convert::time(Some(by)),
                ..reason("START_DEADLINE", format!("it does not run any more unless it begins by {by}"))
            }));
            let message = "it waits for its turn; executions of a higher priority, or older ones, go first";
            reasons.push(reason("QUEUED", message.to_owned()));
        }
    }
    if execution.cancel_requested_at.is_some() && !execution.is_done() {
        let message = "somebody asked for its cancellation, and its agent has not confirmed it";
        reasons.insert(0, reason("CANCELLING", message.to_owned()));
    }
    explanation(&format!("Execution {}", execution.id), reasons)
}

fn suspended(job: &Job) -> Option<Reason> {
    let since = job.tenant_suspended_at?;
    let message = format!("its tenant is suspended since {since}: nothing new of it runs");
    Some(reason("TENANT_SUSPENDED", message))
}

fn inactive(job: &Job, now: DateTime<Utc>) -> Reason {
    let spec = &job.spec;
    let why = if spec.max_executions.is_some_and(|most| job.execution_count >= most) {
        format!("it has had all of its {} executions", job.execution_count)
    } else if let Some(end) = spec.end_date.filter(|end| *end <= now) {
        format!("its endDate, {end}, has passed")
    } else if job.halted_at.is_some() {
        "it was stopped; resume it to let it fire".to_owned()
    } else {
        "its schedule has no fire left".to_owned()
    };
    reason("JOB_INACTIVE", format!("the job is inactive: {why}"))
}

fn not_due(job: &Job, now: DateTime<Utc>) -> Option<Reason> {
    if matches!(job.spec.schedule.kind, ScheduleKind::Manual) {
        return Some(reason("MANUAL", "the job has no schedule; it runs when it is triggered".to_owned()));
    }
    let next = job.next_execution_at.or(job.cursor)?;
    if next <= now {
        return Some(reason("DUE", format!("its fire of {next} is due and is being planned")));
    }
    let message = match job.spec.start_date.filter(|start| *start > now) {
        Some(start) => format!("it starts at {start} and fires first at {next}"),
        None => format!("its next fire is at {next}"),
    };
    Some(Reason { until: convert::time(Some(next)), ..reason("NOT_DUE", message) })
}

fn waiting_for_its_time(execution: &Execution) -> Reason {
    let until = convert::time(Some(execution.run_at));
    if execution.attempt > 0 {
        let why = execution.attempts.last().map(|last| last.error_message.as_str()).unwrap_or_default();
        let message =
            format!("attempt {} failed ({why}); the next one starts at {}", execution.attempt, execution.run_at);
        return Reason { until, ..reason("RETRY_DELAY", message) };
    }
    Reason { until, ..reason("NOT_DUE", format!("it is due at {}", execution.run_at)) }
}

fn at_limit(full: &Full) -> Reason {
    reason(full.gate.code(), full.to_string())
}

/// The gates that an execution of a job would pass. A key that refers to parameters is not known before there are some.
pub(super) fn gates(job: &Job) -> Vec<Gate> {
    let tenant = job.tenant_id;
    let key = job.spec.concurrency.as_ref().filter(|concurrency| concurrency.is_fixed());
    let key = key.map(|concurrency| Gate::Key(tenant, concurrency.of(None).key));
    let gates = [Gate::Tenant(tenant), Gate::Queue(tenant, job.spec.queue.clone())];
    gates.into_iter().chain(key).chain([Gate::Job(tenant, job.id)]).collect()
}

/// Whether any agent could take it: none connected, none that fits (and what is missing), or all that fit are busy.
fn agents(spec: &JobSpec, agents: &[Session]) -> Option<Reason> {
    let executor = spec.executor();
    let live: Vec<&Session> = agents.iter().filter(|a| a.attached && !a.draining).collect();
    if live.is_empty() {
        let message = match agents.len() {
            0 => "no agent is connected; start one".to_owned(),
            all => format!("of {all} agents none takes work: they drain or their streams are lost"),
        };
        return Some(reason("NO_AGENT", message));
    }
    let fits = |a: &Session| {
        serves(a, &spec.queue)
            && offers_executor(&a.agent.executors, &executor)
            && carries(&a.agent.labels, &spec.selector)
    };
    let fitting: Vec<&Session> = live.iter().copied().filter(|a| fits(a)).collect();
    if fitting.is_empty() {
        return Some(reason("NO_AGENT", missing(spec, &executor, &live)));
    }
    fitting.iter().all(|a| a.running >= i64::from(a.agent.slots)).then(|| {
        let slots: i32 = fitting.iter().map(|a| a.agent.slots).sum();
        reason("AGENTS_BUSY", format!("all {slots} slots of the {} agents that can run it are taken", fitting.len()))
    })
}

/// What none of the agents has, most telling first.
fn missing(spec: &JobSpec, executor: &str, live: &[&Session]) -> String {
    let served: Vec<&Session> = live.iter().copied().filter(|a| serves(a, &spec.queue)).collect();
    if served.is_empty() {
        return format!("none of {} agents serves queue {:?}", live.len(), spec.queue);
    }
    let able: Vec<&Session> =
        served.iter().copied().filter(|a| offers_executor(&a.agent.executors, executor)).collect();
    if able.is_empty() {
        return format!("none of {} agents of queue {:?} runs {executor:?}", served.len(), spec.queue);
    }
    let labels: Vec<String> = spec.selector.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("none of {} agents that run {executor:?} carries the labels {}", able.len(), labels.join(", "))
}

fn serves(session: &Session, queue: &str) -> bool {
    session.agent.queues.iter().any(|served| served == queue)
}

fn reason(code: &str, message: String) -> Reason {
    Reason { code: code.to_owned(), message, until: None }
}

fn explanation(subject: &str, reasons: Vec<Reason>) -> Explanation {
    let summary = match reasons.first() {
        Some(first) => format!("{subject}: {}.", first.message),
        None => format!("{subject}: nothing stands in its way."),
    };
    Explanation { summary, reasons }
}

#[cfg(test)]
mod tests;
