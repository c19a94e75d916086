//! `orrery audit`: who changed what, who was denied what, and whether the log of it is as it was written.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use orrery_proto::Timestamp;
use orrery_proto::v1::{
    AuditEntry, AuditHead, AuditOutcome, GetAuditEntryRequest, GetAuditHeadRequest, ListAuditEntriesRequest,
    ListAuditEntriesResponse, VerifyAuditRequest, VerifyAuditResponse,
};
use uuid::Uuid;

use super::Context;
use super::exit::{Exit, Failure};
use super::instant::parse_instant;
use super::output::{Output, instant};
use super::page::{Page, more};

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// List entries, newest first.
    #[command(
        visible_alias = "ls",
        after_help = "Examples:
  orrery audit list --actor anna --from now-1d
  orrery audit list --action 'jobs:*' --resource 0197...
  orrery audit list --denied --all --json"
    )]
    List(ListArgs),
    /// Show an entry with what it was before and after.
    Show {
        id: String,
        #[command(flatten)]
        of: Of,
    },
    /// Print the signed end of the log. Kept somewhere else, it proves later that nothing was cut off.
    #[command(after_help = "Example: orrery audit head > audit-head-$(date +%F).json")]
    Head {
        #[command(flatten)]
        of: Of,
    },
    /// Look through the whole log for what was changed, removed, moved, reordered or put in. Exits with 1 where anything was.
    #[command(after_help = "Examples:
  orrery audit verify
  orrery audit verify --head audit-head-2026-01-31.json")]
    Verify {
        /// A head that was exported before: the log has to lead to it.
        #[arg(long, value_name = "FILE")]
        head: Option<PathBuf>,
        #[command(flatten)]
        of: Of,
    },
}

/// Whose log.
#[derive(Debug, Args)]
pub struct Of {
    /// That of another tenant; only callers of the deployment may.
    #[arg(long, conflicts_with = "deployment")]
    tenant: Option<Uuid>,
    /// That of the deployment itself: keys and agents of no tenant, calls with wrong credentials.
    #[arg(long)]
    deployment: bool,
}

impl Of {
    fn tenant_id(&self) -> String {
        match self.tenant {
            _ if self.deployment => Uuid::nil().to_string(),
            Some(tenant) => tenant.to_string(),
            None => String::new(),
        }
    }
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only what this actor did: an id, or a name.
    #[arg(long, default_value = "", hide_default_value = true)]
    actor: String,
    /// Only this action, such as jobs:update; 'jobs:*' for all of a kind.
    #[arg(long, default_value = "", hide_default_value = true)]
    action: String,
    /// Only what was done to this: the id of a job, or the name of a secret or queue.
    #[arg(long, default_value = "", hide_default_value = true)]
    resource: String,
    /// Only what was done to things of this type, such as job.
    #[arg(long, default_value = "", hide_default_value = true)]
    resource_type: String,
    /// Only what somebody was not let do.
    #[arg(long)]
    denied: bool,
    /// At this instant or later.
    #[arg(long, value_parser = parse_instant)]
    from: Option<DateTime<Utc>>,
    /// Before this instant.
    #[arg(long, value_parser = parse_instant)]
    to: Option<DateTime<Utc>>,
    #[command(flatten)]
    of: Of,
    #[command(flatten)]
    page: Page,
}

impl AuditCommand {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        let Context { client, out } = context;
        match self {
            Self::List(args) => list(context, args).await,
            Self::Show { id, of } => {
                let entry = client.get_audit_entry(GetAuditEntryRequest { id, tenant_id: of.tenant_id() }).await?;
                if out.json { Ok(out.json(&entry)?) } else { Ok(details(&entry, out)?) }
            }
            // A head is a file for later: JSON whatever the output.
            Self::Head { of } => {
                let head = client.get_audit_head(GetAuditHeadRequest { tenant_id: of.tenant_id() }).await?;
                Ok(out.json(&head)?)
            }
            Self::Verify { head, of } => verify(context, head.as_deref(), &of).await,
        }
    }
}

async fn list(context: &Context, args: ListArgs) -> Result<(), Failure> {
    let request = ListAuditEntriesRequest {
        page_size: args.page.page_size,
        page_token: String::new(),
        tenant_id: args.of.tenant_id(),
        actor: args.actor,
        action: args.action,
        resource_type: args.resource_type,
        resource_id: args.resource,
        outcome: args.denied.then(|| AuditOutcome::Denied.into()),
        from: args.from.map(Timestamp::from),
        to: args.to.map(Timestamp::from),
    };
    let ask = async |page_token| {
        let page = context.client.list_audit_entries(ListAuditEntriesRequest { page_token, ..request.clone() }).await?;
        Ok((page.entries, page.next_page_token))
    };
    let (entries, next_page_token) = args.page.read(ask).await?;
    if context.out.json {
        return Ok(context.out.json(&ListAuditEntriesResponse { entries, next_page_token })?);
    }
    table(&entries, &context.out)?;
    more(context, &next_page_token);
    Ok(())
}

fn table(entries: &[AuditEntry], out: &Output) -> std::io::Result<()> {
    let row = |entry: &AuditEntry| {
        vec![
            entry.id.clone(),
            instant(entry.at),
            format!("{} {}", entry.actor_kind, entry.actor_name),
            entry.action.clone(),
            format!("{} {}", entry.resource_type, or(&entry.resource_name, &entry.resource_id)),
            entry.outcome().as_json_str().to_owned(),
            entry.address.clone(),
        ]
    };
    let rows: Vec<_> = entries.iter().map(row).collect();
    out.table(&["ENTRY", "AT", "ACTOR", "ACTION", "RESOURCE", "OUTCOME", "FROM"], &rows)
}

fn or<'a>(name: &'a str, id: &'a str) -> &'a str {
    if name.is_empty() { id } else { name }
}

fn details(entry: &AuditEntry, out: &Output) -> std::io::Result<()> {
    let json = |json: &Option<orrery_proto::Json>| json.as_ref().map(|json| json.text.clone()).unwrap_or_default();
    out.fields(&[
        ("Entry", entry.id.clone()),
        ("At", instant(entry.at)),
        ("Actor", format!("{} {} ({})", entry.actor_kind, entry.actor_name, entry.actor_id)),
        ("From", entry.address.clone()),
        ("Request", entry.request_id.clone()),
        ("Action", entry.action.clone()),
        ("Outcome", entry.outcome().as_json_str().to_owned()),
        ("Resource", format!("{} {}", entry.resource_type, entry.resource_name)),
        ("Resource id", entry.resource_id.clone()),
        ("Sealed", if entry.sealed { "yes" } else { "not yet" }.to_owned()),
        ("Before", json(&entry.before)),
        ("After", json(&entry.after)),
    ])
}

/// Looks through all of it, part by part.
async fn verify(context: &Context, head: Option<&Path>, of: &Of) -> Result<(), Failure> {
    let head = head.map(read).transpose()?;
    let mut found = VerifyAuditResponse::default();
    let mut after_sequence = 0;
    loop {
        let request = VerifyAuditRequest {
            tenant_id: of.tenant_id(),
            after_sequence,
            page_size: 0,
            head: head.clone(),
            unsealed_minutes: 0,
        };
        let part = context.client.verify_audit(request).await?;
        found.seals += part.seals;
        found.entries += part.entries;
        for problem in part.problems {
            // One and the same may be seen from two parts.
            if !found.problems.contains(&problem) {
                found.problems.push(problem);
            }
        }
        found.head = part.head;
        after_sequence = part.next_sequence;
        if after_sequence == 0 {
            break;
        }
    }
    if context.out.json {
        context.out.json(&found)?;
    } else {
        for problem in &found.problems {
            context.out.line(format!("{}: {}", problem.code, problem.message))?;
        }
        context.out.line(format!("{} entries under {} seals were looked at", found.entries, found.seals))?;
    }
    match found.problems.len() {
        0 => Ok(()),
        count => {
            let message = format!("the audit log is not as it was written: {count} problems were found");
            Err(Failure::new(Exit::Failed, "AUDIT_LOG_CHANGED", message))
        }
    }
}

fn read(path: &Path) -> Result<AuditHead, Failure> {
    let unread = |error: String| {
        Failure::invalid(
            "INVALID_AUDIT_HEAD",
            format!("{}: {error}; give what `orrery audit head` printed", path.display()),
        )
    };
    let text = std::fs::read_to_string(path).map_err(|error| unread(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| unread(error.to_string()))
}
