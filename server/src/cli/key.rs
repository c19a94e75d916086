//! `orrery key` where a server is asked; on a database it is [`crate::run::key`].

use chrono::Utc;
use orrery_proto::v1::{ApiKey, CreateKeyRequest, ListKeysRequest, ListKeysResponse, RevokeKeyRequest};

use super::Context;
use super::exit::Failure;
use super::output::{Output, instant};
use crate::run::key::{KeyArgs, KeyCommand};

/// Asks the server.
pub(super) async fn run(command: KeyCommand, context: &Context) -> Result<(), Failure> {
    match command {
        KeyCommand::Create(args) => create(args, context).await,
        KeyCommand::List(_) => {
            let listed = list(context).await?;
            if context.out.json { Ok(context.out.json(&listed)?) } else { Ok(table(&listed.keys, &context.out)?) }
        }
        KeyCommand::Revoke(args) => {
            let key = context.client.revoke_key(RevokeKeyRequest { id: args.id.to_string() }).await?;
            if context.out.json {
                return Ok(context.out.json(&key)?);
            }
            Ok(context.out.line(format!("the key {} ({}) is revoked", key.id, key.prefix))?)
        }
    }
}

async fn create(args: KeyArgs, context: &Context) -> Result<(), Failure> {
    if args.tenant.is_some() || args.all_tenants {
        let message = "--tenant and --all-tenants need --database-url: a server makes keys of the caller's tenant";
        return Err(Failure::invalid("INVALID_USAGE", message));
    }
    let permissions = if args.permissions.is_empty() { vec!["*".to_owned()] } else { args.permissions };
    let expires_in_days = args.expires_days.and_then(|days| i32::try_from(days).ok());
    let request = CreateKeyRequest { name: args.name, permissions, expires_in_days };
    let made = context.client.create_key(request).await?;
    if context.out.json {
        return Ok(context.out.json(&made)?);
    }
    context.out.line(&made.secret)?;
    context.out.note("This is the only time that the key is shown; the server keeps a hash of it.");
    Ok(())
}

/// All keys, page by page, as one answer.
async fn list(context: &Context) -> Result<ListKeysResponse, Failure> {
    let mut all = ListKeysResponse::default();
    loop {
        let request = ListKeysRequest { page_size: 1000, page_token: all.next_page_token.clone() };
        let page = context.client.list_keys(request).await?;
        all.keys.extend(page.keys);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            return Ok(all);
        }
    }
}

fn table(keys: &[ApiKey], out: &Output) -> std::io::Result<()> {
    let now = orrery_proto::Timestamp::from(Utc::now());
    let rows: Vec<Vec<String>> = keys
        .iter()
        .map(|key| {
            let expired = key.expires_at.is_some_and(|at| (at.seconds, at.nanos) <= (now.seconds, now.nanos));
            let state = match key.revoked_at {
                Some(_) => "revoked",
                None if expired => "expired",
                None => "active",
            };
            vec![
                key.id.clone(),
                key.name.clone(),
                key.prefix.clone(),
                state.to_owned(),
                instant(key.last_used_at),
                instant(key.expires_at),
                key.permissions.join(", "),
            ]
        })
        .collect();
    out.table(&["ID", "NAME", "PREFIX", "STATE", "LAST USED", "EXPIRES", "PERMISSIONS"], &rows)
}
