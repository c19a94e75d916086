//! Agents that prove who they are: how they come to a certificate, what it is good for, and how it ends.

use std::os::unix::fs::PermissionsExt as _;

use chrono::Utc;
use orrery_sdk::Client;
use orrery_sdk::v1::agent_message::Kind;
use orrery_sdk::v1::agent_service_client::AgentServiceClient;
use orrery_sdk::v1::{
    AgentMessage, AgentState, CreateJobRequest, CreateJoinTokenRequest, EnrollRequest, ListJobsRequest, Register,
    Registered, RenewRequest, RevokeAgentRequest, coordinator_message,
};
use orrery_server::ca::{AgentIdentity, Authority as Signer};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, ClientTlsConfig, Identity};
use uuid::Uuid;

use crate::engine::Engine;
use crate::secured::{Authority, Enrolled, enrolled, request, worker};
use crate::token::{token, token_of};
use crate::wait::{SOON, until, until_true};
use crate::world::{Server, World};

on_each_engine!(an_agent_enrols_once_and_is_revoked, a_certificate_is_renewed_and_the_session_goes_on);

/// Heartbeats so rare that only what is meant to cuts a stream.
const RARE_HEARTBEATS: (&str, &str) = ("ORRERY_SESSION_TTL_MS", "300000");

async fn run_job(client: &Client, name: &str) {
    let config = orrery_sdk::Json::new(json!({"command": "true"}).to_string());
    let request = CreateJobRequest {
        name: name.into(),
        job_type: orrery_sdk::v1::JobType::Command.into(),
        config: Some(config),
        manual: true,
        ..CreateJobRequest::default()
    };
    let job = client.create_job(request).await.unwrap();
    let trigger = orrery_sdk::v1::TriggerJobRequest { id: job.id, ..Default::default() };
    let execution = client.trigger_job(trigger).await.unwrap();
    until_true(&format!("{name} is completed"), SOON, async || {
        let asked = orrery_sdk::v1::GetExecutionRequest { id: execution.id.clone() };
        client.get_execution(asked).await.unwrap().status().as_json_str() == "completed"
    })
    .await;
}

async fn an_agent_enrols_once_and_is_revoked(world: World) {
    let authority = Authority::new(&world, "ca").await;
    let server = authority.server(&world, &[RARE_HEARTBEATS, ("ORRERY_AGENT_AUTH", "mtls")]).await;
    let client = authority.client(&server);
    let args = ["agent", "token", "--name", "db-1", "--queue", "default", "--label", "zone=eu"];
    let join_token = authority.call(&world, &server, &args).await;
    assert!(join_token.starts_with("orj_"), "{join_token}");

    let agent = authority.start_agent(&world, "one", &server, &[("ORRERY_JOIN_TOKEN", &join_token)]);
    let connected = worker(&client, "one").await;
    let [known] = &enrolled(&client).await[..] else { panic!("one agent has enrolled") };
    assert_eq!((&known.id, known.name.as_str(), known.state()), (&connected.agent_id, "db-1", AgentState::Enrolled));
    assert_eq!(connected.labels["zone"], "eu", "the token's labels are the agent's");
    assert!(connected.address.starts_with("127.0.0.1:"), "{}", connected.address);
    run_job(&client, "by-certificate").await;
    let file = world.path("agent-one").join("identity.json");
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);

    // The token is used up, and a key does not do here.
    let mut second = authority.start_agent(&world, "two", &server, &[("ORRERY_JOIN_TOKEN", &join_token)]);
    assert!(!second.ended(SOON).await.success());
    assert!(second.stderr().contains("INVALID_JOIN_TOKEN"), "{}", second.stderr());
    let by_key = authority.start_agent(&world, "three", &server, &[("ORRERY_TOKEN", &token())]);
    by_key.says("CERTIFICATE_NEEDED", SOON).await;
    // A restart goes on with the same identity, whatever is left of the token in the settings.
    drop(agent);
    let agent = authority.start_agent(&world, "one", &server, &[("ORRERY_JOIN_TOKEN", &join_token)]);
    until_true("the agent is back", SOON, async || {
        agent.stderr().contains("registered") && worker(&client, "one").await.agent_id == connected.agent_id
    })
    .await;

    let said = authority.call(&world, &server, &["agent", "revoke", &connected.agent_id]).await;
    assert!(said.contains("is revoked"), "{said}");
    agent.says("CERTIFICATE_REVOKED", SOON).await;
    let workers = client.list_workers(Default::default()).await.unwrap().workers;
    assert!(workers.is_empty(), "{workers:?}");
    let listed = authority.call(&world, &server, &["agent", "list", "--enrolled"]).await;
    assert!(listed.contains("revoked") && listed.contains(&connected.agent_id), "{listed}");
    for process in [&agent, &second, &by_key, &server.process] {
        assert!(!process.stderr().contains(&join_token), "a join token is in a log");
    }
}

async fn a_certificate_is_renewed_and_the_session_goes_on(world: World) {
    let authority = Authority::new(&world, "ca").await;
    let server = authority.server(&world, &[("ORRERY_AGENT_CERT_SECONDS", "20")]).await;
    let client = authority.client(&server);
    let join_token = authority.call(&world, &server, &["agent", "token"]).await;
    let agent = authority.start_agent(&world, "one", &server, &[("ORRERY_JOIN_TOKEN", &join_token)]);
    let session = worker(&client, "one").await;
    let first = enrolled(&client).await.remove(0);
    let first_end = first.expires_at.unwrap().instant().unwrap();
    until_true("the first certificate is over", 2 * SOON, async || Utc::now() > first_end).await;
    let renewed = enrolled(&client).await.remove(0);
    assert_eq!((&renewed.id, renewed.state()), (&first.id, AgentState::Enrolled));
    assert!(renewed.renewed_at.unwrap().instant() > first.renewed_at.unwrap().instant());
    run_job(&client, "after-renewal").await;
    let now = worker(&client, "one").await;
    assert_eq!((&now.id, now.connected_at), (&session.id, session.connected_at));
    assert_eq!(agent.stderr().matches("registered").count(), 1, "{}", agent.stderr());
}

/// A stream that an agent of the test's own has opened.
struct Opened {
    registered: Registered,
    incoming: Streaming<orrery_sdk::v1::CoordinatorMessage>,
    _outgoing: mpsc::Sender<AgentMessage>,
}

/// Opens a session with this certificate, saying this of itself.
async fn open(
    authority: &Authority,
    server: &Server,
    shown: &Enrolled,
    register: Register,
) -> Result<Opened, tonic::Status> {
    let tls = ClientTlsConfig::new()
        .ca_certificate(tonic::transport::Certificate::from_pem(authority.certificates()))
        .identity(Identity::from_pem(&shown.answer.certificate, &shown.key));
    let endpoint = Channel::from_shared(server.grpc.clone()).unwrap().tls_config(tls).unwrap();
    let channel = endpoint.connect().await.map_err(|error| tonic::Status::unavailable(format!("{error:?}")))?;
    let (sender, receiver) = mpsc::channel(4);
    sender.send(AgentMessage { kind: Some(Kind::Register(register)) }).await.unwrap();
    let mut incoming = AgentServiceClient::new(channel).session(ReceiverStream::new(receiver)).await?.into_inner();
    match incoming.message().await?.and_then(|message| message.kind) {
        Some(coordinator_message::Kind::Registered(registered)) => {
            Ok(Opened { registered, incoming, _outgoing: sender })
        }
        other => panic!("{other:?}"),
    }
}

fn register(name: &str) -> Register {
    Register {
        protocol_version: 1,
        name: name.into(),
        executors: vec!["command".into()],
        slots: 1,
        ..Register::default()
    }
}

#[tokio::test]
async fn an_agent_is_who_its_certificate_says() {
    let world = World::new(Engine::Sqlite).await;
    let authority = Authority::new(&world, "ca").await;
    let server = authority.server(&world, &[RARE_HEARTBEATS]).await;
    let client = authority.client(&server);
    let (one, other) = (authority.enrol(&server).await, authority.enrol(&server).await);
    let first = open(&authority, &server, &one, register("same")).await.unwrap();
    assert_eq!(worker(&client, "same").await.agent_id, one.answer.agent_id);

    // Another's session is not taken over by naming it; the one who has it keeps it.
    let claim = Register { session_id: first.registered.session_id.clone(), continued: true, ..register("same") };
    let second = open(&authority, &server, &other, claim.clone()).await.unwrap();
    assert!(!second.registered.resumed && second.registered.session_id != first.registered.session_id);
    let again = open(&authority, &server, &one, claim).await.unwrap();
    assert!(again.registered.resumed && again.registered.session_id == first.registered.session_id);

    // A certificate opens nothing but what agents do, whatever key comes with it.
    let with_key = authority.client_with(&server, one.tls(&authority), Some(token()));
    let refused = with_key.list_jobs(ListJobsRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), "PERMISSION_DENIED");

    // What the authority has signed for somebody who has not enrolled, or serves another tenant, is nobody's.
    let read = |name: &str| std::fs::read(authority.path(name)).unwrap();
    let signer = Signer::read(&read("ca.pem"), &read("ca.key"), Utc::now()).unwrap();
    let swapped: Uuid = one.answer.agent_id.parse().unwrap();
    for (tenant_id, agent_id) in [(Some(orrery_server::auth::DEFAULT_TENANT), Uuid::now_v7()), (None, swapped)] {
        let (key, request) = request();
        let identity = AgentIdentity { tenant_id, agent_id };
        let issued = signer.certify(&request, identity, chrono::Duration::hours(1), Utc::now()).unwrap();
        let forged = Enrolled {
            answer: orrery_sdk::v1::AgentCertificate { certificate: issued.pem, ..one.answer.clone() },
            key,
        };
        let refused = open(&authority, &server, &forged, register("forged")).await.err().unwrap();
        assert!(refused.message().contains("no agent of this deployment"), "{refused:?}");
    }
    // Nor is a coordinator's own certificate an agent's, nor that of another authority.
    let stranger = Authority::new(&world, "other").await;
    for authority_of in [&authority, &stranger] {
        let files = ["coordinator.pem", "coordinator.key"]
            .map(|name| std::fs::read_to_string(authority_of.path(name)).unwrap());
        let [certificate, key] = files;
        let shown = Enrolled { answer: orrery_sdk::v1::AgentCertificate { certificate, ..one.answer.clone() }, key };
        let refused = open(&authority, &server, &shown, register("stranger")).await.err().unwrap();
        assert_ne!(refused.code(), tonic::Code::Unauthenticated, "the handshake itself fails: {refused:?}");
    }
}

#[tokio::test]
async fn whose_certificate_ends_or_is_revoked_is_cut_off_at_every_coordinator() {
    let world = World::new(Engine::Postgres).await;
    let authority = Authority::new(&world, "ca").await;
    let here = authority.server(&world, &[RARE_HEARTBEATS, ("ORRERY_AGENT_CERT_SECONDS", "10")]).await;
    let there = authority.server(&world, &[RARE_HEARTBEATS]).await;
    let (expiring, revoked) = (authority.enrol(&here).await, authority.enrol(&there).await);
    let mut of_expiring = open(&authority, &there, &expiring, register("expiring")).await.unwrap();
    let mut of_revoked = open(&authority, &there, &revoked, register("revoked")).await.unwrap();
    // Revoked at the one coordinator, it is cut off by the other.
    let id = revoked.answer.agent_id.clone();
    authority.client(&here).revoke_agent(RevokeAgentRequest { id }).await.unwrap();
    for stream in [&mut of_revoked, &mut of_expiring] {
        let end = async || tokio::time::timeout(SOON, stream.incoming.message()).await.ok();
        let end = until("the stream ends", SOON, end).await;
        assert!(matches!(end, Ok(None) | Err(_)), "{end:?}");
    }
    let client = authority.client_with(&here, revoked.tls(&authority), None);
    let refused = client.renew(RenewRequest { certificate_request: request().1 }).await.unwrap_err();
    assert_eq!(refused.code(), "CERTIFICATE_REVOKED");
    let again = open(&authority, &there, &revoked, register("revoked")).await.err().unwrap();
    assert_eq!(again.code(), tonic::Code::Unauthenticated);
    let again = open(&authority, &there, &expiring, register("expiring")).await.err().unwrap();
    // By the handshake, or in the very second of its end by what the database knows. With TLS 1.3 the client may be through with its side of the
    // handshake before it hears of the refusal: then the call fails with what became of the connection, which no answer of a server has.
    let by_handshake = again.code() == tonic::Code::Unavailable || std::error::Error::source(&again).is_some();
    let is_expired = by_handshake || again.message().contains("its time is over");
    assert!(is_expired, "{again:?}");
}

#[tokio::test]
async fn who_may_let_agents_in_is_asked() {
    let world = World::new(Engine::Sqlite).await;
    let authority = Authority::new(&world, "ca").await;
    let server = authority.server(&world, &[]).await;
    let stranger = authority.client_with(&server, authority.tls(), None);
    let refused = stranger.create_join_token(CreateJoinTokenRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), "UNAUTHENTICATED");
    let shared = CreateJoinTokenRequest { shared: true, ..Default::default() };
    let refused = authority.client(&server).create_join_token(shared).await.unwrap_err();
    assert_eq!(refused.code(), "PERMISSION_DENIED");
    let (_, certificate_request) = request();
    for join_token in ["", "orj_x", &format!("orj_{}", "A".repeat(43))] {
        let message = EnrollRequest { join_token: join_token.into(), certificate_request: certificate_request.clone() };
        assert_eq!(stranger.enroll(message).await.unwrap_err().code(), "INVALID_JOIN_TOKEN", "{join_token}");
    }
    // A bad request does not use the token up.
    let token = authority.client(&server).create_join_token(CreateJoinTokenRequest::default()).await.unwrap().token;
    let enroll = |request: &str| EnrollRequest { join_token: token.clone(), certificate_request: request.to_owned() };
    assert_eq!(stranger.enroll(enroll("x")).await.unwrap_err().code(), "INVALID_CERTIFICATE_REQUEST");
    let answer = stranger.enroll(enroll(&certificate_request)).await.unwrap();
    assert!(answer.expires_at.unwrap().instant().unwrap() <= Utc::now() + chrono::Duration::hours(24));
    assert_eq!(stranger.enroll(enroll(&certificate_request)).await.unwrap_err().code(), "INVALID_JOIN_TOKEN");
    // Renewing is for those who show a certificate.
    let message = RenewRequest { certificate_request };
    assert_eq!(authority.client(&server).renew(message).await.unwrap_err().code(), "CERTIFICATE_NEEDED");
}

#[tokio::test]
async fn rest_does_the_same_and_tenants_do_not_see_each_other() {
    let world = World::new(Engine::Sqlite).await;
    let authority = Authority::new(&world, "ca").await;
    let server = authority.server(&world, &[]).await;
    let http = authority.http();
    let call = async |bearer: Option<&str>, path: &str, body: Option<Value>| {
        let url = format!("{}/api/v1/scheduler/agents{path}", server.http);
        let request = match body {
            Some(body) => http.post(url).header("content-type", "application/json").body(body.to_string()),
            None => http.get(url),
        };
        let request = if let Some(bearer) = bearer { request.bearer_auth(bearer) } else { request };
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_str::<Value>(&answer.text().await.unwrap()).unwrap())
    };
    let refused = |(status, answer): (u16, Value)| (status, answer["error"]["code"].as_str().map(ToOwned::to_owned));
    let (mine, others) = (token(), token_of(&Uuid::new_v4().to_string()));

    let made = call(None, "/tokens", Some(json!({}))).await;
    assert_eq!(refused(made), (401, Some("UNAUTHENTICATED".into())));
    let (_, made) = call(Some(&mine), "/tokens", Some(json!({"name": "db-1", "ttlSeconds": 60}))).await;
    let body = json!({"joinToken": made["token"], "certificateRequest": request().1});
    let (_, enrolled) = call(None, "/enroll", Some(body.clone())).await;
    let id = enrolled["agentId"].as_str().unwrap_or_else(|| panic!("{made} {enrolled}"));
    assert_eq!(refused(call(None, "/enroll", Some(body)).await), (401, Some("INVALID_JOIN_TOKEN".into())));

    for (bearer, count) in [(&mine, 1), (&others, 0)] {
        let (_, listed) = call(Some(bearer), "", None).await;
        assert_eq!(listed["agents"].as_array().unwrap().len(), count, "{listed}");
    }
    let revoke = format!("/{id}/revoke");
    let by_others = call(Some(&others), &revoke, Some(json!({}))).await;
    assert_eq!(refused(by_others), (404, Some("AGENT_NOT_FOUND".into())));
    let (status, revoked) = call(Some(&mine), &revoke, Some(json!({}))).await;
    assert_eq!((status, revoked["state"].as_str(), revoked["id"].as_str()), (200, Some("revoked"), Some(id)));
}
