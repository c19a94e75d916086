//! The model: a store of maps, with a clock that ticks once a call.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use orrery_proto::v1::{Delivery, JobStatus, TriggerType};
use orrery_server::execution::{Event, Execution, Policy, Rejected, State, apply};
use orrery_server::firing;
use orrery_server::job::{Job, JobSpec};
use orrery_server::store::*;
use proptest::sample::Index;
use uuid::Uuid;

use super::calls::{AHEAD, Call, Shared, What, Word, event};
use crate::support::{TENANT, TIMEOUTS};

pub struct Plain {
    shared: Shared,
    now: DateTime<Utc>,
    jobs: BTreeMap<Uuid, Job>,
    versions: BTreeMap<(Uuid, i64), Arc<JobSpec>>,
    omissions: Vec<(Uuid, NewOmission)>,
    executions: BTreeMap<Uuid, Execution>,
    keys: BTreeMap<u8, Uuid>,
    sessions: BTreeMap<Uuid, Session>,
    agents: Vec<Agent>,
}

/// A session that is there, dead or alive.
struct Session {
    attachment: i64,
    alive: bool,
}

/// The session that an agent uses, as it last knew it.
struct Agent {
    session: Uuid,
    attachment: i64,
    dead: bool,
}

/// Begins with its instant, as those of the stores do: what is to be retried from one instant on goes on in the order of ids, fires and triggers
/// alike.
fn id_of_call(now: DateTime<Utc>, n: usize) -> Uuid {
    Uuid::from_u128((now.timestamp_millis().cast_unsigned() as u128) << 80 | n as u128)
}

fn is_planned(e: &Execution) -> bool {
    e.state == State::Scheduled && e.attempt == 0 && e.trigger == TriggerType::Scheduled
}

fn is_late(e: &Execution) -> bool {
    e.attempt == 0 && e.trigger == TriggerType::Scheduled && e.run_at > e.scheduled_at
}

impl Plain {
    pub fn new(shared: Shared) -> Self {
        let mut plain = Self {
            now: shared.base,
            shared,
            jobs: BTreeMap::new(),
            versions: BTreeMap::new(),
            omissions: vec![],
            executions: BTreeMap::new(),
            keys: BTreeMap::new(),
            sessions: BTreeMap::new(),
            agents: vec![],
        };
        for _ in 0..2 {
            let agent = plain.open();
            plain.agents.push(agent);
        }
        plain
    }

    fn open(&mut self) -> Agent {
        let session = Uuid::from_u128(0x1000 + self.shared.sessions.len() as u128);
        self.shared.sessions.push(session);
        self.sessions.insert(session, Session { attachment: 1, alive: true });
        Agent { session, attachment: 1, dead: false }
    }

    /// Whether the session lives under this attachment.
    fn lives(&self, session: Uuid, attachment: i64) -> bool {
        self.sessions.get(&session).is_some_and(|s| s.alive && s.attachment == attachment)
    }

    pub fn call(&mut self, n: usize, call: &Call) -> String {
        self.now += TimeDelta::milliseconds(1);
        match call {
            Call::Create(new) => {
                let job = self.shared.new_job(n, new);
                self.shared.jobs.push(job.id);
                self.versions.insert((job.id, 1), Arc::new(job.spec.clone()));
                let shown = self.shared.shown_job(&job, &[]);
                self.jobs.insert(job.id, job);
                shown
            }
            Call::Plan { fires } => self.plan(*fires),
            Call::Release => self.release(),
            Call::Trigger { job, key, later } => self.trigger(n, *job, *key, *later),
            Call::Claim { agent, limit } => self.claim(*agent, *limit),
            Call::Arm { agent, limit } => self.arm(*agent, *limit),
            Call::Say(words) => self.say(words),
            Call::Kill { agent } => {
                let agent = &mut self.agents[*agent];
                if let Some(session) = self.sessions.get_mut(&agent.session).filter(|s| s.alive) {
                    session.alive = false;
                    agent.dead = true;
                }
                String::new()
            }
            Call::Renew { agent, back } => {
                let agent = &self.agents[*agent];
                usize::from(self.lives(agent.session, agent.attachment - back)).to_string()
            }
            Call::Close { agent, back } => {
                let (session, attachment) = (self.agents[*agent].session, self.agents[*agent].attachment - back);
                self.agents[*agent].dead |= *back == 0;
                if self.sessions.get(&session).is_some_and(|s| s.attachment == attachment) {
                    self.sessions.remove(&session);
                    let held = self.held(session);
                    self.take_back(&held, true);
                }
                String::new()
            }
            Call::Resume { agent, keep, continued } => self.resume(*agent, *keep, *continued),
            Call::Reap { overdue } => self.reap(*overdue),
            Call::Change { job, what } => self.change(*job, *what),
        }
    }

    fn of_job(&self, job: Uuid) -> impl Iterator<Item = &Execution> {
        self.executions.values().filter(move |e| e.job_id == job)
    }

    fn count(&self, job: Uuid, is: impl Fn(&Execution) -> bool) -> i64 {
        self.of_job(job).filter(|e| is(e)).count() as i64
    }

    fn plan(&mut self, fires: usize) -> String {
        let horizon = self.now + AHEAD;
        let (mut jobs, mut made, mut omitted) = (0, 0, 0);
        for id in self.shared.jobs.clone() {
            let job = self.jobs[&id].clone();
            let outstanding = self.count(id, is_planned);
            let waits =
                job.spec.max_executions.is_some_and(|max| outstanding > 0 && job.execution_count + outstanding >= max);
            let is_near = job.cursor.is_some_and(|at| at <= horizon);
            if job.status != JobStatus::Active || job.deleted_at.is_some() || waits || !is_near {
                continue;
            }
            jobs += 1;
            let candidate = PlanCandidate { job, now: self.now, horizon, outstanding };
            let plan = self.shared.plan(&candidate, fires);
            let before = self.executions.len();
            for at in &plan.fires {
                let lane = i64::from(candidate.job.spec.queue == "other");
                let fire = Execution::of_fire(&candidate.job, *at, lane, self.now);
                self.executions.entry(fire.id).or_insert(fire);
            }
            let fresh = self.executions.len() - before;
            made += fresh;
            omitted += plan.omissions.len();
            self.omissions.extend(plan.omissions.into_iter().map(|o| (id, o)));
            let job = self.jobs.get_mut(&id).unwrap();
            job.cursor = plan.cursor;
            if job.cursor.is_none() && fresh == 0 && outstanding == 0 {
                job.status = JobStatus::Inactive;
            }
        }
        format!("{jobs} {made} {omitted}")
    }

    fn release(&mut self) -> String {
        let mut due: Vec<Execution> =
            self.executions.values().filter(|e| e.state == State::Scheduled).cloned().collect();
        due.retain(|e| e.run_at <= self.now);
        due.sort_by_key(|e| (e.run_at, e.id));
        let late = due.iter().filter(|e| self.now - e.run_at > TimeDelta::seconds(10)).count();
        let fires: Vec<DueFire> = due.iter().filter(|e| is_planned(e)).map(|e| self.due_fire(e)).collect();
        let verdicts: BTreeMap<Uuid, DueVerdict> =
            fires.iter().map(|f| f.execution.id).zip(firing::judge(&fires, self.now)).collect();
        let (mut released, mut omitted, mut cancelled) = (0, 0, Vec::new());
        let (again, first): (Vec<_>, Vec<_>) = due.into_iter().partition(|e| e.attempt > 0);
        for e in again.iter().chain(&first) {
            let job = &self.jobs[&e.job_id];
            let is_full = job.spec.max_executions.is_some_and(|max| job.execution_count >= max);
            match verdicts.get(&e.id) {
                Some(_) if is_full && !e.was_armed() => {
                    self.executions.remove(&e.id);
                    continue;
                }
                Some(DueVerdict::Unplan) => {
                    self.unplan(e);
                    continue;
                }
                Some(DueVerdict::Omit(omission)) => {
                    self.omissions.push((e.job_id, omission.clone()));
                    self.executions.remove(&e.id);
                    omitted += 1;
                    continue;
                }
                Some(DueVerdict::Replace(reason)) => cancelled.extend(self.replace(e, reason)),
                _ => {}
            }
            self.step(e.id, &Event::Due).unwrap();
            released += 1;
            if e.attempt == 0 && !e.was_armed() {
                self.count_one(e.job_id, self.now);
            }
        }
        for fire in fires.iter().filter(|f| f.job.status == JobStatus::Active) {
            let is_over = self.jobs[&fire.job.id].cursor.is_none() && self.count(fire.job.id, is_planned) == 0;
            if is_over {
                self.jobs.get_mut(&fire.job.id).unwrap().status = JobStatus::Inactive;
            }
        }
        format!("{released} {late} {omitted} {:?}", self.shared.names(cancelled))
    }

    /// Takes a fire away, with its count where it has been counted.
    fn unplan(&mut self, e: &Execution) {
        self.executions.remove(&e.id);
        self.jobs.get_mut(&e.job_id).unwrap().execution_count -= i64::from(e.was_armed());
    }

    /// What of a job takes a place now: not what is granted ahead.
    fn active(&self, job: Uuid) -> i64 {
        self.count(job, |e| e.is_active() && !e.is_armed(self.now))
    }

    fn arm(&mut self, agent: usize, limit: usize) -> String {
        let Agent { session, attachment, dead } = self.agents[agent];
        let is_busy = |job: Uuid| self.count(job, Execution::is_active) > 0;
        let mut found: Vec<Execution> = self.executions.values().filter(|e| is_planned(e)).cloned().collect();
        found.retain(|e| e.run_at > self.now && e.run_at <= self.now + AHEAD);
        let comes_after = |e: &Execution| {
            self.executions
                .values()
                .any(|other| other.job_id == e.job_id && !other.is_done() && other.run_at < e.run_at)
        };
        let is_limited = |e: &Execution| self.jobs[&e.job_id].spec.max_concurrent > 0;
        found.retain(|e| !is_limited(e) || !(is_busy(e.job_id) || comes_after(e)));
        found.sort_by_key(|e| (e.run_at, e.id));
        found.truncate(limit);
        let more = found.len() >= limit;
        let fires: Vec<DueFire> = found
            .into_iter()
            .map(|execution| DueFire {
                job: self.jobs[&execution.job_id].clone(),
                execution,
                active: 0,
                waiting: 0,
                room: None,
            })
            .collect();
        let mut granted = Vec::new();
        let lives = self.lives(session, attachment);
        for (fire, may) in fires.iter().zip(firing::arm(&fires)) {
            if !may || !lives {
                continue;
            }
            let (job, version) = (fire.job.id, fire.job.version);
            let timeout = TimeDelta::from_std(fire.job.spec.timeout(TIMEOUTS)).unwrap();
            let event =
                Event::Armed { session_id: session, worker_name: "agent".to_owned(), timeout, job_version: version };
            let next = self.step(fire.execution.id, &event).unwrap();
            granted.push(self.shared.shown(&next));
            if !fire.execution.was_armed() {
                self.count_one(job, next.run_at);
            }
        }
        if dead {
            self.agents[agent] = self.open();
        }
        let next = self.executions.values().filter(|e| is_planned(e) && e.run_at > self.now).map(|e| e.run_at).min();
        let next = next.map(|at| self.shared.offset(at));
        format!("{more} {next:?}\n  {}", granted.join("\n  "))
    }

    fn due_fire(&self, e: &Execution) -> DueFire {
        let active = self.active(e.job_id);
        let waiting = self.count(e.job_id, |e| e.state == State::Pending && e.attempt == 0);
        DueFire { execution: e.clone(), job: self.jobs[&e.job_id].clone(), active, waiting, room: None }
    }

    /// Ends the other active executions of a fire's job, or asks them to end.
    fn replace(&mut self, by: &Execution, reason: &str) -> Vec<Uuid> {
        let others: Vec<Uuid> = self
            .of_job(by.job_id)
            .filter(|e| e.is_active() && !e.is_armed(self.now) && e.id != by.id && e.cancel_requested_at.is_none())
            .map(|e| e.id)
            .collect();
        let event = Event::CancelRequested { reason: reason.to_owned() };
        others.into_iter().filter(|id| self.step(*id, &event).is_ok()).collect()
    }

    fn count_one(&mut self, id: Uuid, at: DateTime<Utc>) {
        let job = self.jobs.get_mut(&id).unwrap();
        job.execution_count += 1;
        job.last_execution_at = job.last_execution_at.max(Some(at));
        if job.spec.max_executions.is_some_and(|max| job.execution_count >= max) {
            (job.status, job.cursor) = (JobStatus::Inactive, None);
            self.executions.retain(|_, e| e.job_id != id || !is_planned(e) || e.was_armed());
        }
    }

    fn policy(&self, e: &Execution) -> Policy {
        let version = if e.job_version == 0 { self.jobs[&e.job_id].version } else { e.job_version };
        let spec = &self.versions[&(e.job_id, version)];
        Policy { retry: spec.retry.clone(), delivery: spec.delivery, random: 0.5 }
    }

    fn step(&mut self, id: Uuid, event: &Event) -> Result<Execution, Rejected> {
        let e = &self.executions[&id];
        let next = apply(e, event, &self.policy(e), self.now)?;
        self.executions.insert(id, next.clone());
        Ok(next)
    }

    fn trigger(&mut self, n: usize, job: Index, key: Option<u8>, later: bool) -> String {
        let Some(id) = self.shared.job(job) else { return String::new() };
        let job = self.jobs[&id].clone();
        if job.deleted_at.is_some() {
            return "not found".to_owned();
        }
        if let Some(made) = key.and_then(|key| self.keys.get(&key)) {
            return self.shared.shown(&self.executions[made]);
        }
        if firing::admit_trigger(&job, self.active(id), later).is_err() {
            return "refused".to_owned();
        }
        let at = if later { self.now + TimeDelta::days(1) } else { self.now };
        let lane = i64::from(job.spec.queue == "other");
        let execution = Execution {
            id: id_of_call(self.now, n),
            trigger: TriggerType::Manual,
            state: if later { State::Scheduled } else { State::Pending },
            ..Execution::of_fire(&job, at, lane, self.now)
        };
        self.shared.executions.insert(format!("t{n}"), execution.id);
        self.keys.extend(key.map(|key| (key, execution.id)));
        let shown = self.shared.shown(&execution);
        self.executions.insert(execution.id, execution);
        if !later {
            self.count_one(id, self.now);
        }
        shown
    }

    fn claim(&mut self, agent: usize, limit: usize) -> String {
        let Agent { session, attachment, dead } = self.agents[agent];
        let heads = in_turns(self.executions.values().filter(|e| e.state == State::Pending), limit);
        let is_full = heads.len() >= limit;
        let mut leased: BTreeMap<Uuid, i64> = BTreeMap::new();
        let mut offered = self.admitted(&heads, &mut leased);
        let mut more = is_full;
        // What is at its limit stands before more than was looked at.
        if offered.len() < heads.len() && is_full && offered.len() < limit.div_ceil(2) {
            let places = limit - offered.len();
            let found = in_turns(self.with_places(&offered, &mut leased, places).into_iter(), places);
            more = found.len() >= places;
            offered.extend(self.admitted(&found, &mut leased));
        }
        let mut granted = Vec::new();
        let lives = self.lives(session, attachment);
        for id in offered.into_iter().filter(|_| lives) {
            let e = &self.executions[&id];
            let version = if e.job_version == 0 { self.jobs[&e.job_id].version } else { e.job_version };
            let timeout = self.versions[&(e.job_id, version)].timeout(TIMEOUTS);
            let timeout = TimeDelta::from_std(timeout).unwrap();
            let event =
                Event::Granted { session_id: session, worker_name: "agent".to_owned(), timeout, job_version: version };
            let next = self.step(id, &event).unwrap();
            granted.push(self.shared.shown(&next));
        }
        if dead {
            self.agents[agent] = self.open();
        }
        format!("{more}\n  {}", granted.join("\n  "))
    }

    /// Places that a job has free beside `leased`, which counts what is offered as well; `most` where it has no limit.
    fn free(&self, job: Uuid, leased: &mut BTreeMap<Uuid, i64>, most: usize) -> usize {
        let limit = i64::from(self.jobs[&job].spec.max_concurrent);
        let held = *leased.entry(job).or_insert_with(|| self.count(job, |e| e.lease().is_some()));
        if limit == 0 { most } else { usize::try_from(limit - held).unwrap_or(0).min(most) }
    }

    fn admitted(&self, picked: &[Uuid], leased: &mut BTreeMap<Uuid, i64>) -> Vec<Uuid> {
        let mut offered = Vec::new();
        for id in picked {
            let job = self.executions[id].job_id;
            if self.free(job, leased, 1) > 0 {
                *leased.entry(job).or_default() += 1;
                offered.push(*id);
            }
        }
        offered
    }

    /// Of each job the first that wait and are not offered yet, as many as it has places for.
    fn with_places(&self, offered: &[Uuid], leased: &mut BTreeMap<Uuid, i64>, most: usize) -> Vec<&Execution> {
        let mut waiting: Vec<&Execution> = self.executions.values().filter(|e| e.state == State::Pending).collect();
        waiting.retain(|e| !offered.contains(&e.id));
        waiting.sort_by_key(|e| (-e.priority, is_late(e), e.run_at, e.id));
        let mut taken: BTreeMap<(i64, Uuid), usize> = BTreeMap::new();
        waiting.retain(|e| {
            let taken = taken.entry((e.lane_id, e.job_id)).or_default();
            *taken += 1;
            *taken <= self.free(e.job_id, leased, most)
        });
        waiting
    }

    fn say(&mut self, words: &[(Index, bool, i64, Word)]) -> String {
        let mut changes = Vec::new();
        for (index, holder, back, word) in words {
            let Some(id) = self.shared.execution(*index) else { continue };
            let event = match self.executions.get(&id) {
                Some(e) => event(*word, self.shared.speaker(e, *holder), e.epoch - back),
                None => event(*word, self.shared.sessions[0], 1),
            };
            changes.push((id, event));
        }
        let answers: Vec<String> = changes
            .into_iter()
            .map(|(id, event)| match self.hear(id, &event) {
                Ok(e) => self.shared.shown(&e),
                Err(rejected) => format!("{rejected:?}"),
            })
            .collect();
        answers.join("\n  ")
    }

    fn hear(&mut self, id: Uuid, event: &Event) -> Result<Execution, Rejected> {
        let e = self.executions.get(&id).ok_or(Rejected::Unknown)?;
        if e.has_heard(event) {
            return Err(Rejected::Repeated);
        }
        if let Some((session, epoch)) = event.spoken_for()
            && !e.is_done()
            && !self.sessions.get(&session).is_some_and(|s| s.alive)
        {
            return Err(Rejected::of_dead_session(e, epoch));
        }
        self.step(id, event)
    }

    fn held(&self, session: Uuid) -> Vec<Uuid> {
        let held = |e: &&Execution| e.lease().is_some_and(|lease| lease.session_id == session);
        self.executions.values().filter(held).map(|e| e.id).collect()
    }

    /// What was not begun goes on as if it had never been given; what was is lost, and what may run once only, unless its agent would have told.
    fn take_back(&mut self, leases: &[Uuid], tells_all: bool) -> Vec<Execution> {
        let take = |id: &Uuid| {
            let e = &self.executions[id];
            let (session_id, epoch) = (e.lease().unwrap().session_id, e.epoch);
            let is_repeatable = tells_all || self.policy(e).delivery != Delivery::AtMostOnce;
            let is_untouched = matches!(e.state, State::Leased(_)) && is_repeatable;
            let event = match is_untouched {
                true => Event::Released { session_id, epoch },
                false => Event::LeaseExpired { session_id, epoch },
            };
            self.step(*id, &event).unwrap()
        };
        leases.iter().map(take).collect()
    }

    fn resume(&mut self, agent: usize, keep: u8, continued: bool) -> String {
        let session = self.agents[agent].session;
        let mut held: Vec<(String, Uuid)> =
            self.held(session).into_iter().map(|id| (self.shared.name(id), id)).collect();
        held.sort();
        let Some(known) = self.sessions.get_mut(&session).filter(|s| s.alive) else { return "over".to_owned() };
        known.attachment += 1;
        let attachment = known.attachment;
        self.agents[agent].attachment = attachment;
        let (kept, lost): (Vec<_>, Vec<_>) =
            held.into_iter().enumerate().partition(|(n, _)| keep & (1 << (n % 8)) != 0);
        let lost: Vec<Uuid> = lost.into_iter().map(|(_, (_, id))| id).collect();
        let kept = self.shared.names(kept.into_iter().map(|(_, (_, id))| id));
        let back = self.take_back(&lost, continued);
        format!("{attachment} {kept:?}\n  {}", self.shared.shown_all(&back))
    }

    fn reap(&mut self, overdue: bool) -> String {
        let before = self.sessions.len();
        self.sessions.retain(|_, session| session.alive);
        let leases: Vec<(Uuid, Event)> = self
            .executions
            .values()
            .filter_map(|e| {
                let (lease, epoch) = (e.lease()?, e.epoch);
                match self.sessions.contains_key(&lease.session_id) {
                    false => Some((e.id, Event::LeaseExpired { session_id: lease.session_id, epoch })),
                    true if overdue && lease.deadline < self.now => Some((e.id, Event::TimedOut { epoch })),
                    true => None,
                }
            })
            .collect();
        let ended: Vec<Execution> = leases.into_iter().map(|(id, event)| self.step(id, &event).unwrap()).collect();
        format!("{}\n  {}", before - self.sessions.len(), self.shared.shown_all(&ended))
    }

    fn change(&mut self, job: Index, what: What) -> String {
        let Some(id) = self.shared.job(job) else { return String::new() };
        if self.jobs[&id].deleted_at.is_some() {
            return "not found".to_owned();
        }
        let change = self.shared.changed(&self.jobs[&id], self.now, what);
        let job = Job { version: change.job.version + 1, ..change.job };
        self.versions.insert((id, job.version), Arc::new(job.spec.clone()));
        self.jobs.insert(id, job);
        let now = self.now;
        let back: Vec<Execution> = self.of_job(id).filter(|e| is_planned(e) && e.run_at > now).cloned().collect();
        back.iter().for_each(|e| self.unplan(e));
        let job = self.jobs[&id].clone();
        for e in self.executions.values_mut().filter(|e| e.job_id == id) {
            let waits = e.job_version == 0 && matches!(e.state, State::Scheduled | State::Pending);
            if waits || e.is_armed(now) {
                (e.queue, e.priority) = (job.spec.queue.clone(), job.spec.priority);
                e.lane_id = i64::from(e.queue == "other");
            }
        }
        let mut cancelled = Vec::new();
        if let Some(reason) = change.cancel {
            let event = Event::CancelRequested { reason };
            let all: Vec<Uuid> = self.of_job(id).map(|e| e.id).collect();
            cancelled.extend(all.into_iter().filter_map(|id| self.step(id, &event).ok()));
        }
        self.omissions.extend(change.omission.map(|omission| (id, omission)));
        format!("{}\n  {}", self.shared.shown_job(&job, &[]), self.shared.shown_all(&cancelled))
    }

    /// Everything that is held.
    pub fn all(&self) -> String {
        let mut lines = Vec::new();
        for job in self.shared.jobs.iter().map(|id| &self.jobs[id]).filter(|job| job.deleted_at.is_none()) {
            assert_eq!(job.tenant_id, TENANT);
            let omissions: Vec<NewOmission> =
                self.omissions.iter().filter(|(id, _)| *id == job.id).map(|(_, o)| o.clone()).collect();
            lines.push(self.shared.shown_job(job, &omissions));
        }
        let known = self.shared.executions.values().filter_map(|id| self.executions.get(id));
        lines.extend(known.map(|e| self.shared.shown(e)));
        for agent in &self.agents {
            lines.push(format!("{:?}", self.shared.names(self.held(agent.session))));
        }
        lines.push(format!("{} sessions", self.sessions.values().filter(|s| s.alive).count()));
        lines.join("\n  ")
    }
}

/// The first by priority, and within it by lanes in turns.
fn in_turns<'a>(executions: impl Iterator<Item = &'a Execution>, limit: usize) -> Vec<Uuid> {
    let mut waiting: Vec<&Execution> = executions.collect();
    waiting.sort_by_key(|e| (-e.priority, is_late(e), e.run_at, e.id));
    let mut turns: BTreeMap<i64, usize> = BTreeMap::new();
    let mut turn = |e: &Execution| {
        let turn = turns.entry(e.lane_id).or_default();
        *turn += 1;
        *turn
    };
    let mut ranked: Vec<(usize, &Execution)> = waiting.into_iter().map(|e| (turn(e), e)).collect();
    ranked.sort_by_key(|(turn, e)| (-e.priority, is_late(e), *turn, e.run_at, e.id));
    ranked.into_iter().take(limit).map(|(_, e)| e.id).collect()
}
