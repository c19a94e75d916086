//! Executors whose every step the test sees or decides.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use orrery_sdk::Json;
use orrery_sdk::executor::{Context, Executor, Outcome, StopReason, Task};
use orrery_sdk::v1::{ErrorType, LogStream};
use tokio::sync::{Semaphore, mpsc};

use crate::fake::soon;

/// Answers with its parameters at once.
pub(crate) struct Echo;

#[async_trait]
impl Executor for Echo {
    async fn run(&self, task: Task, _: Context) -> Outcome {
        Outcome::success(task.parameters.unwrap_or_else(|| Json::new("null")))
    }
}

pub(crate) struct Panics;

#[async_trait]
impl Executor for Panics {
    async fn run(&self, _: Task, _: Context) -> Outcome {
        panic!("boom")
    }
}

/// Panics once it has waited.
pub(crate) struct PanicsLate;

#[async_trait]
impl Executor for PanicsLate {
    async fn run(&self, _: Task, _: Context) -> Outcome {
        tokio::task::yield_now().await;
        panic!("late boom")
    }
}

/// Computes, as far as its worker can see, and never waits, until the other end is dropped.
pub(crate) struct Computes(Mutex<std::sync::mpsc::Receiver<()>>);

pub(crate) fn computes() -> (Arc<Computes>, std::sync::mpsc::Sender<()>) {
    let (go, gone) = std::sync::mpsc::channel();
    (Arc::new(Computes(Mutex::new(gone))), go)
}

#[async_trait]
impl Executor for Computes {
    async fn run(&self, _: Task, _: Context) -> Outcome {
        let _ = self.0.lock().expect("alone").recv();
        Outcome::success(Json::new("\"computed\""))
    }
}

/// Runs until it is stopped or let go, and tells what happened to it.
pub(crate) struct Held {
    told: mpsc::Sender<StopReason>,
    go: Arc<Semaphore>,
    succeeds: Arc<AtomicBool>,
}

/// The test's end of [`Held`].
pub(crate) struct Holder {
    told: mpsc::Receiver<StopReason>,
    go: Arc<Semaphore>,
    succeeds: Arc<AtomicBool>,
}

pub(crate) fn held() -> (Arc<Held>, Holder) {
    let (executor, holder) = pair();
    (Arc::new(executor), holder)
}

fn pair() -> (Held, Holder) {
    let (told, heard) = mpsc::channel(16);
    let go = Arc::new(Semaphore::new(0));
    let succeeds = Arc::new(AtomicBool::new(false));
    (Held { told, go: go.clone(), succeeds: succeeds.clone() }, Holder { told: heard, go, succeeds })
}

impl Holder {
    pub(crate) async fn stopped(&mut self) -> StopReason {
        soon("a stop", self.told.recv()).await.expect("an executor")
    }

    /// Lets one task complete.
    pub(crate) fn let_go(&self) {
        self.go.add_permits(1);
    }

    /// Stopped tasks complete all the same.
    pub(crate) fn succeed_when_stopped(&self) {
        self.succeeds.store(true, Ordering::SeqCst);
    }
}

#[async_trait]
impl Executor for Held {
    async fn run(&self, _: Task, context: Context) -> Outcome {
        tokio::select! {
            permit = self.go.acquire() => {
                permit.expect("open").forget();
                Outcome::success(Json::new("\"let go\""))
            }
            reason = context.stopped() => {
                self.told.send(reason).await.expect("a test");
                if self.succeeds.load(Ordering::SeqCst) {
                    Outcome::success(Json::new("\"just so\""))
                } else {
                    Outcome::failure(ErrorType::UserError, "stopped")
                }
            }
        }
    }
}

/// Told to stop, it goes on until it is let go, and fails.
pub(crate) struct Lingers(Held);

pub(crate) fn lingers() -> (Arc<Lingers>, Holder) {
    let (executor, holder) = pair();
    (Arc::new(Lingers(executor)), holder)
}

#[async_trait]
impl Executor for Lingers {
    async fn run(&self, _: Task, context: Context) -> Outcome {
        let Self(held) = self;
        held.told.send(context.stopped().await).await.expect("a test");
        held.go.acquire().await.expect("open").forget();
        Outcome::failure(ErrorType::UserError, "stopped at last")
    }
}

/// Notices no stop.
pub(crate) struct Deaf;

#[async_trait]
impl Executor for Deaf {
    async fn run(&self, _: Task, _: Context) -> Outcome {
        std::future::pending().await
    }
}

/// Prints `lines` lines, reports progress on each, then waits for a permit.
pub(crate) struct Chatty {
    pub(crate) lines: usize,
    pub(crate) go: Arc<Semaphore>,
}

#[async_trait]
impl Executor for Chatty {
    async fn run(&self, _: Task, context: Context) -> Outcome {
        for line in 0..self.lines {
            let stream = if line % 2 == 0 { LogStream::Stdout } else { LogStream::Stderr };
            context.log(stream, format!("line {line}\n"));
            context.progress(i32::try_from(line * 100 / self.lines).expect("small"));
        }
        context.progress(100);
        self.go.acquire().await.expect("open").forget();
        Outcome::success(Json::new("null"))
    }
}
