//! How the beginning of an attempt is told: apart where it goes on, with its end where it does not.

use super::*;

fn grant(bench: &mut Bench, execution_ids: &[&str]) {
    let lease = |id: &&str| Lease { execution_id: (*id).into(), epoch: 1, ..Lease::default() };
    let leases = execution_ids.iter().map(lease).collect();
    bench.message(Out::Leases(LeaseBatch { leases, works: vec![] }));
}

fn finished(execution_id: &str) -> Finished {
    let status = ExecutionStatus::Completed.into();
    Finished { execution_id: execution_id.into(), epoch: 1, status, ..Finished::default() }
}

/// The work ends; its result is not safe yet.
fn works(bench: &mut Bench, execution_id: &str) -> Finished {
    let mut finished = finished(execution_id);
    bench.state.worked(&LeaseKey::new(execution_id, 1), &mut finished);
    finished
}

fn ended(bench: &mut Bench, finished: Finished) {
    bench.state.ended(&LeaseKey::from(&finished), Some(finished), bench.now);
}

/// Time passes, and nobody comes out of a first poll.
fn later(bench: &mut Bench, ms: u64) {
    bench.now += Duration::from_millis(ms);
    bench.state.tick(bench.now);
}

/// What was told of beginnings and ends: + for a beginning apart, = for an end that tells both, - for an end alone.
fn told(bench: &mut Bench) -> Vec<String> {
    bench.state.settle();
    let short = |message: AgentMessage| match message.kind? {
        Kind::Started(started) => Some(format!("+{}", started.execution_id)),
        Kind::Finished(finished) if finished.started => Some(format!("={}", finished.execution_id)),
        Kind::Finished(finished) => Some(format!("-{}", finished.execution_id)),
        _ => None,
    };
    bench.state.outbox().drain(..).filter_map(short).collect()
}

#[test]
fn what_ends_at_once_tells_its_beginning_with_its_end() {
    let mut bench = Bench::attached();
    grant(&mut bench, &["a", "b"]);
    assert_eq!(told(&mut bench), Vec::<String>::new());
    bench.state.goes_on(&LeaseKey::new("b", 1));
    let a = works(&mut bench, "a");
    assert!(a.started, "so it is journalled");
    // Its first poll has been late for long, but it is over.
    later(&mut bench, 60);
    assert_eq!(told(&mut bench), ["+b"]);
    ended(&mut bench, a);
    let b = works(&mut bench, "b");
    assert!(!b.started);
    ended(&mut bench, b);
    assert_eq!(told(&mut bench), ["=a", "-b"]);
}

#[test]
fn a_first_poll_that_takes_long_is_told_of_all_the_same() {
    let mut bench = Bench::attached();
    grant(&mut bench, &["a"]);
    bench.actions();
    assert_eq!(bench.state.deadline(), Some(bench.now + YOUNG));
    later(&mut bench, 49);
    assert_eq!(told(&mut bench), Vec::<String>::new());
    later(&mut bench, 1);
    assert_eq!(told(&mut bench), ["+a"]);
    assert_eq!(bench.actions(), ["overdue a@1"]);
    bench.state.goes_on(&LeaseKey::new("a", 1));
    assert_eq!(told(&mut bench), Vec::<String>::new(), "once is enough");
}

#[test]
fn progress_comes_after_the_beginning() {
    let mut bench = Bench::attached();
    grant(&mut bench, &["a"]);
    bench.state.progressed(&LeaseKey::new("a", 1), 7);
    assert_eq!(bench.sent()[..2], ["started a", "progress a 7"]);
}

#[test]
fn what_a_lost_stream_may_have_lost_is_told_again() {
    let mut bench = Bench::attached();
    grant(&mut bench, &["a", "b", "c"]);
    for id in ["a", "b", "c"] {
        bench.state.goes_on(&LeaseKey::new(id, 1));
    }
    let a = works(&mut bench, "a");
    ended(&mut bench, a);
    assert_eq!(told(&mut bench), ["+a", "+b", "+c", "-a"]);
    bench.state.detached();
    // It ends without a stream: that its beginning has arrived is not known.
    let b = works(&mut bench, "b");
    ended(&mut bench, b);
    bench.register("s1", "s1", true);
    assert_eq!(told(&mut bench), ["+c", "=a", "=b"]);
    let c = works(&mut bench, "c");
    ended(&mut bench, c);
    assert_eq!(told(&mut bench), ["-c"]);
    for _ in 0..2 {
        bench.pass(5_000);
        bench.acknowledge();
    }
    assert_eq!(told(&mut bench), ["=a", "=b", "-c"], "unchanged on the same stream");
}

#[test]
fn what_never_began_does_not_claim_to_have() {
    let mut bench = Bench::attached();
    let cancel = Cancel { execution_id: "a".into(), epoch: 1, reason: "cancelled".into() };
    bench.message(Out::Cancel(cancel));
    grant(&mut bench, &["a"]);
    assert_eq!(told(&mut bench), ["-a"]);
    bench.state.detached();
    bench.register("s1", "s1", true);
    assert_eq!(told(&mut bench), ["-a"]);
}
