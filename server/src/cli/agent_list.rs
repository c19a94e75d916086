//! `orrery agent`: runs one, lists and drains those that are connected, lets agents in and revokes them.

use chrono::Utc;
use clap::{Args, Subcommand};
use orrery_proto::v1::{DrainWorkerRequest, ListWorkersRequest, ListWorkersResponse, Worker};
use uuid::Uuid;

use super::agent_identity::{self, TokenArgs};
use super::exit::{Exit, Failure};
use super::output::{Output, distance};
use super::{Context, Global};
use orrery_agent::config::AgentArgs;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  orrery agent --coordinator https://orrery.example:50051 --queue default --slots 20 --label zone=eu
  orrery agent token --install --coordinator https://orrery.example:50051
  orrery agent list
  orrery agent list --enrolled
  orrery agent revoke 0190f5e2-0000-7000-8000-000000000002
  orrery agent drain 0190f5e2-0000-7000-8000-000000000001")]
pub struct AgentCommand {
    #[command(flatten)]
    pub run: AgentArgs,
    #[command(subcommand)]
    pub command: Option<AgentSubcommand>,
}

#[derive(Debug, Subcommand)]
pub enum AgentSubcommand {
    /// List the agents with their load.
    #[command(visible_alias = "ls")]
    List {
        /// List the agents that have enrolled instead, connected or not, with the end of their certificates.
        #[arg(long)]
        enrolled: bool,
    },
    /// Make a token by which one agent may enrol, once.
    Token(TokenArgs),
    /// Take an agent's certificate away for good: its session ends at once.
    Revoke {
        /// The agent's id, as `orrery agent list --enrolled` shows it.
        id: String,
    },
    /// Tell an agent to take no further work; what it runs goes on.
    Drain {
        /// The session's id, as listed, or the agent's name where only one has it.
        id: String,
    },
}

impl AgentSubcommand {
    pub(super) async fn run(self, global: &Global, context: &Context) -> Result<(), Failure> {
        let out = &context.out;
        match self {
            Self::List { enrolled: true } => agent_identity::list(context).await,
            Self::Token(args) => args.run(global, context).await,
            Self::Revoke { id } => agent_identity::revoke(context, id).await,
            Self::List { enrolled: false } => {
                let response = list(context).await?;
                if out.json { Ok(out.json(&response)?) } else { Ok(table(&response.workers, out)?) }
            }
            Self::Drain { id } => {
                let id = find(&list(context).await?.workers, &id)?;
                let worker = context.client.drain_worker(DrainWorkerRequest { id }).await?;
                if out.json {
                    return Ok(out.json(&worker)?);
                }
                Ok(out.line(format!("{} is draining; {} still running", worker.name, worker.running))?)
            }
        }
    }
}

/// All agents, page by page, as one answer.
async fn list(context: &Context) -> Result<ListWorkersResponse, Failure> {
    let mut all = ListWorkersResponse::default();
    loop {
        let request = ListWorkersRequest { page_size: 1000, page_token: all.next_page_token.clone() };
        let page = context.client.list_workers(request).await?;
        all.workers.extend(page.workers);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            return Ok(all);
        }
    }
}

/// The id of the agent that is meant; an id that is not listed goes to the server as it is.
fn find(workers: &[Worker], wanted: &str) -> Result<String, Failure> {
    let named: Vec<&Worker> = workers.iter().filter(|worker| worker.name == wanted).collect();
    match named.as_slice() {
        _ if workers.iter().any(|worker| worker.id == wanted) => Ok(wanted.to_owned()),
        [] if Uuid::parse_str(wanted).is_ok() => Ok(wanted.to_owned()),
        [] => Err(Failure::new(Exit::NotFound, "WORKER_NOT_FOUND", format!("there is no agent called {wanted:?}"))),
        [worker] => Ok(worker.id.clone()),
        several => {
            let message = format!("{} agents are called {wanted}: give the id of one", several.len());
            Err(Failure::invalid("INVALID_ARGUMENT", message))
        }
    }
}

fn table(workers: &[Worker], out: &Output) -> std::io::Result<()> {
    let now = Utc::now();
    let rows: Vec<Vec<String>> = workers
        .iter()
        .map(|worker| {
            let mut labels: Vec<String> = worker.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            labels.sort();
            vec![
                worker.id.clone(),
                worker.name.clone(),
                worker.state().as_json_str().to_owned(),
                format!("{}/{}", worker.running, worker.slots),
                worker.queues.join(","),
                labels.join(","),
                distance(worker.last_heartbeat_at, now),
                worker.version.clone(),
            ]
        })
        .collect();
    out.table(&["ID", "NAME", "STATE", "RUNNING", "QUEUES", "LABELS", "HEARTBEAT", "VERSION"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_found_by_name_or_id() {
        let id = "0190f5e2-0000-7000-8000-000000000001";
        let worker = |id: &str, name: &str| Worker { id: id.into(), name: name.into(), ..Worker::default() };
        let workers = [worker(id, "a"), worker("2", "b"), worker("3", "b")];
        let found = |wanted: &str| find(&workers, wanted).map_err(|failure| failure.exit);
        assert_eq!(found("a"), Ok(id.into()));
        assert_eq!(found(id), Ok(id.into()));
        assert_eq!(found("0190f5e2-0000-7000-8000-000000000009"), Ok("0190f5e2-0000-7000-8000-000000000009".into()));
        assert_eq!(found("b"), Err(Exit::Invalid));
        assert_eq!(found("c"), Err(Exit::NotFound));
    }
}
