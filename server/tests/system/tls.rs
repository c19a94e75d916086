//! What is served over TLS, and by which certificate.

use std::fs;
use std::path::Path;

use orrery_sdk::v1::ListJobsRequest;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::engine::Engine;
use crate::secured::{Authority, handshake};
use crate::token::token;
use crate::wait::{SOON, until_true};
use crate::world::World;

#[tokio::test]
async fn tls_1_3_is_spoken_and_nothing_older() {
    let world = World::new(Engine::Sqlite).await;
    let authority = Authority::new(&world, "ca").await;
    let server = authority.server(&world, &[]).await;
    for url in [&server.grpc, &server.http] {
        let secured = handshake(&authority, url, &[&TLS13]).await.unwrap();
        assert_eq!(secured.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        // Both are offered, and the newer one is taken; the older one alone is refused.
        handshake(&authority, url, &[&TLS12, &TLS13]).await.unwrap();
        let refused = handshake(&authority, url, &[&TLS12]).await.expect_err("TLS 1.2 is refused").to_string();
        assert!(refused.contains("ProtocolVersion"), "{refused}");
        // In the clear nothing is answered but a TLS alert.
        let mut plain = TcpStream::connect(url.trim_start_matches("https://")).await.unwrap();
        plain.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _ = plain.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
    }
    assert!(authority.client(&server).list_jobs(ListJobsRequest::default()).await.unwrap().jobs.is_empty());
    // REST as a browser or curl would call it.
    let http = authority.http();
    let health = http.get(format!("{}/health", server.http)).send().await.unwrap();
    assert_eq!(health.status(), 200);
    let jobs = http.get(format!("{}/api/v1/scheduler/jobs", server.http));
    assert_eq!(jobs.try_clone().unwrap().send().await.unwrap().status(), 401);
    assert_eq!(jobs.bearer_auth(token()).send().await.unwrap().status(), 200);
    // Whom nobody has vouched for is not talked to.
    let other = Authority::new(&world, "other").await;
    let message = other.client(&server).list_jobs(ListJobsRequest::default()).await.unwrap_err().to_string();
    assert!(message.contains("UNAVAILABLE"), "{message}");
}

/// What a listener shows.
async fn shown(authority: &Authority, url: &str) -> Vec<u8> {
    let secured = handshake(authority, url, &[&TLS13]).await.unwrap();
    secured.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn a_new_certificate_is_taken_up_and_a_broken_one_is_not() {
    let world = World::new(Engine::Sqlite).await;
    let authority = Authority::new(&world, "ca").await;
    let server = authority.server(&world, &[]).await;
    let client = authority.client(&server);
    client.list_jobs(ListJobsRequest::default()).await.unwrap();
    let before = shown(&authority, &server.grpc).await;

    authority.issue(&world).await;
    for url in [&server.grpc, &server.http] {
        until_true("the new certificate is shown", SOON, async || shown(&authority, url).await != before).await;
    }
    // Connections that were made with the old one go on.
    client.list_jobs(ListJobsRequest::default()).await.unwrap();
    let served = shown(&authority, &server.grpc).await;

    for (name, broken) in [("coordinator.pem", "nothing"), ("coordinator.key", "nothing either")] {
        let path = authority.path(name);
        let good = fs::read(Path::new(&path)).unwrap();
        let said = server.process.stderr().matches("cannot be used").count();
        fs::write(&path, broken).unwrap();
        until_true("it is said", SOON, async || server.process.stderr().matches("cannot be used").count() > said).await;
        assert!(server.process.stderr().contains("those before go on being served"));
        assert_eq!(shown(&authority, &server.grpc).await, served);
        fs::write(&path, good).unwrap();
    }
    let log = server.process.stderr();
    assert!(!log.contains("PRIVATE KEY") && !log.contains("nothing either"), "{log}");
    authority.issue(&world).await;
    until_true("a good one is taken up again", SOON, async || shown(&authority, &server.grpc).await != served).await;
}

#[tokio::test]
async fn tls_that_cannot_be_served_stops_the_start() {
    let world = World::new(Engine::Sqlite).await;
    let authority = Authority::new(&world, "ca").await;
    let (certificate, key) = (authority.path("coordinator.pem"), authority.path("coordinator.key"));
    let (ca, ca_key) = (authority.path("ca.pem"), authority.path("ca.key"));
    let cases: [(&[(&str, &str)], &str); 6] = [
        (&[("ORRERY_TLS_CERT", &certificate)], "ORRERY_TLS_KEY"),
        (&[("ORRERY_TLS_CERT", "/nowhere.pem"), ("ORRERY_TLS_KEY", &key)], "/nowhere.pem"),
        (&[("ORRERY_TLS_CERT", &certificate), ("ORRERY_TLS_KEY", &ca_key)], "ORRERY_TLS_CERT and ORRERY_TLS_KEY"),
        (&[("ORRERY_CA_CERT", &ca), ("ORRERY_CA_KEY", &ca_key)], "ORRERY_TLS_CERT"),
        (
            &[("ORRERY_TLS_CERT", &certificate), ("ORRERY_TLS_KEY", &key), ("ORRERY_AGENT_AUTH", "mtls")],
            "ORRERY_CA_CERT",
        ),
        (
            &[
                ("ORRERY_TLS_CERT", &certificate),
                ("ORRERY_TLS_KEY", &key),
                ("ORRERY_CA_CERT", &ca),
                ("ORRERY_CA_KEY", &key),
            ],
            "does not belong",
        ),
    ];
    for (environment, told) in cases {
        let mut process = world.start_server(environment);
        let status = process.ended(SOON).await;
        let text = process.stderr();
        assert_eq!(status.code(), Some(2), "{environment:?}: {text}");
        assert!(text.contains(told) && process.stdout().is_empty(), "{told:?} is not in: {text}");
    }
}
