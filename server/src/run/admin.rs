use std::io::{Read, Write};

use clap::{Args, Subcommand};
use uuid::Uuid;

use super::key::{failed, print};
use super::{RunError, opened};
use crate::api::user_name;
use crate::auth::{self, ADMIN, DEFAULT_TENANT, Passwords, check_password};
use crate::error::Error;
use crate::store::{StoreError, User, UserChange};
use crate::telemetry::LogArgs;

/// `orrery admin`.
#[derive(Clone, Debug, Subcommand)]
pub enum AdminCommand {
    /// Make an administrator, straight in the database: the first one has nobody to ask.
    #[command(after_help = "Examples:
  orrery admin create --name anna                             # prints a password of its own making, once
  orrery admin create --name anna --password-stdin < file
  orrery admin create --name anna --reset                     # when the password is lost, or the last administrator is disabled")]
    Create(AdminArgs),
}

/// `orrery admin create`.
#[derive(Clone, Debug, Args)]
pub struct AdminArgs {
    /// postgres://USER:PASSWORD@HOST:PORT/DATABASE, or sqlite:PATH.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    #[command(flatten)]
    pub log: LogArgs,
    /// What it signs in with: a-z, 0-9 and . _ @ + -, such as an e-mail address.
    #[arg(long)]
    pub name: String,
    /// Its tenant; the default tenant where absent.
    #[arg(long)]
    pub tenant: Option<Uuid>,
    /// Read the password from standard input, instead of making one. (A password among the arguments could be read by everybody here.)
    #[arg(long)]
    pub password_stdin: bool,
    /// Where there is a user of this name: give it this password, make it an administrator, and let it sign in again.
    #[arg(long)]
    pub reset: bool,
}

/// Makes the administrator.
///
/// # Errors
/// Where a setting is wrong, the name is taken, or the database not to be had.
pub async fn create(args: AdminArgs) -> Result<(), RunError> {
    Box::pin(auth::as_operator(create_as(args))).await
}

async fn create_as(args: AdminArgs) -> Result<(), RunError> {
    let name = user_name(&args.name).map_err(setting)?;
    let given = if args.password_stdin { Some(from_stdin()?) } else { None };
    if let Some(password) = &given {
        check_password("--password-stdin", password, &name).map_err(setting)?;
    }
    let store = opened::open(&args.database_url, None, 2).await?;
    let tenant = args.tenant.unwrap_or(DEFAULT_TENANT);
    let there = store.user_by_name(tenant, &name).await.map_err(failed("the users cannot be read"))?;
    if there.is_some() && !args.reset {
        return Err(RunError::Setting(format!(
            "--name {name}: there is a user of this name; --reset makes it an administrator"
        )));
    }
    let password = given.clone().unwrap_or_else(made);
    let password_hash = Passwords::default().hash(password.clone()).await.map_err(setting)?;
    match there {
        Some(user) => {
            let mut roles = user.roles;
            if !roles.iter().any(|role| role == ADMIN) {
                roles.push(ADMIN.to_owned());
            }
            let change = UserChange {
                roles: Some(roles),
                disabled: Some(false),
                password_hash: Some(password_hash),
                ..UserChange::default()
            };
            store.change_user(tenant, user.id, &change).await.map_err(failed("the user cannot be changed"))?;
        }
        None => {
            let now = store.now().await.map_err(failed("the database's clock cannot be read"))?;
            let user = User {
                id: Uuid::now_v7(),
                tenant_id: tenant,
                name: name.clone(),
                display_name: String::new(),
                password_hash,
                roles: vec![ADMIN.to_owned()],
                created_by: None,
                created_at: now,
                updated_at: now,
                last_login_at: None,
                disabled_at: None,
            };
            store.create_user(&user, &[]).await.map_err(not_made)?;
        }
    }
    if given.is_none() {
        print(&password)?;
        let _ = writeln!(std::io::stderr(), "This is the only time that the password of {name} is shown.");
    } else {
        let _ = writeln!(std::io::stderr(), "{name} is an administrator.");
    }
    Ok(())
}

fn not_made(error: StoreError) -> RunError {
    match error {
        StoreError::Refused(reason) => setting(*reason),
        other => failed("the user cannot be stored")(other),
    }
}

fn setting(error: Error) -> RunError {
    RunError::Setting(error.message)
}

/// 130 random bits in letters that people do not confuse.
fn made() -> String {
    const LETTERS: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz234567899";
    let random = rand::random::<[u8; 26]>();
    let letters: Vec<char> = random.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect();
    letters.chunks(5).map(|chunk| chunk.iter().collect::<String>()).collect::<Vec<_>>().join("-")
}

/// The first line of standard input.
pub(crate) fn from_stdin() -> Result<String, RunError> {
    let mut text = String::new();
    std::io::stdin()
        .take(4096)
        .read_to_string(&mut text)
        .map_err(|e| RunError::Io("the password cannot be read from standard input".into(), e))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_that_is_made_is_a_good_one() {
        let (one, other) = (made(), made());
        assert_ne!(one, other);
        assert_eq!(one.len(), 26 + 5);
        check_password("password", &one, "anna").unwrap();
    }
}
