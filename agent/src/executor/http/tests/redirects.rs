//! Where targets send jobs.

use super::*;

#[tokio::test]
async fn a_redirect_leads_nowhere_that_the_job_may_not_go() {
    let inner = Target::start(ok()).await;
    let table = Table::of("*", &[&["127.0.0.1"]]);
    let port = inner.port();
    for location in [
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://[fd00:ec2::254]/".into(),
        "//169.254.169.254/".into(),
        "http://metadata.google.internal/".into(),
        format!("http://127.0.0.1:{port}/"),
        format!("http://0x7f.1:{port}/"),
        format!("http://localhost:{port}/"),
        format!("http://inner.example:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        "http://user:pass@93.184.215.14/".into(),
        "ftp://93.184.215.14/".into(),
        "file:///etc/passwd".into(),
        "gopher://127.0.0.1:6379/_FLUSHALL".into(),
        "data:text/plain,x".into(),
    ] {
        for status in [301, 302, 303, 307, 308] {
            let outer = Target::start(redirect(status, &location)).await;
            let http = allowing(&format!("127.0.0.1:{}", outer.port()), &table);
            let outcome = get(&http, format!("http://127.0.0.1:{}/", outer.port())).await;
            let message = refused(&outcome);
            assert!(message.contains("127.0.0.1 redirects to where jobs may not go"), "{location}: {message}");
            assert_eq!(outer.requests().len(), 1);
        }
    }
    assert_eq!(inner.connections(), 0);
}

#[tokio::test]
async fn the_second_redirect_is_checked_as_the_first() {
    let inner = Target::start(ok()).await;
    let second = Target::start(redirect(302, &format!("http://127.0.0.1:{}/", inner.port()))).await;
    let first = Target::start(redirect(302, &format!("http://127.0.0.1:{}/", second.port()))).await;
    let open = format!("127.0.0.1:{},127.0.0.1:{}", first.port(), second.port());
    let url = format!("http://127.0.0.1:{}/", first.port());
    refused(&get(&allowing(&open, &Arc::new(Table::default())), &url).await);
    assert_eq!((second.requests().len(), inner.connections()), (1, 0));
    let all = allowing("127.0.0.1", &Arc::new(Table::default()));
    assert_eq!(get(&all, &url).await.failure, None);
    assert_eq!(inner.requests().len(), 1);
}

fn secretive(url: String) -> Value {
    json!({"url": url, "method": "POST", "body": {"a": 1}, "headers": {
        "Authorization": "Bearer s3cret", "Cookie": "s3cret", "Proxy-Authorization": "s3cret", "X-Api-Key": "s3cret",
        "X-Anything": "s3cret", "Host": "s3cret.example", "Referer": "http://s3cret", "Accept": "text/plain",
    }})
}

/// Not only the headers that are known to be credentials: whatever a job sends may be one.
#[tokio::test]
async fn what_a_job_proves_itself_with_stays_at_its_origin() {
    let http = allowing("127.0.0.1", &Arc::new(Table::default()));
    let end = Target::start(ok()).await;
    let elsewhere = Target::start(redirect(307, &format!("http://127.0.0.1:{}/there", end.port()))).await;
    let outcome = call(&http, secretive(format!("http://127.0.0.1:{}/", elsewhere.port())), &[]).await;
    assert_eq!(outcome.failure, None);
    let (first, second) = (elsewhere.requests().remove(0), end.requests().remove(0));
    assert_eq!(first.matches("s3cret").count(), 7, "{first}");
    assert!(!second.contains("s3cret"), "{second}");
    assert!(second.starts_with("POST /there HTTP/1.1\r\n") && second.ends_with("\r\n\r\n{\"a\":1}"), "{second}");
    for kept in
        ["accept: text/plain", "idempotency-key: key-1", "x-orrery-execution-id: e-1", "content-type: application/json"]
    {
        assert!(second.contains(kept), "{kept} is not in {second}");
    }
}

/// The way over another origin does not bring them back, even where it ends at the first one.
#[tokio::test]
async fn what_was_left_behind_stays_behind() {
    let http = allowing("127.0.0.1", &Arc::new(Table::default()));
    let home = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let home_at = home.local_addr().expect("an address");
    let abroad = Target::start(redirect(307, &format!("http://{home_at}/again"))).await;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let (seen, away) = (heard.clone(), format!("http://127.0.0.1:{}/\r\nconnection: close", abroad.port()));
    tokio::spawn(async move {
        // The first connection is sent abroad, and the second answered.
        for answer in [redirect(307, &away), ok()] {
            let (stream, _) = home.accept().await.expect("a connection");
            tokio::spawn(serve(stream, answer, seen.clone()));
        }
    });
    assert_eq!(call(&http, secretive(format!("http://{home_at}/")), &[]).await.failure, None);
    let heard = heard.lock().expect("requests");
    assert!(heard[0].contains("s3cret") && !heard[1].contains("s3cret"), "{heard:?}");
}

#[tokio::test]
async fn within_its_origin_a_job_keeps_its_headers() {
    let http = allowing("127.0.0.1", &Arc::new(Table::default()));
    for (status, method, body) in
        [(302, "GET", ""), (303, "GET", ""), (301, "GET", ""), (307, "POST", "{\"a\":1}"), (308, "POST", "{\"a\":1}")]
    {
        let server = Target::start(redirect(status, "/next")).await;
        let outcome = call(&http, secretive(format!("http://127.0.0.1:{}/", server.port())), &[]).await;
        let failure = outcome.failure.expect("it never ends");
        assert_eq!((failure.error_type, failure.message.as_str()), (ErrorType::UserError, "more than 10 redirects"));
        let requests = server.requests();
        assert_eq!(requests.len(), 11);
        let second = &requests[1];
        assert!(second.starts_with(&format!("{method} /next HTTP/1.1\r\n")), "{status}: {second}");
        assert!(
            second.contains("authorization: Bearer s3cret\r\n") && second.contains("x-api-key"),
            "{status}: {second}"
        );
        assert_eq!(second.split_once("\r\n\r\n").expect("a head").1, body, "{status}");
        assert_eq!(second.contains("content-type"), !body.is_empty(), "{status}");
    }
}
