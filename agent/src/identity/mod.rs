//! Who this agent is: a key that never leaves it, and a certificate that coordinators give it for a day at most, and renew.

mod enrol;
mod keep;
mod stored;

use std::path::PathBuf;

use orrery_sdk::{ClientIdentity, ClientTls};
use tokio::time::Instant;
use tracing::info;

use self::stored::Stored;
use crate::config::AgentOptions;

/// Below the data directory: the certificate with its key, readable by this user alone.
const FILE: &str = "identity.json";

/// Why an agent has no identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The file of the identity.
    #[error("the agent's identity {path}: {source}")]
    File {
        /// Where it is, or should be.
        path: PathBuf,
        /// What is wrong.
        source: std::io::Error,
    },
    /// The host was off, or could reach nobody, for too long.
    #[error(
        "the agent's certificate expired at {at}; enrol again with a new join token (`orrery agent token` makes one)"
    )]
    Expired {
        /// The end of it.
        at: String,
    },
    /// A join token must not travel in the clear.
    #[error("{0} is not https://: a join token is told to coordinators over TLS only")]
    Insecure(String),
    /// An address or the CA file cannot be used, or a call has failed.
    #[error(transparent)]
    Call(#[from] orrery_sdk::Error),
    /// The coordinators do not let it in.
    #[error("the coordinators refuse the join token: {0}")]
    Refused(orrery_sdk::Error),
    /// A key or a request could not be made.
    #[error("no key could be made: {0}")]
    Key(#[from] rcgen::Error),
    /// What a coordinator answered is no certificate.
    #[error("a coordinator answered with a certificate that cannot be read")]
    Unreadable,
}

/// How coordinators are trusted, and what will be shown to them.
pub(crate) struct Plan {
    pub(crate) tls: ClientTls,
    shown: ClientIdentity,
    coordinators: Vec<String>,
    join_token: Option<String>,
    /// Where the identity is kept; in memory only where absent.
    file: Option<PathBuf>,
}

/// The identity of a running agent.
pub(crate) struct Identity {
    plan: Plan,
    stored: Stored,
    renew_at: Instant,
}

impl Plan {
    /// # Errors
    /// Where the CA file cannot be used.
    pub(crate) fn of(options: &AgentOptions) -> Result<Self, IdentityError> {
        let shown = ClientIdentity::default();
        let tls = match &options.ca {
            Some(file) => ClientTls::default().authorities_of(file)?,
            None => ClientTls::default(),
        };
        Ok(Self {
            tls: tls.identity(shown.clone()),
            shown,
            coordinators: options.coordinators.clone(),
            join_token: options.join_token.clone(),
            file: options.data_dir.as_ref().map(|directory| directory.join(FILE)),
        })
    }

    /// The identity to begin with: one for the join token where that has not been used here yet, or else the one that was kept. `None` where
    /// there is neither.
    ///
    /// # Errors
    /// Where the identity has expired, or coordinators refuse the join token. That none can be reached is no error: they are waited for.
    pub(crate) async fn establish(self) -> Result<Option<Identity>, IdentityError> {
        let kept = self.file.as_deref().map(Stored::read).transpose()?.flatten();
        let is_new = |token: &String| !kept.as_ref().is_some_and(|kept| kept.came_by(token));
        if let Some(token) = self.join_token.clone().filter(is_new) {
            return self.enrolled(&token).await.map(Some);
        }
        let Some(stored) = kept else { return Ok(None) };
        let times = stored.times()?;
        if times.is_over() {
            return Err(IdentityError::Expired { at: times.expires_at.to_rfc3339() });
        }
        info!(agent = stored.agent_id, expires_at = %times.expires_at, "known by a certificate");
        stored.show(&self.shown);
        let renew_at = Instant::now() + times.until_renewal();
        Ok(Some(Identity { plan: self, stored, renew_at }))
    }

    /// Keeps a new identity, and shows it from now on. Answers with when to renew it: when two thirds of its life are over.
    fn adopt(&self, stored: &Stored) -> Result<Instant, IdentityError> {
        let times = stored.times()?;
        if let Some(file) = &self.file {
            stored.write(file)?;
        }
        stored.show(&self.shown);
        Ok(Instant::now() + times.life() * 2 / 3)
    }
}
