//! The loop that owns a worker's session: it moves messages between the stream, the state and the tasks, and does what the state says.

pub(super) mod connection;
mod ends;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use orrery_proto::Json;
use orrery_proto::v1::{AgentMessage, Finished, Goodbye, Lease, Register, agent_message::Kind};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use self::connection::{Connection, Event, Registration};
use super::attempt::{Unknown, Unresolved};
use super::crew::Crew;
use super::finished::{Ending, Limits};
use super::journal::{Journal, Left};
use super::lease::{LeaseKey, task_of};
use super::line::Attempt;
use super::output::{Desk, TaskOutput};
use super::reports::{Report, Reports};
use super::ship::{Destination, ship};
use super::state::{Action, Reconnect, State, Terms};
use crate::executor::{Context, Executor};
use crate::secret::{self, Redactor};

/// At most one progress message of a task in this time.
const PROGRESS: Duration = Duration::from_millis(200);
/// How long the coordinator may take to end the stream after the farewell.
const FAREWELL: Duration = Duration::from_secs(2);

/// What a runner is made of.
pub(super) struct Parts {
    pub(super) terms: Terms,
    pub(super) register: Register,
    pub(super) executors: BTreeMap<String, Arc<dyn Executor>>,
    pub(super) workshop: Workshop,
    /// The cap of every attempt.
    pub(super) timeout_cap: Option<Duration>,
    /// How long a stopped task may take before it is aborted.
    pub(super) grace: Duration,
    pub(super) connection: Connection,
    pub(super) left: Left,
}

/// What attempts end with.
#[derive(Clone)]
pub(super) struct Workshop {
    pub(super) journal: Arc<dyn Journal>,
    pub(super) desk: Arc<Desk>,
    pub(super) limits: Limits,
}

/// The loop's own data.
pub(super) struct Runner {
    state: State,
    register: Register,
    executors: BTreeMap<String, Arc<dyn Executor>>,
    /// What stands for those that are not there.
    unknown: Arc<dyn Executor>,
    workshop: Workshop,
    timeout_cap: Option<Duration>,
    connection: Connection,
    crew: Crew,
    reports: Arc<Reports>,
    /// The memory of the reports taken last.
    taken: Vec<Report>,
    /// Results that are to be journalled next, of attempts that wrote nothing.
    unrecorded: Vec<Finished>,
    /// How many batches of them are being journalled.
    recording: usize,
    progress_at: Instant,
    /// The session of the newest tasks, and until when it is trusted.
    trust: (String, watch::Sender<Instant>),
    destination: watch::Sender<Option<Destination>>,
    /// The session that the next process is to resume.
    kept: watch::Sender<Option<String>>,
    keeper: AbortOnDropHandle<()>,
    /// Work that the shutdown stopped may go on in this process, so its leases must not be given back before the process is gone.
    left_behind: bool,
    _shipper: AbortOnDropHandle<()>,
}

impl Runner {
    pub(super) fn new(mut parts: Parts) -> Self {
        let logs = &parts.workshop.desk.logs;
        logs.restore(std::mem::take(&mut parts.left.logs));
        let (destination, watched) = watch::channel(None);
        let (kept, to_keep) = watch::channel(parts.left.session_id.clone());
        let keeper = tokio::spawn(keep(parts.workshop.journal.clone(), to_keep));
        let shipper = tokio::spawn(ship(logs.clone(), watched));
        let reports = Arc::<Reports>::default();
        Self {
            state: State::new(parts.terms, parts.left),
            register: parts.register,
            executors: parts.executors,
            unknown: Arc::new(Unknown),
            workshop: parts.workshop,
            timeout_cap: parts.timeout_cap,
            connection: parts.connection,
            crew: Crew::new(parts.grace, reports.clone()),
            reports,
            taken: Vec::new(),
            unrecorded: Vec::new(),
            recording: 0,
            progress_at: Instant::now(),
            trust: (String::new(), watch::Sender::new(Instant::now())),
            destination,
            kept,
            keeper: AbortOnDropHandle::new(keeper),
            left_behind: false,
            _shipper: AbortOnDropHandle::new(shipper),
        }
    }

    /// Runs until `shutdown` and the end of what ran then.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let mut leaving = false;
        loop {
            self.take_reports();
            // Before any message is read: after a pause of the whole process, work on a session that ended meanwhile must not go on.
            self.tick(Instant::now());
            self.state.settle();
            self.share_trust();
            self.act();
            self.record();
            if self.state.has_left(Instant::now()) {
                break;
            }
            self.connect_if_due();
            let due = [self.state.deadline(), self.crew.due()].into_iter().flatten().min();
            let Self { state, connection, reports, workshop, progress_at, .. } = &mut self;
            let (attached, progress) = (state.is_attached(), &workshop.desk.progress);
            tokio::select! {
                biased;
                () = shutdown.cancelled(), if !leaving => {
                    leaving = true;
                    info!(running = state.running(), "shutting down; taking no further work");
                    state.shut_down(Instant::now());
                }
                () = sleep_until(due.unwrap_or_else(far)), if due.is_some() => {}
                event = connection.next(state.outbox()) => self.happened(event),
                () = reports.some() => {}
                () = async { sleep_until(*progress_at).await; progress.changed().await }, if attached => {
                    self.report_progress();
                }
            }
        }
        self.farewell().await;
    }

    /// Does what is due.
    fn tick(&mut self, now: Instant) {
        for key in self.crew.tick(now) {
            self.ended(&key, Ending::LeftBehind, now);
        }
        self.state.tick(now);
    }

    /// Tells the tasks until when their lease is trusted. Those of a session that is over hear of no other.
    fn share_trust(&mut self) {
        let Some((session, until)) = self.state.trusted() else { return };
        if self.trust.0 != session {
            self.trust = (session.to_owned(), watch::Sender::new(until));
        }
        self.trust.1.send_if_modified(|known| std::mem::replace(known, until) != until);
    }

    /// Connects anew, where there is no stream, no attempt at one under way, and no delay to wait for.
    fn connect_if_due(&mut self) {
        // An attempt to resume a session that has been given up meanwhile would come back with leases that nobody works on.
        if self.connection.claims_other_than(self.state.session_id()) {
            self.connection.abandon();
        }
        if self.connection.is_due() {
            let (session_id, held) = self.state.claim();
            let continued = self.state.continues();
            self.connection.start(Register { session_id, held, continued, ..self.register.clone() });
        }
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::Due => {}
            Event::Messages(kinds) => {
                let now = Instant::now();
                for kind in kinds {
                    self.state.message(kind, now, rand::random());
                }
            }
            Event::Registered(registration) => {
                let Registration { registered, asked, sent_at, client } = *registration;
                self.state.registered(&registered, &asked, sent_at, Instant::now());
                let session_id = registered.session_id.clone();
                self.kept.send_if_modified(|kept| {
                    let old = kept.replace(session_id.clone());
                    old.as_ref() != Some(&session_id)
                });
                info!(
                    session = session_id,
                    coordinator = registered.coordinator_id,
                    resumed = registered.resumed,
                    "registered"
                );
                self.destination.send_replace(Some(Destination { client, session_id }));
            }
            Event::Lost => self.detach(),
        }
    }

    fn detach(&mut self) {
        self.state.detached();
        self.destination.send_replace(None);
    }

    /// Does what the state decided.
    fn act(&mut self) {
        let actions = self.state.take_actions();
        let now = Instant::now();
        for action in actions {
            match action {
                Action::Start(lease) => self.start(*lease, now),
                Action::Stop(key, cause) => self.crew.stop(&key, cause, now),
                Action::Overdue(key) => self.crew.held_up(key),
                Action::Forget(key) => self.workshop.journal.forget(key.execution_id.as_text(&mut [0; 36]), key.epoch),
                Action::DropLogs => self.workshop.desk.logs.clear(),
                Action::Part => {
                    let outbox = self.with_goodbye();
                    self.connection.part(outbox, FAREWELL);
                    self.detach();
                    self.kept.send_replace(None);
                }
                Action::Proven => self.connection.proven(),
                Action::Reconnect(why) => {
                    match why {
                        Reconnect::Expired => warn!("the session is over; everything held under it is stopped"),
                        Reconnect::Silent => warn!("heartbeats are not acknowledged; trying another coordinator"),
                        Reconnect::Asked => info!("the coordinator goes away; moving to another"),
                    }
                    self.connection.leave(why == Reconnect::Asked);
                    self.detach();
                }
            }
        }
        self.crew.set_off();
    }

    fn start(&mut self, mut lease: Lease, now: Instant) {
        let key = LeaseKey::from(&lease);
        let secrets = std::mem::take(&mut lease.secrets);
        let mut task = task_of(lease, self.timeout_cap);
        let mut output = TaskOutput::new(key.clone(), task.attempt, self.workshop.desk.clone());
        if !secrets.is_empty() {
            output = output.redacted_by(Redactor::new(secrets.values().map(String::as_str)));
        }
        let context = Context::of_task(output, self.trust.1.subscribe());
        let mut executor = self.executors.get(&task.executor).unwrap_or(&self.unknown).clone();
        if task.config.text.contains(secret::OPENING) {
            match secret::substitute(&task.executor, &task.config.text, &secrets) {
                Ok(config) => task.config = Json::new(config),
                Err(problems) => executor = Arc::new(Unresolved(problems)),
            }
        }
        self.crew.begin(Attempt { key, executor, task, context }, now);
    }

    fn report_progress(&mut self) {
        self.progress_at = Instant::now() + PROGRESS;
        for (key, percent) in self.workshop.desk.progress.take_all() {
            self.state.progressed(&key, percent);
        }
    }

    /// Everything has ended here, and the session ends with it; but not where a result is still to be told by the next process, or
    /// something could not be stopped: then the session goes on to its expiry, or until the next process resumes it.
    async fn farewell(mut self) {
        let goes_on = self.left_behind || (self.state.has_untold() && self.workshop.journal.keeps_session());
        let outbox = if goes_on { std::mem::take(self.state.outbox()) } else { self.with_goodbye() };
        if self.connection.finish(outbox, FAREWELL).await && !goes_on {
            self.kept.send_replace(None);
        }
        drop(self.kept);
        let _ = timeout(FAREWELL, self.keeper).await;
        info!("left");
    }

    fn with_goodbye(&mut self) -> VecDeque<AgentMessage> {
        let mut outbox = std::mem::take(self.state.outbox());
        outbox.push_back(AgentMessage { kind: Some(Kind::Goodbye(Goodbye {})) });
        outbox
    }
}

/// Keeps the id of the session for the next process, the newest at last.
async fn keep(journal: Arc<dyn Journal>, mut session: watch::Receiver<Option<String>>) {
    while session.changed().await.is_ok() {
        let id = session.borrow_and_update().clone();
        if let Err(error) = journal.keep_session(id.as_deref()).await {
            warn!(%error, "the session cannot be kept; after a restart its results cannot be told");
        }
    }
}

/// An instant that does not come.
fn far() -> Instant {
    Instant::now() + Duration::from_secs(86_400)
}
