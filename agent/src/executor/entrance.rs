//! How a supervisor starts its process: as it is, or through the step that contains it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::time::timeout;
use wait4::ResUse;

use super::leader::{Leader, descendants_of};
use super::supervise::{Order, Word};
use crate::sandbox::{Entry, Group, NotEntered};

/// How long the way into a sandbox may take. It takes milliseconds; a path that hangs, such as one of a network, takes for ever.
const ENTERING: Duration = Duration::from_secs(10);

/// What to say where bubblewrap has begun and not come to the program.
pub(super) const NOT_STARTED: &str = "bubblewrap could not start it, and says why on stderr";

/// A process that has begun.
pub(super) struct Begun {
    pub(super) leader: Leader,
    pub(super) container: Option<Container>,
    pub(super) group: Option<Group>,
}

/// What bubblewrap tells of a container.
pub(super) struct Container {
    told: Lines<BufReader<OwnedReadHalf>>,
    /// The first process inside.
    first: Pid,
}

/// A line of bubblewrap's `--json-status-fd`; see bwrap(1).
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Status {
    child_pid: Option<i32>,
    exit_code: Option<i32>,
}

/// Starts what is ordered.
///
/// # Errors
/// What to say where it does not begin.
pub(super) async fn begin(order: Order, stdout: Stdio, stderr: Stdio) -> Result<Begun, Word> {
    let Some(confinement) = order.confinement.clone() else {
        let leader = plain(order, stdout, stderr).map_err(|error| Word::refused(&error))?;
        return Ok(Begun { leader, container: None, group: None });
    };
    let uncontained = |message: String| Word::Uncontained { message };
    let (plan, group) = confinement.begin().map_err(|e| uncontained(format!("its control group: {e}")))?;
    let entry = Entry {
        plan,
        program: order.program,
        args: order.args,
        directory: order.directory.map(Into::into),
        environment: order.environment,
        stdin: order.stdin,
    };
    let entered = enter(&entry, stdout, stderr);
    let (leader, container) = match timeout(ENTERING, entered).await {
        Ok(Ok(entered)) => entered,
        Ok(Err(NotEntered::NotStarted { errno, message })) => return Err(Word::Refused { errno, message }),
        Ok(Err(NotEntered::Uncontained(message))) => return Err(uncontained(message)),
        Err(_) => return Err(uncontained(format!("it took longer than {} s", ENTERING.as_secs()))),
    };
    Ok(Begun { leader, container, group })
}

fn plain(order: Order, stdout: Stdio, stderr: Stdio) -> io::Result<Leader> {
    let stdin = match &order.stdin {
        Some(source) => Stdio::from(source.open()?),
        None => Stdio::null(),
    };
    let mut command = Command::new(order.program);
    command.args(order.args).env_clear().envs(order.environment);
    if let Some(directory) = order.directory {
        command.current_dir(directory);
    }
    command.stdin(stdin).stdout(stdout).stderr(stderr);
    Leader::spawn(command)
}

/// Starts this program once more, which contains itself and becomes the one that is wanted.
async fn enter(entry: &Entry, stdout: Stdio, stderr: Stdio) -> Result<(Leader, Option<Container>), NotEntered> {
    let failed = |error: io::Error| NotEntered::Uncontained(error.to_string());
    let (leader, ours) = spawn(stdout, stderr).map_err(failed)?;
    let (read, mut write) = ours.into_split();
    let text = serde_json::to_vec(entry).map_err(|error| failed(error.into()))?;
    write.write_all(&text).await.map_err(failed)?;
    // The end of the entry.
    drop(write);
    let mut told = BufReader::new(read).lines();
    // It closes its end when the program begins; bubblewrap keeps it, and tells of the container.
    let Some(line) = told.next_line().await.map_err(failed)? else {
        if entry.plan.is_container() {
            return Err(NotEntered::Uncontained(NOT_STARTED.to_owned()));
        }
        return Ok((leader, None));
    };
    match serde_json::from_str(&line) {
        Ok(Status { child_pid: Some(pid), .. }) if Pid::from_raw(pid).is_some() => {
            let first = Pid::from_raw(pid).unwrap_or(leader.pid());
            Ok((leader, Some(Container { told, first })))
        }
        _ => Err(serde_json::from_str(&line).unwrap_or(NotEntered::Uncontained(line))),
    }
}

fn spawn(stdout: Stdio, stderr: Stdio) -> io::Result<(Leader, UnixStream)> {
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    // This very program, also where its file has been replaced meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command.args(std::env::args_os().skip(1)).arg("--inside").env_clear();
    command.stdin(OwnedFd::from(theirs)).stdout(stdout).stderr(stderr);
    Ok((Leader::spawn(command)?, UnixStream::from_std(ours)?))
}

impl Container {
    /// Sends a signal to what runs inside. Neither bubblewrap nor the first process inside may have it: one would end all the others at
    /// once, and the other would not hand it on.
    pub(super) fn signal(&self, leader: &Leader, signal: Signal) {
        let inside = descendants_of(self.first);
        if inside.is_empty() {
            return leader.signal(signal);
        }
        for pid in inside {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Whether the program has begun, given how bubblewrap ended: it tells of an exit code only then. One that was killed tells nothing.
    pub(super) async fn has_run(mut self, used: &ResUse) -> bool {
        let lines = async {
            while let Ok(Some(line)) = self.told.next_line().await {
                if serde_json::from_str::<Status>(&line).is_ok_and(|status| status.exit_code.is_some()) {
                    return true;
                }
            }
            false
        };
        timeout(Duration::from_secs(1), lines).await.unwrap_or(false) || used.status.code().is_none_or(|code| code != 1)
    }
}
