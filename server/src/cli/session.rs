//! `orrery login` and `logout`: a session of the person at the terminal, kept in a file of theirs, that commands without an API key use.
//!
//! A refresh token is good once, so that two commands that would refresh at the same time take turns by a lock on the file.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use chrono::Utc;
use clap::Args;
use orrery_proto::v1::{GetCallerRequest, LoginRequest, LogoutRequest, RefreshRequest, SignedIn};
use serde::{Deserialize, Serialize};

use super::connect::{self, Client};
use super::exit::{Exit, Failure};
use super::output::Output;
use super::{Context, Global};

/// An access token is not used in the last seconds of its life.
const MARGIN: i64 = 30;

/// `orrery login`.
#[derive(Debug, Args)]
pub struct LoginArgs {
    /// Who signs in.
    #[arg(long, short)]
    name: String,
    /// The tenant's id; the default tenant where absent.
    #[arg(long, default_value = "", hide_default_value = true)]
    tenant: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Session {
    server: String,
    access_token: String,
    refresh_token: String,
    /// Of the access token, in seconds since 1970.
    expires_at: i64,
}

impl Session {
    fn of(server: &str, signed: &SignedIn) -> Self {
        Self {
            server: server.to_owned(),
            access_token: signed.access_token.clone(),
            refresh_token: signed.refresh_token.clone(),
            expires_at: Utc::now().timestamp() + i64::from(signed.expires_in),
        }
    }
}

impl LoginArgs {
    pub(super) async fn run(self, global: &Global, out: &Output) -> Result<(), Failure> {
        let client = connect::connect(&global.server, None, global.ca.as_deref())?;
        let request = LoginRequest { name: self.name, password: password()?, tenant_id: self.tenant };
        let signed = client.login(request).await?;
        let mut file = open()?.ok_or_else(no_home)?;
        write(&mut file, &Session::of(&global.server, &signed))?;
        let user = signed.user.unwrap_or_default();
        if out.json { Ok(out.json(&user)?) } else { Ok(out.line(format!("signed in as {}", user.name))?) }
    }
}

/// `orrery logout`: ends the session, and forgets it.
pub(super) async fn logout(global: &Global, out: &Output) -> Result<(), Failure> {
    let Some((file, session)) = kept(&global.server)? else {
        return Err(Failure::new(Exit::Denied, "UNAUTHENTICATED", "nobody is signed in to this server"));
    };
    let client = connect::connect(&global.server, None, global.ca.as_deref())?;
    client.logout(LogoutRequest { refresh_token: session.refresh_token }).await?;
    file.set_len(0)?;
    Ok(out.line("signed out")?)
}

/// `orrery whoami`.
pub(super) async fn whoami(context: &Context) -> Result<(), Failure> {
    let caller = context.client.get_caller(GetCallerRequest {}).await?;
    if context.out.json {
        return Ok(context.out.json(&caller)?);
    }
    Ok(context.out.fields(&[
        ("Name", caller.name),
        ("Kind", caller.kind),
        ("Id", caller.id),
        ("Tenant", caller.tenant_id),
        ("Roles", caller.roles.join(", ")),
        ("Permissions", caller.permissions.join(", ")),
    ])?)
}

/// What to call a server with where no key is given: the access token of the session with it, a fresh one where it is over. `None` where
/// nobody is signed in.
pub(super) async fn access_token(global: &Global) -> Result<Option<String>, Failure> {
    let Some((mut file, session)) = kept(&global.server)? else { return Ok(None) };
    if Utc::now().timestamp() + MARGIN < session.expires_at {
        return Ok(Some(session.access_token));
    }
    let client: Client = connect::connect(&global.server, None, global.ca.as_deref())?;
    match client.refresh(RefreshRequest { refresh_token: session.refresh_token }).await {
        Ok(signed) => {
            write(&mut file, &Session::of(&global.server, &signed))?;
            Ok(Some(signed.access_token))
        }
        Err(error) if error.grpc_code() == tonic::Code::Unauthenticated => {
            file.set_len(0)?;
            Err(Failure::new(Exit::Denied, "UNAUTHENTICATED", "the session is over; sign in again with orrery login"))
        }
        Err(error) => Err(error.into()),
    }
}

/// The session with a server, and its file, locked.
fn kept(server: &str) -> Result<Option<(File, Session)>, Failure> {
    if path().is_none_or(|path| !path.exists()) {
        return Ok(None);
    }
    let Some(mut file) = open()? else { return Ok(None) };
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let session = serde_json::from_str::<Session>(&text).ok().filter(|session| session.server == server);
    Ok(session.map(|session| (file, session)))
}

/// The file of sessions, locked until it is closed; readable by its owner only.
fn open() -> Result<Option<File>, Failure> {
    let Some(path) = path() else { return Ok(None) };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.lock()?;
    Ok(Some(file))
}

fn write(file: &mut File, session: &Session) -> Result<(), Failure> {
    let text = serde_json::to_string(session).map_err(std::io::Error::other)?;
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(text.as_bytes())?;
    Ok(file.sync_all()?)
}

fn path() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("ORRERY_SESSION_FILE").or_else(|| {
        let config = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
        config.map(|config| config.join("orrery").join("session.json"))
    })
}

fn no_home() -> Failure {
    let message = "there is no place for the session: set HOME, or name a file by ORRERY_SESSION_FILE";
    Failure::invalid("INVALID_USAGE", message)
}

/// A password: asked for on a terminal, otherwise the first line of standard input.
pub(super) fn password() -> Result<String, Failure> {
    use std::io::IsTerminal;
    if std::io::stdin().is_terminal() {
        return asked();
    }
    crate::run::admin::from_stdin().map_err(|error| Failure::new(Exit::Failed, "INTERNAL_ERROR", error.to_string()))
}

/// A password from the terminal, which does not show it.
fn asked() -> Result<String, Failure> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let stdin = std::io::stdin();
    let before = tcgetattr(&stdin).map_err(std::io::Error::from)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    write!(std::io::stderr(), "Password: ")?;
    tcsetattr(&stdin, OptionalActions::Now, &silent).map_err(std::io::Error::from)?;
    let mut line = String::new();
    let read = stdin.read_line(&mut line);
    // Whatever was read: a terminal must not stay silent.
    tcsetattr(&stdin, OptionalActions::Now, &before).map_err(std::io::Error::from)?;
    writeln!(std::io::stderr())?;
    read?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
