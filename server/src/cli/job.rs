//! `orrery job`.

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use orrery_proto::Json;
use orrery_proto::v1::{
    DeleteJobRequest, ExplainJobRequest, GetJobRequest, Job, JobStatus, JobType, ListJobsRequest, ListJobsResponse,
    ListOmissionsRequest, ListOmissionsResponse, PauseJobRequest, PreviewJobRequest, ResumeJobRequest, StopJobRequest,
    TriggerJobRequest,
};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::Context;
use super::connect::Client;
use super::cron::print_fires;
use super::execution_view::{one_line, print_explanation};
use super::exit::{Exit, Failure};
use super::instant::parse_instant;
use super::job_definition::{CreateArgs, UpdateArgs, ValidateArgs};
use super::job_view;
use super::page::{Page, more};
use super::wait;

#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// Define jobs, from a file or by flags.
    Create(Box<CreateArgs>),
    /// List jobs, newest first.
    #[command(
        visible_alias = "ls",
        after_help = "Examples:
  orrery job list --status active --tag nightly
  orrery job list --all --json | jq -r '.jobs[].name'"
    )]
    List(ListArgs),
    /// Show a job.
    Get(One),
    /// Replace a job's definition.
    Update(UpdateArgs),
    /// Delete a job; its history stays until retention.
    Delete(One),
    /// Check definitions without saving them.
    Validate(ValidateArgs),
    /// Run a job now.
    Trigger(TriggerArgs),
    /// Stop firing until resumed; what runs goes on.
    Pause(One),
    /// Fire again after pause or stop.
    Resume(One),
    /// Stop firing and cancel what waits or runs.
    Stop(One),
    /// Print the next fires of a job, one instant a line.
    Next(NextArgs),
    /// Say why a job is not running now.
    Why(One),
    /// List the fires that did not happen, with their reasons, newest first.
    Omissions(OmissionsArgs),
}

/// One job.
#[derive(Debug, Args)]
pub struct One {
    /// The job's id or name.
    pub job: String,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only jobs with this status: active, paused or inactive.
    #[arg(long, value_parser = parse_status)]
    status: Option<JobStatus>,
    /// Only jobs of this type: http, function, command, shell or python.
    #[arg(long = "type", value_name = "TYPE", value_parser = parse_type)]
    job_type: Option<JobType>,
    /// Only jobs with this tag.
    #[arg(long)]
    tag: Option<String>,
    /// Only jobs whose name contains this text.
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    page: Page,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  orrery job trigger nightly
  orrery job trigger report --param '{\"day\": \"2026-01-31\"}' --wait
  orrery job trigger report --param @parameters.json --key report-2026-01-31

With --wait the logs are printed as they come; the exit code is 0 where the execution completes, 1 where it fails or is cancelled.")]
pub struct TriggerArgs {
    /// The job's id or name.
    job: String,
    /// Parameters of this run: JSON, @FILE, or - for stdin.
    #[arg(long = "param", visible_alias = "parameters", value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    parameters: Option<String>,
    /// Idempotency key: the same key within 24 hours answers with the first call's execution.
    #[arg(long, default_value = "", hide_default_value = true)]
    key: String,
    /// Run no earlier than this instant.
    #[arg(long, value_name = "INSTANT", value_parser = parse_instant)]
    at: Option<DateTime<Utc>>,
    /// Follow the execution, print its logs, and exit by its result.
    #[arg(long, short)]
    wait: bool,
}

#[derive(Debug, Args)]
pub struct NextArgs {
    /// The job's id or name.
    job: String,
    /// Print what is after this instant; now where absent.
    #[arg(long, value_name = "INSTANT", value_parser = parse_instant)]
    after: Option<DateTime<Utc>>,
    /// How many.
    #[arg(long, short = 'n', default_value_t = 5, value_parser = clap::value_parser!(i32).range(1..=1000))]
    count: i32,
    /// Also print the local time, and what daylight saving time does to an instant, separated by tabs.
    #[arg(long)]
    notes: bool,
}

#[derive(Debug, Args)]
pub struct OmissionsArgs {
    /// The job's id or name.
    job: String,
    #[command(flatten)]
    page: Page,
}

fn parse_status(text: &str) -> Result<JobStatus, String> {
    JobStatus::from_json_str(text)
        .filter(|status| *status != JobStatus::Unspecified)
        .ok_or_else(|| format!("`{text}` is no status of jobs; there are active, paused and inactive"))
}

fn parse_type(text: &str) -> Result<JobType, String> {
    JobType::from_json_str(text)
        .filter(|job_type| *job_type != JobType::Unspecified)
        .ok_or_else(|| format!("`{text}` is no job type; there are http, function, command, shell and python"))
}

impl JobCommand {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        let Context { client, out } = context;
        match self {
            Self::Create(args) => args.run(context).await,
            Self::Update(args) => args.run(context).await,
            Self::Validate(args) => args.run(context).await,
            Self::List(args) => list(context, args).await,
            Self::Trigger(args) => trigger(context, args).await,
            Self::Next(args) => next(context, args).await,
            Self::Omissions(args) => omissions(context, args).await,
            Self::Get(One { job }) => {
                let id = job_id(client, &job).await?;
                let job = client.get_job(GetJobRequest { id }).await?;
                if out.json { Ok(out.json(&job)?) } else { Ok(job_view::details(&job, out)?) }
            }
            Self::Delete(One { job }) => {
                let id = job_id(client, &job).await?;
                let deleted = client.delete_job(DeleteJobRequest { id }).await?;
                if out.json { Ok(out.json(&deleted)?) } else { Ok(out.line(format!("deleted {job}"))?) }
            }
            Self::Pause(One { job }) => {
                let id = job_id(client, &job).await?;
                changed(context, &client.pause_job(PauseJobRequest { id }).await?)
            }
            Self::Resume(One { job }) => {
                let id = job_id(client, &job).await?;
                changed(context, &client.resume_job(ResumeJobRequest { id }).await?)
            }
            Self::Stop(One { job }) => {
                let id = job_id(client, &job).await?;
                changed(context, &client.stop_job(StopJobRequest { id }).await?)
            }
            Self::Why(One { job }) => {
                let id = job_id(client, &job).await?;
                print_explanation(&client.explain_job(ExplainJobRequest { id }).await?, out)
            }
        }
    }
}

fn changed(context: &Context, job: &Job) -> Result<(), Failure> {
    if context.out.json {
        return Ok(context.out.json(job)?);
    }
    Ok(context.out.line(job_view::one_line(job))?)
}

/// The id of a job that is named by id or by name.
pub(super) async fn job_id(client: &Client, wanted: &str) -> Result<String, Failure> {
    if Uuid::parse_str(wanted).is_ok() {
        return Ok(wanted.to_owned());
    }
    let mut similar = Vec::new();
    let mut request = ListJobsRequest { name: wanted.to_owned(), page_size: 1000, ..ListJobsRequest::default() };
    loop {
        let page = client.list_jobs(request.clone()).await?;
        if let Some(job) = page.jobs.iter().find(|job| job.name == wanted) {
            return Ok(job.id.clone());
        }
        similar.extend(page.jobs.into_iter().map(|job| job.name));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let mut message = format!("there is no job called {wanted:?}");
    if !similar.is_empty() {
        similar.truncate(3);
        message.push_str(&format!("; did you mean {}?", similar.join(" or ")));
    }
    Err(Failure::new(Exit::NotFound, "JOB_NOT_FOUND", message))
}

async fn list(context: &Context, args: ListArgs) -> Result<(), Failure> {
    let request = ListJobsRequest {
        status: args.status.map(i32::from),
        job_type: args.job_type.map(i32::from),
        tag: args.tag.unwrap_or_default(),
        name: args.name.unwrap_or_default(),
        page_size: args.page.page_size,
        page_token: String::new(),
    };
    let ask = async |page_token| {
        let page = context.client.list_jobs(ListJobsRequest { page_token, ..request.clone() }).await?;
        Ok((page.jobs, page.next_page_token))
    };
    let (jobs, next_page_token) = args.page.read(ask).await?;
    let listed = ListJobsResponse { jobs, next_page_token };
    if context.out.json {
        return Ok(context.out.json(&listed)?);
    }
    job_view::table(&listed.jobs, &context.out)?;
    more(context, &listed.next_page_token);
    Ok(())
}

async fn trigger(context: &Context, args: TriggerArgs) -> Result<(), Failure> {
    let Context { client, out } = context;
    let parameters = args.parameters.as_deref().map(parameters).transpose()?;
    let id = job_id(client, &args.job).await?;
    let request = TriggerJobRequest { id, parameters, idempotency_key: args.key, run_at: args.at.map(|at| at.into()) };
    let execution = client.trigger_job(request).await?;
    if args.wait {
        out.note(one_line(&execution));
        return wait::to_end(context, &execution.id).await;
    }
    if out.json { Ok(out.json(&execution)?) } else { Ok(out.line(one_line(&execution))?) }
}

/// Parameters as they were written, to the last digit.
fn parameters(argument: &str) -> Result<Json, Failure> {
    let path = argument.strip_prefix('@');
    let text = match (argument, path) {
        ("-", _) => std::io::read_to_string(std::io::stdin()),
        (_, Some(path)) => std::fs::read_to_string(path),
        (text, None) => Ok(text.to_owned()),
    };
    let source = path.unwrap_or("--param");
    let text = text.map_err(|error| Failure::invalid("INVALID_FILE", format!("{source} cannot be read: {error}")))?;
    match serde_json::from_str::<&RawValue>(text.trim()) {
        Ok(raw) => Ok(Json::new(raw.get())),
        Err(error) => Err(Failure::invalid("INVALID_PARAMETERS", format!("{source} is not JSON: {error}"))),
    }
}

async fn next(context: &Context, args: NextArgs) -> Result<(), Failure> {
    let id = job_id(&context.client, &args.job).await?;
    let request = PreviewJobRequest { id, after: args.after.map(|at| at.into()), count: args.count };
    let response = context.client.preview_job(request).await?;
    if response.fires.is_empty() && !context.out.json {
        context.out.note(format!("{} has no fire to come", args.job));
        return Ok(());
    }
    print_fires(&response, args.notes, &context.out)
}

async fn omissions(context: &Context, args: OmissionsArgs) -> Result<(), Failure> {
    let job_id = job_id(&context.client, &args.job).await?;
    let page_size = args.page.page_size;
    let ask = async |page_token| {
        let request = ListOmissionsRequest { job_id: job_id.clone(), page_size, page_token };
        let page = context.client.list_omissions(request).await?;
        Ok((page.omissions, page.next_page_token))
    };
    let (omissions, next_page_token) = args.page.read(ask).await?;
    let listed = ListOmissionsResponse { omissions, next_page_token };
    if context.out.json {
        return Ok(context.out.json(&listed)?);
    }
    job_view::omissions(&listed.omissions, &context.out)?;
    more(context, &listed.next_page_token);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_keep_their_digits() {
        let text = r#" {"n": 123456789012345678901234567890, "price": 1.50} "#;
        assert_eq!(parameters(text).unwrap().text, text.trim());
        assert_eq!(parameters("-5").unwrap().text, "-5");
        for bad in ["", "{", "{a: 1}", "@/does/not/exist"] {
            assert_eq!(parameters(bad).unwrap_err().exit, Exit::Invalid, "{bad}");
        }
    }
}
