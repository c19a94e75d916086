use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Signal, getuid};
use sqlx::{Connection as _, PgConnection};
use tokio::process::Command;

use super::child::{Child, bound};
use super::error::{BenchError, Result, Tried, failed, path};
use super::wait::until;

/// How long it may take to start.
const START: Duration = Duration::from_secs(60);

/// The oldest version that Orrery works with.
const OLDEST: u32 = 15;

/// A PostgreSQL of the bench's own, as durable as one in production.
pub(super) struct Postgres {
    process: Child,
    url: String,
}

impl Postgres {
    /// Makes its data in `directory` and starts it on a free port of this host.
    ///
    /// # Errors
    /// Where PostgreSQL is not installed or does not start.
    pub(super) async fn start(directory: &Path) -> Result<Self> {
        let bin = programs()?;
        let data = directory.join("postgres");
        fs::create_dir(&data).tried(path("creating", &data))?;
        let account = account()?;
        if let Some((uid, gid)) = account {
            chown(&data, Some(uid), Some(gid)).tried(path("giving away", &data))?;
        }
        let command = |program: &str| {
            let mut command = bound(&bin.join(program));
            command.current_dir(&data);
            if let Some((uid, gid)) = account {
                command.uid(uid).gid(gid);
            }
            command
        };
        make(command("initdb"), &data).await?;
        let port = free_port()?;
        let mut server = command("postgres");
        server.arg("-D").arg(data.join("data")).args(["-p", &port.to_string()]);
        for setting in settings() {
            server.args(["-c", &setting]);
        }
        let mut process = Child::start("postgres", directory, server)?;
        let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
        until("PostgreSQL answers", START, Duration::from_millis(50), async || {
            if let Some(words) = process.ended() {
                return Err(failed(format!("PostgreSQL does not start: {words}")));
            }
            Ok(PgConnection::connect(&url).await.ok())
        })
        .await?
        .close()
        .await?;
        Ok(Self { process, url })
    }

    /// Where it can be reached.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Its fast shutdown.
    pub(super) async fn stop(self) {
        self.process.end_by(Signal::INT, Duration::from_secs(30)).await;
    }
}

async fn make(mut initdb: Command, directory: &Path) -> Result<()> {
    let args = ["-U", "postgres", "--auth=trust", "--no-locale", "-E", "UTF8", "--no-sync"];
    let made = initdb.args(args).arg("-D").arg(directory.join("data")).output().await;
    let made = made.tried(|| "running initdb".into())?;
    if made.status.success() {
        return Ok(());
    }
    Err(failed(format!("initdb: {}", String::from_utf8_lossy(&made.stderr))))
}

/// Nothing here makes a commit less safe; memory and room for the log as for a small server of its own.
fn settings() -> Vec<String> {
    let quarter = super::procfs::total_memory().unwrap_or(4 << 30) / 4;
    let buffers = (quarter >> 20).clamp(128, 2048);
    vec![
        "listen_addresses=127.0.0.1".into(),
        // The path of a socket may be too long, and nobody needs one.
        "unix_socket_directories=".into(),
        "max_connections=200".into(),
        "fsync=on".into(),
        "synchronous_commit=on".into(),
        "full_page_writes=on".into(),
        format!("shared_buffers={buffers}MB"),
        "max_wal_size=8GB".into(),
    ]
}

/// PostgreSQL refuses to run as root: who it runs as instead.
fn account() -> Result<Option<(u32, u32)>> {
    if !getuid().is_root() {
        return Ok(None);
    }
    let accounts = fs::read_to_string("/etc/passwd").tried(|| "reading /etc/passwd".into())?;
    let of = |name: &str| find_account(&accounts, name);
    let missing =
        || BenchError::Setting("PostgreSQL does not run as root, and there is no user postgres or nobody".into());
    of("postgres").or_else(|| of("nobody")).map(Some).ok_or_else(missing)
}

fn find_account(accounts: &str, name: &str) -> Option<(u32, u32)> {
    let fields: Vec<&str> = accounts.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|f| f[0] == name)?;
    Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
}

/// The newest installed programs.
fn programs() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let of_debian = versions.map(|entry| entry.path().join("bin"));
    let on_path = std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let found = of_debian.chain(on_path.into_iter().flatten()).filter(|bin| {
        // Links elsewhere to one of them alone are not enough: each looks for the others beside it.
        ["initdb", "postgres"].iter().all(|program| bin.join(program).exists())
    });
    let newest = found.filter_map(|bin| Some((version_of(&bin)?, bin))).max();
    match newest {
        Some((version, bin)) if version >= OLDEST => Ok(bin),
        Some((version, bin)) => Err(BenchError::Setting(format!(
            "PostgreSQL {OLDEST} or later is needed, and {} is {version}; or point to a running one by --database-url",
            bin.display()
        ))),
        None => Err(BenchError::Setting(format!(
            "PostgreSQL is not installed (Debian: apt-get install postgresql); version {OLDEST} or later is needed, or point to a \
             running one by --database-url"
        ))),
    }
}

/// The major version of the programs in a directory.
fn version_of(bin: &Path) -> Option<u32> {
    let said = std::process::Command::new(bin.join("postgres")).arg("--version").output().ok()?;
    version_in(&String::from_utf8_lossy(&said.stdout))
}

fn version_in(text: &str) -> Option<u32> {
    let digits = text.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn free_port() -> Result<u16> {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    free.map(|address| address.port()).tried(|| "finding a free port".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(version_in("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n"), Some(15));
        assert_eq!(version_in("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(version_in("no such thing"), None);
    }

    #[test]
    fn accounts_are_found() {
        let accounts = "root:x:0:0:root:/root:/bin/bash\npostgres:x:107:109:x:/var/lib/postgresql:/bin/bash\nbad:x\n";
        assert_eq!(find_account(accounts, "postgres"), Some((107, 109)));
        assert_eq!(find_account(accounts, "bad"), None);
        assert_eq!(find_account(accounts, "nobody"), None);
    }
}
