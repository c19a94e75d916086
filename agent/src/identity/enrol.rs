//! From a join token to an identity.

use std::time::Duration;

use orrery_sdk::client::{Client, ClientOptions};
use orrery_sdk::v1::{AgentCertificate, EnrollRequest};
use tokio::time::sleep;
use tracing::{info, warn};

use super::stored::{Request, Stored, hash};
use super::{Identity, IdentityError, Plan};

/// Between rounds of coordinators of which none could be reached; the last one again and again.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5), Duration::from_secs(15)];
/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(10);

impl Plan {
    /// A new identity for a join token.
    pub(super) async fn enrolled(self, token: &str) -> Result<Identity, IdentityError> {
        if let Some(plain) = self.coordinators.iter().find(|address| !address.trim().starts_with("https://")) {
            return Err(IdentityError::Insecure(plain.clone()));
        }
        let request = Request::new()?;
        let answer = self.ask(token, &request.pem).await?;
        let stored = Stored {
            agent_id: answer.agent_id,
            certificate: answer.certificate,
            key: request.key,
            authorities: answer.ca_certificates,
            join_token_hash: hash(token),
        };
        let renew_at = self.adopt(&stored)?;
        info!(agent = stored.agent_id, "enrolled");
        Ok(Identity { plan: self, stored, renew_at })
    }

    /// Asks one coordinator after the other until one decides.
    async fn ask(&self, token: &str, certificate_request: &str) -> Result<AgentCertificate, IdentityError> {
        let mut round = 0;
        loop {
            for endpoint in &self.coordinators {
                let message = EnrollRequest {
                    join_token: token.trim().to_owned(),
                    certificate_request: certificate_request.to_owned(),
                };
                match self.client(endpoint)?.enroll(message).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) if error.is_transient() && error.code() != "ENROLMENT_DISABLED" => {
                        warn!(coordinator = endpoint, reason = error.message(), "cannot enrol yet; trying on");
                    }
                    Err(error) => return Err(IdentityError::Refused(error)),
                }
            }
            sleep(PAUSES[round.min(PAUSES.len() - 1)]).await;
            round += 1;
        }
    }

    /// A client of one coordinator, over a connection of its own, with the certificate of now.
    pub(super) fn client(&self, endpoint: &str) -> Result<Client, IdentityError> {
        let options = ClientOptions {
            endpoint: endpoint.to_owned(),
            tls: self.tls.clone(),
            timeout: PATIENCE,
            ..ClientOptions::default()
        };
        Ok(Client::connect(&options)?)
    }
}
