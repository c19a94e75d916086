//! `orrery execution`.

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use orrery_proto::v1::{
    CancelExecutionRequest, Execution, ExecutionStatus, ExplainExecutionRequest, GetExecutionRequest,
    GetExecutionStatsRequest, ListExecutionLogsRequest, ListExecutionLogsResponse, ListExecutionsRequest,
    ListExecutionsResponse, RetryExecutionRequest, TriggerType,
};

use super::Context;
use super::execution_view::{self, change, one_line, print_explanation};
use super::exit::Failure;
use super::instant::parse_instant;
use super::job::job_id;
use super::output::instant;
use super::page::{Page, more};
use super::wait;

#[derive(Debug, Subcommand)]
pub enum ExecutionCommand {
    /// List executions, newest first.
    #[command(
        visible_alias = "ls",
        after_help = "Examples:
  orrery execution list --job nightly --status failed
  orrery execution list --from now-2h --all --json | jq '.executions | length'"
    )]
    List(ListArgs),
    /// Show an execution with its attempts.
    Get(One),
    /// Print what an execution printed: stdout to stdout, stderr and remarks of the scheduler to stderr.
    Logs(LogsArgs),
    /// Cancel an execution.
    Cancel(CancelArgs),
    /// Say why an execution has not run.
    Why(One),
    /// Run a finished execution again, as a new one.
    Retry(RetryArgs),
    /// Print every change of an execution until it is finished, and exit by its result.
    #[command(
        after_help = "With --json every change is one line of JSON. Exits with 1 where the execution fails or is cancelled."
    )]
    Watch(One),
    /// Totals, rates and durations over a range; the last 24 hours where none is given.
    Stats(StatsArgs),
}

/// One execution.
#[derive(Debug, Args)]
pub struct One {
    /// The execution's id.
    id: String,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only executions of this job, by id or name.
    #[arg(long)]
    job: Option<String>,
    /// Only executions with this status: pending, running, completed, failed or cancelled.
    #[arg(long, value_parser = parse_status)]
    status: Option<ExecutionStatus>,
    /// Only executions begun by this: scheduled, manual or retry.
    #[arg(long, value_parser = parse_trigger)]
    trigger: Option<TriggerType>,
    /// Scheduled at this instant or later.
    #[arg(long, value_name = "INSTANT", value_parser = parse_instant)]
    from: Option<DateTime<Utc>>,
    /// Scheduled before this instant.
    #[arg(long, value_name = "INSTANT", value_parser = parse_instant)]
    to: Option<DateTime<Utc>>,
    #[command(flatten)]
    page: Page,
}

#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The execution's id.
    id: String,
    /// Go on until the execution is finished.
    #[arg(long, short)]
    follow: bool,
}

#[derive(Debug, Args)]
pub struct CancelArgs {
    /// The execution's id.
    id: String,
    /// Why, for its history.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
}

#[derive(Debug, Args)]
pub struct RetryArgs {
    /// The execution's id.
    id: String,
    /// Idempotency key: the same key within 24 hours answers with the first call's execution.
    #[arg(long, default_value = "", hide_default_value = true)]
    key: String,
    /// Follow the new execution, print its logs, and exit by its result.
    #[arg(long, short)]
    wait: bool,
}

#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Only executions of this job, by id or name.
    #[arg(long)]
    job: Option<String>,
    /// From this instant; 24 hours before --to where absent.
    #[arg(long, value_name = "INSTANT", value_parser = parse_instant)]
    from: Option<DateTime<Utc>>,
    /// To this instant; now where absent.
    #[arg(long, value_name = "INSTANT", value_parser = parse_instant)]
    to: Option<DateTime<Utc>>,
}

fn parse_status(text: &str) -> Result<ExecutionStatus, String> {
    ExecutionStatus::from_json_str(text).filter(|status| *status != ExecutionStatus::Unspecified).ok_or_else(|| {
        format!("`{text}` is no status of executions; there are pending, running, completed, failed and cancelled")
    })
}

fn parse_trigger(text: &str) -> Result<TriggerType, String> {
    TriggerType::from_json_str(text)
        .filter(|trigger| *trigger != TriggerType::Unspecified)
        .ok_or_else(|| format!("`{text}` is no trigger; there are scheduled, manual and retry"))
}

impl ExecutionCommand {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        let Context { client, out } = context;
        match self {
            Self::List(args) => list(context, args).await,
            Self::Logs(args) => logs(context, args).await,
            Self::Watch(One { id }) => watch(context, &id).await,
            Self::Stats(args) => stats(context, args).await,
            Self::Get(One { id }) => {
                let execution = client.get_execution(GetExecutionRequest { id }).await?;
                if out.json { Ok(out.json(&execution)?) } else { Ok(execution_view::details(&execution, out)?) }
            }
            Self::Cancel(CancelArgs { id, reason }) => {
                let execution = client.cancel_execution(CancelExecutionRequest { id, reason }).await?;
                if !wait::is_finished(&execution) && execution.cancel_requested_at.is_some() {
                    out.note("its agent has been told to stop");
                }
                show(context, &execution)
            }
            Self::Why(One { id }) => {
                print_explanation(&client.explain_execution(ExplainExecutionRequest { id }).await?, out)
            }
            Self::Retry(RetryArgs { id, key, wait }) => {
                let execution = client.retry_execution(RetryExecutionRequest { id, idempotency_key: key }).await?;
                if wait {
                    out.note(one_line(&execution));
                    return wait::to_end(context, &execution.id).await;
                }
                show(context, &execution)
            }
        }
    }
}

fn show(context: &Context, execution: &Execution) -> Result<(), Failure> {
    if context.out.json {
        return Ok(context.out.json(execution)?);
    }
    Ok(context.out.line(one_line(execution))?)
}

async fn list(context: &Context, args: ListArgs) -> Result<(), Failure> {
    let job_id = match &args.job {
        Some(job) => job_id(&context.client, job).await?,
        None => String::new(),
    };
    let request = ListExecutionsRequest {
        job_id,
        status: args.status.map(i32::from),
        trigger_type: args.trigger.map(i32::from),
        from: args.from.map(|at| at.into()),
        to: args.to.map(|at| at.into()),
        page_size: args.page.page_size,
        page_token: String::new(),
    };
    let ask = async |page_token| {
        let page = context.client.list_executions(ListExecutionsRequest { page_token, ..request.clone() }).await?;
        Ok((page.executions, page.next_page_token))
    };
    let (executions, next_page_token) = args.page.read(ask).await?;
    let listed = ListExecutionsResponse { executions, next_page_token };
    if context.out.json {
        return Ok(context.out.json(&listed)?);
    }
    execution_view::table(&listed.executions, &context.out)?;
    more(context, &listed.next_page_token);
    Ok(())
}

async fn logs(context: &Context, args: LogsArgs) -> Result<(), Failure> {
    let Context { client, out } = context;
    if args.follow {
        return wait::follow_logs(client, &args.id, out).await;
    }
    let mut request = ListExecutionLogsRequest { id: args.id, page_size: 1000, page_token: String::new() };
    let mut all = ListExecutionLogsResponse::default();
    loop {
        let page = client.list_execution_logs(request.clone()).await?;
        if out.json {
            all.entries.extend(page.entries);
        } else {
            for entry in &page.entries {
                wait::print_entry(entry, out)?;
            }
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if out.json { Ok(out.json(&all)?) } else { Ok(()) }
}

async fn watch(context: &Context, id: &str) -> Result<(), Failure> {
    let Context { client, out } = context;
    let mut last: Option<Execution> = None;
    let execution = wait::end(client, id, |execution| {
        // After a lost connection the state that was shown comes again.
        if last.as_ref() == Some(execution) {
            return Ok(());
        }
        last = Some(execution.clone());
        if out.json {
            return Ok(out.json_line(execution)?);
        }
        Ok(out.line(format!("{} {}", instant(Some(Utc::now().into())), change(execution)))?)
    })
    .await?;
    wait::outcome(&execution)
}

async fn stats(context: &Context, args: StatsArgs) -> Result<(), Failure> {
    let job_id = match &args.job {
        Some(job) => job_id(&context.client, job).await?,
        None => String::new(),
    };
    let request =
        GetExecutionStatsRequest { job_id, from: args.from.map(|at| at.into()), to: args.to.map(|at| at.into()) };
    let stats = context.client.get_execution_stats(request).await?;
    if context.out.json { Ok(context.out.json(&stats)?) } else { Ok(execution_view::stats(&stats, &context.out)?) }
}
