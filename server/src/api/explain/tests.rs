use chrono::{TimeDelta, TimeZone, Utc};
use orrery_proto::Json;
use orrery_proto::v1::{CreateJobRequest, JobType, TriggerType};
use uuid::Uuid;

use super::*;
use crate::admission::{Admission, Room};
use crate::api::definition;
use crate::execution::Lease;
use crate::store::NewSession;

fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2030, 1, 1, 12, 0, 0).unwrap()
}

fn job() -> Job {
    let request = CreateJobRequest {
        name: "report".into(),
        cron_expression: "0 13 * * *".into(),
        job_type: JobType::Function.into(),
        config: Some(Json::new(r#"{"modulePath": "reports", "functionName": "daily"}"#)),
        selector: [("zone".to_owned(), "eu".to_owned())].into(),
        ..Default::default()
    };
    Job {
        id: Uuid::from_u128(1),
        tenant_id: Uuid::from_u128(2),
        spec: definition::read(&request, "").unwrap(),
        status: JobStatus::Active,
        version: 1,
        cursor: Some(now() + TimeDelta::hours(1)),
        execution_count: 0,
        last_execution_at: None,
        halted_at: None,
        tenant_suspended_at: None,
        created_by: Uuid::nil(),
        created_at: now(),
        updated_at: now(),
        deleted_at: None,
        next_execution_at: None,
    }
}

fn agent(change: impl FnOnce(&mut Session)) -> Session {
    let mut session = Session {
        id: Uuid::from_u128(3),
        agent: NewSession {
            tenant_id: None,
            agent_id: None,
            name: "a".into(),
            version: "1".into(),
            labels: [("zone".to_owned(), "eu".to_owned())].into(),
            queues: vec!["default".into()],
            executors: vec!["http".into(), "function:*".into()],
            slots: 2,
            coordinator_id: Uuid::nil(),
            address: String::new(),
        },
        attachment: 1,
        attached: true,
        draining: false,
        opened_at: now(),
        renewed_at: now(),
        expires_at: now(),
        running: 0,
    };
    change(&mut session);
    session
}

fn execution(state: State) -> Execution {
    Execution {
        id: Uuid::from_u128(4),
        tenant_id: Uuid::from_u128(2),
        job_id: Uuid::from_u128(1),
        job_name: "report".into(),
        trigger: TriggerType::Manual,
        triggered_by: None,
        lane_id: 1,
        queue: "default".into(),
        priority: 0,
        scheduled_at: now(),
        run_at: now() + TimeDelta::seconds(9),
        start_by: None,
        created_at: now(),
        state,
        attempt: 0,
        epoch: 0,
        losses: 0,
        job_version: 0,
        progress: 0,
        attempts: Vec::new(),
        parameters: None,
        cancel_requested_at: None,
        cancel_reason: None,
        retry_of: None,
        traceparent: None,
        concurrency: None,
    }
}

fn codes(explanation: &Explanation) -> Vec<&str> {
    explanation.reasons.iter().map(|r| r.code.as_str()).collect()
}

/// The job's own limit of one, with so many running.
fn full(running: i64) -> Vec<Full> {
    let gate = Gate::Job(Uuid::from_u128(2), Uuid::from_u128(1));
    let rooms = [(gate.clone(), Room { limit: 1, running })];
    Admission::new(rooms).full(&[gate])
}

fn of_job(job: &Job, load: (i64, i64), agents: &[Session]) -> Explanation {
    let full = full(load.1);
    super::job(&JobFacts { job, load: JobLoad { active: load.0, leased: load.1 }, full: &full, agents, now: now() })
}

#[test]
fn a_job_is_explained() {
    let ready = [agent(|_| {})];
    assert_eq!(codes(&of_job(&job(), (0, 0), &ready)), ["NOT_DUE"]);
    assert!(of_job(&job(), (0, 0), &ready).reasons[0].until.is_some());
    assert_eq!(codes(&of_job(&job(), (0, 0), &[])), ["NO_AGENT", "NOT_DUE"]);
    assert_eq!(codes(&of_job(&job(), (2, 1), &ready)), ["RUNNING", "CONCURRENCY_LIMIT", "NOT_DUE"]);
    let paused = Job { status: JobStatus::Paused, halted_at: Some(now()), ..job() };
    assert_eq!(codes(&of_job(&paused, (0, 0), &[])), ["JOB_PAUSED"]);
    let inactive = Job { status: JobStatus::Inactive, ..job() };
    assert_eq!(codes(&of_job(&inactive, (0, 0), &ready)), ["JOB_INACTIVE"]);
}

#[test]
fn what_agents_lack_is_named() {
    let because = |change: fn(&mut Session)| of_job(&job(), (0, 0), &[agent(change)]).reasons[0].clone();
    let lacks = |change, code: &str, part: &str| {
        let reason = because(change);
        assert_eq!(reason.code, code);
        assert!(reason.message.contains(part), "{}", reason.message);
    };
    lacks(|a| a.agent.queues = vec!["other".into()], "NO_AGENT", "queue \"default\"");
    lacks(|a| a.agent.executors = vec!["http".into()], "NO_AGENT", "function:reports#daily");
    lacks(|a| a.agent.labels.clear(), "NO_AGENT", "zone=eu");
    lacks(|a| a.draining = true, "NO_AGENT", "none takes work");
    lacks(|a| a.running = 2, "AGENTS_BUSY", "2 slots");
}

#[test]
fn an_execution_is_explained() {
    let job = job();
    let of = |execution: &Execution, leased| {
        let full = full(leased);
        super::execution(&ExecutionFacts { execution, job: Some(&job), full: &full, agents: &[agent(|_| {})] })
    };
    assert_eq!(codes(&of(&execution(State::Pending), 0)), ["QUEUED"]);
    assert_eq!(codes(&of(&execution(State::Pending), 1)), ["CONCURRENCY_LIMIT", "QUEUED"]);
    assert_eq!(codes(&of(&execution(State::Scheduled), 0)), ["NOT_DUE"]);
    let retried = Execution { attempt: 1, ..execution(State::Scheduled) };
    assert_eq!(codes(&of(&retried, 0)), ["RETRY_DELAY"]);
    let lease = Lease {
        session_id: Uuid::from_u128(3),
        worker_name: "a".into(),
        granted_at: now(),
        started_at: Some(now()),
        deadline: now(),
    };
    let cancelling = Execution { cancel_requested_at: Some(now()), ..execution(State::Running(lease)) };
    assert_eq!(codes(&of(&cancelling, 1)), ["CANCELLING", "RUNNING"]);
}
