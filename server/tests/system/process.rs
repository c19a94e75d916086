use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::wait::until;

/// A process of the test: killed and reaped at the end, however the test ends.
pub(crate) struct Process {
    name: String,
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Process {
    /// Starts `orrery` with nothing in its environment but what is given. What it prints goes to files in `directory`.
    pub(crate) fn orrery(name: &str, directory: &Path, args: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orrery"));
        command.args(args).env_clear().envs(environment.iter().copied()).current_dir(directory);
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        Self::start(name, directory, command)
    }

    /// The same, with a wall clock that is off by so much, such as `+1h`. What is monotonic stays so.
    pub(crate) fn orrery_off(
        offset: &str,
        name: &str,
        directory: &Path,
        args: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let mut command = Command::new("faketime");
        command.args(["-f", offset, env!("CARGO_BIN_EXE_orrery")]).args(args);
        command.env_clear().envs(environment.iter().copied()).env("DONT_FAKE_MONOTONIC", "1").current_dir(directory);
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        Self::start(name, directory, command)
    }

    /// Starts any program.
    pub(crate) fn start(name: &str, directory: &Path, mut command: Command) -> Self {
        let file = |suffix: &str| {
            // Several processes of one name have files of their own.
            let free = |n: &u32| !directory.join(format!("{name}-{n}.{suffix}")).exists();
            let number = (1..).find(free).unwrap();
            directory.join(format!("{name}-{number}.{suffix}"))
        };
        let (out, err) = (file("out"), file("err"));
        // It leads a group of its own: faketime waits for the program that it starts, and would leave it behind.
        command.process_group(0);
        command.stdin(Stdio::null()).stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
        let child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { name: name.to_owned(), child, out, err }
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub(crate) fn stdout(&self) -> String {
        fs::read_to_string(&self.out).unwrap()
    }

    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(&self.err).unwrap()
    }

    /// The first whole line of its standard output that begins so.
    pub(crate) async fn line(&mut self, beginning: &str, within: Duration) -> String {
        until(&format!("{} prints {beginning:?}", self.name), within, async || {
            let text = self.stdout();
            let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
            let found = whole.lines().find(|line| line.starts_with(beginning)).map(ToOwned::to_owned);
            if found.is_none()
                && let Some(status) = self.child.try_wait().unwrap()
            {
                panic!("{} has ended ({status}) before it printed {beginning:?}", self.name);
            }
            found
        })
        .await
    }

    /// Waits until it has said this on its standard error.
    pub(crate) async fn says(&self, part: &str, within: Duration) {
        let what = format!("{} says {part:?}", self.name);
        until(&what, within, async || self.stderr().contains(part).then_some(())).await;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process_group(Pid::from_raw(self.pid()).unwrap(), signal).unwrap();
    }

    /// SIGKILL, and its end.
    pub(crate) fn kill(&mut self) {
        // Whoever has been waited for may have given its number to somebody else.
        if !self.has_ended() {
            self.signal(Signal::KILL);
        }
        self.child.wait().unwrap();
    }

    /// Ends it by a signal that it heeds.
    pub(crate) fn end_by(&mut self, signal: Signal) {
        if self.child.try_wait().unwrap().is_none() {
            self.signal(signal);
            self.child.wait().unwrap();
        }
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(&mut self, within: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        until(&what, within, async || self.child.try_wait().unwrap()).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let text = fs::read_to_string(&self.err).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("--- {} said at last:\n{}", self.name, lines[lines.len().saturating_sub(30)..].join("\n"));
        }
    }
}

/// Whether a process runs; a zombie does not.
pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
}
