//! `orrery dead-letter`: executions that were given up because their agents were lost.

use chrono::Utc;
use clap::{Args, Subcommand};
use orrery_proto::v1::{
    DeadLetter, DeadLetterState, DiscardDeadLetterRequest, GetDeadLetterRequest, ListDeadLettersRequest,
    ListDeadLettersResponse, ReleaseDeadLetterRequest,
};

use super::Context;
use super::execution_view::one_line;
use super::exit::Failure;
use super::job::job_id;
use super::output::{Output, instant, instant_and_distance};
use super::page::{Page, more};
use super::wait;

#[derive(Debug, Subcommand)]
pub enum DeadLetterCommand {
    /// List dead letters, newest first; those that nobody has decided over where no state is given.
    #[command(
        visible_alias = "ls",
        after_help = "Examples:
  orrery dead-letter list
  orrery dead-letter list --job nightly --state any --all --json"
    )]
    List(ListArgs),
    /// Show a dead letter.
    Show {
        /// The id of its execution.
        execution: String,
    },
    /// Put a dead letter aside: it needs nobody any more.
    Discard {
        /// The id of its execution.
        execution: String,
        /// Why, for those who look later.
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Run its work again, as a new execution that points back to it.
    #[command(after_help = "Releasing twice answers with the same execution. The job's limit holds, as for a trigger.")]
    Release {
        /// The id of its execution.
        execution: String,
        /// Follow the new execution, print its logs, and exit by its result.
        #[arg(long, short)]
        wait: bool,
    },
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only those of this job, by id or name.
    #[arg(long)]
    job: Option<String>,
    /// Only those in this state: open, discarded, released, or any.
    #[arg(long, default_value = "open", value_parser = ["open", "discarded", "released", "any"])]
    state: String,
    #[command(flatten)]
    page: Page,
}

impl DeadLetterCommand {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        let Context { client, out } = context;
        match self {
            Self::List(args) => list(context, args).await,
            Self::Show { execution } => {
                let letter = client.get_dead_letter(GetDeadLetterRequest { execution_id: execution }).await?;
                if out.json { Ok(out.json(&letter)?) } else { Ok(details(&letter, out)?) }
            }
            Self::Discard { execution, reason } => {
                let request = DiscardDeadLetterRequest { execution_id: execution, reason };
                let letter = client.discard_dead_letter(request).await?;
                if out.json {
                    return Ok(out.json(&letter)?);
                }
                let line =
                    format!("the dead letter of execution {} of {} is discarded", letter.execution_id, letter.job_name);
                Ok(out.line(line)?)
            }
            Self::Release { execution, wait } => {
                let request = ReleaseDeadLetterRequest { execution_id: execution };
                let execution = client.release_dead_letter(request).await?;
                if wait {
                    out.note(one_line(&execution));
                    return wait::to_end(context, &execution.id).await;
                }
                if out.json { Ok(out.json(&execution)?) } else { Ok(out.line(one_line(&execution))?) }
            }
        }
    }
}

async fn list(context: &Context, args: ListArgs) -> Result<(), Failure> {
    let job_id = match &args.job {
        Some(job) => job_id(&context.client, job).await?,
        None => String::new(),
    };
    let request = ListDeadLettersRequest {
        job_id,
        state: DeadLetterState::from_json_str(&args.state).map(i32::from),
        page_size: args.page.page_size,
        page_token: String::new(),
    };
    let ask = async |page_token| {
        let page = context.client.list_dead_letters(ListDeadLettersRequest { page_token, ..request.clone() }).await?;
        Ok((page.dead_letters, page.next_page_token))
    };
    let (dead_letters, next_page_token) = args.page.read(ask).await?;
    let listed = ListDeadLettersResponse { dead_letters, next_page_token };
    if context.out.json {
        return Ok(context.out.json(&listed)?);
    }
    table(&listed.dead_letters, &context.out)?;
    more(context, &listed.next_page_token);
    Ok(())
}

fn table(letters: &[DeadLetter], out: &Output) -> std::io::Result<()> {
    let rows: Vec<Vec<String>> = letters
        .iter()
        .map(|letter| {
            vec![
                letter.execution_id.clone(),
                letter.job_name.clone(),
                letter.state().as_json_str().to_owned(),
                letter.reason().as_json_str().to_owned(),
                letter.losses.to_string(),
                letter.last_worker.clone(),
                instant(letter.created_at),
                letter.released_as.clone(),
            ]
        })
        .collect();
    out.table(&["EXECUTION", "JOB", "STATE", "REASON", "LOSSES", "LAST AGENT", "SINCE", "RELEASED AS"], &rows)
}

fn details(letter: &DeadLetter, out: &Output) -> std::io::Result<()> {
    let now = Utc::now();
    out.fields(&[
        ("Execution", letter.execution_id.clone()),
        ("Job", format!("{} ({})", letter.job_name, letter.job_id)),
        ("State", letter.state().as_json_str().to_owned()),
        ("Reason", letter.reason().as_json_str().to_owned()),
        ("Message", letter.message.clone()),
        ("Losses", letter.losses.to_string()),
        ("Last agent", letter.last_worker.clone()),
        ("Since", instant_and_distance(letter.created_at, now)),
        ("Released as", letter.released_as.clone()),
        ("Decided by", letter.decided_by.clone()),
        ("Decided", instant_and_distance(letter.decided_at, now)),
        ("Note", letter.note.clone()),
    ])
}
