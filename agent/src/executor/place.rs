//! Where the processes of an agent run: its settings, and the sandboxes that this host gives.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use orrery_proto::v1::LogStream;
use orrery_sdk::config::{Problem, SandboxConfig, SandboxLevel};
use orrery_sdk::executor::{Context, Outcome, Output, Task};
use tracing::info;

use super::ExecutorSettings;
use super::environment;
use super::process::{End, Launch, run};
use crate::sandbox::{Host, Need, Sandbox, Sandboxes};

/// How long a process that does nothing may take, on a host that is busy.
const TRIAL: Duration = Duration::from_secs(10);

/// Settings and sandboxes, which all executors of an agent share.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) settings: ExecutorSettings,
    sandboxes: Sandboxes,
}

impl Place {
    pub(crate) fn new(settings: ExecutorSettings) -> Self {
        let sandboxes = Sandboxes::new(&settings.sandbox);
        if settings.supervisor.is_none() {
            sandboxes.cannot("this agent starts its processes without a supervisor");
        } else if !cfg!(target_os = "linux") {
            sandboxes.cannot("it does not run on Linux");
        }
        Self { settings, sandboxes }
    }

    /// What this host can enforce; tried out the first time.
    pub(crate) async fn host(&self) -> &Host {
        self.sandboxes.host(|level| self.tried(level)).await
    }

    /// The labels that tell coordinators what this host can enforce.
    ///
    /// # Errors
    /// Where it cannot enforce what the agent itself demands.
    pub(crate) async fn labels(&self) -> Result<Vec<(String, String)>, Problem> {
        let host = self.host().await;
        self.sandboxes.check(host)?;
        let mut labels = Vec::new();
        for (name, ability) in host.abilities() {
            match ability {
                Ok(()) => labels.push((name.to_owned(), "yes".to_owned())),
                Err(lacks) => {
                    info!(ability = name, %lacks, "cannot be enforced here; jobs that ask for it are refused")
                }
            }
        }
        Ok(labels)
    }

    /// A sandbox for an execution.
    ///
    /// # Errors
    /// The failure of the execution, where it cannot be contained as it must be.
    pub(super) async fn sandbox(
        &self,
        task: &Task,
        job: Option<&SandboxConfig>,
        need: Need<'_>,
    ) -> Result<Sandbox, Outcome> {
        let host = if self.sandboxes.is_plain(task, job) { None } else { Some(self.host().await) };
        self.sandboxes.enter(task, job, host, need)
    }

    /// Runs a process that does nothing at a level; what came in its way, if anything did.
    async fn tried(&self, level: SandboxLevel) -> Result<(), String> {
        let sandbox = self.sandboxes.trial(level)?;
        let environment = BTreeMap::from([("PATH".to_owned(), environment::path())]);
        let launch = Launch {
            program: "true".into(),
            args: Vec::new(),
            directory: None,
            environment,
            stdin: None,
            confinement: sandbox.confinement.clone(),
        };
        let finished = run(&self.settings, launch, TRIAL, &Context::new(Arc::new(Nowhere))).await;
        sandbox.leave().await;
        let said = finished.stderr.text(1024).0;
        match finished.end {
            // It had come to the program, which this host may not have.
            End::Exited(0) | End::NotStarted(_) => Ok(()),
            End::Uncontained(message) | End::Lost(message) => {
                let said = said.lines().next().map(|line| format!(": {line}")).unwrap_or_default();
                Err(format!("{message}{said}"))
            }
            End::Exited(code) => Err(format!("a process that does nothing exited with code {code}")),
            End::Killed(signal) => Err(format!("a process that does nothing was killed by signal {signal}")),
            End::Deadline | End::LeaseOver => Err("a process that does nothing did not end".into()),
        }
    }
}

/// Where nobody reads.
struct Nowhere;

impl Output for Nowhere {
    fn log(&self, _: LogStream, _: Bytes) {}

    fn progress(&self, _: i32) {}
}
