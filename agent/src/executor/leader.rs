use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions};
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};
use tokio::time::sleep;
use wait4::{ResUse, Wait4 as _};

/// A child that leads a process group of its own. Dropping it kills the group.
pub(super) struct Leader {
    /// Taken once it is reaped: its pid, and with it the group's, may be somebody else's from then on.
    child: Option<Child>,
    pid: Pid,
    exits: SignalStream,
}

impl Leader {
    /// Starts a command in a group of its own.
    ///
    /// # Errors
    /// Where the system refuses to start it.
    pub(super) fn spawn(mut command: Command) -> io::Result<Self> {
        // Before the start, so that no exit goes unnoticed.
        let exits = signal(SignalKind::child())?;
        let child = command.process_group(0).spawn()?;
        let pid = Pid::from_child(&child);
        Ok(Self { child: Some(child), pid, exits })
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends a signal to the whole group. The leader is not reaped before [`Leader::reap`], so the group cannot be a stranger's.
    pub(super) fn signal(&self, signal: Signal) {
        // Fails where the group is gone, which is as good.
        let _ = rustix::process::kill_process_group(self.pid, signal);
    }

    /// Completes at the next exit of any child, this one or another.
    pub(super) async fn some_exit(&mut self) {
        self.exits.recv().await;
    }

    /// Whether it has ended. It stays a zombie.
    pub(super) fn has_exited(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(rustix::process::waitid(WaitId::Pid(self.pid), options), Ok(None))
    }

    /// Takes the exit status and what it and those it waited for have used. To be called once it has ended.
    ///
    /// # Errors
    /// Where somebody else has reaped it, or it still runs.
    pub(super) fn reap(mut self) -> io::Result<ResUse> {
        let mut child = self.child.take().ok_or_else(|| io::Error::other("reaped twice"))?;
        match child.try_wait4() {
            Ok(Some(used)) => Ok(used),
            Ok(None) => {
                self.child = Some(child);
                Err(io::Error::other("it still runs"))
            }
            Err(error) => Err(error),
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        self.signal(Signal::KILL);
        // Reaped apart, since dying takes a moment and a drop must not block; without a thread it stays a zombie, which harms little.
        let _ = std::thread::Builder::new().name("reap".into()).spawn(move || child.wait());
    }
}

/// Reaps what has ended among the children of this process, but for `leader`: orphans that it adopted as their subreaper.
pub(super) fn reap_orphans(leader: Option<Pid>) {
    for pid in children().into_iter().filter(|pid| Some(*pid) != leader) {
        let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

/// Kills all children of this process; true once there are none. Killing makes orphans of their children, which come to this process in
/// their turn: ask again until it is true.
pub(super) fn kill_orphans() -> bool {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Err(rustix::io::Errno::INTR) | Ok(Some(_)) => {}
            Err(_) => return true,
            Ok(None) => break,
        }
    }
    for pid in children() {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
    false
}

/// Kills the children of a supervisor that hangs, until none of them lives. It adopts the orphans that this makes, so that they are found
/// here in their turn; and it reaps none, so that no number is somebody else's meanwhile.
pub(super) async fn kill_children(supervisor: Pid) {
    loop {
        let all = children_of(supervisor);
        let living: Vec<Pid> = all.iter().copied().filter(|pid| lives(*pid)).collect();
        // What has ended since the list was made has left its own children to the supervisor by now: they are in the next one.
        if living.is_empty() && children_of(supervisor) == all {
            return;
        }
        for pid in living {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// The descendants of a process, those that it adopted included.
pub(super) fn descendants_of(process: Pid) -> Vec<Pid> {
    let mut all = children_of(process);
    let mut next = 0;
    while let Some(parent) = all.get(next).copied() {
        all.extend(children_of(parent));
        next += 1;
    }
    all
}

/// The children of this process.
fn children() -> Vec<Pid> {
    children_of(rustix::process::getpid())
}

/// The children of a process that starts them in its main thread.
fn children_of(process: Pid) -> Vec<Pid> {
    let process = process.as_raw_nonzero().get();
    // Orphans come to the main thread. Not every kernel has this file.
    if let Ok(list) = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children")) {
        return list.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect();
    }
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let its = |pid: &i32| stat(*pid, 1).is_some_and(|parent| parent == process.to_string());
    pids.filter(its).filter_map(Pid::from_raw).collect()
}

/// Whether it runs or is to run; a zombie does not.
fn lives(pid: Pid) -> bool {
    stat(pid.as_raw_nonzero().get(), 0).is_some_and(|state| state != "Z" && state != "X")
}

/// A field of `pid (name) state ppid ...`, counted from the state. The name may hold anything, parentheses too.
fn stat(pid: i32, field: usize) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(field).map(ToOwned::to_owned)
}
