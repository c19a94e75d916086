use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::error::{Result, Tried};
use crate::process::{Process, bound};
use crate::wait::until;

/// A Redis of the harness's own, on a socket only.
pub struct Redis {
    socket: PathBuf,
    directory: PathBuf,
    running: Option<Process>,
}

impl Redis {
    /// One with its socket and its logs in `directory`. It does not run yet.
    pub fn prepared(directory: &Path) -> Self {
        Self { socket: directory.join("redis.sock"), directory: directory.into(), running: None }
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// Where it does not.
    pub async fn start(&mut self) -> Result<()> {
        let mut command = bound(Path::new("redis-server"));
        command.args(["--port", "0", "--save", "", "--appendonly", "no"]);
        command.arg("--unixsocket").arg(&self.socket).arg("--dir").arg(&self.directory);
        self.running = Some(Process::start("redis", &self.directory, command)?);
        until("Redis answers", Duration::from_secs(20), async || Ok(self.call("PING").await.ok())).await
    }

    /// One command without arguments; what it answers does not matter.
    ///
    /// # Errors
    /// Where there is no answer.
    pub async fn call(&self, command: &str) -> Result<()> {
        let asked = async {
            let mut stream = UnixStream::connect(&self.socket).await?;
            stream.write_all(format!("{command}\r\n").as_bytes()).await?;
            let mut answer = [0; 64];
            stream.read(&mut answer).await
        };
        let answer = timeout(Duration::from_secs(2), asked).await.unwrap_or_else(|late| Err(late.into()));
        answer.map(drop).tried(|| format!("asking Redis for {command}"))
    }

    /// SIGKILL.
    pub async fn kill(&mut self) {
        if let Some(process) = self.running.take() {
            process.kill().await;
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(process) = &self.running {
            process.signal(signal);
        }
    }

    /// The socket that it listens on.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}
