//! `orrery ca`: makes an authority, and coordinators' certificates by it. Files only; no server is called.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use chrono::Utc;
use clap::{Args, Subcommand};

use super::exit::{Exit, Failure};
use super::output::Output;
use crate::ca::{CaError, Pair, new_authority, server_certificate};

/// `orrery ca`.
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Make an authority: ca.pem, and ca.key, which whoever has it can let agents in with.
    #[command(after_help = "Example:
  orrery ca init --dir /etc/orrery
  orrery ca issue --dir /etc/orrery --host orrery.example
  orrery server --tls-cert /etc/orrery/coordinator.pem --tls-key /etc/orrery/coordinator.key \\
    --ca-cert /etc/orrery/ca.pem --ca-key /etc/orrery/ca.key ...")]
    Init(InitArgs),
    /// Make a certificate for coordinators: coordinator.pem and coordinator.key. Those that are there are replaced, and taken up at once.
    Issue(IssueArgs),
}

#[derive(Debug, Args)]
pub struct InitArgs {
    /// Where to put the files; nothing that is there is overwritten.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// What the authority is called.
    #[arg(long, default_value = "Orrery agents")]
    name: String,
    /// For how many days it is good.
    #[arg(long, value_name = "N", default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
}

#[derive(Debug, Args)]
pub struct IssueArgs {
    /// A name or address that coordinators are reached under; repeatable.
    #[arg(long = "host", value_name = "HOST", required = true)]
    hosts: Vec<String>,
    /// Where the authority's files are, and the new ones will be.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// For how many days it is good.
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
}

impl CaCommand {
    pub(super) fn run(self, out: &Output) -> Result<(), Failure> {
        match self {
            Self::Init(args) => args.run(out),
            Self::Issue(args) => args.run(out),
        }
    }
}

impl InitArgs {
    fn run(self, out: &Output) -> Result<(), Failure> {
        let (certificate, key) = (self.dir.join("ca.pem"), self.dir.join("ca.key"));
        if let Some(there) = [&certificate, &key].into_iter().find(|path| path.exists()) {
            let message = format!("{} is there already; nothing is overwritten", there.display());
            return Err(Failure::new(Exit::Conflict, "FILE_EXISTS", message));
        }
        let pair = new_authority(&self.name, self.days, Utc::now()).map_err(of_ca)?;
        write(&key, &pair.key, 0o600)?;
        write(&certificate, &pair.certificate, 0o644)?;
        told(out, &certificate, &key)
    }
}

impl IssueArgs {
    fn run(self, out: &Output) -> Result<(), Failure> {
        let read = |name: &str| {
            let path = self.dir.join(name);
            fs::read_to_string(&path).map_err(|e| of_file(&path, &e))
        };
        let authority = Pair { certificate: read("ca.pem")?, key: read("ca.key")? };
        let pair = server_certificate(&authority, &self.hosts, self.days, Utc::now()).map_err(of_ca)?;
        let (certificate, key) = (self.dir.join("coordinator.pem"), self.dir.join("coordinator.key"));
        write(&key, &pair.key, 0o600)?;
        write(&certificate, &pair.certificate, 0o644)?;
        told(out, &certificate, &key)
    }
}

fn told(out: &Output, certificate: &Path, key: &Path) -> Result<(), Failure> {
    if out.json {
        let files = serde_json::json!({"certificate": certificate, "key": key});
        return Ok(out.json(&files)?);
    }
    Ok(out.line(format!("{}\n{}", certificate.display(), key.display()))?)
}

/// Writes a file at once, with its mode from the first byte on.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let write = || -> io::Result<()> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let permissions = fs::Permissions::from_mode(mode);
        let mut file = tempfile::Builder::new().permissions(permissions.clone()).tempfile_in(directory)?;
        file.write_all(text.as_bytes())?;
        // What the umask has taken away.
        file.as_file().set_permissions(permissions)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        Ok(())
    };
    write().map_err(|e| of_file(path, &e))
}

fn of_file(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Failed, "IO_ERROR", format!("{}: {error}", path.display()))
}

fn of_ca(error: CaError) -> Failure {
    match error {
        CaError::Failed(_) => Failure::new(Exit::Failed, "INTERNAL_ERROR", error.to_string()),
        other => Failure::invalid("INVALID_ARGUMENT", other.to_string()),
    }
}
