//! `orrery-agent install`: makes this program a systemd service of this host.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;

use crate::config::Secret;

/// The service, as `deploy/` has it.
const UNIT: &str = include_str!("../../deploy/systemd/orrery-agent.service");
const UNIT_FILE: &str = "etc/systemd/system/orrery-agent.service";
const PROGRAM: &str = "usr/local/bin/orrery-agent";
const SETTINGS: &str = "etc/orrery/agent.env";
const AUTHORITIES: &str = "etc/orrery/ca.pem";

/// What the service is to be told.
#[derive(Debug, Args)]
#[command(after_help = "`orrery agent token --install` prints the whole line, join token included.")]
pub struct InstallArgs {
    /// Address of a coordinator; repeatable
    #[arg(long = "coordinator", value_name = "URL", required = true)]
    coordinators: Vec<String>,
    /// Join token of `orrery agent token`
    #[arg(long, env = "ORRERY_JOIN_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    join_token: Secret,
    /// The authorities that coordinators are known by, as PEM in base64 [default: those of this host]
    #[arg(long, value_name = "BASE64")]
    ca_base64: Option<String>,
    /// Queue to serve, "default" where none is given; repeatable
    #[arg(long = "queue", value_name = "NAME")]
    queues: Vec<String>,
    /// Label that jobs can select the agent by; repeatable
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// How many executions to run at once
    #[arg(long, default_value_t = 10)]
    slots: u32,
    /// Put the files below this directory instead, and start nothing
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

impl InstallArgs {
    /// Writes the files of the service and starts it. One that is there is replaced and started anew.
    ///
    /// # Errors
    /// Where a setting cannot be written down, a file cannot be written, or systemd does not start the service.
    pub fn run(&self) -> io::Result<()> {
        let settings = self.settings()?;
        let authorities = self.ca_base64.as_deref().map(decoded).transpose()?;
        let root = self.root.as_deref().unwrap_or(Path::new("/"));
        let itself = std::env::current_exe()?;
        if itself != root.join(PROGRAM) {
            put(&root.join(PROGRAM), &fs::read(&itself)?, 0o755)?;
        }
        if let Some(pem) = &authorities {
            put(&root.join(AUTHORITIES), pem, 0o644)?;
        }
        put(&root.join(SETTINGS), settings.as_bytes(), 0o600)?;
        put(&root.join(UNIT_FILE), UNIT.as_bytes(), 0o644)?;
        if self.root.is_some() {
            return Ok(());
        }
        systemctl(&["daemon-reload"])?;
        systemctl(&["enable", "orrery-agent"])?;
        systemctl(&["restart", "orrery-agent"])
    }

    /// The file that systemd reads the environment from.
    fn settings(&self) -> io::Result<String> {
        let slots = self.slots.to_string();
        let (coordinators, queues, labels) =
            (self.coordinators.join(","), self.queues.join(","), self.labels.join(","));
        let authorities = if self.ca_base64.is_some() { "/etc/orrery/ca.pem" } else { "" };
        let all = [
            ("ORRERY_COORDINATOR", coordinators.as_str()),
            ("ORRERY_CA", authorities),
            ("ORRERY_QUEUE", queues.as_str()),
            ("ORRERY_LABEL", labels.as_str()),
            ("WORKER_CONCURRENCY", slots.as_str()),
            ("ORRERY_JOIN_TOKEN", self.join_token.text()),
        ];
        all.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| line(name, value)).collect()
    }
}

/// A line of systemd's EnvironmentFile: in double quotes only backslash, quote, dollar and backtick are read otherwise (systemd.exec(5)).
fn line(name: &str, value: &str) -> io::Result<String> {
    if value.chars().any(char::is_control) {
        return Err(io::Error::other(format!(
            "{name}: no line breaks or other control characters can be written down"
        )));
    }
    let mut line = format!("{name}=\"");
    for c in value.chars() {
        if matches!(c, '\\' | '"' | '$' | '`') {
            line.push('\\');
        }
        line.push(c);
    }
    line.push_str("\"\n");
    Ok(line)
}

fn decoded(text: &str) -> io::Result<Vec<u8>> {
    let pem = STANDARD.decode(text.trim()).ok();
    pem.filter(|pem| pem.starts_with(b"-----BEGIN "))
        .ok_or_else(|| io::Error::other("--ca-base64: is no PEM in base64"))
}

/// Replaces a file at once, with its mode from the first byte on.
fn put(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let put = || {
        let directory = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(directory)?;
        let permissions = fs::Permissions::from_mode(mode);
        let mut file = tempfile::Builder::new().permissions(permissions.clone()).tempfile_in(directory)?;
        file.write_all(bytes)?;
        // What the umask has taken away.
        file.as_file().set_permissions(permissions)?;
        file.as_file().sync_all()?;
        file.persist(path).map(drop).map_err(|e| e.error)
    };
    put().map_err(|e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

fn systemctl(args: &[&str]) -> io::Result<()> {
    let status = Command::new("systemctl").args(args).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("systemctl {}: {status}", args.join(" ")))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(root: &Path) -> InstallArgs {
        InstallArgs {
            coordinators: vec!["https://a.example:50051".into(), "https://b.example:50051".into()],
            join_token: Secret::from("orj_secret".to_owned()),
            ca_base64: Some(STANDARD.encode("-----BEGIN CERTIFICATE-----\n")),
            queues: vec![],
            labels: vec!["owner=\"$HOME\"".into()],
            slots: 3,
            root: Some(root.into()),
        }
    }

    #[test]
    fn a_service_is_written_with_its_secrets_for_root_alone() {
        let root = tempfile::tempdir().expect("a directory");
        let args = args(root.path());
        assert!(!format!("{args:?}").contains("orj_secret"));
        args.run().expect("installed");
        let mode = |name: &str| fs::metadata(root.path().join(name)).expect(name).permissions().mode() & 0o777;
        assert_eq!((mode(SETTINGS), mode(PROGRAM), mode(UNIT_FILE), mode(AUTHORITIES)), (0o600, 0o755, 0o644, 0o644));
        let text = fs::read_to_string(root.path().join(SETTINGS)).expect("settings");
        let expected = "ORRERY_COORDINATOR=\"https://a.example:50051,https://b.example:50051\"\n\
                        ORRERY_CA=\"/etc/orrery/ca.pem\"\nORRERY_LABEL=\"owner=\\\"\\$HOME\\\"\"\nWORKER_CONCURRENCY=\"3\"\n\
                        ORRERY_JOIN_TOKEN=\"orj_secret\"\n";
        assert_eq!(text, expected);
        let unit = fs::read_to_string(root.path().join(UNIT_FILE)).expect("the unit");
        assert!(
            unit.contains(&format!("ExecStart=/{PROGRAM}\n"))
                && unit.contains(&format!("EnvironmentFile=/{SETTINGS}\n"))
        );
    }

    #[test]
    fn what_would_break_out_of_its_line_is_refused() {
        let root = tempfile::tempdir().expect("a directory");
        let broken = InstallArgs { queues: vec!["a\nLD_PRELOAD=/x".into()], ..args(root.path()) };
        assert!(broken.run().is_err_and(|e| e.to_string().contains("ORRERY_QUEUE")));
        let broken = InstallArgs { ca_base64: Some("x".into()), ..args(root.path()) };
        assert!(broken.run().is_err_and(|e| e.to_string().contains("--ca-base64")));
        assert_eq!(fs::read_dir(root.path()).expect("the root").count(), 0, "nothing is half done");
    }
}
