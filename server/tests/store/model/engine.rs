//! The calls on a real store.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use orrery_server::execution::Execution;
use orrery_server::firing;
use orrery_server::store::*;
use proptest::sample::Index;
use uuid::Uuid;

use super::calls::{AHEAD, Call, Shared, What, Word, event};
use crate::support::*;

const DAY: Duration = Duration::from_secs(86_400);

pub struct Engine {
    store: DynStore,
    shared: Shared,
    agents: Vec<Agent>,
}

struct Agent {
    session: Session,
    dead: bool,
}

impl Engine {
    pub async fn new(store: DynStore, shared: &Shared) -> Self {
        let mut engine = Self { store, shared: shared.clone(), agents: vec![] };
        for _ in 0..2 {
            let session = engine.open().await;
            engine.agents.push(Agent { session, dead: false });
        }
        engine
    }

    pub fn name(&self) -> &'static str {
        self.store.engine()
    }

    async fn open(&mut self) -> Session {
        let session = session(&self.store, "agent").await;
        self.shared.sessions.push(session.id);
        session
    }

    pub async fn call(&mut self, n: usize, call: &Call) -> String {
        match call {
            Call::Create(new) => {
                let job = self.shared.new_job(n, new);
                self.shared.jobs.push(job.id);
                let made = self.store.create_jobs(vec![new_job(job)], None).await.unwrap();
                self.shared.shown_job(&made[0], &[])
            }
            Call::Plan { fires } => self.plan(*fires).await,
            Call::Release => {
                let done = self.store.release(1000, &firing::judge).await.unwrap();
                let cancelled = self.shared.names(done.cancelled.iter().map(|e| e.id));
                format!("{} {} {} {cancelled:?}", done.released, done.late, done.omitted)
            }
            Call::Trigger { job, key, later } => self.trigger(n, *job, *key, *later).await,
            Call::Claim { agent, limit } => self.claim(*agent, *limit).await,
            Call::Arm { agent, limit } => self.arm(*agent, *limit).await,
            Call::Say(words) => self.say(words).await,
            Call::Kill { agent } => {
                let agent = &mut self.agents[*agent];
                let named = [(agent.session.id, agent.session.attachment)];
                agent.dead |= !self.store.renew_sessions(&named, Duration::ZERO).await.unwrap().renewed.is_empty();
                String::new()
            }
            Call::Renew { agent, back } => {
                let session = &self.agents[*agent].session;
                let named = [(session.id, session.attachment - back)];
                self.store.renew_sessions(&named, MINUTE).await.unwrap().renewed.len().to_string()
            }
            Call::Close { agent, back } => {
                let agent = &mut self.agents[*agent];
                self.store.close_session(agent.session.id, agent.session.attachment - back).await.unwrap();
                agent.dead |= *back == 0;
                String::new()
            }
            Call::Resume { agent, keep, continued } => self.resume(*agent, *keep, *continued).await,
            Call::Reap { overdue } => {
                let slack = if *overdue { Duration::ZERO } else { DAY };
                let done = self.store.reap(slack, 1000).await.unwrap();
                format!("{}\n  {}", done.sessions.len(), self.shared.shown_all(done.executions.iter().map(|(_, e)| e)))
            }
            Call::Change { job, what } => self.change(*job, *what).await,
        }
    }

    async fn plan(&mut self, fires: usize) -> String {
        let shared = Mutex::new(self.shared.clone());
        let decide = |candidate: &PlanCandidate| shared.lock().unwrap().plan(candidate, fires);
        let done = self.store.plan(AHEAD.to_std().unwrap(), 1000, &decide).await.unwrap();
        self.shared = shared.into_inner().unwrap();
        format!("{} {} {}", done.jobs, done.fires, done.omissions)
    }

    async fn trigger(&mut self, n: usize, job: Index, with_key: Option<u8>, later: bool) -> String {
        let Some(id) = self.shared.job(job) else { return String::new() };
        let Some(job) = self.store.job(TENANT, id).await.unwrap() else { return "not found".to_owned() };
        let now = now(&self.store).await;
        let trigger = Trigger {
            run_at: later.then(|| now + DAY),
            idempotency: with_key.and_then(|k| key(&k.to_string(), 1)),
            ..trigger_of(&job)
        };
        let admit = |job: &_, active, trigger: &Trigger| firing::admit_trigger(job, active, trigger.run_at.is_some());
        match self.store.trigger(vec![trigger], &admit).await {
            Ok(made) => {
                if self.shared.name(made[0].id) == "?" {
                    self.shared.executions.insert(format!("t{n}"), made[0].id);
                }
                self.shared.shown(&made[0])
            }
            Err(StoreError::TriggerRefused { .. }) => "refused".to_owned(),
            Err(error) => panic!("{error:?}"),
        }
    }

    async fn claim(&mut self, agent: usize, limit: usize) -> String {
        let session = self.agents[agent].session.clone();
        let claimed = claim(&self.store, &session, limit).await;
        if self.agents[agent].dead {
            self.agents[agent] = Agent { session: self.open().await, dead: false };
        }
        let granted: Vec<String> = claimed.grants.iter().map(|g| self.shared.shown(&g.execution)).collect();
        format!("{}\n  {}", claimed.more, granted.join("\n  "))
    }

    async fn arm(&mut self, agent: usize, limit: usize) -> String {
        let session = self.agents[agent].session.clone();
        let lanes = all_lanes(&self.store).await;
        let (least, ahead) = (Duration::ZERO, AHEAD.to_std().unwrap());
        let arm = Arm { lanes: &lanes, least, ahead, limit, tenant_limit: 0, hourly: 0, timeouts: TIMEOUTS };
        let to = Assignment {
            session_id: session.id,
            attachment: session.attachment,
            worker_name: session.agent.name.clone(),
        };
        let assign = |candidates: &[Candidate<'_>]| vec![Some(to.clone()); candidates.len()];
        let armed = self.store.arm(&arm, &firing::arm, &assign).await.unwrap();
        if self.agents[agent].dead {
            self.agents[agent] = Agent { session: self.open().await, dead: false };
        }
        let granted: Vec<String> = armed.grants.iter().map(|g| self.shared.shown(&g.execution)).collect();
        let next = armed.next.map(|at| self.shared.offset(at));
        format!("{} {next:?}\n  {}", armed.more, granted.join("\n  "))
    }

    async fn say(&mut self, words: &[(Index, bool, i64, Word)]) -> String {
        let mut changes = Vec::new();
        for (index, holder, back, word) in words {
            let Some(id) = self.shared.execution(*index) else { continue };
            let found = self.find(id).await;
            let event = match &found {
                Some(e) => event(*word, self.shared.speaker(e, *holder), e.epoch - back),
                None => event(*word, self.shared.sessions[0], 1),
            };
            // Every other sender knows the execution as it was before all of these words.
            let known = found.filter(|_| changes.len() % 2 == 0).map(Arc::new);
            changes.push(Change { execution: id, tenant: None, event, known });
        }
        let answers = self.store.apply(changes).await.unwrap();
        let answers: Vec<String> = answers
            .iter()
            .map(|answer| match answer {
                Ok(e) => self.shared.shown(e),
                Err(rejected) => format!("{rejected:?}"),
            })
            .collect();
        answers.join("\n  ")
    }

    async fn resume(&mut self, agent: usize, keep: u8, continued: bool) -> String {
        let session = self.agents[agent].session.clone();
        let mut held: Vec<(String, Held)> = self
            .store
            .held(session.id)
            .await
            .unwrap()
            .into_iter()
            .map(|h| (self.shared.name(h.execution_id), h))
            .collect();
        held.sort_by(|a, b| a.0.cmp(&b.0));
        let kept = held.iter().enumerate().filter(|(n, _)| keep & (1 << (n % 8)) != 0);
        let named: Vec<(Uuid, i64)> = kept.map(|(_, (_, h))| (h.execution_id, h.epoch)).collect();
        let held_now = Holding { leases: &named, continued };
        let Some(resumed) = self.store.resume_session(session.id, &session.agent, &held_now, MINUTE).await.unwrap()
        else {
            return "over".to_owned();
        };
        let attachment = resumed.session.attachment;
        self.agents[agent].session = resumed.session;
        let held = self.shared.names(resumed.held.iter().map(|h| h.execution_id));
        format!("{attachment} {held:?}\n  {}", self.shared.shown_all(&resumed.taken_back))
    }

    async fn change(&mut self, job: Index, what: What) -> String {
        let Some(id) = self.shared.job(job) else { return String::new() };
        let shared = self.shared.clone();
        match self.store.change_job(TENANT, id, &|job, now| Ok(shared.changed(job, now, what))).await {
            Ok(done) => {
                format!("{}\n  {}", self.shared.shown_job(&done.job, &[]), self.shared.shown_all(&done.cancelled))
            }
            Err(StoreError::NotFound) => "not found".to_owned(),
            Err(error) => panic!("{error:?}"),
        }
    }

    async fn find(&self, id: Uuid) -> Option<Execution> {
        self.store.execution(TENANT, id).await.unwrap()
    }

    /// Everything that is held.
    pub async fn all(&self) -> String {
        let mut lines = Vec::new();
        for id in &self.shared.jobs {
            if let Some(job) = self.store.job(TENANT, *id).await.unwrap() {
                lines.push(self.shared.shown_job(&job, &omissions(&self.store, &job).await));
            }
        }
        for id in self.shared.executions.values() {
            lines.extend(self.find(*id).await.map(|e| self.shared.shown(&e)));
        }
        for agent in &self.agents {
            let held = self.store.held(agent.session.id).await.unwrap();
            lines.push(format!("{:?}", self.shared.names(held.iter().map(|h| h.execution_id))));
        }
        let page = Page { after: None, limit: 100 };
        lines.push(format!("{} sessions", self.store.sessions(TENANT, &page).await.unwrap().len()));
        lines.join("\n  ")
    }
}
