use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::error::{Result, Tried, path, world};
use crate::wait::until;

/// The number of a process that may be killed from elsewhere, as by a proxy at a commit; 0 while there is none.
#[derive(Clone, Debug, Default)]
pub struct Victim(Arc<AtomicI32>);

impl Victim {
    /// Sends a signal to it, if there is one. It is not reaped before its owner has taken it out of here, so it is nobody else's number.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.0.load(Ordering::SeqCst)) {
            let _ = kill_process(pid, signal);
        }
    }
}

/// A program that the harness runs. Killed when it is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pid: i32,
    out: PathBuf,
    err: PathBuf,
    victim: Victim,
}

impl Process {
    /// Starts a program; what it prints goes to files of its own in `logs`.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start(name: &str, logs: &Path, mut command: Command) -> Result<Self> {
        let number = (1..).find(|n: &u32| !logs.join(format!("{name}-{n}.out")).exists()).unwrap_or_default();
        let file = |suffix: &str| logs.join(format!("{name}-{number}.{suffix}"));
        let (out, err) = (file("out"), file("err"));
        let open = |at: &Path| File::create(at).tried(path("creating", at));
        command.stdin(Stdio::null()).stdout(open(&out)?).stderr(open(&err)?).kill_on_drop(true);
        let child = command.spawn().tried(|| format!("starting {name}"))?;
        let pid =
            child.id().and_then(|pid| i32::try_from(pid).ok()).ok_or_else(|| world(format!("{name} has no pid")))?;
        Ok(Self { name: name.to_owned(), child, pid, out, err, victim: Victim::default() })
    }

    /// Lets whoever holds this handle signal it, until it is reaped.
    pub fn exposed_by(mut self, victim: &Victim) -> Self {
        victim.0.store(self.pid, Ordering::SeqCst);
        self.victim = victim.clone();
        self
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// The first whole line of its standard output that begins so.
    ///
    /// # Errors
    /// Where it ends first, or takes too long.
    pub async fn line(&mut self, beginning: &str, within: Duration) -> Result<String> {
        let what = format!("{} prints {beginning:?}", self.name);
        until(&what, within, async || {
            let text = fs::read_to_string(&self.out).unwrap_or_default();
            let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
            let found = whole.lines().find(|line| line.starts_with(beginning)).map(ToOwned::to_owned);
            if found.is_none() && self.has_ended() {
                let said = fs::read_to_string(&self.err).unwrap_or_default();
                return Err(world(format!("{} has ended before it printed {beginning:?}: {said}", self.name)));
            }
            Ok(found)
        })
        .await
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid) {
            let _ = kill_process(pid, signal);
        }
    }

    /// SIGKILL, and its end.
    pub async fn kill(mut self) {
        self.victim.0.store(0, Ordering::SeqCst);
        let _ = self.child.kill().await;
    }

    /// A signal that it heeds, and its end; SIGKILL where it takes longer. Whether it ended in time.
    pub async fn end_by(mut self, signal: Signal, within: Duration) -> bool {
        self.signal(signal);
        let in_time = timeout(within, self.child.wait()).await.is_ok();
        self.kill().await;
        in_time
    }

    /// Resident memory in MiB; none once it is gone.
    pub fn resident_mib(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? / 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.victim.0.store(0, Ordering::SeqCst);
    }
}

/// A command that ends with the harness, however that ends.
pub fn bound(program: &Path) -> Command {
    let setpriv = Path::new("/usr/bin/setpriv");
    if setpriv.exists() {
        let mut command = Command::new(setpriv);
        command.args(["--pdeathsig", "KILL"]).arg(program);
        return command;
    }
    Command::new(program)
}
