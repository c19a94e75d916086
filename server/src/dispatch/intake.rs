use std::collections::HashSet;
use std::sync::Arc;

use orrery_proto::v1::ResultAck;
use orrery_proto::v1::coordinator_message::Kind;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Dispatch;
use crate::execution::{Event, Execution, Rejected};
use crate::reconcile::{Backoff, Signals};
use crate::store::{Change, DynStore, Held, RefusedResult, StoreError, Wake};
use crate::telemetry::Metrics;

/// Words that may wait to be written. When it is full, streams are read no further, and agents wait.
const WAITING: usize = 4096;

/// What waiting words may weigh together, in KiB: results are up to a few MiB each.
const WAITING_KIB: usize = 64 << 10;

/// The most that one transaction writes.
const A_BATCH: usize = 512;

/// How often a batch is tried against an error that is not the database's absence, before its words are written one by one.
const TRIES: u32 = 3;

/// What an agent says of an execution.
#[derive(Clone, Debug)]
pub struct Word {
    pub session: Uuid,
    pub execution: Uuid,
    pub event: Event,
}

/// What comes in, in its order.
enum Item {
    Word(Word, OwnedSemaphorePermit),
    /// Answered once all that came before is written.
    Mark(oneshot::Sender<()>),
}

/// The way in for what agents say. What comes while a batch is being written makes the next batch: light load is written at once, heavy
/// load in large transactions.
#[derive(Clone)]
pub struct Intake {
    items: mpsc::Sender<Item>,
    room: Arc<Semaphore>,
}

/// Writes what agents say, and answers them.
pub struct IntakeLoop {
    store: DynStore,
    dispatch: Arc<Dispatch>,
    signals: Arc<Signals>,
    metrics: Metrics,
    items: mpsc::Receiver<Item>,
}

impl Intake {
    /// The way in, and the loop behind it.
    pub fn new(
        store: DynStore,
        dispatch: Arc<Dispatch>,
        signals: Arc<Signals>,
        metrics: Metrics,
    ) -> (Self, IntakeLoop) {
        let (sender, items) = mpsc::channel(WAITING);
        let room = Arc::new(Semaphore::new(WAITING_KIB));
        (Self { items: sender, room }, IntakeLoop { store, dispatch, signals, metrics, items })
    }

    /// Takes a word, when there is room.
    pub async fn say(&self, word: Word) {
        // Neither is ever closed before the coordinator has ended, and then agents repeat what matters elsewhere.
        let Ok(permit) = self.room.clone().acquire_many_owned(weight(&word)).await else { return };
        let _ = self.items.send(Item::Word(word, permit)).await;
    }

    /// Returns once all that has been said before is written.
    pub async fn written(&self) {
        let (done, wait) = oneshot::channel();
        if self.items.send(Item::Mark(done)).await.is_ok() {
            let _ = wait.await;
        }
    }
}

/// In KiB, from 1.
fn weight(word: &Word) -> u32 {
    let bytes = match &word.event {
        Event::Finished { report, .. } => {
            report.result.as_ref().map_or(0, String::len) + report.error_message.len() + report.error_stack.len()
        }
        _ => 0,
    };
    u32::try_from((bytes >> 10).min(WAITING_KIB - 1)).unwrap_or(0) + 1
}

impl IntakeLoop {
    /// Writes until the end, and then what is still waiting.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut batch = Vec::with_capacity(A_BATCH);
        loop {
            let came = tokio::select! {
                () = shutdown.cancelled() => break,
                came = self.items.recv_many(&mut batch, A_BATCH) => came,
            };
            if came == 0 {
                return;
            }
            self.take(&mut batch, &shutdown).await;
        }
        self.items.close();
        while self.items.recv_many(&mut batch, A_BATCH).await > 0 {
            self.take(&mut batch, &shutdown).await;
        }
    }

    async fn take(&self, batch: &mut Vec<Item>, shutdown: &CancellationToken) {
        let (mut words, mut marks, mut permits) = (Vec::with_capacity(batch.len()), Vec::new(), Vec::new());
        for item in batch.drain(..) {
            match item {
                Item::Word(word, permit) => {
                    words.push(word);
                    permits.push(permit);
                }
                Item::Mark(mark) => marks.push(mark),
            }
        }
        if !words.is_empty() {
            self.write(&words, shutdown).await;
        }
        for mark in marks {
            let _ = mark.send(());
        }
    }

    /// Writes words. A database that is away is waited for: nobody else knows what was said. A row that cannot be written costs only the
    /// words about it.
    async fn write(&self, words: &[Word], shutdown: &CancellationToken) {
        let mut backoff = Backoff::default();
        let mut tries = 0;
        loop {
            let error = match self.apply(words).await {
                Ok(answers) => return self.answer(words, &answers).await,
                Err(error) => error,
            };
            let is_away = error.is_away();
            tries += u32::from(!is_away);
            tracing::warn!(%error, source = ?std::error::Error::source(&error), words = words.len(), "what agents said could not be written");
            if tries >= TRIES {
                break;
            }
            tokio::time::sleep(backoff.next()).await;
            if shutdown.is_cancelled() && is_away {
                // Agents keep results until they are acknowledged, and leases expire.
                return;
            }
        }
        if words.len() > 1 {
            for word in words {
                match self.apply(std::slice::from_ref(word)).await {
                    Ok(answers) => self.answer(std::slice::from_ref(word), &answers).await,
                    Err(error) => {
                        tracing::error!(execution = %word.execution, event = word.event.name(), %error, "a word of an agent cannot be written");
                    }
                }
            }
        }
    }

    async fn apply(&self, words: &[Word]) -> Result<Vec<Result<Execution, Rejected>>, StoreError> {
        let change =
            |word: &Word| Change { execution: word.execution, tenant: None, event: word.event.clone(), known: None };
        self.store.apply(words.iter().map(change).collect()).await
    }

    async fn answer(&self, words: &[Word], answers: &[Result<Execution, Rejected>]) {
        let mut changed = HashSet::new();
        let mut late = Vec::new();
        let mut room = false;
        for (word, answer) in words.iter().zip(answers) {
            match answer {
                Ok(execution) => {
                    changed.insert(execution.id);
                    room |= execution.lease().is_none();
                    self.accepted(word, execution);
                }
                Err(rejected) => {
                    self.refused(word, rejected);
                    late.extend(self.late(word));
                }
            }
        }
        if !late.is_empty() {
            changed.extend(late.iter().map(|result| result.execution));
            if let Err(error) = self.store.note_refused(&late).await {
                tracing::warn!(%error, "results that came too late could not be noted in the logs");
            }
        }
        if room {
            // A place of its job may be free, or a retry may be due.
            self.signals.work.notify_one();
            self.signals.release.notify_one();
            // What waits for the place may be another coordinator's to give.
            let _ = self.store.wake(Wake::Work).await;
        }
        for execution in changed {
            let _ = self.store.wake(Wake::Execution(execution)).await;
        }
    }

    fn accepted(&self, word: &Word, execution: &Execution) {
        self.dispatch.observe(execution);
        match &word.event {
            Event::Finished { epoch, .. } | Event::Interrupted { epoch, .. } => self.acknowledge(word, *epoch, None),
            Event::Released { epoch, .. } | Event::LeaseExpired { epoch, .. } => {
                self.dispatch.with(word.session, |attached| attached.forget(word.execution, *epoch));
            }
            _ => {}
        }
    }

    fn refused(&self, word: &Word, rejected: &Rejected) {
        let reason = match rejected {
            Rejected::StaleLease { .. } => "stale_lease",
            Rejected::LeaseOver { .. } => "lease_over",
            Rejected::SessionOver { .. } => "session_over",
            Rejected::AlreadyDone { .. } => "already_done",
            Rejected::Illegal { .. } => "illegal",
            Rejected::Repeated => "repeated",
            Rejected::Unknown => "unknown",
        };
        let Some((session_id, epoch)) = word.event.spoken_for() else { return };
        if *rejected == Rejected::Repeated {
            return self.acknowledge(word, epoch, None);
        }
        match &word.event {
            // Said twice, as after a resumed stream: no harm, and nothing to kill.
            Event::Started { .. } | Event::Progressed { .. } | Event::Released { .. }
                if matches!(rejected, Rejected::Illegal { .. }) =>
            {
                return;
            }
            Event::Finished { .. } | Event::Interrupted { .. } => self.acknowledge(word, epoch, Some(reason)),
            _ => self.dispatch.revoke(Held { session_id, execution_id: word.execution, epoch }),
        }
        self.metrics.refused(reason);
        tracing::info!(execution = %word.execution, session = %word.session, epoch, event = word.event.name(), %rejected, "refused");
    }

    /// The result that a refused word tells, if it does.
    fn late(&self, word: &Word) -> Option<RefusedResult> {
        let (Event::Finished { epoch, .. } | Event::Interrupted { epoch, .. }) = word.event else { return None };
        self.dispatch.with(word.session, |attached| RefusedResult {
            execution: word.execution,
            epoch,
            worker_name: attached.agent.name.clone(),
            tenant: attached.agent.tenant_id,
        })
    }

    /// Tells the agent that it may forget a result.
    fn acknowledge(&self, word: &Word, epoch: i64, refused: Option<&str>) {
        self.dispatch.with(word.session, |attached| {
            attached.forget(word.execution, epoch);
            let ack = ResultAck {
                execution_id: word.execution.to_string(),
                epoch,
                accepted: refused.is_none(),
                reason: refused.unwrap_or_default().to_owned(),
            };
            attached.send(Kind::ResultAck(ack));
        });
    }
}
