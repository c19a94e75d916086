use std::io::Write;

use chrono::{DateTime, Duration, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use uuid::Uuid;

use super::{RunError, opened};
use crate::auth::{self, DEFAULT_TENANT, Keyring, NewKey, PERMISSIONS, generate_key};
use crate::config::ServerSecret;
use crate::store::{ApiKey, DynStore, KeysOf, Page, StoreError};
use crate::telemetry::LogArgs;

/// `orrery key`.
#[derive(Clone, Debug, Subcommand)]
pub enum KeyCommand {
    /// Make an API key and print it, once.
    #[command(after_help = "Examples:
  orrery key create --name ci --permission jobs:read --permission jobs:trigger --expires-days 90
  orrery key create --name agents --all-tenants --permission agents:connect --database-url $DATABASE_URL

With a database (--database-url or DATABASE_URL) it is made there, with no server in between, as the first key must be; it needs the
ORRERY_KEY_PEPPER, ORRERY_KEY_FILE or ORRERY_JWT_SECRET of the servers. Otherwise the server is asked.")]
    Create(KeyArgs),
    /// List API keys, newest first, those that are over included.
    #[command(visible_alias = "ls")]
    List(KeyListArgs),
    /// Revoke an API key: it opens nothing any more.
    Revoke(KeyRevokeArgs),
}

/// The database to work on, instead of a server.
#[derive(Clone, Debug, Args)]
pub struct Database {
    /// postgres://USER:PASSWORD@HOST:PORT/DATABASE, or sqlite:PATH: work on it directly, instead of asking a server.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    #[command(flatten)]
    pub log: LogArgs,
}

/// `orrery key create`.
#[derive(Clone, Debug, Args)]
pub struct KeyArgs {
    #[command(flatten)]
    pub database: Database,
    #[command(flatten)]
    pub secrets: Secrets,
    /// Who or what it is for.
    #[arg(long)]
    pub name: String,
    /// The tenant whose jobs it sees; the default tenant where absent. Only with a database: a server makes keys of the caller's tenant.
    #[arg(long)]
    pub tenant: Option<Uuid>,
    /// For agents that serve all tenants. Only with a database.
    #[arg(long, conflicts_with = "tenant")]
    pub all_tenants: bool,
    /// Such as jobs:read or agents:connect; repeat it for several. Everything where absent.
    #[arg(long = "permission")]
    pub permissions: Vec<String>,
    /// Days until it expires; never where absent.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub expires_days: Option<u32>,
}

/// `orrery key list`.
#[derive(Clone, Debug, Args)]
pub struct KeyListArgs {
    #[command(flatten)]
    pub database: Database,
}

/// `orrery key revoke`.
#[derive(Clone, Debug, Args)]
pub struct KeyRevokeArgs {
    #[command(flatten)]
    pub database: Database,
    /// The key's id, as the list shows it.
    pub id: Uuid,
}

/// What the servers hash keys under.
#[derive(Clone, Default, Args)]
pub struct Secrets {
    #[command(flatten)]
    pub server_secret: ServerSecret,
    /// The servers' secret of HS256 tokens, where nothing else is set.
    #[arg(long, env = "ORRERY_JWT_SECRET", hide_env_values = true)]
    pub jwt_secret: Option<String>,
}

impl std::fmt::Debug for Secrets {
    /// Without the secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").field("server_secret", &self.server_secret).finish_non_exhaustive()
    }
}

impl KeyCommand {
    /// The database that it works on; `None`: a server is asked.
    pub fn database(&self) -> Option<(&str, &LogArgs)> {
        let database = match self {
            Self::Create(args) => &args.database,
            Self::List(args) => &args.database,
            Self::Revoke(args) => &args.database,
        };
        database.database_url.as_deref().filter(|url| !url.is_empty()).map(|url| (url, &database.log))
    }
}

/// Does it on the database.
///
/// # Errors
/// Where a setting is wrong or the database not to be had.
pub async fn run(command: KeyCommand, url: &str) -> Result<(), RunError> {
    match command {
        KeyCommand::Create(args) => Box::pin(auth::as_operator(create(args, url))).await,
        KeyCommand::List(_) => list(url).await,
        KeyCommand::Revoke(args) => Box::pin(auth::as_operator(revoke(args.id, url))).await,
    }
}

/// Makes the key, stores its hash, and prints the key, once.
async fn create(args: KeyArgs, url: &str) -> Result<(), RunError> {
    if args.name.trim().is_empty() || args.name.chars().count() > 200 {
        return Err(RunError::Setting("--name: 1 to 200 characters".into()));
    }
    if let Some(bad) = args.permissions.iter().find(|p| *p != "*" && !PERMISSIONS.contains(&p.as_str())) {
        let known = PERMISSIONS.join(", ");
        return Err(RunError::Setting(format!("--permission {bad}: is unknown; there are {known}, and * for all")));
    }
    let keyring =
        Keyring::from_settings(&of_database(&args.secrets.server_secret, url), args.secrets.jwt_secret.as_deref())?;
    let store = opened::open(url, None, 2).await?;
    let tenant_id = if args.all_tenants { None } else { Some(args.tenant.unwrap_or(DEFAULT_TENANT)) };
    let permissions = if args.permissions.is_empty() { vec!["*".into()] } else { args.permissions };
    let now = store.now().await.map_err(failed("the database's clock cannot be read"))?;
    let expires_at = args.expires_days.map(|days| now + Duration::days(i64::from(days)));
    let new = NewKey { tenant_id, name: args.name, permissions, expires_at, created_by: None };
    let (plain, key) = generate_key(&keyring, new, now);
    warn_of_other_peppers(&store, &keyring).await?;
    store.insert_key(&key).await.map_err(failed("the key cannot be stored"))?;
    print(&plain)?;
    // Where nobody reads it, nothing is lost.
    let _ =
        writeln!(std::io::stderr(), "This is the only time that the key is shown; the database keeps a hash of it.");
    Ok(())
}

/// The servers of a database have one pepper. A key that is hashed under another one would be unknown to them.
async fn warn_of_other_peppers(store: &DynStore, keyring: &Keyring) -> Result<(), RunError> {
    let newest = Page { after: None, limit: 100 };
    let keys = store.keys(KeysOf::Everybody, &newest).await.map_err(failed("the keys cannot be read"))?;
    let mut peppers = keys.iter().filter(|key| key.revoked_at.is_none()).filter_map(|key| key.hash.pepper);
    if let Some(first) = peppers.next()
        && Some(first) != keyring.current()
        && !peppers.any(|pepper| Some(pepper) == keyring.current())
    {
        let _ = writeln!(
            std::io::stderr(),
            "Warning: the keys of this database were made under another secret. Give this command the ORRERY_KEY_PEPPER, ORRERY_KEY_FILE or \
             ORRERY_JWT_SECRET of the servers, or they will not know the key."
        );
    }
    Ok(())
}

/// The settings, with the key file of `orrery dev` where nothing else is set and it stands beside the database.
pub(super) fn of_database(secret: &ServerSecret, url: &str) -> ServerSecret {
    let path = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:"));
    let beside =
        path.map(|path| std::path::Path::new(path).with_file_name(super::KEY_FILE)).filter(|path| path.exists());
    match beside {
        Some(file) if secret.key_pepper.is_empty() && secret.key_file.is_none() => {
            ServerSecret { key_file: Some(file), ..secret.clone() }
        }
        _ => secret.clone(),
    }
}

async fn list(url: &str) -> Result<(), RunError> {
    let store = opened::open(url, None, 2).await?;
    let mut page = Page { after: None, limit: 1000 };
    let mut out = std::io::stdout().lock();
    let write = |e| RunError::Io("the list cannot be printed".into(), e);
    writeln!(out, "ID\tNAME\tPREFIX\tTENANT\tSTATE\tLAST USED\tPERMISSIONS").map_err(write)?;
    let now = store.now().await.map_err(failed("the database's clock cannot be read"))?;
    loop {
        let keys = store.keys(KeysOf::Everybody, &page).await.map_err(failed("the keys cannot be read"))?;
        for key in &keys {
            writeln!(out, "{}", line(key, now)).map_err(write)?;
        }
        match keys.last() {
            Some(last) if keys.len() == 1000 => page.after = Some(last.id),
            _ => return Ok(()),
        }
    }
}

fn line(key: &ApiKey, now: DateTime<Utc>) -> String {
    let state = match (key.revoked_at, key.expires_at) {
        (Some(_), _) => "revoked",
        (None, Some(at)) if at <= now => "expired",
        _ => "active",
    };
    let tenant = key.tenant_id.map_or_else(|| "all".to_owned(), |id| id.to_string());
    let used = key.last_used_at.map_or_else(|| "-".to_owned(), |at| at.to_rfc3339_opts(SecondsFormat::Secs, true));
    // Names are what people typed; what moves a terminal's cursor is not shown.
    let name: String = key.name.chars().filter(|c| !c.is_control()).collect();
    format!("{}\t{name}\t{}\t{tenant}\t{state}\t{used}\t{}", key.id, key.prefix, key.permissions.join(","))
}

async fn revoke(id: Uuid, url: &str) -> Result<(), RunError> {
    let store = opened::open(url, None, 2).await?;
    match store.revoke_key(KeysOf::Everybody, id).await {
        Ok(key) => writeln!(std::io::stdout(), "the key {} ({}) is revoked", key.id, key.prefix)
            .map_err(|e| RunError::Io("the answer cannot be printed".into(), e)),
        Err(StoreError::NotFound) => Err(RunError::Setting(format!("there is no API key {id}; see orrery key list"))),
        Err(error) => Err(failed("the key cannot be revoked")(error)),
    }
}

pub(super) fn print(secret: &str) -> Result<(), RunError> {
    writeln!(std::io::stdout(), "{secret}").map_err(|e| RunError::Io("the secret cannot be printed".into(), e))
}

pub(super) fn failed(context: &'static str) -> impl FnOnce(StoreError) -> RunError {
    move |source| RunError::Store { context: context.to_owned(), source }
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
            let line = ["key", "--name", "a", "--permission", bad];
            let message = create(Line::parse_from(line).key, "sqlite:/nowhere/x.db").await.unwrap_err().to_string();
            assert!(message.contains(bad) && message.contains("jobs:read, "), "{message}");
        }
    }

    #[test]
    fn the_key_file_beside_the_database_of_development_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", directory.path().join("orrery.db").display());
        assert!(of_database(&ServerSecret::default(), &url).key_file.is_none());
        let file = directory.path().join(crate::run::KEY_FILE);
        std::fs::write(&file, "x").unwrap();
        assert_eq!(of_database(&ServerSecret::default(), &url).key_file, Some(file));
        let set = ServerSecret { key_pepper: vec!["x".into()], key_file: None };
        assert!(of_database(&set, &url).key_file.is_none());
    }
}
