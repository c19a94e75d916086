//! The calls on agents' identities: tokens to join by, certificates, and the end of both.

use std::time::Duration;

use chrono::{DateTime, Utc};
use orrery_proto::v1::enrolment_service_server::EnrolmentService;
use orrery_proto::v1::{
    self, Agent, AgentCertificate, AgentState, CreateJoinTokenRequest, EnrollRequest, JoinToken, ListAgentsRequest,
    ListAgentsResponse, RevokeAgentRequest,
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::definition::queue_problem;
use super::page_token::{self, Listing, Scope, page};
use super::{Api, convert, request};
use crate::auth::{self, Principal};
use crate::ca::{AgentIdentity, Authority, CaError, Issued, JoinSecret};
use crate::error::{Error, Kind};
use crate::store::{AgentScope, Certified, EnrolledAgent, NewJoinToken};

/// How long a join token may wait to be used, in seconds.
const TOKEN_SECONDS: std::ops::RangeInclusive<i32> = 60..=86_400;
/// Where nothing is said.
const USUAL_TOKEN_SECONDS: i32 = 600;
/// Queues or labels that a token names.
const MOST_NAMED: usize = 100;

#[tonic::async_trait]
impl EnrolmentService for Api {
    async fn create_join_token(&self, request: Request<CreateJoinTokenRequest>) -> Result<Response<JoinToken>, Status> {
        let principal = auth::caller()?;
        let authority = authority(self.tls.authority())?;
        let message = request.into_inner();
        let ttl = token_ttl(message.ttl_seconds)?;
        let secret = JoinSecret::generate();
        let token = NewJoinToken { id: Uuid::now_v7(), hash: secret.hash(), scope: scope(message, &principal)? };
        let stored = self.store.insert_join_token(&token, ttl).await.map_err(Error::from)?;
        tracing::info!(token = %stored.id, by = principal.name, "a join token was made");
        Ok(Response::new(JoinToken {
            id: stored.id.to_string(),
            token: secret.into_text(),
            expires_at: convert::time(Some(stored.expires_at)),
            tenant_id: stored.scope.tenant_id.map(|id| id.to_string()).unwrap_or_default(),
            ca_certificates: authority.bundle().to_owned(),
        }))
    }

    async fn list_agents(&self, request: Request<ListAgentsRequest>) -> Result<Response<ListAgentsResponse>, Status> {
        let tenant = auth::caller()?.tenant();
        let message = request.into_inner();
        let size = page_token::page_size(message.page_size, 50, 1000)?;
        let scope = Scope::new(Listing::Agents, &[&tenant.to_string()]);
        let page = page(&scope, &message.page_token, size)?;
        let mut found = self.store.enrolled_agents(tenant, &page).await.map_err(Error::from)?;
        let next_page_token = page_token::cut(&mut found, size, |agent| scope.token(agent.id.as_bytes()));
        let now = self.store.now().await.map_err(Error::from)?;
        let agents = found.into_iter().map(|agent| shown(agent, now)).collect();
        Ok(Response::new(ListAgentsResponse { agents, next_page_token }))
    }

    async fn revoke_agent(&self, request: Request<RevokeAgentRequest>) -> Result<Response<Agent>, Status> {
        let principal = auth::caller()?;
        let id = request::id("id", &request.into_inner().id)?;
        // Only the deployment's own callers may revoke agents that serve all tenants.
        let revoked = self.store.revoke_agent(principal.tenant_id, id, principal.subject).await.map_err(Error::from)?;
        let revoked = revoked
            .ok_or_else(|| Error::new(Kind::NotFound, "AGENT_NOT_FOUND", format!("there is no enrolled agent {id}")))?;
        tracing::info!(agent = %id, by = principal.name, "an agent was revoked");
        let now = self.store.now().await.map_err(Error::from)?;
        Ok(Response::new(shown(revoked, now)))
    }

    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<AgentCertificate>, Status> {
        let message = request.into_inner();
        let authority = authority(self.tls.authority())?;
        let secret = JoinSecret::read(&message.join_token).ok_or_else(refused_token)?;
        let hash = secret.hash();
        let token = self.store.join_token(&hash).await.map_err(Error::from)?.ok_or_else(refused_token)?;
        let now = self.store.now().await.map_err(Error::from)?;
        let identity = AgentIdentity { tenant_id: token.scope.tenant_id, agent_id: Uuid::now_v7() };
        let issued = certified(&authority, &message.certificate_request, identity, self.tls.agent_life(), now)?;
        // Only what is stored counts: of several that came with this token, one gets its certificate.
        let certificate = Certified { serial: issued.serial.clone(), expires_at: issued.expires_at };
        let enrolled = self.store.enrol(&hash, identity.agent_id, &certificate).await.map_err(Error::from)?;
        let enrolled = enrolled.ok_or_else(refused_token)?;
        tracing::info!(agent = %enrolled.id, name = enrolled.scope.name, token = %token.id, "an agent has enrolled");
        Ok(Response::new(answer(enrolled.id, issued, &authority, now)))
    }
}

/// The authority, where this coordinator has one to certify with.
pub(crate) fn authority<T>(found: Option<T>) -> Result<T, Error> {
    found.ok_or_else(|| {
        let message = "this coordinator has no certificate authority: set ORRERY_CA_CERT and ORRERY_CA_KEY, which `orrery ca init` makes";
        Error::new(Kind::Conflict, "ENROLMENT_DISABLED", message)
    })
}

/// A certificate for the key of a request.
///
/// # Errors
/// INVALID_CERTIFICATE_REQUEST.
pub(crate) fn certified(
    authority: &Authority,
    request: &str,
    identity: AgentIdentity,
    life: chrono::Duration,
    now: DateTime<Utc>,
) -> Result<Issued, Error> {
    authority.certify(request, identity, life, now).map_err(|error| match error {
        CaError::BadRequest => Error::field("INVALID_CERTIFICATE_REQUEST", "certificateRequest", error.to_string()),
        other => {
            tracing::error!(error = %other, source = ?std::error::Error::source(&other), "a certificate could not be made");
            Error::new(Kind::Internal, "INTERNAL_ERROR", "internal error; see the server's log")
        }
    })
}

/// What an agent gets.
pub(crate) fn answer(agent: Uuid, issued: Issued, authority: &Authority, now: DateTime<Utc>) -> AgentCertificate {
    AgentCertificate {
        agent_id: agent.to_string(),
        certificate: issued.pem,
        ca_certificates: authority.bundle().to_owned(),
        issued_at: convert::time(Some(now)),
        expires_at: convert::time(Some(issued.expires_at)),
    }
}

/// The same answer whatever is wrong with it: whoever guesses learns nothing.
fn refused_token() -> Error {
    let message = "joinToken: it is unknown, has expired, or has been used; `orrery agent token` makes a new one";
    Error::new(Kind::Unauthenticated, "INVALID_JOIN_TOKEN", message)
}

fn token_ttl(seconds: i32) -> Result<Duration, Error> {
    let seconds = if seconds == 0 { USUAL_TOKEN_SECONDS } else { seconds };
    if !TOKEN_SECONDS.contains(&seconds) {
        let (least, most) = (TOKEN_SECONDS.start(), TOKEN_SECONDS.end());
        let message = format!("{seconds} is out of range; give {least} to {most}");
        return Err(Error::field("INVALID_TTL", "ttlSeconds", message));
    }
    Ok(Duration::from_secs(u64::from(seconds.unsigned_abs())))
}

/// What the agent of a token will be allowed.
fn scope(message: CreateJoinTokenRequest, principal: &Principal) -> Result<AgentScope, Error> {
    if message.shared && principal.tenant_id.is_some() {
        let message = "shared: only the deployment's own callers may let an agent in that serves all tenants";
        return Err(Error::new(Kind::Denied, "PERMISSION_DENIED", message));
    }
    if message.name.chars().count() > 200 {
        return Err(Error::field("INVALID_NAME", "name", "is too long; give at most 200 characters"));
    }
    if message.queues.len() > MOST_NAMED || message.labels.len() > MOST_NAMED {
        let field = if message.queues.len() > MOST_NAMED { "queues" } else { "labels" };
        return Err(Error::field("INVALID_ARGUMENT", field, format!("there are too many; give at most {MOST_NAMED}")));
    }
    for (at, queue) in message.queues.iter().enumerate() {
        if let Some(problem) = queue_problem(queue) {
            return Err(Error::field("INVALID_QUEUE", format!("queues[{at}]"), problem));
        }
    }
    let is_label = |text: &str| !text.is_empty() && text.chars().count() <= 200;
    if let Some((key, _)) = message.labels.iter().find(|(key, value)| !is_label(key) || value.chars().count() > 200) {
        let message = "a label has a key of 1 to 200 characters and a value of at most 200";
        return Err(Error::field("INVALID_LABEL", format!("labels.{key}"), message));
    }
    Ok(AgentScope {
        tenant_id: if message.shared { None } else { Some(principal.tenant()) },
        name: message.name,
        queues: message.queues,
        labels: message.labels.into_iter().collect(),
        created_by: principal.subject,
    })
}

fn shown(agent: EnrolledAgent, now: DateTime<Utc>) -> Agent {
    let state = match (agent.revoked_at, agent.certificate.expires_at > now) {
        (Some(_), _) => AgentState::Revoked,
        (None, true) => AgentState::Enrolled,
        (None, false) => AgentState::Expired,
    };
    let id = |id: Option<Uuid>| id.map(|id| id.to_string()).unwrap_or_default();
    v1::Agent {
        id: agent.id.to_string(),
        name: agent.scope.name,
        tenant_id: id(agent.scope.tenant_id),
        state: state.into(),
        queues: agent.scope.queues,
        labels: agent.scope.labels.into_iter().collect(),
        enrolled_at: convert::time(Some(agent.enrolled_at)),
        renewed_at: convert::time(Some(agent.renewed_at)),
        expires_at: convert::time(Some(agent.certificate.expires_at)),
        revoked_at: convert::time(agent.revoked_at),
        revoked_by: id(agent.revoked_by),
        created_by: agent.scope.created_by.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Permissions, PrincipalKind};

    fn principal(tenant_id: Option<Uuid>) -> Principal {
        let (subject, name) = (Uuid::from_u128(9), "somebody".to_owned());
        Principal {
            kind: PrincipalKind::Key,
            tenant_id,
            subject,
            name,
            roles: Vec::new(),
            permissions: Permissions::All,
            tagged: Vec::new(),
        }
    }

    #[test]
    fn a_token_is_for_its_makers_tenant() {
        let tenant = Uuid::from_u128(7);
        let made = |shared, tenant| {
            let request = CreateJoinTokenRequest { shared, ..CreateJoinTokenRequest::default() };
            scope(request, &principal(tenant)).map(|scope| scope.tenant_id).map_err(|error| error.code)
        };
        assert_eq!(made(false, Some(tenant)), Ok(Some(tenant)));
        assert_eq!(made(true, Some(tenant)), Err("PERMISSION_DENIED"));
        assert_eq!(made(true, None), Ok(None));
        assert_eq!(made(false, None), Ok(Some(auth::DEFAULT_TENANT)));
    }

    #[test]
    fn what_a_token_may_not_say_is_refused_by_field() {
        let refused = |request: CreateJoinTokenRequest| {
            let error = scope(request, &principal(None)).unwrap_err();
            (error.code, error.fields.first().map(|problem| problem.field.clone()).unwrap_or_default())
        };
        let none = CreateJoinTokenRequest::default;
        assert_eq!(
            refused(CreateJoinTokenRequest { name: "x".repeat(201), ..none() }),
            ("INVALID_NAME", "name".into())
        );
        let queues = vec!["default".into(), String::new()];
        assert_eq!(refused(CreateJoinTokenRequest { queues, ..none() }), ("INVALID_QUEUE", "queues[1]".into()));
        let labels = [("zone".to_owned(), "x".repeat(201))].into();
        assert_eq!(refused(CreateJoinTokenRequest { labels, ..none() }), ("INVALID_LABEL", "labels.zone".into()));
        assert_eq!(token_ttl(0), Ok(Duration::from_secs(600)));
        for bad in [-1, 1, 59, 86_401] {
            assert_eq!(token_ttl(bad).map_err(|error| error.code), Err("INVALID_TTL"), "{bad}");
        }
    }
}
