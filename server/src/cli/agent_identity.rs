//! `orrery agent token`, `revoke` and `list --enrolled`: agents' identities.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::Utc;
use clap::Args;
use orrery_proto::v1::{
    Agent, CreateJoinTokenRequest, JoinToken, ListAgentsRequest, ListAgentsResponse, RevokeAgentRequest,
};

use super::exit::{Exit, Failure};
use super::instant::parse_duration;
use super::output::{Output, distance, instant};
use super::{Context, Global};

/// `orrery agent token`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  orrery agent token
  orrery agent token --name db-1 --queue reports --label zone=eu --ttl 1h
  orrery agent token --install --coordinator https://orrery.example:50051")]
pub struct TokenArgs {
    /// A name for people, such as the host it is for.
    #[arg(long, default_value = "")]
    name: String,
    /// The agent will serve all tenants.
    #[arg(long)]
    shared: bool,
    /// The only queue that the agent may serve; repeatable. Any where none is given.
    #[arg(long = "queue", value_name = "NAME")]
    queues: Vec<String>,
    /// A label that the agent has, whatever it says of itself; repeatable.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// How long the token may wait to be used, such as 10m.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_duration)]
    ttl: std::time::Duration,
    /// Print the one line that installs an agent as a systemd service on the host it is run on.
    #[arg(long)]
    install: bool,
    /// Where that agent finds coordinators; the server that this command calls where absent.
    #[arg(long = "coordinator", value_name = "URL", requires = "install")]
    coordinators: Vec<String>,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is no label; write one as zone=eu")),
    }
}

impl TokenArgs {
    pub(super) async fn run(self, global: &Global, context: &Context) -> Result<(), Failure> {
        let request = CreateJoinTokenRequest {
            name: self.name.clone(),
            shared: self.shared,
            queues: self.queues.clone(),
            labels: self.labels.iter().cloned().collect(),
            ttl_seconds: i32::try_from(self.ttl.as_secs()).unwrap_or(i32::MAX),
        };
        let out = &context.out;
        // Before the token is made: one that cannot be told would be lost.
        let authorities = if self.install { Some(authorities(global)?) } else { None };
        let token = context.client.create_join_token(request).await?;
        match authorities {
            _ if out.json => Ok(out.json(&token)?),
            Some(authorities) => {
                out.line(self.one_liner(&token, global, authorities.as_deref()))?;
                out.note(format!("It installs one agent, and works until {}.", instant(token.expires_at)));
                Ok(())
            }
            None => {
                out.line(&token.token)?;
                out.note(format!(
                    "This is the only time that the token is shown. It lets one agent in, until {}: give it as ORRERY_JOIN_TOKEN.",
                    instant(token.expires_at)
                ));
                Ok(())
            }
        }
    }

    /// What installs the agent, on a host that has the program `orrery-agent`.
    fn one_liner(&self, token: &JoinToken, global: &Global, authorities: Option<&str>) -> String {
        let here = [global.server.clone()];
        let coordinators = if self.coordinators.is_empty() { &here[..] } else { &self.coordinators[..] };
        let mut line = format!("sudo ORRERY_JOIN_TOKEN={} orrery-agent install", token.token);
        for coordinator in coordinators {
            line += &format!(" --coordinator {}", quoted(coordinator));
        }
        for queue in &self.queues {
            line += &format!(" --queue {}", quoted(queue));
        }
        if let Some(pem) = authorities {
            line += &format!(" --ca-base64 {}", STANDARD.encode(pem));
        }
        line
    }
}

/// What the agent will know coordinators by: what this command does.
fn authorities(global: &Global) -> Result<Option<String>, Failure> {
    let Some(file) = &global.ca else { return Ok(None) };
    let unreadable = |e| Failure::new(Exit::Invalid, "INVALID_CA", format!("the CA file {}: {e}", file.display()));
    std::fs::read_to_string(file).map(Some).map_err(unreadable)
}

/// For a POSIX shell.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+,=".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// `orrery agent revoke`.
pub(super) async fn revoke(context: &Context, id: String) -> Result<(), Failure> {
    let agent = context.client.revoke_agent(RevokeAgentRequest { id }).await?;
    if context.out.json {
        return Ok(context.out.json(&agent)?);
    }
    Ok(context.out.line(format!("{} is revoked; its stream is cut within seconds", agent.id))?)
}

/// `orrery agent list --enrolled`.
pub(super) async fn list(context: &Context) -> Result<(), Failure> {
    let mut all = ListAgentsResponse::default();
    loop {
        let request = ListAgentsRequest { page_size: 1000, page_token: all.next_page_token.clone() };
        let page = context.client.list_agents(request).await?;
        all.agents.extend(page.agents);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            break;
        }
    }
    if context.out.json { Ok(context.out.json(&all)?) } else { Ok(table(&all.agents, &context.out)?) }
}

fn table(agents: &[Agent], out: &Output) -> std::io::Result<()> {
    let now = Utc::now();
    let rows: Vec<Vec<String>> = agents
        .iter()
        .map(|agent| {
            let mut labels: Vec<String> = agent.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            labels.sort();
            let tenant = if agent.tenant_id.is_empty() { "all".to_owned() } else { agent.tenant_id.clone() };
            vec![
                agent.id.clone(),
                agent.name.clone(),
                agent.state().as_json_str().to_owned(),
                tenant,
                agent.queues.join(","),
                labels.join(","),
                distance(agent.enrolled_at, now),
                distance(agent.expires_at, now),
            ]
        })
        .collect();
    out.table(&["ID", "NAME", "STATE", "TENANT", "QUEUES", "LABELS", "ENROLLED", "CERTIFICATE"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_would_read_otherwise_is_quoted() {
        assert_eq!(quoted("https://a.example:50051"), "https://a.example:50051");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("a'$(x)"), r"'a'\''$(x)'");
        assert_eq!(quoted(""), "''");
    }
}
