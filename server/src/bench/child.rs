use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::error::{Result, Tried, failed, path};

/// Of the environment, what programs that are measured inherit: nothing that would change what they do unseen.
const INHERITED: [&str; 5] = ["PATH", "HOME", "TMPDIR", "RUST_LOG", "TOKIO_WORKER_THREADS"];

/// A process that is measured. It ends with this value, and with the bench, however that ends.
#[derive(Debug)]
pub(super) struct Child {
    name: String,
    process: tokio::process::Child,
    pid: i32,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    log: PathBuf,
}

impl Child {
    /// Starts a program. What it says on standard error goes to a file in `directory`.
    pub(super) fn start(name: &str, directory: &Path, mut command: Command) -> Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).tried(path("opening", &log))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file);
        // In a group of its own: Ctrl-C is for the bench, which ends the others in order.
        command.kill_on_drop(true).process_group(0);
        let mut process = command.spawn().tried(|| format!("starting {name}"))?;
        let pid = process.id().and_then(|pid| i32::try_from(pid).ok());
        match (pid, process.stdin.take(), process.stdout.take()) {
            (Some(pid), Some(input), Some(output)) => {
                let output = BufReader::new(output).lines();
                Ok(Self { name: name.to_owned(), process, pid, input, output, log })
            }
            _ => Err(failed(format!("{name} has ended at once"))),
        }
    }

    /// This program with these arguments.
    pub(super) fn orrery(args: &[&str]) -> Result<Command> {
        let program = std::env::current_exe().tried(|| "finding this program".into())?;
        let mut command = bound(&program);
        command.args(args).env_clear();
        command.envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        Ok(command)
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// The next line of its standard output.
    ///
    /// # Errors
    /// Where it ends first, or takes too long.
    pub(super) async fn line(&mut self, within: Duration) -> Result<String> {
        match timeout(within, self.output.next_line()).await {
            Ok(Ok(Some(line))) => Ok(line),
            Ok(_) => Err(failed(format!("{} has ended: {}", self.name, self.last_words()))),
            Err(_) => {
                Err(failed(format!("{} said nothing for {} s: {}", self.name, within.as_secs(), self.last_words())))
            }
        }
    }

    /// The next line of its standard output that begins so.
    ///
    /// # Errors
    /// Where it ends first, or is silent for too long.
    pub(super) async fn line_with(&mut self, beginning: &str, within: Duration) -> Result<String> {
        loop {
            let line = self.line(within).await?;
            if line.starts_with(beginning) {
                return Ok(line);
            }
        }
    }

    /// Writes a line to its standard input.
    ///
    /// # Errors
    /// Where it has ended.
    pub(super) async fn tell(&mut self, line: &str) -> Result<()> {
        let told = self.input.write_all(format!("{line}\n").as_bytes()).await;
        told.tried(|| format!("talking to {} ({})", self.name, self.last_words()))
    }

    /// A signal that it heeds, and its end; SIGKILL where it takes longer.
    pub(super) async fn end_by(mut self, signal: Signal, within: Duration) {
        if let Some(pid) = Pid::from_raw(self.pid) {
            let _ = kill_process(pid, signal);
        }
        if timeout(within, self.process.wait()).await.is_err() {
            let _ = self.process.kill().await;
        }
    }

    /// What it said at last, where it has ended.
    pub(super) fn ended(&mut self) -> Option<String> {
        (!matches!(self.process.try_wait(), Ok(None))).then(|| self.last_words())
    }

    /// The end of its standard input, and its own; SIGKILL where it takes longer.
    pub(super) async fn end(self, within: Duration) {
        let Self { mut process, input, .. } = self;
        drop(input);
        if timeout(within, process.wait()).await.is_err() {
            let _ = process.kill().await;
        }
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

/// A command that ends with the bench even where that is killed, if the system can do it.
pub(super) fn bound(program: &Path) -> Command {
    let setpriv = Path::new("/usr/bin/setpriv");
    if setpriv.exists() {
        let mut command = Command::new(setpriv);
        command.args(["--pdeathsig", "KILL"]).arg(program);
        return command;
    }
    Command::new(program)
}
