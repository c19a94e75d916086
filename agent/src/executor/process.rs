//! Runs one process under a [supervisor](super::supervise): its output, its stop, its end.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::io::PipeReader;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use orrery_proto::v1::LogStream;
use orrery_sdk::executor::{Context, Usage};
use orrery_sdk::secret::Redactor;
use rustix::process::{Pid, Signal};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::pipe::Receiver;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Child;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::ExecutorSettings;
use super::capture::Capture;
use super::environment;
use super::leader::kill_children;
use super::supervise::{Note, Order, Overdue, Word, guard, shared};
use crate::sandbox::{Beneath, Confinement, Hits};

/// How long to wait for the end of the pipes after the end of the process: somebody who escaped may hold them.
const DRAIN: Duration = Duration::from_millis(500);
/// How long a supervisor may take to kill; then it hangs and is killed itself.
const SUPERVISOR: Duration = Duration::from_secs(2);
/// What is added to the longest that a process may run in good order, before its supervisor kills it.
const SLACK: Duration = Duration::from_secs(1);

/// What to run.
pub(super) struct Launch {
    pub(super) program: String,
    pub(super) args: Vec<String>,
    pub(super) directory: Option<String>,
    /// All of it.
    pub(super) environment: BTreeMap<String, String>,
    /// What it reads from stdin; nothing where absent.
    pub(super) stdin: Option<Beneath>,
    /// How to contain it; absent where it is as any process.
    pub(super) confinement: Option<Confinement>,
}

/// What came of it.
pub(super) struct Finished {
    pub(super) end: End,
    pub(super) stdout: Capture,
    pub(super) stderr: Capture,
    pub(super) usage: Usage,
    /// What its limits have done to it.
    pub(super) hits: Hits,
}

/// How a process ended.
pub(super) enum End {
    /// With this code.
    Exited(i32),
    /// By a signal of this number.
    Killed(i32),
    /// By its supervisor, since its time was over and the agent had not stopped it.
    Deadline,
    /// By its supervisor, since the agent had not told that its lease was renewed.
    LeaseOver,
    /// It never began.
    NotStarted(io::Error),
    /// It never began, since it could not be contained.
    Uncontained(String),
    /// Its supervisor did not tell.
    Lost(String),
}

/// Runs a process to its end, or stops it as `context` asks. When it returns, or is dropped, the process and its group are gone.
pub(super) async fn run(settings: &ExecutorSettings, launch: Launch, longest: Duration, context: &Context) -> Finished {
    let mut stdout = Capture::new(settings.max_output_bytes);
    let mut stderr = Capture::new(settings.max_output_bytes);
    let deadline = longest.saturating_add(settings.grace).saturating_add(SLACK);
    let trusted_until = context.trust().map(|trust| *trust.borrow());
    let group = launch.confinement.as_ref().map(|confinement| confinement.group.clone());
    let Told { end, usage, hits } = match Supervisor::start(settings, launch, deadline, trusted_until) {
        Ok(supervisor) => supervisor.follow(settings.grace, context, (&mut stdout, &mut stderr)).await,
        Err(error) => Told::of(End::Lost(format!("the supervisor of processes cannot be started: {error}"))),
    };
    if let (End::Lost(_), Some(group)) = (&end, group) {
        // It was the supervisor's to end. Waits for what it kills.
        let _ = tokio::task::spawn_blocking(move || drop(group.left_behind())).await;
    }
    Finished { end, stdout, stderr, usage, hits }
}

/// What a supervisor tells of the end.
struct Told {
    end: End,
    usage: Usage,
    hits: Hits,
}

impl Told {
    fn of(end: End) -> Self {
        Self { end, usage: Usage::default(), hits: Hits::default() }
    }
}

/// The agent's end of a supervisor.
struct Supervisor {
    order: Vec<u8>,
    read: OwnedReadHalf,
    /// Its end, by whatever drop, is what kills the process.
    write: OwnedWriteHalf,
    pipes: (Receiver, Receiver),
    /// Where it is a process of its own.
    child: Option<Child>,
}

impl Supervisor {
    fn start(
        settings: &ExecutorSettings,
        launch: Launch,
        deadline: Duration,
        trusted_until: Option<Instant>,
    ) -> io::Result<Self> {
        let Launch { program, args, directory, environment, stdin, confinement } = launch;
        let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX).min(u64::from(u32::MAX));
        let trusted_until_ns = trusted_until.map(shared);
        let order =
            line(&Order { program, args, directory, environment, deadline_ms, trusted_until_ns, confinement, stdin })?;
        let (ours, theirs) = StdUnixStream::pair()?;
        let (stdout, their_stdout) = io::pipe()?;
        let (stderr, their_stderr) = io::pipe()?;
        ours.set_nonblocking(true)?;
        let (read, write) = UnixStream::from_std(ours)?.into_split();
        let pipes = (receiver(stdout)?, receiver(stderr)?);
        let child = match settings.supervisor.as_deref() {
            Some([program, args @ ..]) => Some(
                tokio::process::Command::new(program)
                    .args(args)
                    .env_clear()
                    .env("PATH", environment::path())
                    .stdin(Stdio::from(OwnedFd::from(theirs)))
                    .stdout(their_stdout)
                    .stderr(their_stderr)
                    // Apart from the agent's, so that what is meant for the agent, such as Ctrl-C, does not hit it.
                    .process_group(0)
                    .spawn()?,
            ),
            _ => {
                // A task of its own, so that it ends its work also where the run is dropped.
                tokio::spawn(guard(theirs, their_stdout.into(), their_stderr.into(), None));
                None
            }
        };
        Ok(Self { order, read, write, pipes, child })
    }

    async fn follow(self, grace: Duration, context: &Context, (stdout, stderr): (&mut Capture, &mut Capture)) -> Told {
        let Self { order, read, write, pipes, mut child } = self;
        let pid = child.as_ref().and_then(Child::id);
        let pumps = async {
            tokio::join!(
                pump(pipes.0, LogStream::Stdout, context, stdout),
                pump(pipes.1, LogStream::Stderr, context, stderr)
            )
        };
        tokio::pin!(pumps);
        let ending = ending(read);
        tokio::pin!(ending);
        let stopper = stop(order, write, grace, pid, context);
        tokio::pin!(stopper);
        let mut pumped = false;
        let told = loop {
            tokio::select! {
                told = &mut ending => break told,
                _ = &mut pumps, if !pumped => pumped = true,
                never = &mut stopper => match never {},
            }
        };
        if let Some(child) = &mut child {
            // It has told all and ends by itself.
            let _ = timeout(SUPERVISOR, child.wait()).await;
        }
        if !pumped {
            let _ = timeout(DRAIN, &mut pumps).await;
        }
        told
    }
}

fn receiver(pipe: PipeReader) -> io::Result<Receiver> {
    Receiver::from_owned_fd(OwnedFd::from(pipe))
}

/// Reads output to its end. What is read goes to the log at once and, within bounds, to the result.
async fn pump(mut pipe: Receiver, stream: LogStream, context: &Context, capture: &mut Capture) {
    // Pieces are copied out of it, so that a short one in a queue of the log does not hold a long buffer.
    let mut buffer = vec![0; 16 * 1024];
    // What is captured is a part: a secret that is cut in two would not be known any more.
    let mut redacted = context.redactor().map(Redactor::stream);
    loop {
        match pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => {
                capture.push(&redacted.map(|mut stream| stream.finish()).unwrap_or_default());
                return;
            }
            Ok(read) => {
                match &mut redacted {
                    Some(stream) => capture.push(&stream.push(&buffer[..read])),
                    None => capture.push(&buffer[..read]),
                }
                context.log(stream, Bytes::copy_from_slice(&buffer[..read]));
            }
        }
    }
}

/// What the supervisor tells of the end.
async fn ending(read: OwnedReadHalf) -> Told {
    let mut lines = BufReader::new(read).lines();
    let mut group = None;
    let lost = loop {
        let line = match lines.next_line().await {
            Ok(Some(line)) => line,
            Ok(None) => break "it ended without a word".to_owned(),
            Err(error) => break error.to_string(),
        };
        match serde_json::from_str(&line) {
            Ok(Word::Started { pid }) => group = Pid::from_raw(pid),
            Ok(Word::Refused { errno, message }) => {
                let error = errno.map_or_else(|| io::Error::other(message), io::Error::from_raw_os_error);
                return Told::of(End::NotStarted(error));
            }
            Ok(Word::Uncontained { message }) => return Told::of(End::Uncontained(message)),
            Ok(Word::Ended { code, signal, overdue, max_rss_bytes, cpu_ms, hits }) => {
                let end = match (overdue, code, signal) {
                    (Some(Overdue::Deadline), ..) => End::Deadline,
                    (Some(Overdue::Lease), ..) => End::LeaseOver,
                    (_, Some(code), _) => End::Exited(code),
                    (_, None, signal) => End::Killed(signal.unwrap_or(0)),
                };
                return Told { end, usage: Word::usage(max_rss_bytes, cpu_ms), hits };
            }
            Err(error) => break format!("{line:?}: {error}"),
        }
    };
    if let Some(group) = group {
        // Somebody killed the supervisor: what it watched over must not go on by itself.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    Told::of(End::Lost(format!("the supervisor of the process failed: {lost}")))
}

/// Until the process is to be killed.
async fn accompany(write: &mut OwnedWriteHalf, grace: Duration, context: &Context) {
    let mut trust = context.trust();
    let mut kill_at = None;
    loop {
        let note = tokio::select! {
            biased;
            () = context.revoked() => return,
            () = async { sleep_until(kill_at.unwrap_or_else(Instant::now)).await }, if kill_at.is_some() => return,
            _ = context.stopped(), if kill_at.is_none() => {
                kill_at = Some(Instant::now() + grace);
                Note::Terminate
            }
            until = renewed(&mut trust) => Note::Trusted { until_ns: shared(until) },
        };
        let Ok(note) = line(&note) else { return };
        // A supervisor that does not read hangs: it is killed with all that it has started, once its socket has ended.
        if !timeout(SUPERVISOR, write.write_all(&note)).await.is_ok_and(|written| written.is_ok()) {
            return;
        }
    }
}

/// The next change of until when the lease is trusted.
async fn renewed(trust: &mut Option<watch::Receiver<Instant>>) -> Instant {
    if let Some(trust) = trust
        && trust.changed().await.is_ok()
    {
        return *trust.borrow_and_update();
    }
    // There is no lease, or its session is over, of which the context tells.
    std::future::pending().await
}

fn line(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// Sends the order and tells of renewals of the lease, until there is a reason to stop: SIGTERM, after the grace SIGKILL; once the lease is
/// lost SIGKILL at once.
async fn stop(
    order: Vec<u8>,
    mut write: OwnedWriteHalf,
    grace: Duration,
    supervisor: Option<u32>,
    context: &Context,
) -> Infallible {
    tokio::select! {
        biased;
        _ = context.stopped() => {}
        // What goes wrong here is told by the supervisor, or by its silence.
        _ = write.write_all(&order) => accompany(&mut write, grace, context).await,
    }
    drop(write);
    sleep(SUPERVISOR).await;
    if let Some(pid) = supervisor.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
        // Whatever it has started, and whether or not it has told of it; once it is gone, nobody finds those.
        let _ = timeout(DRAIN, kill_children(pid)).await;
        // It is not reaped before it has ended, so the number is its own.
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
    std::future::pending().await
}
