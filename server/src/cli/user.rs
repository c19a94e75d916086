//! `orrery user`: people who sign in with a password.

use clap::{Args, Subcommand};
use orrery_proto::v1::{
    CreateUserRequest, DisableUserRequest, EnableUserRequest, GetUserRequest, ListUsersRequest, ListUsersResponse,
    ResetPasswordRequest, UpdateUserRequest, User,
};

use super::Context;
use super::exit::{Exit, Failure};
use super::output::{Output, instant};
use super::session::password;

#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// List users, newest first.
    #[command(visible_alias = "ls")]
    List,
    /// Make a user; its password is read from standard input.
    #[command(after_help = "Examples:
  orrery user create anna@example.com --role developer < password-file")]
    Create(CreateArgs),
    /// Replace a user's roles.
    Roles {
        /// Its id or name.
        user: String,
        /// A role; repeat it for several. Without any it may do nothing.
        #[arg(long = "role")]
        roles: Vec<String>,
    },
    /// Keep a user from signing in, and end its sessions.
    Disable {
        /// Its id or name.
        user: String,
    },
    /// Let a user sign in again.
    Enable {
        /// Its id or name.
        user: String,
    },
    /// Give a user another password, which is read from standard input, and end its sessions.
    Password {
        /// Its id or name.
        user: String,
    },
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// What it signs in with, such as an e-mail address.
    name: String,
    /// What people see.
    #[arg(long, default_value = "", hide_default_value = true)]
    display_name: String,
    /// A role; repeat it for several.
    #[arg(long = "role")]
    roles: Vec<String>,
}

impl UserCommand {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        let Context { client, out } = context;
        match self {
            Self::List => {
                let listed = list(context).await?;
                if out.json { Ok(out.json(&listed)?) } else { Ok(table(&listed.users, out)?) }
            }
            Self::Create(args) => {
                let CreateArgs { name, display_name, roles } = args;
                let request = CreateUserRequest { name, password: password()?, display_name, roles };
                told(client.create_user(request).await?, "is made", out)
            }
            Self::Roles { user, roles } => {
                let id = id(context, user).await?;
                let display_name = client.get_user(GetUserRequest { id: id.clone() }).await?.display_name;
                told(client.update_user(UpdateUserRequest { id, display_name, roles }).await?, "has its roles", out)
            }
            Self::Disable { user } => {
                let id = id(context, user).await?;
                told(client.disable_user(DisableUserRequest { id }).await?, "is disabled", out)
            }
            Self::Enable { user } => {
                let id = id(context, user).await?;
                told(client.enable_user(EnableUserRequest { id }).await?, "may sign in", out)
            }
            Self::Password { user } => {
                let id = id(context, user).await?;
                let request = ResetPasswordRequest { id, password: password()? };
                told(client.reset_password(request).await?, "has a new password", out)
            }
        }
    }
}

/// The id of a user that is given by id or name.
async fn id(context: &Context, user: String) -> Result<String, Failure> {
    if uuid::Uuid::try_parse(&user).is_ok() {
        return Ok(user);
    }
    let name = user.to_lowercase();
    match list(context).await?.users.into_iter().find(|found| found.name == name) {
        Some(found) => Ok(found.id),
        None => Err(Failure::new(Exit::NotFound, "USER_NOT_FOUND", format!("there is no user {user}"))),
    }
}

/// All users, page by page, as one answer.
async fn list(context: &Context) -> Result<ListUsersResponse, Failure> {
    let mut all = ListUsersResponse::default();
    loop {
        let request = ListUsersRequest { page_size: 1000, page_token: all.next_page_token.clone() };
        let page = context.client.list_users(request).await?;
        all.users.extend(page.users);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            return Ok(all);
        }
    }
}

fn told(user: User, what: &str, out: &Output) -> Result<(), Failure> {
    if out.json { Ok(out.json(&user)?) } else { Ok(out.line(format!("the user {} ({}) {what}", user.name, user.id))?) }
}

fn table(users: &[User], out: &Output) -> std::io::Result<()> {
    let rows: Vec<Vec<String>> = users
        .iter()
        .map(|user| {
            vec![
                user.id.clone(),
                user.name.clone(),
                user.display_name.clone(),
                if user.disabled { "disabled" } else { "active" }.to_owned(),
                user.roles.join(", "),
                instant(user.last_login_at),
            ]
        })
        .collect();
    out.table(&["ID", "NAME", "DISPLAY NAME", "STATE", "ROLES", "LAST LOGIN"], &rows)
}
