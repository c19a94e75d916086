use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, getuid, kill_process};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::process::Command;

use crate::error::{Result, Tried, path, world};
use crate::process::{Process, bound};
use crate::wait::until;

/// How long it may take to start, recovery included.
const START: Duration = Duration::from_secs(60);

/// A PostgreSQL of the harness's own, which listens on a socket only: coordinators reach it through proxies.
pub struct Postgres {
    bin: PathBuf,
    directory: PathBuf,
    logs: PathBuf,
    fsync: bool,
    /// It refuses to run as root.
    account: Option<(u32, u32)>,
    running: Option<Process>,
}

impl Postgres {
    /// Makes its data in `directory`. It does not run yet.
    ///
    /// # Errors
    /// Where PostgreSQL is missing or cannot make its data.
    pub async fn prepared(directory: &Path, logs: &Path, fsync: bool) -> Result<Self> {
        let account = getuid().is_root().then(|| account("postgres").or_else(|| account("nobody"))).flatten();
        fs::create_dir(directory).tried(path("creating", directory))?;
        if let Some((uid, gid)) = account {
            chown(directory, Some(uid), Some(gid)).tried(path("giving away", directory))?;
        }
        let postgres =
            Self { bin: programs()?, directory: directory.into(), logs: logs.into(), fsync, account, running: None };
        let args = ["-U", "postgres", "--auth=trust", "--no-locale", "-E", "UTF8", "--no-sync"];
        let made = postgres.command("initdb").args(args).arg("-D").arg(postgres.data()).output().await;
        let made = made.tried(|| "running initdb".into())?;
        if !made.status.success() {
            return Err(world(format!("initdb: {}", String::from_utf8_lossy(&made.stderr))));
        }
        Ok(postgres)
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// Where it does not.
    pub async fn start(&mut self) -> Result<()> {
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).arg("-k").arg(&self.directory);
        for setting in [
            "listen_addresses=",
            "max_connections=200",
            "restart_after_crash=off",
            "track_commit_timestamp=on",
            self.durability(),
        ] {
            command.args(["-c", setting]);
        }
        self.running = Some(Process::start("postgres", &self.logs, command)?);
        until("PostgreSQL answers", START, async || {
            let mut ask = self.command("pg_isready");
            let answer = ask.arg("-q").arg("-h").arg(&self.directory).status().await;
            Ok(answer.is_ok_and(|status| status.success()).then_some(()))
        })
        .await
    }

    fn durability(&self) -> &'static str {
        if self.fsync { "fsync=on" } else { "fsync=off" }
    }

    /// SIGKILL to all of its processes at once, as when its host dies.
    ///
    /// # Errors
    /// Where one of them outlives it.
    pub async fn kill(&mut self) -> Result<()> {
        let Some(process) = self.running.take() else { return Ok(()) };
        let children = children(process.pid());
        process.kill().await;
        for pid in &children {
            if let Some(pid) = Pid::from_raw(*pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        until("PostgreSQL's processes are gone", START, async || {
            let alive = children.iter().any(|pid| Path::new(&format!("/proc/{pid}/exe")).exists() && is_postgres(*pid));
            Ok((!alive).then_some(()))
        })
        .await
    }

    /// Its immediate shutdown, which leaves no shared memory behind.
    pub async fn stop(&mut self) {
        if let Some(process) = self.running.take() {
            process.end_by(Signal::QUIT, Duration::from_secs(10)).await;
        }
    }

    /// The socket that it listens on.
    pub fn socket(&self) -> PathBuf {
        self.directory.join(".s.PGSQL.5432")
    }

    /// Connections of the harness's own, past all proxies.
    ///
    /// # Errors
    /// Where none is to be had.
    pub async fn pool(&self) -> Result<PgPool> {
        let options = PgConnectOptions::new().socket(&self.directory).username("postgres").database("postgres");
        let options = options.application_name("chaos");
        Ok(PgPoolOptions::new().max_connections(4).acquire_timeout(START).connect_with(options).await?)
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = bound(&self.bin.join(program));
        command.current_dir(&self.directory);
        if let Some((uid, gid)) = self.account {
            command.uid(uid).gid(gid);
        }
        command
    }
}

fn children(parent: i32) -> Vec<i32> {
    let parent = parent.to_string();
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)) == Some(&parent)
    })
    .collect()
}

fn is_postgres(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("postgres"))
}

/// The newest installed programs, 15 or later.
fn programs() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(version, bin)| *version >= 15 && bin.join("postgres").exists())
        .collect();
    found.sort();
    found
        .pop()
        .map(|(_, bin)| bin)
        .ok_or_else(|| world("PostgreSQL 15 or later is needed: run scripts/requirements.sh"))
}

fn account(name: &str) -> Option<(u32, u32)> {
    let accounts = fs::read_to_string("/etc/passwd").ok()?;
    let fields: Vec<&str> = accounts.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|f| f[0] == name)?;
    Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
}
