//! Renews the identity while the agent runs. Streams that are up go on as they are; each new one shows the new certificate.

use std::time::Duration;

use orrery_sdk::v1::RenewRequest;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use super::stored::{Request, Stored};
use super::{Identity, IdentityError};

/// Between tries: a fortieth of the certificate's life, within these.
const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(60);

impl Identity {
    /// Renews it whenever two thirds of its life are over, until it is dropped.
    pub(crate) async fn keep(mut self) {
        loop {
            sleep_until(self.renew_at).await;
            match self.renewed().await {
                Ok((stored, renew_at)) => {
                    info!(agent = stored.agent_id, "the certificate is renewed");
                    (self.stored, self.renew_at) = (stored, renew_at);
                }
                Err(reason) => {
                    if self.stored.times().is_ok_and(|times| times.is_over()) {
                        error!(%reason, "the certificate has expired and cannot be renewed; enrol again with a new join token");
                    } else {
                        warn!(%reason, "the certificate cannot be renewed yet; trying on");
                    }
                    self.renew_at = Instant::now() + self.pause();
                }
            }
        }
    }

    fn pause(&self) -> Duration {
        let life = self.stored.times().map(|times| times.life()).unwrap_or(LONGEST);
        (life / 40).clamp(SHORTEST, LONGEST)
    }

    /// A new certificate for a new key, from the first coordinator that gives one.
    async fn renewed(&self) -> Result<(Stored, Instant), IdentityError> {
        let request = Request::new()?;
        let mut last = IdentityError::Unreadable;
        for endpoint in &self.plan.coordinators {
            let message = RenewRequest { certificate_request: request.pem.clone() };
            match self.plan.client(endpoint)?.renew(message).await {
                Ok(answer) => {
                    let stored = Stored {
                        agent_id: answer.agent_id,
                        certificate: answer.certificate,
                        key: request.key,
                        authorities: answer.ca_certificates,
                        join_token_hash: self.stored.join_token_hash.clone(),
                    };
                    let renew_at = self.plan.adopt(&stored)?;
                    return Ok((stored, renew_at));
                }
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }
}
