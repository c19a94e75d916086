use std::collections::HashMap;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Dispatch;
use super::answers::Answers;
use super::registry::Registry;
use crate::execution::{Event, Execution, Executions, Rejected};
use crate::reconcile::Backoff;
use crate::store::{Change, DynStore, StoreError, Wake};
use crate::telemetry::Metrics;
use crate::tenant::Directory;

/// Frames whose words may wait to be written. When it is full, streams are read no further, and agents wait.
const WAITING: usize = 4096;

/// What waiting words may weigh together, in KiB: results are up to a few MiB each.
const WAITING_KIB: u32 = 64 << 10;

/// What a word weighs at least, in KiB, so that no more than 32,768 of them wait.
const A_WORD_KIB: u32 = 2;

/// The most that one transaction writes, unless a single frame has more.
const A_BATCH: usize = 2000;

/// Transactions under way at once. While the disk is waited for, the next one is decided and written.
const WRITERS: usize = 2;

/// Words that must wait before a further transaction begins beside others: fewer are cheaper in the one after.
const ANOTHER: usize = 500;

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
    Words(Vec<Word>, OwnedSemaphorePermit),
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
    writer: Writer,
    items: mpsc::Receiver<Item>,
}

/// What is to be written in one transaction.
#[derive(Default)]
struct Batch {
    words: Vec<Word>,
    /// Given back once the words are written.
    permits: Vec<OwnedSemaphorePermit>,
    /// Came after all of the words, and before all that comes later.
    marks: Vec<oneshot::Sender<()>>,
    /// Whether some word is about an execution that a transaction under way is about too.
    collides: bool,
}

/// The executions that each transaction under way is about.
#[derive(Default)]
struct UnderWay {
    executions: HashMap<u64, Executions>,
    next: u64,
}

struct Writer {
    store: DynStore,
    dispatch: Arc<Dispatch>,
    metrics: Metrics,
    tenants: Directory,
}

impl Intake {
    /// The way in, and the loop behind it.
    pub fn new(store: DynStore, dispatch: Arc<Dispatch>, metrics: Metrics, tenants: Directory) -> (Self, IntakeLoop) {
        let (sender, items) = mpsc::channel(WAITING);
        let room = Arc::new(Semaphore::new(WAITING_KIB as usize));
        let writer = Writer { store, dispatch, metrics, tenants };
        (Self { items: sender, room }, IntakeLoop { writer, items })
    }

    /// Takes a word, when there is room.
    pub async fn say(&self, word: Word) {
        self.say_all(vec![word]).await;
    }

    /// Takes words, when there is room, and writes them in their order.
    pub async fn say_all(&self, mut words: Vec<Word>) {
        while !words.is_empty() {
            let later = words.split_off(words.len().min(A_BATCH));
            let weight = words.iter().map(weight).fold(0, u32::saturating_add).min(WAITING_KIB);
            // Neither is ever closed before the coordinator has ended, and then agents repeat what matters elsewhere.
            let Ok(permit) = self.room.clone().acquire_many_owned(weight).await else { return };
            let _ = self.items.send(Item::Words(words, permit)).await;
            words = later;
        }
    }

    /// Returns once all that has been said before is written.
    pub async fn written(&self) {
        let (done, wait) = oneshot::channel();
        if self.items.send(Item::Mark(done)).await.is_ok() {
            let _ = wait.await;
        }
    }
}

/// In KiB.
fn weight(word: &Word) -> u32 {
    let bytes = match &word.event {
        Event::Finished { report, .. } => {
            report.result.as_ref().map_or(0, String::len) + report.error_message.len() + report.error_stack.len()
        }
        _ => 0,
    };
    A_WORD_KIB + u32::try_from(bytes >> 10).unwrap_or(u32::MAX - A_WORD_KIB)
}

impl Batch {
    /// Whether nothing more goes into it.
    fn is_full(&self) -> bool {
        self.words.len() >= A_BATCH || !self.marks.is_empty()
    }

    fn add(&mut self, item: Item, under_way: &UnderWay) {
        match item {
            Item::Words(words, permit) => {
                self.collides |= words.iter().any(|word| under_way.is_about(word.execution));
                self.words.extend(words);
                self.permits.push(permit);
            }
            Item::Mark(mark) => self.marks.push(mark),
        }
    }

    /// Whether it may be written now. Words about one execution are written one after the other, and what a mark stands for is written
    /// before it is answered.
    fn may_begin(&self, under_way: &UnderWay) -> bool {
        match under_way.executions.len() {
            0 => !self.words.is_empty() || !self.marks.is_empty(),
            beside => beside < WRITERS && self.words.len() >= ANOTHER && !self.collides && self.marks.is_empty(),
        }
    }
}

impl UnderWay {
    fn is_about(&self, execution: Uuid) -> bool {
        self.executions.values().any(|executions| executions.contains(&execution))
    }

    fn begin(&mut self, batch: &Batch) -> u64 {
        self.next += 1;
        self.executions.insert(self.next, batch.words.iter().map(|word| word.execution).collect());
        self.next
    }
}

impl IntakeLoop {
    /// Writes until the end, and then what is still waiting.
    pub async fn run(self, shutdown: CancellationToken) {
        let (writer, shutdown) = (&self.writer, &shutdown);
        in_turns(self.items, shutdown, |batch| writer.take(batch, shutdown)).await;
    }
}

/// Makes batches of what comes in, and has them written, until nothing comes any more.
async fn in_turns<W: Future<Output = ()>>(
    mut items: mpsc::Receiver<Item>,
    shutdown: &CancellationToken,
    write: impl Fn(Batch) -> W,
) {
    let (mut writing, mut under_way) = (FuturesUnordered::new(), UnderWay::default());
    let (mut is_open, mut is_over) = (true, false);
    let mut batch = Batch::default();
    loop {
        while !batch.is_full()
            && let Ok(item) = items.try_recv()
        {
            batch.add(item, &under_way);
        }
        if batch.may_begin(&under_way) {
            let number = under_way.begin(&batch);
            let written = write(std::mem::take(&mut batch));
            writing.push(async move {
                written.await;
                number
            });
        }
        tokio::select! {
            Some(number) = writing.next() => {
                under_way.executions.remove(&number);
            }
            came = items.recv(), if !is_over && !batch.is_full() => match came {
                Some(item) => batch.add(item, &under_way),
                None => (is_over, is_open) = (true, false),
            },
            () = shutdown.cancelled(), if is_open => {
                is_open = false;
                items.close();
            }
            else => return,
        }
    }
}

impl Writer {
    async fn take(&self, batch: Batch, shutdown: &CancellationToken) {
        if !batch.words.is_empty() {
            self.write(&batch.words, shutdown).await;
        }
        drop(batch.permits);
        for mark in batch.marks {
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
                Ok(answers) => return self.answer(words, answers).await,
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
                    Ok(answers) => self.answer(std::slice::from_ref(word), answers).await,
                    Err(error) => {
                        tracing::error!(execution = %word.execution, event = word.event.name(), %error, "a word of an agent cannot be written");
                    }
                }
            }
        }
    }

    async fn apply(&self, words: &[Word]) -> Result<Vec<Result<Execution, Rejected>>, StoreError> {
        let mut changes = changes(words, &self.dispatch.lock());
        self.bound_results(&mut changes).await?;
        self.store.apply(changes).await
    }

    /// Takes results away that are larger than their tenant may keep, and says so in their places.
    async fn bound_results(&self, changes: &mut [Change]) -> Result<(), StoreError> {
        for change in changes {
            let (Event::Finished { report, .. }, Some(known)) = (&mut change.event, &change.known) else { continue };
            let Some(bytes) = report.result.as_ref().map(String::len) else { continue };
            let most = self.tenants.rules(known.tenant_id).await?.max_result_bytes;
            if most > 0 && i64::try_from(bytes).is_ok_and(|bytes| bytes > most) {
                report.result = Some(format!("{{\"dropped\":true,\"bytes\":{bytes},\"maxResultBytes\":{most}}}"));
            }
        }
        Ok(())
    }

    async fn answer(&self, words: &[Word], answers: Vec<Result<Execution, Rejected>>) {
        let mut answers = Answers::of(words, answers);
        let (ended, late) = answers.tell(&mut self.dispatch.lock());
        self.metrics.executions_ended(ended);
        answers.refused.iter().for_each(|reason| self.metrics.refused(reason));
        // What waits, or waits for the place, may be another coordinator's to give.
        if answers.has_returned {
            let _ = self.store.wake(Wake::Work).await;
        }
        if answers.has_room {
            let _ = self.store.wake(Wake::Room).await;
        }
        if !late.is_empty() {
            answers.changed.extend(late.iter().map(|result| result.execution));
            if let Err(error) = self.store.note_refused(&late).await {
                tracing::warn!(%error, "results that came too late could not be noted in the logs");
            }
        }
        self.store.changed(&answers.changed);
    }
}

/// Words as changes, each with what is known of its execution since it was granted to the session on its present attachment.
fn changes(words: &[Word], registry: &Registry) -> Vec<Change> {
    let known = |word: &Word| {
        let (session, epoch) = word.event.spoken_for()?;
        registry.get(session)?.known(word.execution, epoch)
    };
    let change = |word: &Word| {
        let (execution, event) = (word.execution, word.event.clone());
        Change { execution, tenant: None, event, known: known(word) }
    };
    words.iter().map(change).collect()
}

#[cfg(test)]
mod tests;
