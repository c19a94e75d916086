//! What stands between the agent and a process: starts it, passes signals on, and leaves nothing of it behind.
//!
//! The agent speaks to it over a socket, a line of JSON each: an [`Order`], then [`Note`]s. The end of that direction means SIGKILL, and
//! so does, by that, the agent's death. So does the end of the lease, where the agent has not told of its renewal: an agent that is
//! frozen keeps its socket open, and somebody else may run the work by then. The other way come [`Word`]s. Within the agent it runs as a
//! task, apart from it as a process whose stdin is the socket; both are the same code.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use orrery_sdk::executor::Usage;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use wait4::ResUse;

use super::entrance::{Begun, NOT_STARTED, begin};
use super::leader::{Leader, kill_orphans, reap_orphans};
use crate::sandbox::{self, Beneath, Confinement, Group, Hits};

/// How long the killing of orphans may take: those that do not die by SIGKILL hang in the kernel, and waiting longer helps nobody.
const ORPHANS: Duration = Duration::from_secs(5);

/// What to start.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) program: String,
    pub(super) args: Vec<String>,
    pub(super) directory: Option<String>,
    /// All of it; nothing is inherited.
    pub(super) environment: BTreeMap<String, String>,
    /// SIGKILL comes this many milliseconds after the start at the latest, also where the agent hangs.
    pub(super) deadline_ms: u64,
    /// Until when the lease is trusted, on the clock of [`monotonic`]; absent where there is none.
    pub(super) trusted_until_ns: Option<u64>,
    /// How to contain it; absent where it is as any process.
    pub(super) confinement: Option<Confinement>,
    /// What it reads from stdin; nothing where absent.
    pub(super) stdin: Option<Beneath>,
}

/// What follows the order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Note {
    /// SIGTERM to the group.
    Terminate,
    /// The lease is trusted until this instant, on the clock of [`monotonic`].
    Trusted { until_ns: u64 },
}

/// Nanoseconds on the clock that all processes of this host share and nobody sets. An instant on it means the same however late it is
/// read, which a span of time would not.
pub(super) fn monotonic() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let (seconds, nanos) = (u64::try_from(now.tv_sec).unwrap_or(0), u64::try_from(now.tv_nsec).unwrap_or(0));
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// An instant of this process on that clock.
pub(super) fn shared(at: Instant) -> u64 {
    let left = at.saturating_duration_since(Instant::now());
    monotonic().saturating_add(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX))
}

/// An instant on that clock for this process.
fn own(ns: u64) -> Instant {
    Instant::now() + Duration::from_nanos(ns.saturating_sub(monotonic()))
}

/// Why a supervisor has killed by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Overdue {
    /// The time of the process is over.
    Deadline,
    /// Its lease is, or the agent is frozen and cannot say that it has been renewed.
    Lease,
}

/// What there is to tell of a process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Word {
    /// It could not be started; the error's number, if it has one, and text.
    Refused { errno: Option<i32>, message: String },
    /// It could not be contained as it must be, and was not started.
    Uncontained { message: String },
    /// It runs and leads the group of this number.
    Started { pid: i32 },
    /// It has ended, and its group with it.
    Ended {
        code: Option<i32>,
        signal: Option<i32>,
        overdue: Option<Overdue>,
        max_rss_bytes: u64,
        cpu_ms: i64,
        hits: Hits,
    },
}

impl Word {
    pub(super) fn refused(error: &io::Error) -> Self {
        Self::Refused { errno: error.raw_os_error(), message: error.to_string() }
    }

    fn ended(used: &ResUse, overdue: Option<Overdue>, hits: Hits) -> Self {
        let cpu = used.rusage.utime + used.rusage.stime;
        Self::Ended {
            code: used.status.code(),
            signal: used.status.signal(),
            overdue,
            max_rss_bytes: used.rusage.maxrss,
            cpu_ms: i64::try_from(cpu.as_millis()).unwrap_or(i64::MAX),
            hits,
        }
    }

    /// What was used, as an outcome has it.
    pub(super) fn usage(max_rss_bytes: u64, cpu_ms: i64) -> Usage {
        // Exact up to 2^53 bytes.
        #[allow(clippy::cast_precision_loss)]
        let memory = (max_rss_bytes > 0).then_some(max_rss_bytes as f64 / (1024.0 * 1024.0));
        Usage { memory_peak_mb: memory, cpu_time_ms: Some(cpu_ms) }
    }
}

/// The hidden subcommand `supervise` of the agent: starts the one process that the agent orders over stdin, and kills it with all its
/// descendants when it is told to, at its deadline, at the end of its lease, or when the agent is gone. `args` are what follows the
/// subcommand: nothing, or `--inside` where a supervisor starts it once more, to contain the process.
pub fn supervise(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    // It knows what its one job may know and others may not: none of the same user is to read its memory.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    if let Some(arg) = args.into_iter().next() {
        if arg == "--inside" {
            return sandbox::inside();
        }
        eprintln!("supervise takes no argument such as {}: only an agent starts it", arg.to_string_lossy());
        return ExitCode::from(2);
    }
    match alone() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("supervise: {error}; only an agent starts it, with a socket as stdin");
            ExitCode::FAILURE
        }
    }
}

fn alone() -> io::Result<()> {
    let stream = StdUnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    stream.peer_addr()?;
    // Orphans of the process come here and not to init, so that none escapes by leaving the group.
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let terminate = signal(SignalKind::terminate())?;
        guard(stream, Stdio::inherit(), Stdio::inherit(), Some(terminate)).await
    })
}

/// Runs the one process that is ordered over `stream`. With `terminate`, the SIGTERMs to this process, it runs as a process of its own:
/// it passes them on and counts all children of this process as orphans of the one that it runs.
///
/// # Errors
/// Where the order cannot be read or nothing can be told to the agent.
pub(super) async fn guard(
    stream: StdUnixStream,
    stdout: Stdio,
    stderr: Stdio,
    mut terminate: Option<SignalStream>,
) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let (read, mut write) = UnixStream::from_std(stream)?.into_split();
    let mut notes = BufReader::new(read).lines();
    let order: Order = serde_json::from_str(&notes.next_line().await?.unwrap_or_default())?;
    let deadline = Instant::now() + Duration::from_millis(order.deadline_ms);
    let trusted_until = order.trusted_until_ns.map(own);
    let mut begun = match begin(order, stdout, stderr).await {
        Ok(begun) => begun,
        Err(why) => return say(&mut write, &why).await,
    };
    let leader = &begun.leader;
    // Not being able to tell is no reason to stop here: the agent's end of the socket is then closed, and that is seen below.
    let _ = say(&mut write, &Word::Started { pid: leader.pid().as_raw_nonzero().get() }).await;
    let overdue = watch(&mut begun, &mut notes, (deadline, trusted_until), terminate.as_mut()).await;
    let Begun { leader, container, group } = begun;
    // Nothing of the group outlives its leader, which is a zombie still, so that the group is its own.
    leader.signal(Signal::KILL);
    let used = leader.reap()?;
    let hits = group.as_ref().map(Group::hits).unwrap_or_default();
    let alone = terminate.is_some();
    let _ = timeout(ORPHANS, end_others(group.as_ref(), alone)).await;
    drop(group);
    let has_run = match container {
        Some(container) => container.has_run(&used).await,
        None => true,
    };
    let word = match has_run {
        false => Word::Uncontained { message: NOT_STARTED.to_owned() },
        true => Word::ended(&used, overdue, hits),
    };
    say(&mut write, &word).await
}

/// Until the leader has ended; why it was killed, if it was and nobody had asked for that.
async fn watch(
    begun: &mut Begun,
    notes: &mut Lines<BufReader<OwnedReadHalf>>,
    (deadline, mut trusted_until): (Instant, Option<Instant>),
    mut terminate: Option<&mut SignalStream>,
) -> Option<Overdue> {
    let alone = terminate.is_some();
    let Begun { leader, container, .. } = begun;
    let container = container.as_ref();
    let ask_to_end = |leader: &Leader| match container {
        Some(container) => container.signal(leader, Signal::TERM),
        None => leader.signal(Signal::TERM),
    };
    let (mut wanted, mut overdue) = (true, None);
    while !leader.has_exited() {
        tokio::select! {
            () = leader.some_exit() => {
                if alone {
                    reap_orphans(Some(leader.pid()));
                }
            }
            note = notes.next_line(), if wanted => match note.ok().flatten().map(|line| serde_json::from_str(&line)) {
                Some(Ok(Note::Terminate)) => ask_to_end(leader),
                Some(Ok(Note::Trusted { until_ns })) => trusted_until = Some(own(until_ns)),
                // Gone, or no agent that can be understood.
                None | Some(Err(_)) => {
                    wanted = false;
                    leader.signal(Signal::KILL);
                }
            },
            why = over(deadline, trusted_until), if overdue.is_none() => {
                overdue = Some(why);
                leader.signal(Signal::KILL);
            }
            () = terminated(&mut terminate) => ask_to_end(leader),
        }
    }
    overdue.filter(|_| wanted)
}

/// Waits until the process may not go on.
async fn over(deadline: Instant, trusted_until: Option<Instant>) -> Overdue {
    match trusted_until {
        Some(end) if end < deadline => {
            sleep_until(end).await;
            Overdue::Lease
        }
        _ => {
            sleep_until(deadline).await;
            Overdue::Deadline
        }
    }
}

async fn terminated(signals: &mut Option<&mut SignalStream>) {
    match signals {
        Some(signals) => drop(signals.recv().await),
        None => std::future::pending().await,
    }
}

/// Until nothing of the process is left: what is in its control group, and, for a supervisor of its own, what has become its child.
async fn end_others(group: Option<&Group>, alone: bool) {
    // Both each time, since a dying process may leave children behind.
    while !(group.is_none_or(Group::kill) & (!alone || kill_orphans())) {
        sleep(Duration::from_millis(5)).await;
    }
}

async fn say(write: &mut OwnedWriteHalf, word: &Word) -> io::Result<()> {
    let mut line = serde_json::to_vec(word)?;
    line.push(b'\n');
    write.write_all(&line).await
}
