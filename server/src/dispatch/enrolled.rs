//! Agents with certificates: who they are, what they may serve, and how they are cut off.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use orrery_proto::v1::Register;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::AgentApi;
use crate::auth::{self, Principal, PrincipalKind};
use crate::error::{Error, Kind};
use crate::store::{AgentScope, DynStore, EnrolledAgent};
use crate::tls::AgentAuth;

/// How often coordinators ask whether the agents attached to them may be. A revoked agent is gone within this and the question's time; 5 s are
/// promised.
const LOOK: Duration = Duration::from_secs(1);

/// The streams of agents with certificates, so that they can be cut.
#[derive(Debug, Default)]
pub struct Streams {
    /// By agent: ends all of its streams; and how many there are.
    live: Mutex<HashMap<Uuid, (CancellationToken, usize)>>,
}

/// One stream of an agent: it is known for as long as this lives.
#[derive(Debug)]
pub(super) struct Stream {
    streams: Arc<Streams>,
    agent: Uuid,
    /// Cancelled where the agent may not be connected any more.
    pub(super) refused: CancellationToken,
}

impl Streams {
    /// Knows of a stream from now on.
    pub(super) fn begin(self: &Arc<Self>, agent: Uuid) -> Stream {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let (refused, count) = live.entry(agent).or_default();
        *count += 1;
        Stream { streams: self.clone(), agent, refused: refused.clone() }
    }

    fn agents(&self) -> Vec<Uuid> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Ends the streams of an agent.
    fn cut(&self, agent: Uuid) {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner).remove(&agent);
        if let Some((refused, _)) = live {
            refused.cancel();
        }
    }

    /// Cuts off agents that may not be connected any more, until the end: those that are revoked, and those whose newest certificate has expired.
    pub async fn watch(self: Arc<Self>, store: DynStore, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let agents = self.agents();
            if agents.is_empty() {
                continue;
            }
            match store.end_refused_agents(&agents).await {
                Ok(refused) => {
                    for agent in refused {
                        tracing::warn!(%agent, "an agent is revoked, or its certificate has expired; its streams are cut");
                        self.cut(agent);
                    }
                }
                Err(error) => tracing::warn!(%error, "revoked agents could not be looked for; trying again"),
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut live = self.streams.live.lock().unwrap_or_else(PoisonError::into_inner);
        // After a cut the agent's entry is another one's, if there is one at all.
        if let Some((refused, count)) = live.get_mut(&self.agent)
            && !self.refused.is_cancelled()
        {
            debug_assert!(!refused.is_cancelled());
            *count -= 1;
            if *count == 0 {
                live.remove(&self.agent);
            }
        }
    }
}

/// An agent that may connect.
pub(super) struct Admitted {
    pub(super) principal: Principal,
    /// What it has enrolled as; `None` where it is known by an API key or a token.
    pub(super) enrolled: Option<EnrolledAgent>,
}

impl AgentApi {
    /// The agent that makes this call.
    ///
    /// # Errors
    /// Where it may not connect, or has to show a certificate and has none.
    pub(super) async fn agent(&self) -> Result<Admitted, Error> {
        let principal = auth::caller()?.principal().clone();
        let enrolled = match principal.kind {
            PrincipalKind::Agent => Some(self.enrolled(&principal).await?),
            _ if self.tls.agent_auth() == AgentAuth::Mtls => return Err(certificate_needed()),
            _ => None,
        };
        Ok(Admitted { principal, enrolled })
    }

    /// What the database knows of the agent that a certificate names. The certificate itself has been verified, its time included.
    ///
    /// # Errors
    /// Where the agent is not known, revoked, or another tenant's there, or has not renewed its certificate in time.
    pub(super) async fn enrolled(&self, principal: &Principal) -> Result<EnrolledAgent, Error> {
        let found = self.store.enrolled_agent(principal.subject).await?;
        match found.filter(|agent| agent.scope.tenant_id == principal.tenant_id) {
            None => {
                Err(refused("CERTIFICATE_UNKNOWN", "no agent of this deployment has enrolled with it; enrol again"))
            }
            Some(agent) if agent.revoked_at.is_some() => Err(revoked()),
            // The handshake looks at whole seconds, by this host's clock.
            Some(agent) if agent.certificate.expires_at <= self.store.now().await? => {
                Err(refused("CERTIFICATE_EXPIRED", "its time is over; enrol again with a new join token"))
            }
            Some(agent) => Ok(agent),
        }
    }
}

fn refused(code: &'static str, why: &str) -> Error {
    Error::new(Kind::Unauthenticated, code, format!("the agent's certificate is refused: {why}"))
}

/// The agent has no identity any more.
pub(super) fn revoked() -> Error {
    refused("CERTIFICATE_REVOKED", "its agent has been revoked; enrol again with a new join token")
}

/// This deployment takes certificates only.
pub(super) fn certificate_needed() -> Error {
    let message = "agents of this deployment show a certificate: enrol this one with a join token (`orrery agent token` makes one), and connect \
        by https://";
    Error::new(Kind::Unauthenticated, "CERTIFICATE_NEEDED", message)
}

/// Holds what an agent says of itself to what it was let in for: queues are refused, labels are set.
///
/// # Errors
/// AGENT_OUT_OF_SCOPE.
pub(super) fn within(scope: &AgentScope, mut register: Register) -> Result<Register, Error> {
    let default = ["default".to_owned()];
    let queues = if register.queues.is_empty() { &default[..] } else { &register.queues[..] };
    let outside = queues.iter().find(|queue| !scope.queues.is_empty() && !scope.queues.contains(queue));
    if let Some(queue) = outside {
        let allowed = scope.queues.join(", ");
        let message = format!("queues: its join token was for {allowed}, not for {queue}; serve those, or enrol again");
        return Err(Error::new(Kind::Denied, "AGENT_OUT_OF_SCOPE", message));
    }
    register.labels.extend(scope.labels.clone());
    Ok(register)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_serves_what_it_was_let_in_for() {
        let register = |queues: &[&str]| Register {
            queues: queues.iter().map(ToString::to_string).collect(),
            labels: [("zone".to_owned(), "mine".to_owned()), ("disk".to_owned(), "ssd".to_owned())].into(),
            ..Register::default()
        };
        let scope = |queues: &[&str]| AgentScope {
            queues: queues.iter().map(ToString::to_string).collect(),
            labels: [("zone".to_owned(), "eu".to_owned())].into(),
            ..AgentScope::default()
        };
        let held = within(&scope(&["a", "b"]), register(&["b"])).unwrap();
        assert_eq!(
            (held.queues, held.labels["zone"].as_str(), held.labels["disk"].as_str()),
            (vec!["b".into()], "eu", "ssd")
        );
        let refused = |queues| within(&scope(&["a", "b"]), register(queues)).map_err(|error| error.code).is_err();
        assert!(refused(&["a", "c"]) && refused(&[]), "none is `default`");
        assert!(within(&scope(&[]), register(&["c"])).is_ok());
    }

    #[test]
    fn a_cut_ends_all_streams_of_one_agent_and_no_later_one() {
        let streams = Arc::new(Streams::default());
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let (session, logs, others) = (streams.begin(one), streams.begin(one), streams.begin(other));
        streams.cut(one);
        assert!(session.refused.is_cancelled() && logs.refused.is_cancelled() && !others.refused.is_cancelled());
        let again = streams.begin(one);
        assert!(!again.refused.is_cancelled());
        drop((session, logs));
        assert_eq!(streams.agents().len(), 2, "the streams that were cut are not counted twice");
        drop((again, others));
        assert!(streams.agents().is_empty());
    }
}
