//! `orrery bench worker`: SDK workers in a process of their own. It is told what to do on its standard input and answers on its standard
//! output, so that nothing of the product carries what is measured of it.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use orrery_sdk::{ClientTls, FunctionContext, FunctionError, FunctionRegistry, Worker};
use serde::de::IgnoredAny;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::authority::shown;
use super::error::{Result, Tried};

/// The module of the functions.
pub(super) const MODULE: &str = "bench";
/// Returns at once.
pub(super) const NOOP: &str = "noop";
/// Returns once the worker is told `release`.
pub(super) const WAIT: &str = "wait";

/// What a worker process is given.
#[derive(Clone, Debug, Args)]
pub struct WorkerArgs {
    /// The coordinator's gRPC address.
    #[arg(long)]
    coordinator: String,
    #[arg(long, env = "ORRERY_TOKEN", hide_env_values = true, required_unless_present = "certificate")]
    token: Option<String>,
    /// In place of a token, a certificate by this authority.
    #[arg(long, requires = "certificate")]
    ca: Option<PathBuf>,
    #[arg(long, requires_all = ["key", "ca"])]
    certificate: Option<PathBuf>,
    #[arg(long)]
    key: Option<PathBuf>,
    #[arg(long)]
    name: String,
    /// Workers in this process, each with a connection of its own.
    #[arg(long, default_value_t = 1)]
    count: usize,
    /// Slots of each.
    #[arg(long)]
    slots: u32,
    /// Where results are journalled; nowhere where absent.
    #[arg(long)]
    journal: Option<PathBuf>,
}

/// What the functions have seen.
#[derive(Default)]
struct Seen {
    started: AtomicU64,
    ended: AtomicU64,
    /// Which execution began when, in nanoseconds of the wall clock.
    starts: Mutex<Vec<(Uuid, u128)>>,
}

impl Seen {
    fn start(&self, context: &FunctionContext) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let id = context.execution_id().parse().unwrap_or_default();
        self.starts.lock().unwrap_or_else(PoisonError::into_inner).push((id, at));
        self.started.fetch_add(1, Ordering::Release);
    }

    fn end(&self) {
        self.ended.fetch_add(1, Ordering::Release);
    }
}

/// Runs until its standard input ends. It understands `go` (connect), `count` (answered by `count STARTED ENDED`), `take` (answered by a
/// line `ID NANOSECONDS` for each start since the last time, and `end`) and `release`.
///
/// # Errors
/// Where a worker cannot be built, or nobody reads what it answers.
pub async fn run(args: WorkerArgs) -> Result<()> {
    let seen = Arc::new(Seen::default());
    let (release, released) = watch::channel(false);
    let shutdown = CancellationToken::new();
    let mut waiting = build(&args, &functions(&seen, &released))?;
    let mut running = JoinSet::new();
    answer("ready\n")?;
    let (said, mut lines) = mpsc::channel(1);
    // A thread of its own: it sits in a read until there is something to do, or standard input ends.
    std::thread::spawn(move || std::io::stdin().lines().try_for_each(|line| said.blocking_send(line)));
    while let Some(line) = lines.recv().await {
        let line = line.tried(|| "reading what to do".into())?;
        match line.as_str() {
            "go" => {
                for worker in waiting.drain(..) {
                    running.spawn(worker.run(shutdown.clone()));
                }
            }
            "count" => {
                let (started, ended) = (seen.started.load(Ordering::Acquire), seen.ended.load(Ordering::Acquire));
                answer(&format!("count {started} {ended}\n"))?;
            }
            "take" => answer(&taken(&seen))?,
            "release" => {
                let _ = release.send(true);
            }
            other => return Err(super::error::failed(format!("{other:?} is nothing that a worker can do"))),
        }
    }
    shutdown.cancel();
    while let Some(done) = running.join_next().await {
        done.unwrap_or(Ok(()))?;
    }
    Ok(())
}

fn functions(seen: &Arc<Seen>, released: &watch::Receiver<bool>) -> FunctionRegistry {
    let mut functions = FunctionRegistry::new();
    let of_noop = seen.clone();
    functions.register(MODULE, NOOP, move |_: IgnoredAny, context: FunctionContext| {
        of_noop.start(&context);
        of_noop.end();
        async { Ok::<_, FunctionError>(()) }
    });
    let (of_wait, released) = (seen.clone(), released.clone());
    functions.register(MODULE, WAIT, move |_: IgnoredAny, context: FunctionContext| {
        of_wait.start(&context);
        let (seen, mut released) = (of_wait.clone(), released.clone());
        async move {
            // Where nobody can release it any more, it is over as well.
            let _ = released.wait_for(|released| *released).await;
            seen.end();
            Ok::<_, FunctionError>(())
        }
    });
    functions
}

fn build(args: &WorkerArgs, functions: &FunctionRegistry) -> Result<Vec<Worker>> {
    let tls = match (&args.ca, &args.certificate, &args.key) {
        (Some(ca), Some(certificate), Some(key)) => shown(ca, certificate, key)?,
        _ => ClientTls::default(),
    };
    let one = |number: usize| {
        let builder = Worker::builder()
            .endpoint(&args.coordinator)
            .api_key(args.token.as_deref().unwrap_or_default())
            .tls(tls.clone())
            .name(format!("{}-{number}", args.name))
            .slots(args.slots)
            .drain_timeout(Duration::from_secs(5))
            .functions(functions.clone());
        match &args.journal {
            Some(directory) => Ok(builder.journal_in(directory.join(number.to_string()))?.build()?),
            None => Ok(builder.build()?),
        }
    };
    (0..args.count).map(one).collect()
}

fn taken(seen: &Seen) -> String {
    let starts = std::mem::take(&mut *seen.starts.lock().unwrap_or_else(PoisonError::into_inner));
    let mut text = String::with_capacity(starts.len() * 60 + 4);
    for (id, at) in starts {
        text.push_str(&format!("{} {at}\n", id.simple()));
    }
    text.push_str("end\n");
    text
}

fn answer(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).tried(|| "answering".into())
}
