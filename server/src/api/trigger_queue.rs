//! Executions that callers ask for one by one, made together: what comes while a transaction runs makes the next one. One caller is served at
//! once, and many share the cost of a commit.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::triggers::{admission, clock_for};
use crate::config::Limits;
use crate::dispatch::{HandOver, Reservations};
use crate::error::{Error, Kind};
use crate::execution::Execution;
use crate::store::{AtOnce, Candidate, DynStore, Grant, Made, StoreError, Trigger, Wake};

/// Triggers that may wait.
const WAITING: usize = 4096;
/// What they may weigh together, in KiB: parameters are up to a MiB each.
const WAITING_KIB: usize = 64 << 10;
/// The most that are made together.
const A_GROUP: usize = 512;
/// How long a group may hold up those behind it. After that they go on beside it: it waits for a lock, or for the database.
const PATIENCE: Duration = Duration::from_millis(25);
/// Groups that are made at the same time, then.
const GROUPS: usize = 4;

/// The way in. Cheap to clone.
#[derive(Clone)]
pub struct TriggerQueue {
    asks: mpsc::Sender<Ask>,
    room: Arc<Semaphore>,
}

/// Makes what is asked for, and answers.
pub struct TriggerLoop {
    maker: Maker,
    asks: mpsc::Receiver<Ask>,
}

#[derive(Clone)]
struct Maker {
    store: DynStore,
    limits: Arc<Limits>,
    hand_over: Option<HandOver>,
}

struct Ask {
    trigger: Trigger,
    answer: oneshot::Sender<Result<Execution, Error>>,
    _room: OwnedSemaphorePermit,
}

impl TriggerQueue {
    /// The way in, and the loop behind it. Without a way to hand leases over, what is made waits to be claimed.
    pub fn new(store: DynStore, limits: Arc<Limits>, hand_over: Option<HandOver>) -> (Self, TriggerLoop) {
        let (sender, asks) = mpsc::channel(WAITING);
        let room = Arc::new(Semaphore::new(WAITING_KIB));
        (Self { asks: sender, room }, TriggerLoop { maker: Maker { store, limits, hand_over }, asks })
    }

    /// Makes one execution. What has been made stays so where the caller goes away; what has not begun then is left.
    ///
    /// # Errors
    /// What the trigger was refused for; TRIGGERS_OVERLOADED where more wait than are to.
    pub async fn ask(&self, trigger: Trigger) -> Result<Execution, Error> {
        let room = self.room.clone().try_acquire_many_owned(weight(&trigger)).map_err(|_| overloaded())?;
        let (answer, answered) = oneshot::channel();
        self.asks.try_send(Ask { trigger, answer, _room: room }).map_err(|_| overloaded())?;
        answered
            .await
            .map_err(|_| Error::new(Kind::Unavailable, "SHUTTING_DOWN", "the coordinator ends; try another one"))?
    }
}

/// In KiB, from 1.
fn weight(trigger: &Trigger) -> u32 {
    let bytes = trigger.parameters.as_ref().map_or(0, String::len);
    u32::try_from((bytes >> 10).min(WAITING_KIB - 1)).unwrap_or(0) + 1
}

fn overloaded() -> Error {
    Error::new(
        Kind::Unavailable,
        "TRIGGERS_OVERLOADED",
        "more is being triggered than can be stored; try again in a moment",
    )
}

impl TriggerLoop {
    /// Makes until the end, and then what is still waiting.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let slow = TaskTracker::new();
        let beside = Arc::new(Semaphore::new(GROUPS));
        let mut asks = Vec::with_capacity(A_GROUP);
        loop {
            let came = tokio::select! {
                () = shutdown.cancelled(), if !self.asks.is_closed() => {
                    self.asks.close();
                    continue;
                }
                came = self.asks.recv_many(&mut asks, A_GROUP) => came,
            };
            if came == 0 {
                break;
            }
            // The semaphore is never closed.
            let Ok(turn) = beside.clone().acquire_owned().await else { break };
            let mut group = Box::pin(self.maker.clone().make(std::mem::take(&mut asks)));
            if tokio::time::timeout(PATIENCE, &mut group).await.is_err() {
                slow.spawn(async move {
                    group.await;
                    drop(turn);
                });
            }
        }
        slow.close();
        slow.wait().await;
    }
}

impl Maker {
    /// Makes a group, and answers everybody.
    async fn make(self, asks: Vec<Ask>) {
        // Who has gone away does not want it any more, and nothing of it has begun.
        let asks: Vec<Ask> = asks.into_iter().filter(|ask| !ask.answer.is_closed()).collect();
        if asks.is_empty() {
            return;
        }
        let triggers: Vec<Trigger> = asks.iter().map(|ask| ask.trigger.clone()).collect();
        let (made, reserved) = self.made(triggers).await;
        let (mut grants, mut is_work) = (Vec::new(), false);
        let answers: Vec<Result<Execution, Error>> = match made {
            Ok(made) => {
                let mut one = |(ask, made): (&Ask, Result<Made, StoreError>)| {
                    let made = made.map_err(super::of_job(ask.trigger.job))?;
                    is_work |= made.grant.is_none();
                    if let (None, Some(hand_over)) = (&made.grant, &self.hand_over) {
                        hand_over.dispatch.waits(made.execution.lane_id);
                    }
                    grants.extend(made.grant);
                    Ok(made.execution)
                };
                asks.iter().zip(made).map(&mut one).collect()
            }
            Err(error) => vec![Err(Error::from(error)); asks.len()],
        };
        // Work first: who asked for it hears of it a moment later.
        self.finish(grants, reserved).await;
        for (ask, answer) in asks.into_iter().zip(answers) {
            let _ = ask.answer.send(answer);
        }
        if is_work {
            // Losing a hint costs latency only.
            let _ = self.store.wake(Wake::Work).await;
        }
    }

    /// What became of triggers, and the credits that were taken for them.
    async fn made(
        &self,
        triggers: Vec<Trigger>,
    ) -> (Result<Vec<Result<Made, StoreError>>, StoreError>, Option<Reservations>) {
        let now = match clock_for(&self.store, triggers.iter()).await {
            Ok(now) => now,
            Err(error) => return (Err(error), None),
        };
        let reserved =
            self.hand_over.as_ref().map(|hand_over| (&hand_over.dispatch, hand_over.dispatch.reservations()));
        // What waits already goes first.
        let one = |candidate: &Candidate<'_>| {
            let (dispatch, reserved) = reserved.as_ref()?;
            dispatch.is_next(candidate.execution).then(|| reserved.reserve(candidate.execution.lane_id))?
        };
        let assign = |candidates: &[Candidate<'_>]| candidates.iter().map(one).collect();
        let at_once = reserved.as_ref().map(|_| AtOnce {
            assign: &assign,
            tenant_limit: self.limits.tenant_max_concurrent,
            timeouts: self.limits.timeouts(),
        });
        let made = self.store.trigger_each(triggers, &admission(now), at_once).await;
        (made, reserved.map(|(_, reserved)| reserved))
    }

    /// Hands over what was granted. Credits that no lease used go back.
    async fn finish(&self, grants: Vec<Grant>, reserved: Option<Reservations>) {
        if let (Some(hand_over), Some(reserved)) = (&self.hand_over, reserved)
            && !grants.is_empty()
        {
            hand_over.dispatch.claimed(grants.len());
            hand_over.give(grants, reserved).await;
        }
    }
}
