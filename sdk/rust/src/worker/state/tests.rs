use orrery_proto::v1::coordinator_message::Kind as Out;
use orrery_proto::v1::{Cancel, DrainRequest, ExecutionStatus, HeartbeatAck, LeaseBatch, ResultAck, Revoke};

use super::*;

mod armed;
mod begun;
mod held;
mod left;

const TERMS: Terms = Terms {
    slots: 3,
    drain_timeout: Duration::from_secs(30),
    flush_timeout: Duration::from_secs(5),
    resend_after: Duration::from_secs(10),
};

/// A state with a clock of its own.
struct Bench {
    state: State,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self { state: State::new(TERMS, Left::default()), now: Instant::now() }
    }

    /// With a session of 15 s, its first heartbeat acknowledged, and nothing left to look at.
    fn attached() -> Self {
        let mut bench = Self::new();
        bench.register("s1", "", false);
        bench.acknowledge();
        bench.sent();
        bench.state.take_actions();
        bench
    }

    fn register(&mut self, id: &str, asked: &str, resumed: bool) {
        let answer =
            Registered { session_id: id.into(), ttl_ms: 15_000, heartbeat_ms: 5_000, resumed, ..Registered::default() };
        self.state.registered(&answer, asked, self.now, self.now);
    }

    fn acknowledge(&mut self) {
        let sequence = self.state.sequence;
        self.message(Out::HeartbeatAck(HeartbeatAck { sequence, revoked: Vec::new() }));
    }

    fn message(&mut self, kind: Out) {
        self.state.message(kind, self.now, 0.5);
    }

    fn lease(&mut self, execution_id: &str, epoch: i64) {
        let lease = Lease { execution_id: execution_id.into(), epoch, ..Lease::default() };
        self.message(Out::Leases(LeaseBatch { leases: vec![lease], works: vec![] }));
        self.go_on();
    }

    /// All that has begun goes on for a while.
    fn go_on(&mut self) {
        let begun: Vec<LeaseKey> = self.state.tasks.keys().cloned().collect();
        for key in begun {
            self.state.goes_on(&key);
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
        self.state.tick(self.now);
        self.go_on();
    }

    fn ended(&mut self, execution_id: &str, epoch: i64) {
        let status = ExecutionStatus::Completed.into();
        let finished = Finished { execution_id: execution_id.into(), epoch, status, ..Finished::default() };
        self.state.ended(&LeaseKey::new(execution_id, epoch), Some(finished), self.now);
        self.go_on();
    }

    /// What was sent, in short.
    fn sent(&mut self) -> Vec<String> {
        let held =
            |leases: &[HeldLease]| leases.iter().map(|l| LeaseKey::from(l).to_string()).collect::<Vec<_>>().join(" ");
        let short = |message: AgentMessage| match message.kind.expect("a kind") {
            Kind::Heartbeat(h) => format!("heartbeat [{}]", held(&h.held)),
            Kind::Credit(c) => format!("credit {}", c.slots),
            Kind::Started(s) => format!("started {}", s.execution_id),
            Kind::Progress(p) => format!("progress {} {}", p.execution_id, p.percent),
            Kind::Finished(f) => format!("finished {}@{} {}", f.execution_id, f.epoch, f.status().as_json_str()),
            Kind::Release(r) => format!("release {}", held(&r.leases)),
            Kind::Drain(_) => "drain".into(),
            Kind::Register(_) | Kind::Goodbye(_) | Kind::Batch(_) => "unexpected".into(),
        };
        self.state.settle();
        self.state.outbox().drain(..).map(short).collect()
    }

    /// What is to be done, in short.
    fn actions(&mut self) -> Vec<String> {
        let short = |action| match action {
            Action::Start(lease) => format!("start {}", LeaseKey::from(&*lease)),
            Action::Stop(key, cause) => format!("stop {key} {cause:?}"),
            Action::Forget(key) => format!("forget {key}"),
            Action::Overdue(key) => format!("overdue {key}"),
            Action::DropLogs => "drop logs".into(),
            Action::Reconnect(why) => format!("reconnect {why:?}"),
            Action::Proven => "proven".into(),
            Action::Part => "part".into(),
        };
        self.state.take_actions().into_iter().map(short).collect()
    }
}

fn held(execution_id: &str, epoch: i64) -> HeldLease {
    HeldLease { execution_id: execution_id.into(), epoch }
}

#[test]
fn a_session_is_trusted_a_tenth_less_than_it_lives_from_the_sending() {
    let mut bench = Bench::attached();
    bench.lease("a", 1);
    bench.actions();
    bench.pass(5_000);
    assert_eq!(bench.sent(), ["started a", "heartbeat [a@1]"][..].iter().rev().copied().collect::<Vec<_>>());
    bench.pass(3_000);
    bench.acknowledge();
    // Sent at 5,000, so it is trusted until 18,500, whenever the acknowledgement came.
    bench.state.detached();
    bench.pass(10_499);
    assert_eq!(bench.actions(), Vec::<String>::new());
    assert_eq!(bench.state.deadline(), Some(bench.now + Duration::from_millis(1)));
    bench.pass(1);
    assert_eq!(bench.actions(), ["stop a@1 Revoked", "drop logs"]);
    assert_eq!(bench.state.claim(), (String::new(), Vec::new()));
    assert_eq!(bench.state.deadline(), None);
}

#[test]
fn resuming_alone_does_not_prolong_the_trust() {
    let mut bench = Bench::attached();
    bench.state.detached();
    bench.pass(13_000);
    bench.register("s1", "s1", true);
    bench.pass(500);
    assert_eq!(bench.actions(), ["drop logs", "reconnect Expired"]);
}

#[test]
fn a_session_given_up_is_not_taken_up_again() {
    let mut bench = Bench::attached();
    bench.lease("a", 1);
    bench.state.detached();
    bench.pass(13_500);
    bench.actions();
    bench.register("s1", "s1", true);
    assert_eq!(bench.actions(), ["reconnect Expired"]);
    assert!(!bench.state.is_attached());
}

#[test]
fn unacknowledged_heartbeats_make_it_try_another_while_there_is_time() {
    let mut bench = Bench::attached();
    bench.pass(5_000);
    bench.pass(5_000);
    assert_eq!(bench.actions(), Vec::<String>::new());
    bench.pass(1_000);
    assert_eq!(bench.actions(), ["reconnect Silent"]);
    let trusted = bench.state.session.as_ref().expect("a session").trusted_until;
    assert!(trusted - bench.now >= Duration::from_secs(2));
}

#[test]
fn credits_are_the_free_slots_beyond_those_granted() {
    let mut bench = Bench::new();
    bench.register("s1", "", false);
    assert_eq!(bench.sent(), ["heartbeat []", "credit 3"]);
    bench.lease("a", 1);
    bench.lease("b", 1);
    bench.ended("a", 1);
    assert_eq!(bench.sent(), ["started a", "started b", "finished a@1 completed", "credit 1"]);
    // On a new stream they count from nothing.
    bench.state.detached();
    bench.register("s1", "s1", true);
    assert_eq!(bench.sent(), ["heartbeat [b@1 a@1]", "started b", "finished a@1 completed", "credit 2"]);
    bench.lease("c", 1);
    bench.lease("d", 1);
    bench.lease("e", 1);
    assert_eq!(bench.sent(), ["started c", "started d", "release e@1"]);
}

#[test]
fn a_grant_that_is_known_or_old_gives_its_credit_back() {
    let mut bench = Bench::attached();
    bench.lease("a", 5);
    bench.lease("a", 5);
    bench.lease("a", 4);
    assert_eq!(bench.sent(), ["started a", "credit 2"]);
    assert_eq!(bench.actions(), ["start a@5"]);
    bench.ended("a", 5);
    bench.lease("a", 5);
    assert_eq!(bench.sent(), ["finished a@5 completed", "credit 2"]);
    assert_eq!(bench.actions(), Vec::<String>::new());
}

#[test]
fn a_newer_grant_waits_for_the_end_of_the_older() {
    let mut bench = Bench::attached();
    bench.lease("a", 1);
    bench.lease("a", 2);
    assert_eq!(bench.actions(), ["start a@1", "stop a@1 Revoked"]);
    assert_eq!(bench.state.held(), [held("a", 2)]);
    bench.sent();
    bench.ended("a", 1);
    assert_eq!(bench.actions(), ["forget a@1", "start a@2"]);
    assert_eq!(bench.sent(), ["started a", "credit 1"]);
    bench.ended("a", 2);
    bench.lease("a", 3);
    assert_eq!(bench.actions(), ["forget a@2", "start a@3"], "its untold result is out of date");
}

#[test]
fn what_is_cancelled_before_it_began_is_told_so() {
    let mut bench = Bench::attached();
    bench.lease("a", 1);
    bench.lease("a", 2);
    bench.sent();
    let cancel = |epoch| Out::Cancel(Cancel { execution_id: "a".into(), epoch, reason: "cancelled".into() });
    bench.message(cancel(2));
    assert_eq!(bench.sent(), ["finished a@2 cancelled", "credit 1"]);
    bench.actions();
    bench.message(cancel(1));
    assert_eq!(bench.actions(), Vec::<String>::new(), "it is being stopped harder already");
}

#[test]
fn a_result_is_kept_until_it_is_acknowledged_or_unwanted() {
    let mut bench = Bench::attached();
    for id in ["a", "b", "c"] {
        bench.lease(id, 1);
        bench.ended(id, 1);
    }
    bench.sent();
    bench.actions();
    let ack = |id: &str, accepted| {
        Out::ResultAck(ResultAck { execution_id: id.into(), epoch: 1, accepted, ..ResultAck::default() })
    };
    bench.message(ack("a", true));
    bench.message(ack("b", false));
    assert_eq!(bench.actions(), ["forget a@1", "forget b@1"]);
    for _ in 0..2 {
        bench.pass(5_000);
        bench.acknowledge();
    }
    assert_eq!(bench.sent(), ["heartbeat [c@1]", "heartbeat [c@1]", "finished c@1 completed"]);
    bench.message(Out::Revoke(Revoke { leases: vec![held("c", 1)] }));
    assert_eq!(bench.actions(), ["forget c@1"]);
}

#[test]
fn a_lost_session_takes_what_runs_but_not_what_is_done() {
    let mut bench = Bench::attached();
    bench.lease("a", 1);
    bench.lease("b", 1);
    bench.ended("b", 1);
    bench.state.detached();
    bench.actions();
    bench.register("s2", "s1", false);
    assert_eq!(bench.actions(), ["stop a@1 Revoked", "drop logs"]);
    assert_eq!(bench.sent(), ["heartbeat []", "finished b@1 completed", "credit 2"]);
    bench.ended("a", 1);
    assert_eq!(bench.actions(), ["forget a@1"]);
    assert_eq!(bench.sent(), ["credit 1"]);
}

#[test]
fn a_shutdown_waits_then_stops_then_leaves() {
    let mut bench = Bench::attached();
    bench.lease("a", 1);
    bench.sent();
    bench.actions();
    bench.state.shut_down(bench.now);
    bench.lease("b", 1);
    assert_eq!(bench.sent(), ["drain", "release b@1"]);
    for _ in 0..6 {
        bench.pass(5_000);
        bench.acknowledge();
    }
    assert_eq!(bench.actions(), ["stop a@1 ShutDown"]);
    bench.ended("a", 1);
    bench.pass(1);
    bench.sent();
    assert!(!bench.state.has_left(bench.now), "its result is not acknowledged");
    assert_eq!(bench.state.deadline(), Some(bench.now + Duration::from_millis(4_999)));
    bench.pass(4_999);
    bench.acknowledge();
    bench.pass(1);
    assert!(bench.state.has_left(bench.now));
}

#[test]
fn a_coordinator_that_goes_away_gives_a_moment_to_move() {
    let mut bench = Bench::attached();
    bench.lease("a", 1);
    bench.sent();
    bench.actions();
    bench.message(Out::Drain(DrainRequest { reconnect: true }));
    bench.ended("a", 1);
    assert_eq!(bench.sent(), ["finished a@1 completed"], "no credit to one that goes");
    bench.pass(499);
    assert_eq!(bench.actions(), Vec::<String>::new());
    bench.pass(1);
    assert_eq!(bench.actions(), ["reconnect Asked"]);
}

#[test]
fn nothing_new_is_taken_where_results_pile_up() {
    let mut bench = Bench::attached();
    for number in 0..8_300 {
        let id = format!("e{number}");
        bench.lease(&id, 1);
        bench.ended(&id, 1);
    }
    bench.sent();
    bench.lease("next", 1);
    bench.ended("next", 1);
    assert!(!bench.sent().iter().any(|message| message.starts_with("credit")));
}

#[test]
fn a_deadline_is_never_left_behind() {
    let mut bench = Bench::attached();
    bench.lease("a", 1);
    bench.state.drain();
    bench.state.shut_down(bench.now);
    for _ in 0..100 {
        let Some(at) = bench.state.deadline() else { return };
        bench.now = bench.now.max(at);
        bench.state.tick(bench.now);
        if bench.actions().iter().any(|action| action.starts_with("reconnect")) {
            bench.state.detached();
        }
        assert!(bench.state.deadline().is_none_or(|next| next > bench.now), "the loop would spin");
    }
}

#[test]
fn only_who_has_held_a_session_all_along_says_that_it_knows_all_of_it() {
    let mut bench = Bench::attached();
    bench.state.detached();
    assert!(bench.state.continues(), "what it does not name it never began");
    let left = Left { session_id: Some("s1".into()), ..Left::default() };
    let mut bench = Bench { state: State::new(TERMS, left), now: Instant::now() };
    assert!(!bench.state.continues(), "the process before may have begun more");
    bench.register("s1", "s1", true);
    assert!(!bench.state.continues(), "nor does it know once it has resumed");
    bench.register("s2", "", false);
    assert!(bench.state.continues());
}
