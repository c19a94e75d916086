//! The session as a machine without I/O: messages, ends of tasks and the clock go in; messages to send and actions to do come out. The
//! loop in [`super::runner`] owns the only one.
//!
//! # Why work is never done twice at once
//! A session lives in the database until `T + ttl`, where `T` is when the coordinator stored the heartbeat, which is later than when this
//! worker sent it. The worker trusts the session only until `sent + ttl - margin`, on its monotonic clock, and stops everything then:
//! before anybody else can be granted the same execution, as long as clocks run equally fast to within the margin.

mod armed;
mod begun;
mod credits;
mod drain;
mod early;
mod inbound;
mod results;
mod session;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use orrery_proto::v1::{
    AgentMessage, Finished, Heartbeat, HeldLease, Lease, Progress, Registered, Started, agent_message::Kind,
};
use tokio::time::Instant;

use self::armed::Armed;
use self::begun::YOUNG;
pub(super) use self::drain::Mode;
use self::early::EarlyCancels;
use self::results::Results;
use self::session::{Attachment, Session};
use super::finished::Cause;
use super::journal::Left;
use super::lease::LeaseKey;

/// What is fixed for the life of a worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// How many tasks run at once.
    pub(super) slots: u32,
    /// How long tasks may go on after a shutdown began.
    pub(super) drain_timeout: Duration,
    /// How long to wait for acknowledgements after the last task ended in a shutdown.
    pub(super) flush_timeout: Duration,
    /// After how long without acknowledgement a result is sent again on the same stream.
    pub(super) resend_after: Duration,
}

/// What the loop is to do.
#[derive(Debug, PartialEq)]
pub(super) enum Action {
    Start(Box<Lease>),
    Stop(LeaseKey, Cause),
    /// Remove a result from the journal.
    Forget(LeaseKey),
    /// A task is still in its first poll: the others are not to wait for it.
    Overdue(LeaseKey),
    /// Output of earlier tasks is wanted by nobody any more.
    DropLogs,
    /// Leave the stream and register again.
    Reconnect(Reconnect),
    /// The stream has proved good: forget earlier failures.
    Proven,
    /// End the session on this stream, and register for a new one.
    Part,
}

/// Why to leave a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reconnect {
    /// The session is no longer trusted.
    Expired,
    /// Heartbeats are not acknowledged.
    Silent,
    /// The coordinator asked to.
    Asked,
}

#[derive(Debug, Default)]
struct Running {
    /// The lease is lost; the task is being stopped and its result is not wanted.
    revoked: bool,
    /// Its beginning has been told on this stream.
    said: bool,
    /// The work has ended; its result is being journalled.
    worked: bool,
}

/// The whole state of a worker's session.
#[derive(Debug)]
pub(super) struct State {
    terms: Terms,
    session: Option<Session>,
    /// The session of an earlier process, until a coordinator has said whether it lives.
    inherited: Option<String>,
    attachment: Option<Attachment>,
    sequence: u64,
    tasks: BTreeMap<LeaseKey, Running>,
    /// The newest tasks with the time of their beginning, oldest first: whether they go on is not known of all.
    young: VecDeque<(LeaseKey, Instant)>,
    /// Leases that wait for the end of an older grant of the same execution.
    waiting: Vec<Lease>,
    results: Results,
    /// Leases that wait for their instant.
    armed: Armed,
    /// What the shutdown could not stop. These leases must live until the process is gone.
    unfinished: BTreeSet<LeaseKey>,
    early: EarlyCancels,
    mode: Mode,
    outbox: VecDeque<AgentMessage>,
    actions: Vec<Action>,
}

impl State {
    /// A worker without session; `left` is what an earlier process left. Its results count under its session only; without it they are
    /// told all the same, so that the coordinator can say in the execution's log that they came too late.
    pub(super) fn new(terms: Terms, left: Left) -> Self {
        let mut state = Self {
            terms,
            session: None,
            inherited: left.session_id,
            attachment: None,
            sequence: 0,
            tasks: BTreeMap::new(),
            young: VecDeque::new(),
            waiting: Vec::new(),
            results: left.results.into_iter().collect(),
            armed: Armed::default(),
            unfinished: BTreeSet::new(),
            early: EarlyCancels::default(),
            mode: Mode::Serving,
            outbox: VecDeque::new(),
            actions: Vec::new(),
        };
        if state.inherited.is_none() {
            state.results.disown();
        }
        state
    }

    /// The session to resume and what is held under it.
    pub(super) fn claim(&self) -> (String, Vec<HeldLease>) {
        match self.session_id() {
            Some(id) => (id.to_owned(), self.held()),
            None => (String::new(), Vec::new()),
        }
    }

    /// Whether the session to resume has been this process's from its beginning, so that everything ever begun under it is known here.
    pub(super) fn continues(&self) -> bool {
        self.session.as_ref().is_some_and(|session| !session.inherited)
    }

    /// The session of now, or the one to resume.
    pub(super) fn session_id(&self) -> Option<&str> {
        self.session.as_ref().map(|session| session.id.as_str()).or(self.inherited.as_deref())
    }

    /// The session that is held, and until when it is trusted.
    pub(super) fn trusted(&self) -> Option<(&str, Instant)> {
        self.session.as_ref().map(|session| (session.id.as_str(), session.trusted_until))
    }

    pub(super) fn is_attached(&self) -> bool {
        self.attachment.is_some()
    }

    pub(super) fn running(&self) -> usize {
        self.tasks.len()
    }

    pub(super) fn outbox(&mut self) -> &mut VecDeque<AgentMessage> {
        &mut self.outbox
    }

    pub(super) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// A coordinator has answered a registration that was sent at `sent_at` and asked to resume `asked` (empty: nothing).
    pub(super) fn registered(&mut self, answer: &Registered, asked: &str, sent_at: Instant, now: Instant) {
        let resumed = answer.resumed && !asked.is_empty() && self.session_id() == Some(answer.session_id.as_str());
        if answer.resumed && !resumed {
            // It was given up while the answer was under way. How much of its life is left is not known, so it cannot be trusted.
            self.actions.push(Action::Reconnect(Reconnect::Expired));
            return;
        }
        let ttl = Duration::from_millis(answer.ttl_ms.into());
        let heartbeat = Duration::from_millis(answer.heartbeat_ms.into()).max(Duration::from_millis(10));
        // The first answer decides about what an earlier process left.
        let first = self.inherited.take().is_some();
        let inherited = resumed && (first || self.session.as_ref().is_some_and(|session| session.inherited));
        // Whether resuming renews the session is not promised, so only an acknowledged heartbeat prolongs the trust in it. Nothing runs
        // under an inherited one, so it costs nothing to trust that.
        let trusted_until = match &self.session {
            Some(session) if resumed => session.trusted_until,
            _ => sent_at + Session::trust(ttl),
        };
        if !resumed {
            self.lose_session();
            self.results.disown();
        }
        self.session = Some(Session { id: answer.session_id.clone(), ttl, heartbeat, trusted_until, inherited });
        self.attachment = Some(Attachment {
            credits: 0,
            next_heartbeat: now,
            unacknowledged: VecDeque::new(),
            heard: 0,
            leave_at: None,
            proven: false,
        });
        self.outbox.clear();
        self.revoke_all(&answer.revoked);
        if self.mode != Mode::Serving {
            self.say_drain();
        }
        self.heartbeat(now);
        // What was said on the stream before may be lost with it; repetitions do no harm.
        let running = self.tasks.iter_mut().filter(|(_, task)| !task.revoked);
        let mut started: Vec<Kind> = Vec::new();
        for (key, task) in running {
            task.said = true;
            started.push(started_message(key));
        }
        started.extend(self.unfinished.iter().map(started_message));
        started.into_iter().for_each(|message| self.send(message));
        self.results.begin_anew();
        let untold: Vec<LeaseKey> = self.results.keys().cloned().collect();
        for key in untold {
            self.tell(&key, now);
        }
    }

    /// The stream is lost. Tasks go on while the session is trusted.
    pub(super) fn detached(&mut self) {
        self.attachment = None;
        self.outbox.clear();
        // Whatever was said of them may be lost with it.
        for task in self.tasks.values_mut() {
            task.said = false;
        }
        self.results.begin_anew();
    }

    /// A task has ended; `finished` is absent where its lease was lost, or the shutdown could not stop it.
    pub(super) fn ended(&mut self, key: &LeaseKey, finished: Option<Finished>, now: Instant) {
        let task = self.tasks.remove(key);
        let said = task.as_ref().is_some_and(|task| task.said);
        let revoked = task.is_none_or(|task| task.revoked);
        match finished {
            Some(_) if revoked => self.actions.push(Action::Forget(key.clone())),
            Some(mut finished) => {
                finished.started |= !said;
                self.results.insert(key.clone(), finished, true);
                self.tell(key, now);
            }
            None if !revoked => {
                self.unfinished.insert(key.clone());
            }
            None => {}
        }
        if let Some(at) = self.waiting.iter().position(|lease| LeaseKey::from(lease).execution_id == key.execution_id) {
            let lease = self.waiting.swap_remove(at);
            self.start(lease, now);
        }
    }

    /// The newest progress of a task, already coalesced.
    pub(super) fn progressed(&mut self, key: &LeaseKey, percent: i32) {
        if self.attachment.is_some() && self.tasks.get(key).is_some_and(|task| !task.revoked) {
            self.goes_on(key);
            self.send(Kind::Progress(Progress { execution_id: key.execution_id.text(), epoch: key.epoch, percent }));
        }
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.session.as_ref().is_some_and(|session| now >= session.trusted_until) {
            self.lose_session();
            if self.attachment.is_some() {
                self.actions.push(Action::Reconnect(Reconnect::Expired));
            }
        }
        self.tick_armed(now);
        self.tick_stream(now);
        self.tick_drain(now);
        self.tick_young(now);
    }

    fn tick_stream(&mut self, now: Instant) {
        let Some(patience) = self.session.as_ref().map(Session::patience) else { return };
        let Some(attachment) = &mut self.attachment else { return };
        if attachment.leave_at.is_some_and(|at| now >= at) {
            self.actions.push(Action::Reconnect(Reconnect::Asked));
        } else if attachment.unacknowledged.front().is_some_and(|(_, sent)| now >= *sent + patience) {
            self.actions.push(Action::Reconnect(Reconnect::Silent));
        } else if now >= attachment.next_heartbeat {
            self.heartbeat(now);
            self.resend(now);
        }
    }

    /// When [`State::tick`] has something to do next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let mut next = self.mode.deadline();
        let mut sooner = |at: Instant| next = Some(next.map_or(at, |now| now.min(at)));
        if let Some((_, begun)) = self.young.front() {
            sooner(*begun + YOUNG);
        }
        if let Some(session) = &self.session {
            sooner(session.trusted_until);
            if let Some(at) = self.armed.next().filter(|_| self.mode == Mode::Serving) {
                sooner(at);
            }
            if let Some(attachment) = &self.attachment {
                sooner(attachment.next_heartbeat);
                if let Some((_, sent)) = attachment.unacknowledged.front() {
                    sooner(*sent + session.patience());
                }
                if let Some(at) = attachment.leave_at {
                    sooner(at);
                }
            }
        }
        next
    }

    fn send(&mut self, kind: Kind) {
        self.outbox.push_back(AgentMessage { kind: Some(kind) });
    }

    /// A heartbeat goes before everything else that waits: results that a slow stream holds up must not cost the session.
    fn heartbeat(&mut self, now: Instant) {
        let held = self.held();
        self.sequence += 1;
        let sequence = self.sequence;
        if let (Some(attachment), Some(session)) = (&mut self.attachment, &self.session) {
            attachment.unacknowledged.push_back((sequence, now));
            attachment.next_heartbeat = now + session.heartbeat;
            self.outbox.push_front(AgentMessage {
                kind: Some(Kind::Heartbeat(Heartbeat { sequence, held, heard: attachment.heard })),
            });
        }
    }

    /// Sends a result, if there is a stream.
    fn tell(&mut self, key: &LeaseKey, now: Instant) {
        if self.attachment.is_none() {
            return;
        }
        if let Some(finished) = self.results.sent(key, now) {
            self.send(Kind::Finished(finished));
        }
    }

    fn resend(&mut self, now: Instant) {
        for key in self.results.unheard(now, self.terms.resend_after) {
            self.tell(&key, now);
        }
    }

    /// Its beginning is told once it is known to go on; what ends at once tells both together.
    fn start(&mut self, lease: Lease, now: Instant) {
        let key = LeaseKey::from(&lease);
        self.tasks.insert(key.clone(), Running::default());
        self.young.push_back((key, now));
        self.actions.push(Action::Start(Box::new(lease)));
    }

    /// All that is held under the session is lost, and the session with it. Results are still told: a coordinator refuses what is stale.
    fn lose_session(&mut self) {
        if self.session.take().is_none() {
            return;
        }
        let keys: Vec<LeaseKey> = self.tasks.keys().cloned().collect();
        for key in keys {
            self.revoke_task(&key);
        }
        self.waiting.clear();
        self.armed.clear();
        self.unfinished.clear();
        self.results.disown();
        self.actions.push(Action::DropLogs);
    }

    fn revoke_task(&mut self, key: &LeaseKey) -> bool {
        let Some(task) = self.tasks.get_mut(key) else { return false };
        if !task.revoked {
            task.revoked = true;
            self.actions.push(Action::Stop(key.clone(), Cause::Revoked));
        }
        true
    }

    fn revoke_all(&mut self, leases: &[HeldLease]) {
        for key in leases.iter().map(LeaseKey::from) {
            self.waiting.retain(|lease| LeaseKey::from(lease) != key);
            self.armed.remove(&key);
            self.unfinished.remove(&key);
            if !self.revoke_task(&key) && self.results.remove(&key) {
                self.actions.push(Action::Forget(key));
            }
        }
    }
}

fn started_message(key: &LeaseKey) -> Kind {
    Kind::Started(Started { execution_id: key.execution_id.text(), epoch: key.epoch })
}
