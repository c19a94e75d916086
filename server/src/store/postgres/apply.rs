//! Events of executions: read under a lock, decided by the state machine, written as a set.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, SubsecRound, Utc};
use orrery_proto::v1::Delivery;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::audit::note;
use super::commit::commit;
use super::place::Place;
use super::rows::live_columns;
use super::{PgStore, quick, rows, write};
use crate::execution::{self, ByExecution, Event, Execution, Policy, Rejected, State};
use crate::job::{JobSpec, RetryPolicy};
use crate::store::{AuditEntry, Change, Notes, Result};

/// Definitions by (job, version).
pub(super) type SpecMap = HashMap<(Uuid, i64), Arc<JobSpec>>;

/// What became of each change.
pub(super) type Answers = Vec<std::result::Result<Execution, Rejected>>;

/// A live execution, locked, with its job's version of now.
pub(super) struct Locked {
    pub execution: Box<Execution>,
    current_version: i64,
    /// Where its row is, as far as that was asked for: as long as the lock is held, it is there.
    pub place: Option<Place>,
}

impl Locked {
    pub(super) fn of(row: &PgRow) -> Result<Self> {
        Ok(Self { execution: Box::new(rows::live(row)?), current_version: rows::current_version(row)?, place: None })
    }

    /// One at a known place, of a job whose version of now is this.
    pub(super) fn at(place: Place, execution: Box<Execution>, current_version: i64) -> Self {
        Self { execution, current_version, place: Some(place) }
    }

    /// The definition it runs: the one of its start, or the job's of now.
    pub(super) fn version(&self) -> (Uuid, i64) {
        let version = if self.execution.job_version == 0 { self.current_version } else { self.execution.job_version };
        (self.execution.job_id, version)
    }
}

pub(super) fn spec_of(specs: &SpecMap, (job, version): (Uuid, i64)) -> Result<Arc<JobSpec>> {
    let missing = || rows::corrupt("job_versions", "version", format!("missing: {version} of job {job}"));
    specs.get(&(job, version)).cloned().ok_or_else(missing)
}

/// What decides over the execution. Where its definition cannot be read: what repeats nothing.
pub(super) fn policy_of(specs: &SpecMap, version: (Uuid, i64)) -> Policy {
    match spec_of(specs, version) {
        Ok(spec) => Policy { retry: spec.retry.clone(), delivery: spec.delivery, random: rand::random() },
        Err(error) => {
            tracing::error!(job = %version.0, %error, "nobody knows whether this is to be repeated; it is not");
            Policy { retry: RetryPolicy::default(), delivery: Delivery::AtMostOnce, random: 0.0 }
        }
    }
}

/// The state machine, with instants as the database keeps them.
pub(super) fn applied(
    execution: &Execution,
    event: &Event,
    policy: &Policy,
    now: DateTime<Utc>,
) -> std::result::Result<Execution, Rejected> {
    let mut next = execution::apply(execution, event, policy, now)?;
    next.run_at = next.run_at.trunc_subsecs(6);
    if let State::Leased(lease) | State::Running(lease) = &mut next.state {
        lease.deadline = lease.deadline.trunc_subsecs(6);
    }
    Ok(next)
}

/// The tenant whose caller asks for all of these. What agents say is written in batches of many tenants.
fn asked_by(changes: &[Change]) -> Option<Uuid> {
    let tenant = changes.first()?.tenant?;
    let is_asked =
        |change: &Change| change.tenant == Some(tenant) && matches!(change.event, Event::CancelRequested { .. });
    changes.iter().all(is_asked).then_some(tenant)
}

/// What a batch of changes is decided on.
struct Known {
    now: DateTime<Utc>,
    /// Sessions that live.
    alive: HashSet<Uuid>,
    live: BTreeMap<Uuid, Box<(Execution, Policy)>>,
    /// Finished before.
    over: HashMap<Uuid, Execution>,
}

impl PgStore {
    /// `said` are the answers of a try before this one whose outcome is unknown, and then of this one.
    pub(super) async fn try_apply(
        &self,
        changes: &[Change],
        said: &mut Option<Answers>,
        notes: &Notes,
    ) -> Result<Answers> {
        let mut tx = match asked_by(changes) {
            Some(tenant) => self.begin_for(tenant).await?,
            None => self.begin_keyed().await?,
        };
        let quick = if said.is_none() { quick::decidable(changes) } else { ByExecution::default() };
        let mut answers: Vec<Option<std::result::Result<Execution, Rejected>>> = vec![None; changes.len()];
        if !quick.is_empty() {
            self.apply_quickly(&mut tx, changes, &quick, &mut answers).await?;
        }
        let left: Vec<usize> = (0..changes.len()).filter(|at| answers[*at].is_none()).collect();
        if !left.is_empty() {
            let changes: Vec<&Change> = left.iter().map(|at| &changes[*at]).collect();
            for (at, answer) in left.iter().zip(self.apply_locked(&mut tx, &changes, said.as_ref()).await?) {
                answers[*at] = Some(answer);
            }
        }
        let answers: Answers = answers.into_iter().map(|a| a.unwrap_or(Err(Rejected::Unknown))).collect();
        note(&mut tx, &AuditEntry::of_cancels(notes, changes, &answers)).await?;
        // Before the end, for it may not come back.
        *said = Some(answers);
        commit(tx).await?;
        Ok(said.take().unwrap_or_default())
    }

    /// Decides on what the senders know and writes it where the rows are still what they think, without reading them first. What was not
    /// written has no answer yet.
    async fn apply_quickly(
        &self,
        tx: &mut PgConnection,
        changes: &[Change],
        quick: &ByExecution<&Execution>,
        answers: &mut [Option<std::result::Result<Execution, Rejected>>],
    ) -> Result<()> {
        let sessions = changes.iter().filter_map(|c| c.event.spoken_for().map(|(session, _)| session)).collect();
        let (now, alive) = living(tx, sessions).await?;
        let specs = self.inner.specs.load(tx, quick.values().map(|e| (e.job_id, e.job_version))).await?;
        let mut known = Known { now, alive, live: BTreeMap::new(), over: HashMap::new() };
        for (id, execution) in quick {
            let policy = policy_of(&specs, (execution.job_id, execution.job_version));
            known.live.insert(*id, Box::new(((*execution).clone(), policy)));
        }
        let mut said: Vec<(usize, std::result::Result<Execution, Rejected>)> = Vec::new();
        // What each word but the last made of its execution is what the next one found.
        let mut last: ByExecution<usize> = ByExecution::default();
        for (at, change) in changes.iter().enumerate().filter(|(_, change)| quick.contains_key(&change.execution)) {
            match known.step(change) {
                Ok(before) => {
                    if let (Some(earlier), Some(before)) = (last.insert(change.execution, at), before) {
                        said.push((earlier, Ok(before)));
                    }
                }
                Err(rejected) => said.push((at, Err(rejected))),
            }
        }
        let written = quick::write(tx, quick, &known.live).await?;
        for (at, answer) in said {
            if written.contains(&changes[at].execution) {
                answers[at] = Some(answer);
            }
        }
        for (id, live) in known.live {
            if let Some(at) = last.get(&id).filter(|_| written.contains(&id)) {
                answers[*at] = Some(Ok(live.0));
            }
        }
        Ok(())
    }

    /// Reads under locks, decides, writes.
    async fn apply_locked(
        &self,
        tx: &mut PgConnection,
        changes: &[&Change],
        said: Option<&Answers>,
    ) -> Result<Answers> {
        let mut known = self.known(tx, changes).await?;
        let standing = known.standing(changes, said);
        let mut touched: BTreeMap<Uuid, bool> = BTreeMap::new();
        let mut answers = Vec::with_capacity(changes.len());
        for (change, standing) in changes.iter().zip(standing) {
            if let Some(execution) = standing {
                answers.push(Ok(execution));
                continue;
            }
            let answer = known.decide(change);
            if answer.is_ok() {
                let only_progress = matches!(change.event, Event::Progressed { .. });
                touched.entry(change.execution).and_modify(|only| *only &= only_progress).or_insert(only_progress);
            }
            answers.push(answer);
        }
        let of = |only: bool| -> Vec<&Execution> {
            let ids = touched.iter().filter(|(_, o)| **o == only).map(|(id, _)| id);
            ids.filter_map(|id| known.live.get(id).map(|live| &live.0)).collect()
        };
        write::save_progress(tx, &of(true)).await?;
        write::save(tx, &of(false)).await?;
        Ok(answers)
    }

    async fn known(&self, tx: &mut PgConnection, changes: &[&Change]) -> Result<Known> {
        let ids: HashSet<Uuid> = changes.iter().map(|c| c.execution).collect();
        let locked = lock(tx, &ids.iter().copied().collect::<Vec<_>>()).await?;
        let sessions: HashSet<Uuid> =
            changes.iter().filter_map(|c| c.event.spoken_for().map(|(session, _)| session)).collect();
        // After the locks were got, so that a session that ended while this waited is seen as over.
        let (now, alive) = living(tx, sessions).await?;
        let specs = self.inner.specs.load(tx, locked.iter().map(Locked::version)).await?;
        let mut live = BTreeMap::new();
        for l in locked {
            let policy = policy_of(&specs, l.version());
            live.insert(l.execution.id, Box::new((*l.execution, policy)));
        }
        let missing: Vec<Uuid> = ids.into_iter().filter(|id| !live.contains_key(id)).collect();
        let over = super::reads::history(tx, &missing).await?.into_iter().map(|e| (e.id, e)).collect();
        Ok(Known { now, alive, live, over })
    }

    /// Applies an event to each of these (locked) executions and writes them. Those that the event means nothing to are left out.
    pub(super) async fn apply_to(
        &self,
        tx: &mut PgConnection,
        locked: Vec<Locked>,
        now: DateTime<Utc>,
        event: impl Fn(&Execution, &Policy) -> Event + Send,
    ) -> Result<Vec<(Execution, Execution)>> {
        let specs = self.inner.specs.load(tx, locked.iter().map(Locked::version)).await?;
        let mut changed = Vec::with_capacity(locked.len());
        for l in locked {
            let policy = policy_of(&specs, l.version());
            if let Ok(next) = applied(&l.execution, &event(&l.execution, &policy), &policy, now) {
                changed.push((*l.execution, next));
            }
        }
        write::save(tx, &changed.iter().map(|(_, next)| next).collect::<Vec<_>>()).await?;
        Ok(changed)
    }
}

impl Known {
    /// By change: what a try before this one made of it, where that was written after all. A transaction is written whole: what one change has
    /// left behind speaks for all.
    fn standing(&self, changes: &[&Change], said: Option<&Answers>) -> Vec<Option<Execution>> {
        let Some(said) = said else { return vec![None; changes.len()] };
        let made = || changes.iter().zip(said).map(|(change, answer)| (change, answer.as_ref().ok()));
        let stored = |id: Uuid| self.live.get(&id).map(|live| &live.0).or_else(|| self.over.get(&id));
        let is_trace = |(change, made): (&&Change, Option<&Execution>)| {
            made.is_some_and(|made| stored(made.id).is_some_and(|stored| came_of(stored, made, &change.event)))
        };
        let is_written = made().any(is_trace);
        let stands = |(change, made): (&&Change, Option<&Execution>)| {
            made.filter(|made| is_written || stored(made.id).is_some_and(|stored| is_moot(stored, &change.event)))
                .cloned()
        };
        made().map(stands).collect()
    }

    /// Applies one change to what is known, and answers.
    fn decide(&mut self, change: &Change) -> std::result::Result<Execution, Rejected> {
        self.step(change)?;
        self.live.get(&change.execution).map(|live| live.0.clone()).ok_or(Rejected::Unknown)
    }

    /// Applies one change to what is known; answers with what was known before, if it is live.
    fn step(&mut self, change: &Change) -> std::result::Result<Option<Execution>, Rejected> {
        let is_hidden = |execution: &Execution| change.tenant.is_some_and(|tenant| tenant != execution.tenant_id);
        let Some((execution, policy)) = self.live.get_mut(&change.execution).map(Box::as_mut) else {
            let over = self.over.get(&change.execution).filter(|e| !is_hidden(e)).ok_or(Rejected::Unknown)?;
            if over.has_heard(&change.event) {
                return Err(Rejected::Repeated);
            }
            // Nothing happens to what is over: this says why.
            return applied(over, &change.event, &super::release::unused_policy(), self.now).map(Some);
        };
        if is_hidden(execution) {
            return Err(Rejected::Unknown);
        }
        if execution.has_heard(&change.event) {
            return Err(Rejected::Repeated);
        }
        if let Some((session, epoch)) = change.event.spoken_for()
            && !self.alive.contains(&session)
            && !execution.is_done()
        {
            return Err(Rejected::of_dead_session(execution, epoch));
        }
        let next = applied(execution, &change.event, policy, self.now)?;
        Ok(Some(std::mem::replace(execution, next)))
    }
}

/// Whether what is stored has come of what an event made: of that very writing, which its instants tell to the microsecond.
fn came_of(stored: &Execution, made: &Execution, event: &Event) -> bool {
    match event {
        Event::Finished { .. } => made.attempts.last().is_some_and(|ended| {
            stored.attempts.iter().any(|a| (a.epoch, a.ended_at) == (ended.epoch, ended.ended_at))
        }),
        Event::CancelRequested { .. } => stored.cancel_requested_at == made.cancel_requested_at,
        Event::Started { .. } => made.lease().is_some_and(|lease| {
            let ended = stored.attempts.iter().any(|a| (a.epoch, a.started_at) == (made.epoch, lease.started_at));
            ended || stored.lease() == Some(lease)
        }),
        _ => false,
    }
}

/// Whether an event that gives a lease back, and leaves no instant behind, would change nothing any more.
fn is_moot(stored: &Execution, event: &Event) -> bool {
    match event {
        Event::Released { session_id, epoch } | Event::LeaseExpired { session_id, epoch } => {
            stored.lease().is_none_or(|lease| (lease.session_id, stored.epoch) != (*session_id, *epoch))
        }
        _ => false,
    }
}

/// Locks live executions, in the order of their ids; each is found by its key, see [`super::pick::lock`].
pub(super) async fn lock(tx: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Locked>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let found = sqlx::query(concat!(
        "select ",
        live_columns!(),
        " from (select id from unnest($1::uuid[]) as u(id) order by id) p
         cross join lateral (select * from live_executions l where l.id = p.id limit 1 for update) e
         join scheduled_jobs j on j.id = e.job_id"
    ))
    .bind(ids)
    .fetch_all(tx)
    .await?;
    found.iter().map(Locked::of).collect()
}

/// The clock, and which of these sessions live by it.
async fn living(tx: &mut PgConnection, sessions: HashSet<Uuid>) -> Result<(DateTime<Utc>, HashSet<Uuid>)> {
    let row = sqlx::query(
        "select clock_timestamp() as now,
            array(select id from agent_sessions where id = any($1) and expires_at > clock_timestamp()) as alive",
    )
    .bind(sessions.into_iter().collect::<Vec<_>>())
    .fetch_one(tx)
    .await?;
    Ok((row.try_get("now")?, row.try_get::<Vec<Uuid>, _>("alive")?.into_iter().collect()))
}
