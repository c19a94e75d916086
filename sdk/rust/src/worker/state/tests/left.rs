//! What an earlier process left.

use super::*;

fn result(execution_id: &str) -> Finished {
    Finished {
        execution_id: execution_id.into(),
        epoch: 9,
        status: ExecutionStatus::Failed.into(),
        ..Finished::default()
    }
}

fn after(session_id: Option<&str>, results: &[&str]) -> Bench {
    let results = results.iter().map(|id| result(id)).collect();
    let left = Left { session_id: session_id.map(str::to_owned), results, logs: Vec::new() };
    Bench { state: State::new(TERMS, left), now: Instant::now() }
}

fn acknowledged(execution_id: &str) -> Out {
    Out::ResultAck(ResultAck { execution_id: execution_id.into(), epoch: 9, accepted: true, ..ResultAck::default() })
}

#[test]
fn results_are_told_under_the_session_of_the_earlier_process() {
    let mut bench = after(Some("s1"), &["a", "b"]);
    assert_eq!(bench.state.claim(), ("s1".into(), vec![held("a", 9), held("b", 9)]));
    bench.register("s1", "s1", true);
    assert_eq!(
        bench.sent(),
        ["heartbeat [a@9 b@9]", "finished a@9 failed", "finished b@9 failed"],
        "and takes no work"
    );
    bench.message(acknowledged("a"));
    bench.state.settle();
    assert_eq!(bench.actions(), ["forget a@9"]);
    bench.message(acknowledged("b"));
    bench.state.settle();
    assert_eq!(bench.actions(), ["forget b@9", "part"], "it may have been drained");
    bench.state.detached();
    assert_eq!(bench.state.claim(), (String::new(), Vec::new()));
    bench.register("s2", "", false);
    assert_eq!(bench.sent(), ["heartbeat []", "credit 3"]);
}

#[test]
fn a_session_is_resumed_only_to_give_its_leases_back() {
    let mut bench = after(Some("s1"), &[]);
    assert_eq!(bench.state.claim(), ("s1".into(), Vec::new()));
    bench.register("s1", "s1", true);
    bench.state.settle();
    assert_eq!(bench.actions(), ["part"]);
}

#[test]
fn results_of_a_session_that_is_over_are_told_as_nobodys() {
    let mut bench = after(Some("s1"), &["a"]);
    bench.register("s2", "s1", false);
    assert_eq!(bench.sent(), ["heartbeat []", "finished a@9 failed", "credit 3"]);
    assert_eq!(bench.state.session_id(), Some("s2"));
    let ack = ResultAck { execution_id: "a".into(), epoch: 9, accepted: false, reason: "stale_lease".into() };
    bench.message(Out::ResultAck(ack));
    assert_eq!(bench.actions(), ["forget a@9"]);
}

#[test]
fn results_that_are_not_its_own_any_more_are_dropped() {
    let mut bench = after(Some("s1"), &["a", "b"]);
    let answer = Registered {
        session_id: "s1".into(),
        ttl_ms: 15_000,
        resumed: true,
        revoked: vec![held("a", 9)],
        ..Registered::default()
    };
    bench.state.registered(&answer, "s1", bench.now, bench.now);
    assert_eq!(bench.actions(), ["forget a@9"]);
    assert_eq!(bench.sent(), ["heartbeat [b@9]", "finished b@9 failed"]);
}

#[test]
fn results_without_a_session_are_told_as_nobodys() {
    let mut bench = after(None, &["a"]);
    assert_eq!(bench.state.claim(), (String::new(), Vec::new()));
    bench.register("s2", "", false);
    assert_eq!(bench.sent(), ["heartbeat []", "finished a@9 failed", "credit 3"]);
}

#[test]
fn a_shutdown_meanwhile_tells_what_there_is() {
    let mut bench = after(Some("s1"), &["a"]);
    bench.register("s1", "s1", true);
    bench.state.shut_down(bench.now);
    assert!(!bench.state.has_left(bench.now) && bench.state.has_untold());
    bench.message(acknowledged("a"));
    bench.state.settle();
    assert_eq!(bench.actions(), ["forget a@9"], "the farewell ends the session");
    assert!(bench.state.has_left(bench.now));
}
