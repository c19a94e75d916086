use std::io::Write;

use chrono::Duration;
use clap::{Args, Subcommand};
use uuid::Uuid;

use super::{RunError, opened};
use crate::auth::{DEFAULT_TENANT, PERMISSIONS, generate_key};
use crate::telemetry::LogArgs;

/// `orrery key`.
#[derive(Clone, Debug, Subcommand)]
pub enum KeyCommand {
    /// Make an API key and print it, once.
    #[command(after_help = "Examples:
  orrery key create --name ci --permission jobs:read --permission jobs:trigger --expires-days 90
  orrery key create --name agents --all-tenants --permission agents:connect")]
    Create(KeyArgs),
}

/// `orrery key create`: makes an API key, straight in the database, since the first key has nobody to ask for it.
#[derive(Clone, Debug, Args)]
pub struct KeyArgs {
    /// postgres://USER:PASSWORD@HOST:PORT/DATABASE, or sqlite:PATH.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    #[command(flatten)]
    pub log: LogArgs,
    /// Who or what it is for.
    #[arg(long)]
    pub name: String,
    /// The tenant whose jobs it sees; the default tenant where absent.
    #[arg(long)]
    pub tenant: Option<Uuid>,
    /// For agents that serve all tenants.
    #[arg(long, conflicts_with = "tenant")]
    pub all_tenants: bool,
    /// Such as jobs:read or agents:connect; repeat it for several. Everything where absent.
    #[arg(long = "permission")]
    pub permissions: Vec<String>,
    /// Days until it expires; never where absent.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub expires_days: Option<u32>,
}

/// Makes the key, stores its hash, and prints the key, once.
///
/// # Errors
/// Where a setting is wrong or the database not to be had.
pub async fn create(args: KeyArgs) -> Result<(), RunError> {
    if args.name.trim().is_empty() || args.name.chars().count() > 200 {
        return Err(RunError::Setting("--name: 1 to 200 characters".into()));
    }
    if let Some(bad) = args.permissions.iter().find(|p| *p != "*" && !PERMISSIONS.contains(&p.as_str())) {
        let known = PERMISSIONS.join(", ");
        return Err(RunError::Setting(format!("--permission {bad}: is unknown; there are {known}, and * for all")));
    }
    let store = opened::open(&args.database_url, None, 2).await?;
    let tenant = if args.all_tenants { None } else { Some(args.tenant.unwrap_or(DEFAULT_TENANT)) };
    let permissions = if args.permissions.is_empty() { vec!["*".into()] } else { args.permissions };
    let now = store
        .now()
        .await
        .map_err(|source| RunError::Store { context: "the database's clock cannot be read".into(), source })?;
    let expires_at = args.expires_days.map(|days| now + Duration::days(i64::from(days)));
    let (plain, key) = generate_key(tenant, &args.name, permissions, expires_at, now);
    store
        .insert_key(&key)
        .await
        .map_err(|source| RunError::Store { context: "the key cannot be stored".into(), source })?;
    writeln!(std::io::stdout(), "{plain}").map_err(|e| RunError::Io("the key cannot be printed".into(), e))?;
    // Where nobody reads it, nothing is lost.
    let _ =
        writeln!(std::io::stderr(), "This is the only time that the key is shown; the database keeps a hash of it.");
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        key: KeyArgs,
    }

    #[tokio::test]
    async fn a_permission_that_does_not_exist_is_refused() {
        for bad in ["jobs:*", "jobs:raed", "admin"] {
            let line = ["key", "--database-url", "sqlite:/nowhere/x.db", "--name", "a", "--permission", bad];
            let message = create(Line::parse_from(line).key).await.unwrap_err().to_string();
            assert!(message.contains(bad) && message.contains("jobs:read, "), "{message}");
        }
    }
}
