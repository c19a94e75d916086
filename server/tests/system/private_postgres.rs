use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Signal, getuid};
use tempfile::TempDir;

use crate::process::Process;
use crate::wait::until_true;

/// A PostgreSQL of one test's own, which it starts and stops as it likes.
pub(crate) struct PrivatePostgres {
    bin: PathBuf,
    directory: TempDir,
    port: u16,
    /// It refuses to run as root.
    user: Option<(u32, u32)>,
    running: Option<Process>,
}

impl PrivatePostgres {
    /// Makes its data and chooses its port; it does not run yet.
    pub(crate) fn prepared() -> Self {
        let postgres = Self::empty();
        let args = ["-U", "postgres", "--auth=trust", "--no-locale", "-E", "UTF8", "--no-sync"];
        let made = postgres.command("initdb").args(args).arg("-D").arg(postgres.data()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        postgres
    }

    /// A standby that streams from a running one; it does not run yet.
    pub(crate) fn standby_of(primary: &Self) -> Self {
        let standby = Self::empty();
        let mut copy = standby.command("pg_basebackup");
        copy.args([
            "-h",
            "127.0.0.1",
            "-p",
            &primary.port.to_string(),
            "-U",
            "postgres",
            "-R",
            "-X",
            "stream",
            "-c",
            "fast",
        ]);
        let made = copy.arg("--no-sync").arg("-D").arg(standby.data()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        standby
    }

    fn empty() -> Self {
        // A socket's path has a bound, so not below the directory of the test.
        let directory = tempfile::Builder::new().prefix("orrery-pg-").tempdir_in("/tmp").unwrap();
        let user = getuid().is_root().then(|| account().expect("root needs an account postgres or nobody"));
        let bin = programs();
        if let Some((uid, gid)) = user {
            chown(directory.path(), Some(uid), Some(gid)).unwrap();
        }
        Self { bin, directory, port: free_port(), user, running: None }
    }

    /// Where a proxy may lead.
    pub(crate) fn origin(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// SIGKILL of its first process; those that it has started notice and end.
    pub(crate) fn kill(&mut self) {
        self.running.take().unwrap().kill();
    }

    /// Makes a standby the primary.
    pub(crate) fn promote(&self) {
        let mut promote = self.command("pg_ctl");
        let done = promote.args(["promote", "-w", "-D"]).arg(self.data()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Starts it and waits until it answers.
    pub(crate) async fn start(&mut self) {
        until_true("PostgreSQL answers", Duration::from_secs(60), async || {
            // After a kill it does not start before the processes of the one before have noticed and ended.
            if self.running.as_mut().is_none_or(|process| process.has_ended()) {
                let mut command = self.command("postgres");
                command.arg("-D").arg(self.data()).arg("-k").arg(self.directory.path());
                command.args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]);
                self.running = Some(Process::start("postgres", self.directory.path(), command));
            }
            let mut ask = self.command("pg_isready");
            ask.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
            ask.status().unwrap().success()
        })
        .await;
    }

    /// Ends it, cutting all connections.
    pub(crate) async fn stop(&mut self) {
        let mut process = self.running.take().unwrap();
        process.signal(Signal::INT);
        process.ended(Duration::from_secs(20)).await;
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.current_dir(self.directory.path());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        if let Some(process) = &mut self.running {
            // Its immediate shutdown, which leaves no shared memory behind as SIGKILL would.
            process.end_by(Signal::QUIT);
        }
    }
}

/// Where PostgreSQL's programs are, as the tests' own script finds them.
pub(crate) fn programs() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/requirements.sh");
    let found = Command::new(script).arg("--postgres-bin").output().unwrap();
    let text = String::from_utf8(found.stdout).unwrap();
    assert!(found.status.success(), "this test needs PostgreSQL 15 or later: run scripts/requirements.sh");
    PathBuf::from(text.trim())
}

/// User and group of an account that may run it.
fn account() -> Option<(u32, u32)> {
    let accounts = fs::read_to_string("/etc/passwd").unwrap();
    let of = |name: &str| {
        let fields: Vec<&str> = accounts.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|f| f[0] == name)?;
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    };
    of("postgres").or_else(|| of("nobody"))
}

/// A port below those that the system gives out by itself, on which nothing listens now.
fn free_port() -> u16 {
    let first = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    (first..32_000).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a free port")
}
