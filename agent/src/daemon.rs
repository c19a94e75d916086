//! The agent itself: a worker session with the executors of this host.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use orrery_sdk::executor::Executor;
use orrery_sdk::{ClientTls, Worker, WorkerError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::info;

use crate::config::AgentOptions;
use crate::executor::{Place, executors_at};
use crate::identity::{IdentityError, Plan};

/// From the end of a process's own grace until the agent gives a stopped task up: killing it, and reading what it wrote last, take 3 s at
/// most. With the usual grace of 5 s and what comes after ([`AFTER_GRACE`](orrery_sdk::worker::AFTER_GRACE)) a time-out is told within
/// 12 s; coordinators wait 15 s. Longer graces than 8 s would outlast that, and are refused.
const BEYOND_GRACE: Duration = Duration::from_secs(4);

/// Runs executions on this host.
#[derive(Clone, Copy, Debug)]
pub struct Agent;

/// Why an agent cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// `only` names what this agent does not have.
    #[error("this agent has no executor {name:?}; it has: {known}")]
    UnknownExecutor {
        /// What was asked for.
        name: String,
        /// What there is, separated by commas.
        known: String,
    },
    /// This host cannot enforce what the agent is to demand of all its processes.
    #[error("{field} {message}")]
    Sandbox {
        /// What cannot be had.
        field: String,
        /// What the host lacks.
        message: String,
    },
    /// The session cannot run.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// It cannot show who it is.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl Agent {
    /// Runs until `shutdown`, then drains: takes no further work, waits for what runs, sends the results, and tells what it had to stop to be
    /// interrupted.
    /// Dropping the future instead kills
    /// what runs; results that were not acknowledged are told by the next agent on the same data directory.
    ///
    /// # Errors
    /// Where the options cannot be used, or another agent uses the data directory. Coordinators that cannot be reached are no error.
    pub async fn run(options: AgentOptions, shutdown: CancellationToken) -> Result<(), AgentError> {
        let plan = Plan::of(&options)?;
        // First, since it locks the data directory, in which the identity is kept.
        let worker = worker(options, plan.tls.clone()).await?;
        let identity = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            established = plan.establish() => established?,
        };
        let _renewals = identity.map(|identity| AbortOnDropHandle::new(tokio::spawn(identity.keep())));
        Ok(worker.run(shutdown).await?)
    }
}

async fn worker(options: AgentOptions, tls: ClientTls) -> Result<Worker, AgentError> {
    let has_functions = options.functions.as_ref().is_some_and(|functions| functions.names().next().is_some());
    let grace = options.executors.grace + BEYOND_GRACE;
    let mut executors = options.executors;
    executors.sandbox.hidden.extend(options.data_dir.clone());
    let place = Arc::new(Place::new(executors));
    let abilities = place.labels().await.map_err(|(field, message)| AgentError::Sandbox { field, message })?;
    let offered = restricted(executors_at(&place).into_iter().collect(), &options.only, has_functions)?;
    let names: Vec<&str> = offered.keys().map(String::as_str).collect();
    info!(
        name = options.name,
        version = env!("CARGO_PKG_VERSION"),
        slots = options.slots,
        executors = names.join(","),
        coordinators = options.coordinators.join(","),
        "starting"
    );
    let mut builder = Worker::builder()
        .endpoints(options.coordinators)
        .tls(tls)
        .name(options.name)
        .version(env!("CARGO_PKG_VERSION"))
        .slots(options.slots)
        .timeout_cap(options.timeout_cap)
        .drain_timeout(options.drain_timeout)
        .grace(grace);
    if options.keep_order {
        builder = builder.keep_order();
    }
    if let Some(channel) = options.channel {
        builder = builder.channel(channel);
    }
    if let Some(token) = options.token {
        builder = builder.api_key(token);
    }
    // Those of the host last: what it cannot do is not to be claimed.
    for (key, value) in options.labels.into_iter().filter(|(key, _)| !key.starts_with("sandbox.")).chain(abilities) {
        builder = builder.label(key, value);
    }
    for queue in options.queues {
        builder = builder.queue(queue);
    }
    if let Some(functions) = options.functions.filter(|_| permits(&options.only, "function")) {
        builder = builder.functions(functions);
    }
    for (name, executor) in offered {
        builder = builder.executor(name, executor);
    }
    if let Some(directory) = options.data_dir {
        builder = builder.journal_in(directory)?;
    }
    Ok(builder.build()?)
}

type Executors = BTreeMap<String, Arc<dyn Executor>>;

fn permits(only: &[String], name: &str) -> bool {
    only.is_empty() || only.iter().any(|allowed| allowed == name)
}

/// What is left of all executors where only some are wanted.
fn restricted(mut all: Executors, only: &[String], has_functions: bool) -> Result<Executors, AgentError> {
    for name in only {
        let known = all.contains_key(name) || (has_functions && name == "function");
        if !known {
            let known = all.keys().cloned().collect::<Vec<_>>().join(", ");
            return Err(AgentError::UnknownExecutor { name: name.clone(), known });
        }
    }
    all.retain(|name, _| permits(only, name));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use orrery_sdk::worker::{AFTER_GRACE, LONGEST_GRACE};

    use super::*;
    use crate::executor::ExecutorSettings;

    fn names(only: &[&str]) -> Result<Vec<String>, String> {
        let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
        let all = crate::executor::executors(ExecutorSettings::default()).into_iter().collect();
        restricted(all, &only, false).map(|left| left.into_keys().collect()).map_err(|e| e.to_string())
    }

    #[test]
    fn executors_can_be_restricted() {
        assert_eq!(names(&[]), Ok(["command", "http", "python", "shell"].map(str::to_owned).into()));
        assert_eq!(names(&["http"]), Ok(vec!["http".to_owned()]));
        let message = "this agent has no executor \"function\"; it has: command, http, python, shell";
        assert_eq!(names(&["function"]), Err(message.to_owned()));
    }

    #[test]
    fn a_time_out_is_told_before_the_coordinator_gives_the_work_away() {
        assert!(ExecutorSettings::default().grace + BEYOND_GRACE + AFTER_GRACE <= Duration::from_secs(12));
        // The longest that the command line takes.
        assert!(Duration::from_secs(8) + BEYOND_GRACE <= LONGEST_GRACE);
    }

    #[tokio::test]
    async fn an_agent_without_coordinators_ends_when_told() {
        let directory = tempfile::tempdir().expect("a directory");
        let options = AgentOptions {
            coordinators: vec!["http://127.0.0.1:1".into()],
            data_dir: Some(directory.path().into()),
            ..AgentOptions::default()
        };
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        Agent::run(options, shutdown).await.expect("it ends well");
    }

    #[tokio::test]
    async fn two_agents_do_not_share_a_data_directory() {
        let directory = tempfile::tempdir().expect("a directory");
        let options = AgentOptions {
            coordinators: vec!["http://127.0.0.1:1".into()],
            data_dir: Some(directory.path().into()),
            ..AgentOptions::default()
        };
        let _first = worker(options.clone(), ClientTls::default()).await.expect("a worker");
        let message = worker(options, ClientTls::default()).await.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains("another process uses the journal in"), "{message}");
    }
}
