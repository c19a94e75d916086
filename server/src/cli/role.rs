//! `orrery role`: what people and keys may do.

use clap::{Args, Subcommand};
use orrery_proto::v1::{
    CreateRoleBindingRequest, CreateRoleRequest, DeleteRoleBindingRequest, DeleteRoleRequest, GetRoleRequest,
    GranteeKind, ListKeysRequest, ListRoleBindingsRequest, ListRoleBindingsResponse, ListRolesRequest,
    ListRolesResponse, ListUsersRequest, Role, RoleBinding, UpdateRoleRequest,
};

use super::Context;
use super::exit::{Exit, Failure};
use super::output::{Output, instant};

#[derive(Debug, Subcommand)]
pub enum RoleCommand {
    /// List roles: viewer, operator, developer, auditor and admin, and the tenant's own.
    #[command(visible_alias = "ls")]
    List,
    /// Show what a role may do.
    Get { name: String },
    /// Make a role.
    #[command(after_help = "Examples:
  orrery role create mailer --permission jobs:read --permission jobs:trigger")]
    Create(RoleArgs),
    /// Replace what a role may do, for all who have it.
    Set(RoleArgs),
    /// Delete a role that nobody has.
    #[command(visible_alias = "rm")]
    Delete { name: String },
    /// Give a role to a user or a key.
    #[command(after_help = "Examples:
  orrery role bind operator --user anna@example.com
  orrery role bind developer --user bert@example.com --tag mail    # for jobs with this tag alone
  orrery role bind viewer --key nightly-report")]
    Bind(BindArgs),
    /// Take a role away again.
    Unbind {
        /// The binding's id, from `orrery role bindings`.
        id: uuid::Uuid,
    },
    /// List who has which role by a binding, newest first.
    Bindings {
        /// Only those of this role.
        #[arg(long, default_value = "", hide_default_value = true)]
        role: String,
        /// Only those of this user, by id or name.
        #[arg(long, conflicts_with = "key")]
        user: Option<String>,
        /// Only those of this key, by id or name.
        #[arg(long)]
        key: Option<String>,
    },
}

#[derive(Debug, Args)]
pub struct RoleArgs {
    /// Its name: a-z, 0-9, - and _.
    name: String,
    /// What people see.
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// What it may do, as resource:action; repeat it for several.
    #[arg(long = "permission", required = true)]
    permissions: Vec<String>,
}

#[derive(Debug, Args)]
pub struct BindArgs {
    /// The role.
    role: String,
    /// Whom it is given to, by id or name.
    #[arg(long, conflicts_with = "key", required_unless_present = "key")]
    user: Option<String>,
    /// The key it is given to, by id or name.
    #[arg(long)]
    key: Option<String>,
    /// For jobs with this tag alone.
    #[arg(long, default_value = "", hide_default_value = true)]
    tag: String,
}

impl RoleCommand {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        let Context { client, out } = context;
        match self {
            Self::List => {
                let listed = list(context).await?;
                if out.json { Ok(out.json(&listed)?) } else { Ok(table(&listed.roles, out)?) }
            }
            Self::Get { name } => {
                let role = client.get_role(GetRoleRequest { name }).await?;
                if out.json {
                    Ok(out.json(&role)?)
                } else {
                    Ok(role.permissions.iter().try_for_each(|p| out.line(p))?)
                }
            }
            Self::Create(args) => {
                let RoleArgs { name, description, permissions } = args;
                let request = CreateRoleRequest { name, description, permissions };
                told(client.create_role(request).await?, "is made", out)
            }
            Self::Set(args) => {
                let RoleArgs { name, description, permissions } = args;
                let request = UpdateRoleRequest { name, description, permissions };
                told(client.update_role(request).await?, "is changed", out)
            }
            Self::Delete { name } => {
                let gone = client.delete_role(DeleteRoleRequest { name }).await?;
                if out.json {
                    Ok(out.json(&gone)?)
                } else {
                    Ok(out.line(format!("the role {} is deleted", gone.name))?)
                }
            }
            Self::Bind(args) => bind(args, context).await,
            Self::Unbind { id } => {
                let gone = client.delete_role_binding(DeleteRoleBindingRequest { id: id.to_string() }).await?;
                bound(&gone, "is taken away", out)
            }
            Self::Bindings { role, user, key } => {
                let principal_id = match (user, key) {
                    (Some(user), _) => user_id(context, user).await?,
                    (_, Some(key)) => key_id(context, key).await?,
                    _ => String::new(),
                };
                let listed = bindings(context, role, principal_id).await?;
                if out.json { Ok(out.json(&listed)?) } else { Ok(bindings_table(&listed.bindings, out)?) }
            }
        }
    }
}

async fn bind(args: BindArgs, context: &Context) -> Result<(), Failure> {
    let BindArgs { role, user, key, tag } = args;
    let (kind, principal_id) = match (user, key) {
        (Some(user), _) => (GranteeKind::User, user_id(context, user).await?),
        (None, key) => (GranteeKind::Key, key_id(context, key.unwrap_or_default()).await?),
    };
    let request = CreateRoleBindingRequest { role, principal_kind: kind.into(), principal_id, tag };
    bound(&context.client.create_role_binding(request).await?, "is given", &context.out)
}

/// The id of a user that is given by id or name. Those of identity providers have ids alone.
async fn user_id(context: &Context, user: String) -> Result<String, Failure> {
    if uuid::Uuid::try_parse(&user).is_ok() {
        return Ok(user);
    }
    let (name, mut page_token) = (user.to_lowercase(), String::new());
    loop {
        let page = context.client.list_users(ListUsersRequest { page_size: 1000, page_token }).await?;
        if let Some(found) = page.users.into_iter().find(|found| found.name == name) {
            return Ok(found.id);
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Err(Failure::new(Exit::NotFound, "USER_NOT_FOUND", format!("there is no user {user}")));
        }
    }
}

/// The id of a key that is given by id or name. Names of keys need not be unique.
async fn key_id(context: &Context, key: String) -> Result<String, Failure> {
    if uuid::Uuid::try_parse(&key).is_ok() {
        return Ok(key);
    }
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let page = context.client.list_keys(ListKeysRequest { page_size: 1000, page_token }).await?;
        found.extend(page.keys.into_iter().filter(|found| found.name == key && found.revoked_at.is_none()));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    match found.as_slice() {
        [one] => Ok(one.id.clone()),
        [] => Err(Failure::new(Exit::NotFound, "KEY_NOT_FOUND", format!("there is no API key {key}"))),
        many => {
            let message = format!("{} keys are called {key}; give the id of one, from orrery key list", many.len());
            Err(Failure::invalid("AMBIGUOUS_NAME", message))
        }
    }
}

/// All roles, page by page, as one answer.
async fn list(context: &Context) -> Result<ListRolesResponse, Failure> {
    let mut all = ListRolesResponse::default();
    loop {
        let request = ListRolesRequest { page_size: 1000, page_token: all.next_page_token.clone() };
        let page = context.client.list_roles(request).await?;
        all.roles.extend(page.roles);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            return Ok(all);
        }
    }
}

async fn bindings(context: &Context, role: String, principal_id: String) -> Result<ListRoleBindingsResponse, Failure> {
    let mut all = ListRoleBindingsResponse::default();
    loop {
        let request = ListRoleBindingsRequest {
            role: role.clone(),
            principal_id: principal_id.clone(),
            page_size: 1000,
            page_token: all.next_page_token.clone(),
        };
        let page = context.client.list_role_bindings(request).await?;
        all.bindings.extend(page.bindings);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            return Ok(all);
        }
    }
}

fn told(role: Role, what: &str, out: &Output) -> Result<(), Failure> {
    if out.json { Ok(out.json(&role)?) } else { Ok(out.line(format!("the role {} {what}", role.name))?) }
}

fn bound(binding: &RoleBinding, what: &str, out: &Output) -> Result<(), Failure> {
    if out.json {
        return Ok(out.json(binding)?);
    }
    let of = binding.principal_kind();
    let line = format!(
        "the role {} of the {} {} {what} ({})",
        binding.role,
        of.as_json_str(),
        binding.principal_id,
        binding.id
    );
    Ok(out.line(line)?)
}

fn table(roles: &[Role], out: &Output) -> std::io::Result<()> {
    let rows: Vec<Vec<String>> = roles
        .iter()
        .map(|role| {
            let kind = if role.built_in { "built in" } else { "own" };
            vec![role.name.clone(), kind.to_owned(), role.permissions.join(", "), role.description.clone()]
        })
        .collect();
    out.table(&["NAME", "KIND", "PERMISSIONS", "DESCRIPTION"], &rows)
}

fn bindings_table(bindings: &[RoleBinding], out: &Output) -> std::io::Result<()> {
    let rows: Vec<Vec<String>> = bindings
        .iter()
        .map(|binding| {
            vec![
                binding.id.clone(),
                binding.role.clone(),
                binding.principal_kind().as_json_str().to_owned(),
                binding.principal_id.clone(),
                binding.tag.clone(),
                instant(binding.created_at),
            ]
        })
        .collect();
    out.table(&["ID", "ROLE", "OF", "WHO", "TAG", "SINCE"], &rows)
}
