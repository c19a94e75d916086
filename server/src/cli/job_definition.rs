//! `orrery job create`, `update` and `validate`: what reads definitions.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Args;
use orrery_proto::Json;
use orrery_proto::v1::{
    BatchCreateJobsRequest, CreateJobRequest, JobType, UpdateJobRequest, ValidateJobRequest, ValidateJobResponse,
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::Context;
use super::definition_file::DefinitionFile;
use super::exit::Failure;
use super::instant::{parse_duration, parse_instant};
use super::job::job_id;
use super::job_view;
use super::output::{Output, instant};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  orrery job create -f nightly.yaml
  orrery job create --name hello --every 10s --command echo -- hello world
  orrery job create --name ping --cron '*/5 * * * *' --http https://example.org/health
  orrery job create --name report --cron '0 9 * * 1-5' --tz Europe/Berlin --command /opt/report -- --daily

A file holds one definition, a list of them, or several YAML documents; more than one are created all or nothing:

  name: nightly
  cronExpression: 0 0 3 * * *
  timezone: Europe/Berlin
  jobType: http
  config:
    url: https://example.org/nightly
    method: POST
  retryConfig: {maxRetries: 3, retryDelayMs: 1000, exponentialBackoff: true}")]
pub struct CreateArgs {
    /// YAML or JSON file with definitions; - for stdin.
    #[arg(long, short, value_name = "FILE", conflicts_with_all = ["name", "cron", "every", "at", "manual", "command", "http"])]
    file: Option<String>,
    #[command(flatten)]
    simple: Simple,
}

/// A job without a file.
#[derive(Debug, Args)]
#[command(next_help_heading = "Without a file")]
struct Simple {
    /// The job's name.
    #[arg(long)]
    name: Option<String>,
    /// What it is for.
    #[arg(long, default_value = "", hide_default_value = true, conflicts_with = "file")]
    description: String,
    /// Cron expression.
    #[arg(long, value_name = "EXPR", group = "schedule")]
    cron: Option<String>,
    /// IANA time zone of the cron expression.
    #[arg(long, visible_alias = "timezone", value_name = "ZONE", requires = "cron", conflicts_with_all = ["every", "at", "manual", "file"])]
    tz: Option<String>,
    /// Fixed interval, such as 30s or 5m.
    #[arg(long, value_name = "DURATION", group = "schedule", value_parser = parse_duration)]
    every: Option<Duration>,
    /// Once, at this instant.
    #[arg(long, value_name = "INSTANT", group = "schedule", value_parser = parse_instant)]
    at: Option<DateTime<Utc>>,
    /// Only when triggered.
    #[arg(long, group = "schedule")]
    manual: bool,
    /// A program to run; its arguments follow after --.
    #[arg(long, value_name = "PROGRAM", group = "work")]
    command: Option<String>,
    /// Arguments of the program.
    #[arg(last = true, requires = "command", conflicts_with_all = ["http", "file"])]
    args: Vec<String>,
    /// A URL to request.
    #[arg(long, value_name = "URL", group = "work")]
    http: Option<String>,
    /// Method of the request.
    #[arg(long, requires = "http", conflicts_with_all = ["command", "file"])]
    method: Option<String>,
    /// A header of the request, as `Name: value`; may be repeated.
    #[arg(long = "header", value_name = "HEADER", requires = "http", conflicts_with_all = ["command", "file"], value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// Body of the request; JSON is sent as that, all else as text.
    #[arg(long, requires = "http", conflicts_with_all = ["command", "file"])]
    body: Option<String>,
    /// Seconds that one attempt may take.
    #[arg(long, value_name = "SECONDS", conflicts_with = "file")]
    timeout: Option<i32>,
    /// How many executions may run at once; 0 is no limit.
    #[arg(long, value_name = "N", conflicts_with = "file")]
    max_concurrent: Option<i32>,
    /// A key whose executions, of whatever jobs, share places; it may refer to parameters, as in 'customer-${parameters.customer}'.
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true, conflicts_with = "file")]
    concurrency_key: String,
    /// How many executions with the key may run at once.
    #[arg(long, value_name = "N", requires = "concurrency_key", conflicts_with = "file")]
    concurrency_limit: Option<i32>,
    /// The higher number runs first.
    #[arg(long, value_name = "N", allow_negative_numbers = true, conflicts_with = "file")]
    priority: Option<i32>,
    /// The queue its executions go to.
    #[arg(long, default_value = "", hide_default_value = true, conflicts_with = "file")]
    queue: String,
    /// A tag; may be repeated.
    #[arg(long = "tag", value_name = "TAG", conflicts_with = "file")]
    tags: Vec<String>,
    /// Idempotency key: the same key within 24 hours answers with the first call's job.
    #[arg(long, default_value = "", hide_default_value = true, conflicts_with = "file")]
    key: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  orrery job update nightly -f nightly.yaml
  orrery job get nightly --json > nightly.json; $EDITOR nightly.json; orrery job update nightly -f nightly.json

A version, in the file or by --version, makes the update fail with 4 where somebody else was faster. What the file leaves out goes
back to its default.")]
pub struct UpdateArgs {
    /// The job's id or name.
    job: String,
    /// YAML or JSON file with the whole new definition; - for stdin.
    #[arg(long, short, value_name = "FILE")]
    file: String,
    /// The version that was read.
    #[arg(long, value_name = "N")]
    version: Option<i64>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  orrery job validate -f nightly.yaml
  orrery job validate nightly -f nightly.yaml

Exits with 2 where a definition is not valid.")]
pub struct ValidateArgs {
    /// The job that the definition is to replace, by id or name.
    job: Option<String>,
    /// YAML or JSON file with definitions; - for stdin.
    #[arg(long, short, value_name = "FILE")]
    file: String,
}

/// `config` of an http job.
#[derive(Serialize)]
struct HttpConfig {
    url: String,
    method: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Box<RawValue>>,
}

/// `config` of a command job.
#[derive(Serialize)]
struct CommandConfig {
    command: String,
    args: Vec<String>,
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.trim().to_owned())),
        _ => Err(format!("`{text}` is no header; write one as `Name: value`")),
    }
}

impl CreateArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        let Context { client, out } = context;
        let mut requests: Vec<CreateJobRequest> = match &self.file {
            Some(file) => DefinitionFile::read(file)?.messages()?,
            None => vec![self.simple.request()?],
        };
        if requests.len() > 1 {
            let created = client.batch_create_jobs(BatchCreateJobsRequest { jobs: requests }).await?;
            if out.json {
                return Ok(out.json(&created)?);
            }
            return Ok(job_view::table(&created.jobs, out)?);
        }
        let job = client.create_job(requests.pop().unwrap_or_default()).await?;
        if out.json { Ok(out.json(&job)?) } else { Ok(out.line(job_view::one_line(&job))?) }
    }
}

impl Simple {
    /// What a job cannot do without. Said here, since each can be given in several ways.
    fn missing(&self) -> Option<String> {
        let is_scheduled = self.cron.is_some() || self.every.is_some() || self.at.is_some() || self.manual;
        let parts = [
            self.name.is_none().then_some("its name (--name)"),
            (!is_scheduled).then_some("when it fires (--cron, --every, --at or --manual)"),
            (self.command.is_none() && self.http.is_none()).then_some("what it runs (--command or --http)"),
        ];
        let parts: Vec<&str> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    fn request(self) -> Result<CreateJobRequest, Failure> {
        if let Some(missing) = self.missing() {
            return Err(Failure::invalid("INVALID_USAGE", format!("give {missing}; or a file by -f; see --help")));
        }
        let (job_type, config) = match (self.http, self.command) {
            (Some(url), _) => {
                let config = HttpConfig {
                    url,
                    method: self.method.unwrap_or_else(|| "GET".to_owned()),
                    headers: self.headers.into_iter().collect(),
                    body: self.body.as_deref().map(body).transpose().map_err(unwritable)?,
                };
                (JobType::Http, Json::of(&config))
            }
            (None, command) => {
                let config = CommandConfig { command: command.unwrap_or_default(), args: self.args };
                (JobType::Command, Json::of(&config))
            }
        };
        Ok(CreateJobRequest {
            name: self.name.unwrap_or_default(),
            description: self.description,
            cron_expression: self.cron.unwrap_or_default(),
            timezone: self.tz.unwrap_or_default(),
            job_type: job_type.into(),
            config: Some(config.map_err(unwritable)?),
            timeout: self.timeout,
            max_concurrent: self.max_concurrent,
            concurrency_key: self.concurrency_key,
            concurrency_limit: self.concurrency_limit,
            priority: self.priority,
            tags: self.tags,
            interval_ms: self.every.map(|every| i64::try_from(every.as_millis()).unwrap_or(i64::MAX)),
            run_at: self.at.map(|at| at.into()),
            manual: self.manual,
            queue: self.queue,
            idempotency_key: self.key,
            ..CreateJobRequest::default()
        })
    }
}

/// JSON as it is, all else as a JSON string.
fn body(text: &str) -> Result<Box<RawValue>, serde_json::Error> {
    match serde_json::from_str::<Box<RawValue>>(text.trim()) {
        Ok(raw) => Ok(raw),
        Err(_) => serde_json::value::to_raw_value(text),
    }
}

fn unwritable(error: serde_json::Error) -> Failure {
    Failure::invalid("INVALID_JOB_CONFIG", format!("the configuration has no JSON: {error}"))
}

impl UpdateArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        let Context { client, out } = context;
        let mut request: UpdateJobRequest = DefinitionFile::read(&self.file)?.single()?;
        let id = job_id(client, &self.job).await?;
        if !request.id.is_empty() && request.id != id {
            let message = format!("{} holds job {}, and {} is job {id}", self.file, request.id, self.job);
            return Err(Failure::invalid("INVALID_ARGUMENT", message));
        }
        request.id = id;
        request.version = self.version.or(request.version);
        let job = client.update_job(request).await?;
        if out.json { Ok(out.json(&job)?) } else { Ok(out.line(job_view::one_line(&job))?) }
    }
}

impl ValidateArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        let Context { client, out } = context;
        let mut requests: Vec<ValidateJobRequest> = DefinitionFile::read(&self.file)?.messages()?;
        if let Some(job) = &self.job {
            let [request] = requests.as_mut_slice() else {
                return Err(Failure::invalid("INVALID_FILE", "one definition is needed to replace one job"));
            };
            request.id = job_id(client, job).await?;
        }
        let several = requests.len() > 1;
        let mut problems = Vec::new();
        let mut results = Vec::new();
        for request in requests {
            let name = request.name.clone();
            let result = client.validate_job(request).await?;
            let shown = if several { name.as_str() } else { "" };
            problems.extend(job_view::problems(&result.errors, shown));
            if !out.json {
                show(&name, &result, out)?;
            }
            results.push(result);
        }
        let valid = results.iter().all(|result| result.valid);
        match results.as_slice() {
            _ if !out.json => {}
            [result] => out.json(result)?,
            several => out.json(&serde_json::json!({"results": several}))?,
        }
        if valid { Ok(()) } else { Err(Failure::fields(problems)) }
    }
}

fn show(name: &str, result: &ValidateJobResponse, out: &Output) -> std::io::Result<()> {
    if !result.valid {
        return Ok(());
    }
    let fires: Vec<String> = result.next_fires.iter().map(|fire| instant(fire.at)).collect();
    let fires = if fires.is_empty() { String::new() } else { format!("; fires {}", fires.join(", ")) };
    out.line(format!("{name} is valid{fires}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        create: CreateArgs,
    }

    fn request(args: &[&str]) -> Result<CreateJobRequest, String> {
        let args = std::iter::once("create").chain(args.iter().copied());
        let command = Command::try_parse_from(args).map_err(|error| error.to_string())?;
        command.create.simple.request().map_err(|failure| failure.message)
    }

    #[test]
    fn a_command_takes_its_arguments_after_two_dashes() {
        let args = ["--name", "a", "--every", "10s", "--command", "echo", "--", "-n", "it's"];
        let request = request(&args).unwrap();
        assert_eq!(request.interval_ms, Some(10_000));
        assert_eq!(request.job_type(), JobType::Command);
        assert_eq!(request.config.unwrap().text, r#"{"command":"echo","args":["-n","it's"]}"#);
    }

    #[test]
    fn a_request_keeps_its_body() {
        let args =
            ["--name", "a", "--cron", "@daily", "--tz", "Europe/Berlin", "--http", "https://x", "--method", "POST"];
        let with = |more: &[&str]| request(&[&args[..], more].concat()).unwrap().config.unwrap().text;
        assert_eq!(with(&["--body", r#"{"n": 1.50}"#]), r#"{"url":"https://x","method":"POST","body":{"n": 1.50}}"#);
        assert_eq!(
            with(&["--body", "plain", "--header", "X-A: b"]),
            r#"{"url":"https://x","method":"POST","headers":{"X-A":"b"},"body":"plain"}"#
        );
    }

    #[test]
    fn what_is_missing_or_does_not_go_together_is_said() {
        let base = ["--name", "a", "--cron", "@daily"];
        for args in [
            &["--name", "a", "--command", "x"][..],
            &["--cron", "@daily", "--command", "x"],
            &base,
            &[&base[..], &["--every", "5s", "--command", "x"]].concat(),
            &[&base[..], &["--command", "x", "--http", "y"]].concat(),
            &[&base[..], &["--command", "x", "--method", "GET"]].concat(),
            &["-f", "x", "--name", "a"],
            &["--name", "a", "--every", "5", "--command", "x"],
        ] {
            assert!(request(args).is_err(), "{args:?}");
        }
        let message = request(&["--name", "a"]).unwrap_err();
        for flag in ["--cron", "--every", "--at", "--manual", "--command", "--http", "-f"] {
            assert!(message.contains(flag), "{message}");
        }
        assert!(!message.contains("--name"), "{message}");
    }
}
