//! What is held, which slots it takes, and when it is given up.

use super::*;

fn revoke(execution_id: &str) -> Out {
    Out::Revoke(Revoke { leases: vec![held(execution_id, 1)] })
}

fn cancel(execution_id: &str, epoch: i64, reason: &str) -> Out {
    Out::Cancel(Cancel { execution_id: execution_id.into(), epoch, reason: reason.into() })
}

#[test]
fn every_lease_is_named_until_it_is_given_up() {
    let mut bench = Bench::attached();
    for (id, epoch) in [("a", 1), ("b", 1), ("c", 1)] {
        bench.lease(id, epoch);
    }
    bench.message(cancel("a", 1, "cancelled"));
    bench.ended("b", 1);
    assert_eq!(bench.state.held(), [held("a", 1), held("c", 1), held("b", 1)], "stopping, running, untold");
    bench.message(revoke("c"));
    bench.lease("a", 2);
    assert_eq!(bench.state.held(), [held("a", 2), held("b", 1)], "waiting for the end of the older");
    bench.message(revoke("b"));
    assert_eq!(bench.state.held(), [held("a", 2)]);
}

#[test]
fn what_the_shutdown_could_not_stop_is_held_to_the_end() {
    let mut bench = Bench::attached();
    bench.lease("a", 1);
    bench.state.shut_down(bench.now);
    bench.sent();
    bench.state.ended(&LeaseKey::new("a", 1), None, bench.now);
    assert_eq!(bench.sent(), Vec::<String>::new(), "nothing is told");
    assert_eq!(bench.state.held(), [held("a", 1)]);
    bench.state.tick(bench.now);
    assert!(bench.state.has_left(bench.now));
    // Without a stream nothing could be given back.
    bench.state.detached();
    assert!(!bench.state.has_left(bench.now));
    bench.register("s1", "s1", true);
    assert_eq!(bench.sent(), ["heartbeat [a@1]", "drain", "started a"]);
    assert!(bench.state.has_left(bench.now));
    bench.message(revoke("a"));
    assert_eq!(bench.state.held(), []);
}

#[test]
fn a_shutdown_without_a_stream_waits_no_longer_than_for_results() {
    let mut bench = Bench::attached();
    bench.lease("a", 1);
    bench.state.shut_down(bench.now);
    bench.state.detached();
    bench.state.ended(&LeaseKey::new("a", 1), None, bench.now);
    bench.pass(0);
    bench.pass(4_999);
    assert!(!bench.state.has_left(bench.now));
    bench.pass(1);
    assert!(bench.state.has_left(bench.now));
}

#[test]
fn a_revoked_task_gives_its_slot_back_once_and_only_when_it_has_ended() {
    let mut bench = Bench::attached();
    bench.lease("a", 1);
    bench.lease("b", 1);
    bench.sent();
    bench.message(revoke("a"));
    bench.message(revoke("a"));
    assert_eq!(bench.sent(), Vec::<String>::new(), "its executor has not ended");
    // On a new stream too it is no free slot, though it is not held either.
    bench.state.detached();
    bench.register("s1", "s1", true);
    assert_eq!(bench.sent(), ["heartbeat [b@1]", "started b", "credit 1"]);
    bench.state.ended(&LeaseKey::new("a", 1), None, bench.now);
    assert_eq!(bench.sent(), ["credit 1"]);
    bench.message(revoke("a"));
    bench.acknowledge();
    assert_eq!(bench.sent(), Vec::<String>::new());
    assert_eq!(bench.state.held(), [held("b", 1)], "it is not taken for unfinished work");
}

#[test]
fn slots_that_become_free_in_one_turn_are_granted_together() {
    let mut bench = Bench::attached();
    for id in ["a", "b", "c"] {
        bench.lease(id, 1);
    }
    bench.sent();
    for id in ["a", "b", "c"] {
        bench.ended(id, 1);
    }
    assert_eq!(bench.sent()[3..], ["credit 3"]);
}

#[test]
fn a_cancellation_that_overtook_its_lease_is_applied() {
    let mut bench = Bench::attached();
    bench.message(cancel("a", 1, "cancelled"));
    bench.message(cancel("b", 1, "timeout"));
    bench.message(cancel("c", 1, "cancelled"));
    for (id, epoch) in [("a", 1), ("b", 1), ("c", 2)] {
        bench.lease(id, epoch);
    }
    assert_eq!(bench.sent(), ["finished a@1 cancelled", "finished b@1 failed", "started c", "credit 2"]);
    assert_eq!(bench.actions(), ["start c@2"], "it was of another epoch");
}

#[test]
fn a_cancellation_is_remembered_for_half_a_minute() {
    let mut bench = Bench::attached();
    bench.message(cancel("a", 1, "cancelled"));
    bench.message(cancel("b", 1, "cancelled"));
    bench.now += Duration::from_millis(29_999);
    bench.lease("a", 1);
    bench.now += Duration::from_millis(1);
    bench.lease("b", 1);
    assert_eq!(bench.actions(), ["start b@1"]);
}

#[test]
fn a_cancelled_newer_grant_still_ends_the_older() {
    let mut bench = Bench::attached();
    bench.lease("a", 1);
    bench.sent();
    bench.actions();
    bench.message(cancel("a", 2, "cancelled"));
    bench.lease("a", 2);
    assert_eq!(bench.actions(), ["stop a@1 Revoked"]);
    assert_eq!(bench.sent(), ["finished a@2 cancelled", "credit 1"]);
    bench.ended("a", 1);
    assert_eq!(bench.actions(), ["forget a@1"]);
}
