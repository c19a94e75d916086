//! `orrery queue`: queues with their depth, and their limits.

use clap::Subcommand;
use orrery_proto::v1::{ListQueuesRequest, ListQueuesResponse, Queue, SetQueueRequest};

use super::Context;
use super::exit::Failure;
use super::output::{Output, duration};

#[derive(Debug, Subcommand)]
pub enum QueueCommand {
    /// List queues with their depth and limit.
    #[command(visible_alias = "ls")]
    List,
    /// Limit how many executions of a queue may run at once.
    #[command(after_help = "Examples:
  orrery queue set mail --max-concurrent 5
  orrery queue set mail --max-concurrent 0    # no limit any more")]
    Set {
        /// The queue's name.
        name: String,
        /// Executions that may run at once; 0 is no limit.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=100_000))]
        max_concurrent: i32,
    },
}

impl QueueCommand {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        let Context { client, out } = context;
        match self {
            Self::List => {
                let listed = list(context).await?;
                if out.json { Ok(out.json(&listed)?) } else { Ok(table(&listed.queues, out)?) }
            }
            Self::Set { name, max_concurrent } => {
                let queue = client.set_queue(SetQueueRequest { name, max_concurrent }).await?;
                if out.json {
                    return Ok(out.json(&queue)?);
                }
                let line = match queue.max_concurrent {
                    0 => format!("queue {} has no limit; {} running", queue.name, queue.running),
                    most => format!("queue {} runs {most} at once; {} running", queue.name, queue.running),
                };
                Ok(out.line(line)?)
            }
        }
    }
}

/// All queues, page by page, as one answer.
async fn list(context: &Context) -> Result<ListQueuesResponse, Failure> {
    let mut all = ListQueuesResponse::default();
    loop {
        let request = ListQueuesRequest { page_size: 1000, page_token: all.next_page_token.clone() };
        let page = context.client.list_queues(request).await?;
        all.queues.extend(page.queues);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            return Ok(all);
        }
    }
}

fn table(queues: &[Queue], out: &Output) -> std::io::Result<()> {
    let rows: Vec<Vec<String>> = queues
        .iter()
        .map(|queue| {
            let limit = if queue.max_concurrent == 0 { "none".to_owned() } else { queue.max_concurrent.to_string() };
            vec![
                queue.name.clone(),
                queue.pending.to_string(),
                queue.scheduled.to_string(),
                queue.running.to_string(),
                limit,
                duration(Some(queue.oldest_wait_ms)),
                queue.workers.to_string(),
                queue.slots.to_string(),
            ]
        })
        .collect();
    out.table(&["QUEUE", "PENDING", "SCHEDULED", "RUNNING", "LIMIT", "OLDEST WAIT", "AGENTS", "SLOTS"], &rows)
}
