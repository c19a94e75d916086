//! `orrery secret`: values that jobs refer to. They come in by standard input, never as arguments, which every user of a host sees.

use std::io::{IsTerminal, Read, Write};

use clap::Subcommand;
use orrery_proto::v1::{
    DeleteSecretRequest, ListSecretsRequest, ListSecretsResponse, PutSecretRequest, RotateSecretsRequest, Secret,
};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::Context;
use super::exit::{Exit, Failure};
use super::output::{Output, instant};

/// More than a server takes is not read.
const MOST: u64 = 1 << 20;

#[derive(Debug, Subcommand)]
pub enum SecretCommand {
    /// Store a secret, or another version of one; its value is read from standard input, or asked for.
    #[command(after_help = "Examples:
  orrery secret put DB_PASSWORD                # asks for it
  orrery secret put DB_PASSWORD < password.txt # a line break at the end is left out
  pass show db | orrery secret put DB_PASSWORD

A job refers to it in its config: ${secret:DB_PASSWORD}, or ${secret:DB_PASSWORD@3} for one version")]
    Put {
        /// Its name.
        name: String,
        /// Keep a line break at the end.
        #[arg(long)]
        exact: bool,
    },
    /// List secrets with their versions; no command shows a value.
    #[command(visible_alias = "ls")]
    List,
    /// Delete a secret with all its versions, or one version that is not the newest.
    #[command(visible_alias = "rm")]
    Delete {
        /// Its name.
        name: String,
        /// Only this version.
        #[arg(long, value_name = "N")]
        version: Option<i64>,
    },
    /// Encrypt all secrets, and sensitive fields of jobs, under the first of the servers' keys. Everything goes on meanwhile.
    #[command(after_help = "To change the key of a deployment:
  1. put the new key before the old one in the key file of every server (ORRERY_ENCRYPTION_KEY_FILE)
  2. orrery secret rotate
  3. take the old key away, once it is said to be needed no more")]
    Rotate {
        /// Also give each value a new data key.
        #[arg(long)]
        data_keys: bool,
    },
}

impl SecretCommand {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        let Context { client, out } = context;
        match self {
            Self::Put { name, exact } => {
                let value = value(&name, exact)?;
                let secret = client.put_secret(PutSecretRequest { name, value }).await?;
                if out.json {
                    return Ok(out.json(&secret)?);
                }
                Ok(out.line(format!("secret {} is at version {}", secret.name, secret.version))?)
            }
            Self::List => {
                let listed = list(context).await?;
                if out.json { Ok(out.json(&listed)?) } else { Ok(table(&listed.secrets, out)?) }
            }
            Self::Delete { name, version } => {
                let deleted = client.delete_secret(DeleteSecretRequest { name, version }).await?;
                if out.json {
                    return Ok(out.json(&deleted)?);
                }
                let what = version.map(|version| format!("version {version} of ")).unwrap_or_default();
                Ok(out.line(format!("{what}secret {} is deleted", deleted.name))?)
            }
            Self::Rotate { data_keys } => {
                let rotated = client.rotate_secrets(RotateSecretsRequest { data_keys }).await?;
                if out.json {
                    return Ok(out.json(&rotated)?);
                }
                out.line(format!(
                    "{} versions were encrypted anew, under the key {}",
                    rotated.rotated, rotated.key_id
                ))?;
                for key in &rotated.retired_keys {
                    out.line(format!("the key {key} is needed no more"))?;
                }
                for key in &rotated.keys_in_use {
                    out.line(format!("the key {key} is still needed, by secrets of other tenants"))?;
                }
                Ok(())
            }
        }
    }
}

/// All secrets, page by page, as one answer.
async fn list(context: &Context) -> Result<ListSecretsResponse, Failure> {
    let mut all = ListSecretsResponse::default();
    loop {
        let request = ListSecretsRequest { page_size: 1000, page_token: all.next_page_token.clone() };
        let page = context.client.list_secrets(request).await?;
        all.secrets.extend(page.secrets);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            return Ok(all);
        }
    }
}

fn table(secrets: &[Secret], out: &Output) -> std::io::Result<()> {
    let row = |secret: &Secret| {
        let kept: Vec<String> = secret.versions.iter().map(ToString::to_string).collect();
        vec![secret.name.clone(), secret.version.to_string(), kept.join(" "), instant(secret.updated_at)]
    };
    out.table(&["SECRET", "VERSION", "KEPT", "UPDATED"], &secrets.iter().map(row).collect::<Vec<_>>())
}

/// The value: asked for where somebody sits there, else all of standard input.
fn value(name: &str, exact: bool) -> Result<String, Failure> {
    let unread = |error: std::io::Error| {
        Failure::new(Exit::Invalid, "INVALID_USAGE", format!("the value cannot be read from standard input: {error}"))
    };
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return asked(name).map_err(unread);
    }
    let mut value = String::new();
    stdin.lock().take(MOST).read_to_string(&mut value).map_err(unread)?;
    if !exact && value.ends_with('\n') {
        value.pop();
        if value.ends_with('\r') {
            value.pop();
        }
    }
    Ok(value)
}

/// A line that is typed without being shown.
fn asked(name: &str) -> std::io::Result<String> {
    let stdin = std::io::stdin();
    eprint!("Value of {name}: ");
    std::io::stderr().flush()?;
    let shown = Shown::hide()?;
    let mut value = String::new();
    let read = stdin.read_line(&mut value);
    drop(shown);
    eprintln!();
    read?;
    Ok(value.trim_end_matches(['\r', '\n']).to_owned())
}

/// How the terminal was; it is so again when this is dropped.
struct Shown(Termios);

impl Shown {
    fn hide() -> std::io::Result<Self> {
        let before = tcgetattr(std::io::stdin())?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &hidden)?;
        Ok(Self(before))
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.0);
    }
}
