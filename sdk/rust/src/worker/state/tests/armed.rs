//! Leases that wait for their instant.

use super::*;

impl Bench {
    /// Leases that may begin in so many milliseconds.
    fn arm(&mut self, leases: &[(&str, i64, u64)]) {
        let lease = |(id, epoch, ms): &(&str, i64, u64)| Lease {
            execution_id: (*id).into(),
            epoch: *epoch,
            start_in_us: i64::try_from(ms * 1000).unwrap(),
            ..Lease::default()
        };
        self.message(Out::Leases(LeaseBatch { leases: leases.iter().map(lease).collect(), works: vec![] }));
    }

    fn cancel(&mut self, execution_id: &str, reason: &str) {
        let cancel = Cancel { execution_id: execution_id.into(), epoch: 1, reason: reason.into() };
        self.message(Out::Cancel(cancel));
    }

    fn credits(&mut self) -> u32 {
        self.state.settle();
        self.state.attachment.as_ref().map_or(0, |attachment| attachment.credits)
    }
}

const NOTHING: [String; 0] = [];

#[test]
fn it_begins_at_its_instant_and_not_before() {
    let mut bench = Bench::attached();
    bench.arm(&[("b", 1, 1500), ("a", 1, 1500), ("c", 1, 900)]);
    assert_eq!((bench.actions(), bench.sent()), (NOTHING.into(), NOTHING.into()));
    assert_eq!(bench.state.deadline(), Some(bench.now + Duration::from_millis(900)));
    bench.pass(899);
    assert_eq!(bench.actions(), NOTHING);
    bench.pass(1);
    assert_eq!((bench.actions(), bench.sent()), (vec!["start c@1".into()], vec!["started c".into()]));
    bench.now += Duration::from_micros(599_999);
    bench.state.tick(bench.now);
    assert_eq!(bench.actions(), NOTHING, "a microsecond early");
    bench.pass(1);
    assert_eq!(bench.actions(), ["start a@1", "start b@1"]);
}

#[test]
fn it_takes_a_slot_and_is_named() {
    let mut bench = Bench::attached();
    bench.arm(&[("a", 1, 60_000), ("b", 1, 60_000)]);
    bench.lease("c", 1);
    assert_eq!((bench.credits(), bench.state.used()), (0, 3));
    bench.sent();
    bench.arm(&[("d", 1, 60_000)]);
    assert_eq!(bench.sent(), ["release d@1"], "there is no slot for it");
    bench.arm(&[("a", 1, 60_000)]);
    assert_eq!((bench.sent(), bench.state.armed.len()), (NOTHING.into(), 2), "granted twice");
    bench.pass(5_000);
    assert_eq!(bench.sent(), ["heartbeat [c@1 a@1 b@1]"]);
}

#[test]
fn until_its_instant_it_is_cancelled_at_once_and_recalled_or_revoked_without_a_trace() {
    let mut bench = Bench::attached();
    bench.arm(&[("a", 1, 1000), ("b", 1, 1000), ("c", 1, 1000)]);
    bench.sent();
    bench.cancel("a", "cancelled");
    bench.cancel("b", "recalled");
    bench.message(Out::Revoke(Revoke { leases: vec![held("c", 1)] }));
    assert_eq!(bench.sent(), ["finished a@1 cancelled", "release b@1", "credit 3"]);
    bench.pass(1000);
    assert_eq!(bench.actions(), NOTHING);
}

#[test]
fn what_has_begun_is_not_recalled() {
    let mut bench = Bench::attached();
    bench.arm(&[("a", 1, 1000)]);
    bench.pass(1000);
    assert_eq!(bench.actions(), ["start a@1"]);
    bench.sent();
    bench.cancel("a", "recalled");
    assert_eq!((bench.actions(), bench.sent()), (NOTHING.into(), NOTHING.into()));
    // Nor is it remembered against a lease that comes later.
    bench.cancel("b", "recalled");
    bench.lease("b", 1);
    assert_eq!(bench.actions(), ["start b@1"]);
}

#[test]
fn a_worker_that_goes_gives_back_what_has_not_begun() {
    for leaves in [true, false] {
        let mut bench = Bench::attached();
        bench.arm(&[("a", 1, 1000), ("b", 1, 2000)]);
        bench.sent();
        if leaves {
            bench.state.shut_down(bench.now);
        } else {
            bench.message(Out::Drain(DrainRequest { reconnect: false }));
        }
        assert_eq!(bench.sent(), ["drain", "release a@1 b@1"]);
        bench.pass(5_000);
        assert_eq!(bench.actions(), NOTHING);
    }
}

#[test]
fn without_a_stream_it_is_given_back_once_there_is_one() {
    let mut bench = Bench::attached();
    bench.arm(&[("a", 1, 1000)]);
    bench.state.detached();
    bench.state.shut_down(bench.now);
    bench.pass(2_000);
    assert_eq!(bench.actions(), NOTHING);
    assert_eq!(bench.state.claim().1, [held("a", 1)]);
    bench.register("s1", "s1", true);
    assert_eq!(bench.sent(), ["heartbeat []", "drain", "release a@1"]);
}

#[test]
fn a_lost_stream_delays_nothing() {
    let mut bench = Bench::attached();
    bench.arm(&[("a", 1, 1000), ("b", 1, 12_000)]);
    bench.state.detached();
    bench.pass(1000);
    assert_eq!(bench.actions(), ["start a@1"]);
    assert_eq!(bench.state.claim(), ("s1".into(), vec![held("a", 1), held("b", 1)]));
    bench.register("s1", "s1", true);
    assert_eq!(bench.sent(), ["heartbeat [a@1 b@1]", "started a", "credit 1"]);
}

#[test]
fn with_the_session_it_is_lost() {
    let mut bench = Bench::attached();
    bench.arm(&[("a", 1, 13_500), ("b", 1, 13_400)]);
    bench.state.detached();
    // The trust in the session ends at the very instant of the one, and goes first.
    bench.pass(13_500);
    assert_eq!(bench.actions(), ["drop logs"]);
    bench.pass(10_000);
    assert_eq!((bench.actions(), bench.state.claim().1), (NOTHING.into(), vec![]));
}

#[test]
fn a_newer_grant_takes_the_place_of_an_older_one() {
    let mut bench = Bench::attached();
    bench.arm(&[("a", 1, 1000)]);
    bench.arm(&[("a", 2, 2000)]);
    bench.pass(1000);
    assert_eq!(bench.actions(), NOTHING);
    bench.pass(1000);
    assert_eq!(bench.actions(), ["start a@2"]);
    // While the older one is still being stopped, the newer one waits for its end.
    bench.arm(&[("a", 3, 1000)]);
    assert_eq!(bench.actions(), ["stop a@2 Revoked"]);
    bench.pass(1000);
    assert_eq!(bench.actions(), NOTHING);
    bench.state.ended(&LeaseKey::new("a", 2), None, bench.now);
    assert_eq!(bench.actions(), ["start a@3"]);
}
