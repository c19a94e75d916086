//! Triggers in one statement, which is its own transaction.
//!
//! What decides over them is in memory: the job, as it was when its lock was last had. The statement looks whether its version and status are
//! still the same, under the lock of its row, and passes over what is not, or is locked by somebody else. What nothing limits it
//! grants in the same breath to the session that is named for it, if that lives and is on that attachment.
//!
//! Ids are made before the statement, of what the database's clock is believed to be; the instants are the clock's own, held within the
//! millisecond of the ids, so that a range of ids is a range of instants.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use chrono::{DateTime, SubsecRound, Utc};
use orrery_proto::v1::AuditOutcome;
use sqlx::Row;
use sqlx::postgres::PgRow;
use tokio::time::Instant;
use uuid::Uuid;

use super::apply::applied;
use super::asked::Asked;
use super::audit::bind_entries;
use super::commit::{Tries, is_answer};
use super::release::unused_policy;
use super::rows::trigger_number;
use super::write::plain;
use super::{PgStore, micros};
use crate::execution::{Event, Execution, instant_of, manual_id};
use crate::store::{
    Assignment, AtOnce, AuditEntry, Candidate, DecideTrigger, Grant, Made, Result, StoreError, Trigger, text,
};

/// One that is made quickly.
pub(super) struct Quick {
    index: usize,
    asked: Arc<Asked>,
    /// As it is to be, by the estimated clock.
    execution: Execution,
    /// Leased, by the estimated clock, where somebody is to have it at once.
    grant: Option<Grant>,
    /// Who asked for it, for the audit log.
    noted: Vec<AuditEntry>,
}

/// A statement whose answer is lost.
pub(super) struct Lost {
    pub error: sqlx::Error,
    /// By trigger; `None` for those that it was not to make.
    pub ids: Vec<Option<Uuid>>,
    pub given: Vec<Grant>,
}

impl Lost {
    /// That of some of the triggers.
    pub(super) fn of(mut self, rest: &[usize]) -> Self {
        self.ids = rest.iter().map(|index| self.ids[*index]).collect();
        self
    }
}

/// The millisecond that ids were made in.
pub(super) fn instant(ids: &[Option<Uuid>]) -> DateTime<Utc> {
    ids.iter().flatten().map(|id| instant_of(*id)).max().unwrap_or(DateTime::UNIX_EPOCH)
}

impl PgStore {
    /// Whether a trigger can be made quickly, as far as is known; a refusal is for what sees its job as it is.
    fn asked_of(&self, trigger: &Trigger, decide: &DecideTrigger<'_>) -> Option<Arc<Asked>> {
        if trigger.idempotency.is_some() || trigger.run_at.is_some() {
            return None;
        }
        let asked = self.inner.asked.get(trigger.tenant, trigger.job)?;
        decide(&asked.job, 0, trigger).ok().map(|()| asked)
    }

    /// Makes those that can be made quickly, and answers for those that were.
    pub(super) async fn make_quickly(
        &self,
        triggers: &[Trigger],
        decide: &DecideTrigger<'_>,
        at_once: Option<AtOnce<'_>>,
        answers: &mut [Option<Result<Made>>],
    ) -> Option<Lost> {
        let one = |(index, trigger)| Some((index, trigger, self.asked_of(trigger, decide)?));
        let asked: Vec<(usize, &Trigger, Arc<Asked>)> = triggers.iter().enumerate().filter_map(one).collect();
        if asked.is_empty() {
            return None;
        }
        // Whoever cannot be reached here has not been asked anything.
        let mut taken = self.inner.hot.take().await.ok()?;
        let now = match self.estimate() {
            Some(now) => now,
            None => self.read_clock(taken.connection()).await.ok()?,
        };
        let quick = |(index, trigger, asked): (usize, &Trigger, Arc<Asked>)| {
            let execution = trigger.execution(manual_id(now), &asked.job, asked.lane, now);
            let name = |_| asked.spec.name.clone();
            let noted = AuditEntry::of_triggers([(trigger, execution.id)], name);
            Quick { index, asked, execution, grant: None, noted }
        };
        let mut quick: Vec<Quick> = asked.into_iter().map(quick).collect();
        if let Some(at_once) = at_once.filter(|at_once| at_once.tenant_limit <= 0) {
            self.give(&mut quick, at_once, now);
        }
        let began = Instant::now();
        let call = async { Ok(statement(&quick).fetch_all(taken.connection()).await?) };
        let error = match Tries::within(call).await {
            Ok(rows) => {
                self.inner.hot.keep(taken);
                self.answer(quick, &rows, began, answers);
                return None;
            }
            Err(StoreError::Unavailable(error) | StoreError::Database(error) | StoreError::Unknown(error)) => error,
            Err(_) => return None,
        };
        if is_answer(&error) {
            tracing::warn!(%error, "triggers could not be made in one statement; they are made one after the other");
            self.inner.hot.keep(taken);
            return None;
        }
        let mut ids = vec![None; triggers.len()];
        for one in &quick {
            ids[one.index] = Some(one.execution.id);
        }
        Some(Lost { error, ids, given: quick.into_iter().filter_map(|one| one.grant).collect() })
    }

    /// Offers what nothing of its job limits to sessions; beside a backlog no more than its tenant's turns allow.
    fn give(&self, quick: &mut [Quick], at_once: AtOnce<'_>, now: DateTime<Utc>) {
        let mut free: Vec<&mut Quick> = quick.iter_mut().filter(|one| one.asked.is_free()).collect();
        if free.is_empty() {
            return;
        }
        let candidates: Vec<Candidate<'_>> = free.iter().map(|one| Candidate { execution: &one.execution }).collect();
        let answers = (at_once.assign)(&candidates);
        let is_backlog = self.inner.is_backlog.load(Ordering::Relaxed);
        let mut turns = self.inner.turns.lock().unwrap_or_else(PoisonError::into_inner);
        for (one, to) in free.iter_mut().zip(answers) {
            let Some(to) = to.filter(|_| !is_backlog || turns.goes_at_once(one.execution.tenant_id)) else { continue };
            one.grant = grant(one, to, at_once, now);
        }
    }

    fn answer(&self, quick: Vec<Quick>, rows: &[PgRow], began: Instant, answers: &mut [Option<Result<Made>>]) {
        let rows: HashMap<Uuid, &PgRow> = rows.iter().filter_map(|row| Some((row.try_get("id").ok()?, row))).collect();
        if let Some(Ok(clock)) = rows.values().next().map(|row| row.try_get("clock")) {
            self.inner.clock.observe(began, clock);
        }
        for one in quick {
            let Some(row) = rows.get(&one.execution.id) else {
                // Changed, or held by somebody: it is read anew.
                self.inner.asked.forget(one.execution.job_id);
                continue;
            };
            let index = one.index;
            answers[index] = Some(self.made(one, row));
        }
    }

    /// What was made, with the database's instants.
    fn made(&self, one: Quick, row: &PgRow) -> Result<Made> {
        let at: DateTime<Utc> = row.try_get("created_at")?;
        self.saw(at);
        let execution = Execution { scheduled_at: at, run_at: at, created_at: at, ..one.execution };
        let granted_at: Option<DateTime<Utc>> = row.try_get("granted_at")?;
        let grant = match (one.grant, granted_at) {
            (Some(grant), Some(granted_at)) => {
                let granted = applied(&execution, &event_of(&grant), &unused_policy(), granted_at);
                granted.ok().map(|execution| Grant { execution, ..grant })
            }
            _ => None,
        };
        Ok(Made { execution, grant })
    }

    /// What the database's clock says now, as far as it is known, and never before what it has said.
    pub(super) fn estimate(&self) -> Option<DateTime<Utc>> {
        let now = self.inner.clock.now()?.trunc_subsecs(6);
        let seen = self.inner.seen.load(Ordering::Relaxed);
        // Where its clock has been set back, what it has said counts no more.
        let seen =
            DateTime::from_timestamp_micros(seen).filter(|seen| *seen - now < chrono::TimeDelta::milliseconds(10));
        Some(seen.map_or(now, |seen| seen.max(now)))
    }

    /// Takes note of an instant of the database.
    pub(super) fn saw(&self, at: DateTime<Utc>) {
        self.inner.seen.fetch_max(at.timestamp_micros(), Ordering::Relaxed);
    }
}

fn grant(one: &Quick, to: Assignment, at_once: AtOnce<'_>, now: DateTime<Utc>) -> Option<Grant> {
    let timeout = one.asked.spec.timeout(at_once.timeouts);
    let event = Event::Granted {
        session_id: to.session_id,
        worker_name: to.worker_name,
        timeout: chrono::Duration::from_std(timeout).unwrap_or(chrono::Duration::days(365)),
        job_version: one.asked.job.version,
    };
    let execution = applied(&one.execution, &event, &unused_policy(), now).ok()?;
    Some(Grant { execution, spec: one.asked.spec.clone(), timeout, attachment: to.attachment })
}

/// The event that grants it.
fn event_of(grant: &Grant) -> Event {
    let lease = grant.execution.lease();
    Event::Granted {
        session_id: lease.map(|lease| lease.session_id).unwrap_or_default(),
        worker_name: lease.map(|lease| lease.worker_name.clone()).unwrap_or_default(),
        timeout: lease.map(|lease| lease.deadline - lease.granted_at).unwrap_or_default(),
        job_version: grant.execution.job_version,
    }
}

/// Locks come first, row by row and without a wait; what is made is counted, and nothing else. The look into history is for a statement that comes
/// late: its caller has given its connection up, and has made the same executions by another. Looks are
/// subqueries of one value, so that each is one look into an index whatever the tables were like when the plan was made;
/// so is a job found, by nothing but its id: whether it is deleted is asked in words that no other index answers.
const STATEMENT: &str = "
with job as materialized (
    select u.* from unnest($1::uuid[], $2::bigint[], $3::text[], $4::uuid[], $5::bigint[], $6::integer[], $7::text[], $8::integer[])
        with ordinality as u(id, version, status, tenant_id, lane_id, priority, queue, key_limit, number)
    cross join lateral (
        select from scheduled_jobs j
        where j.id = u.id and j.tenant_id = u.tenant_id and j.version = u.version and j.status = u.status and coalesce(j.deleted_at, '-infinity') = '-infinity'
            and coalesce(j.tenant_suspended_at, '-infinity') = '-infinity'
        for no key update of j skip locked
    ) held
), session as materialized (
    select u.* from (select distinct id, attachment from unnest($17::uuid[], $18::bigint[]) as n(id, attachment)) u
    cross join lateral (
        select from agent_sessions s
        where s.id = u.id and s.attachment = u.attachment and s.expires_at > statement_timestamp()
        for key share of s skip locked
    ) held
), clock as materialized (
    select case when t.now between t.ids - interval '5 milliseconds' and t.ids + interval '6 milliseconds'
        then least(greatest(t.now, t.ids), t.ids + interval '999 microseconds') else t.now end as at, t.now
    from (select clock_timestamp() as now, $21::timestamptz as ids offset 0) t
), made as (
    insert into live_executions (id, tenant_id, job_id, lane_id, scheduled_at, run_at, created_at, priority, state, trigger_type,
        triggered_by, retry_of, queue, traceparent, parameters, concurrency_key, key_limit, epoch, attempt, job_version,
        session_id, worker_name, granted_at, deadline)
    select a.id, a.tenant_id, a.job_id, a.lane_id, c.at, c.at, c.at, a.priority, case when a.session_id is null then 1 else 2 end,
        a.trigger_type, a.triggered_by, a.retry_of, a.queue, a.traceparent, a.parameters, a.concurrency_key, a.key_limit,
        case when a.session_id is null then 0 else $22::bigint end, case when a.session_id is null then 0 else $23::integer end,
        case when a.session_id is null then 0 else a.version end, a.session_id,
        case when a.session_id is not null then a.worker_name end,
        case when a.session_id is not null then greatest(c.now, c.at) end,
        case when a.session_id is not null then greatest(c.now, c.at) + a.timeout * interval '1 microsecond' end
    from (
        select u.id, j.tenant_id, j.id as job_id, j.lane_id, j.priority, j.queue, j.key_limit, j.version, u.trigger_type,
            u.triggered_by, u.retry_of, u.traceparent, u.parameters, u.concurrency_key, u.worker_name, u.timeout,
            case when (select t.max_concurrent from tenants t where t.id = j.tenant_id) > 0
                or (select q.max_concurrent from queue_limits q where q.tenant_id = j.tenant_id and q.name = j.queue) > 0
                then null else s.id end as session_id
        from unnest($9::uuid[], $10::integer[], $11::smallint[], $12::uuid[], $13::uuid[], $14::text[], $15::text[], $16::text[],
            $17::uuid[], $18::bigint[], $19::text[], $20::bigint[]) as u(id, number, trigger_type, triggered_by, retry_of,
            traceparent, parameters, concurrency_key, session_id, attachment, worker_name, timeout)
        join job j on j.number = u.number
        left join session s on s.id = u.session_id and s.attachment = u.attachment
        offset 0
    ) a cross join clock c
    where (select h.id from job_executions h where h.id = a.id) is null
    on conflict (id) do nothing
    returning id, job_id, tenant_id, created_at, granted_at
), noted as (
    insert into audit_entries (tenant_id, id, at, actor_kind, actor_id, actor_name, action, resource_type, resource_id, resource_name,
        address, request_id, outcome, after)
    select m.tenant_id, m.id, m.created_at, u.actor_kind, u.actor_id, u.actor_name, u.action, u.resource_type, u.resource_id,
        u.resource_name, u.address, u.request_id, $35, u.after
    from made m join unnest($24::uuid[], $25::text[], $26::uuid[], $27::text[], $28::text[], $29::text[], $30::text[], $31::text[],
        $32::text[], $33::text[], $34::text[]) as u(id, actor_kind, actor_id, actor_name, action, resource_type, resource_id,
        resource_name, address, request_id, after) on u.id = m.id
    on conflict do nothing returning tenant_id, id
), unsealed as (
    insert into audit_unsealed (tenant_id, id) select tenant_id, id from noted
), counted as (
    update scheduled_jobs j set execution_count = j.execution_count + m.more, last_execution_at = m.at
    from (select job_id, count(*) as more, max(created_at) as at from made group by job_id) m where j.id = m.job_id
)
select m.id, m.created_at, m.granted_at, statement_timestamp() as clock from made m";

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn statement(quick: &[Quick]) -> Query<'_> {
    let mut jobs: Vec<&Asked> = Vec::new();
    let mut numbers: HashMap<(Uuid, i64), i32> = HashMap::new();
    let mut of_job = Vec::with_capacity(quick.len());
    for one in quick {
        let number = *numbers.entry((one.asked.job.id, one.asked.job.version)).or_insert_with(|| {
            jobs.push(&one.asked);
            i32::try_from(jobs.len()).unwrap_or(i32::MAX)
        });
        of_job.push(number);
    }
    let lease = |one: &'_ Quick| one.grant.as_ref().and_then(|grant| grant.execution.lease().cloned());
    let ids: Vec<Option<Uuid>> = quick.iter().map(|one| Some(one.execution.id)).collect();
    let noted: Vec<&AuditEntry> = quick.iter().flat_map(|one| &one.noted).collect();
    let first = quick.iter().find_map(|one| one.grant.as_ref());
    let query = sqlx::query(STATEMENT)
        .bind(jobs.iter().map(|asked| asked.job.id).collect::<Vec<_>>())
        .bind(jobs.iter().map(|asked| asked.job.version).collect::<Vec<_>>())
        .bind(jobs.iter().map(|asked| asked.job.status.as_json_str()).collect::<Vec<_>>())
        .bind(jobs.iter().map(|asked| asked.job.tenant_id).collect::<Vec<_>>())
        .bind(jobs.iter().map(|asked| asked.lane).collect::<Vec<_>>())
        .bind(jobs.iter().map(|asked| asked.spec.priority).collect::<Vec<_>>())
        .bind(jobs.iter().map(|asked| plain(&asked.spec.queue)).collect::<Vec<_>>())
        .bind(jobs.iter().map(|asked| asked.spec.concurrency.as_ref().map_or(0, |c| c.limit)).collect::<Vec<_>>())
        .bind(ids.clone())
        .bind(of_job)
        .bind(column(quick, |e| trigger_number(e.trigger)))
        .bind(column(quick, |e| e.triggered_by))
        .bind(column(quick, |e| e.retry_of))
        .bind(column(quick, |e| e.traceparent.as_deref().map(text::plain)))
        .bind(column(quick, |e| e.parameters.as_deref().map(text::plain)))
        .bind(column(quick, |e| e.concurrency.as_ref().map(|c| plain(&c.key)).unwrap_or_default()))
        .bind(quick.iter().map(|one| lease(one).map(|lease| lease.session_id)).collect::<Vec<_>>())
        .bind(quick.iter().map(|one| one.grant.as_ref().map(|grant| grant.attachment)).collect::<Vec<_>>())
        .bind(quick.iter().map(|one| lease(one).map(|lease| plain(&lease.worker_name))).collect::<Vec<_>>())
        .bind(quick.iter().map(|one| one.grant.as_ref().map(|grant| micros(grant.timeout))).collect::<Vec<_>>())
        .bind(instant(&ids))
        // What the state machine makes of a first lease is the same for all.
        .bind(first.map_or(0, |grant| grant.execution.epoch))
        .bind(first.map_or(0, |grant| grant.execution.attempt));
    bind_entries(query, &noted)
        .bind(noted.iter().map(|entry| plain(entry.deed.after.as_deref().unwrap_or_default())).collect::<Vec<_>>())
        .bind(AuditOutcome::Changed.as_json_str())
}

fn column<'a, T>(quick: &'a [Quick], of: impl Fn(&'a Execution) -> T) -> Vec<T> {
    quick.iter().map(|one| of(&one.execution)).collect()
}
