use std::collections::BTreeMap;
use std::sync::Mutex;

use orrery_proto::v1::coordinator_message::Kind;
use orrery_proto::v1::{Delivery, ExecutionStatus};

use super::*;
use crate::dispatch::tests::{dispatch, execution};
use crate::execution::{Executions, Policy, Report, State, apply};

const SESSION: Uuid = Uuid::from_u128(1);

fn word(execution: u128, event: Event) -> Word {
    Word { session: SESSION, execution: Uuid::from_u128(execution), event }
}

/// The `percent`th thing that is said of an execution.
fn progressed(execution: u128, percent: i32) -> Word {
    word(execution, Event::Progressed { session_id: SESSION, epoch: 1, percent })
}

fn finished(execution: u128) -> Word {
    let report = Box::new(Report {
        status: ExecutionStatus::Completed,
        result: None,
        error_type: None,
        error_message: String::new(),
        error_stack: String::new(),
        retryable: None,
        duration_ms: 0,
        memory_peak_mb: None,
        cpu_time_ms: None,
    });
    word(execution, Event::Finished { session_id: SESSION, epoch: 1, report })
}

/// A way in, and what comes out of it.
fn way() -> (Intake, mpsc::Receiver<Item>) {
    let (sender, items) = mpsc::channel(WAITING);
    (Intake { items: sender, room: Arc::new(Semaphore::new(WAITING_KIB as usize)) }, items)
}

/// What was written, and what was under way at the same time.
#[derive(Default)]
struct Written {
    /// By execution, what was said of it, in the order in which it was written.
    said: BTreeMap<Uuid, Vec<i32>>,
    under_way: HashMap<Uuid, u32>,
    transactions: usize,
    together: usize,
    most_together: usize,
}

/// Writes as a database that takes its time, the shorter batches longer.
async fn slowly(written: &Mutex<Written>, batch: Batch) {
    let executions: Executions = batch.words.iter().map(|word| word.execution).collect();
    {
        let mut written = written.lock().unwrap();
        written.transactions += 1;
        written.together += 1;
        written.most_together = written.most_together.max(written.together);
        for execution in &executions {
            assert_eq!(written.under_way.insert(*execution, 0), None, "two transactions are about {execution}");
        }
    }
    for _ in 0..1 + A_BATCH.saturating_sub(batch.words.len()) / 100 {
        tokio::task::yield_now().await;
    }
    let mut written = written.lock().unwrap();
    for word in &batch.words {
        let Event::Progressed { percent, .. } = word.event else { continue };
        written.said.entry(word.execution).or_default().push(percent);
    }
    written.under_way.retain(|execution, _| !executions.contains(execution));
    written.together -= 1;
    drop(batch.permits);
    batch.marks.into_iter().for_each(|mark| _ = mark.send(()));
}

#[tokio::test]
async fn what_is_said_of_one_execution_is_written_in_its_order() {
    const FRAMES: usize = 400;
    let (intake, items) = way();
    let (written, shutdown) = (Mutex::new(Written::default()), CancellationToken::new());
    let saying = async {
        let mut said: HashMap<u128, i32> = HashMap::new();
        for frame in 0..FRAMES {
            // Many that are spoken of once, and a few that are spoken of again soon.
            let words = (0..100).map(|n| {
                let execution =
                    if n % 50 == 0 { (frame / 30 * 2 + n / 50) as u128 } else { (1000 + frame * 100 + n) as u128 };
                let percent = said.entry(execution).or_default();
                *percent += 1;
                progressed(execution, *percent)
            });
            intake.say_all(words.collect()).await;
            if frame == FRAMES / 2 {
                intake.written().await;
                let written = written.lock().unwrap();
                let words: usize = written.said.values().map(Vec::len).sum();
                assert_eq!((words, written.together), ((frame + 1) * 100, 0), "all that came before is written");
            }
        }
        drop(intake);
        said
    };
    let (said, ()) = tokio::join!(saying, in_turns(items, &shutdown, |batch| slowly(&written, batch)));
    let written = written.into_inner().unwrap();
    assert_eq!(written.said.len(), said.len());
    for (execution, all) in &written.said {
        assert!(all.iter().copied().eq(1..=said[&execution.as_u128()]), "{execution}: {all:?}");
    }
    assert_eq!(written.most_together, WRITERS, "{} transactions", written.transactions);
}

#[tokio::test]
async fn at_the_end_what_waits_is_written() {
    let (intake, items) = way();
    let (written, shutdown) = (Mutex::new(Written::default()), CancellationToken::new());
    intake.say_all((0..5000).map(|n| progressed(n, 1)).collect()).await;
    shutdown.cancel();
    // The way in stays open on this side.
    in_turns(items, &shutdown, |batch| slowly(&written, batch)).await;
    assert_eq!(written.into_inner().unwrap().said.len(), 5000);
    drop(intake);
}

#[test]
fn what_waits_is_bounded_in_words_and_in_bytes() {
    let most = WAITING_KIB / weight(&progressed(1, 1));
    assert_eq!(most, 32_768);
    let mut heavy = finished(1);
    if let Event::Finished { report, .. } = &mut heavy.event {
        report.result = Some("x".repeat(3 << 20));
    }
    assert_eq!(weight(&heavy), A_WORD_KIB + (3 << 10));
}

#[test]
fn an_agent_is_answered_in_one_frame() {
    let (dispatch, mut outgoing) = dispatch(100);
    let leases = (1..=6).map(|id| Arc::new(execution(id))).collect();
    dispatch.with(SESSION, |session| session.take(leases, 0));
    let started = Event::Started { session_id: SESSION, epoch: 1 };
    let words = [
        word(1, started.clone()),
        finished(1),
        finished(2),
        finished(3),
        word(4, started.clone()),
        finished(5),
        word(6, started),
    ];
    let done = |id: u128| Execution { state: State::Pending, ..execution(id) };
    let stale = || Rejected::StaleLease { epoch: 1, newest: 2 };
    let answers = vec![
        Ok(execution(1)),
        Ok(done(1)),
        Ok(done(2)),
        Err(stale()),
        Ok(execution(4)),
        Err(Rejected::Repeated),
        Err(stale()),
    ];
    let mut answers = Answers::of(&words, answers);
    let (ended, late) = answers.tell(&mut dispatch.lock());
    assert_eq!((ended, answers.has_returned, answers.has_room), (vec![], true, false));
    assert_eq!(answers.changed, [1, 2, 4].map(Uuid::from_u128));
    assert_eq!(answers.refused, ["stale_lease", "stale_lease"]);
    assert_eq!(late.iter().map(|late| (late.execution.as_u128(), late.epoch)).collect::<Vec<_>>(), [(3, 1)]);

    let ids = |leases: &[orrery_proto::v1::HeldLease]| {
        leases.iter().map(|lease| lease.execution_id.parse::<Uuid>().unwrap().as_u128()).collect::<Vec<_>>()
    };
    let Some(Kind::Revoke(revoke)) = outgoing.try_recv().unwrap().kind else { panic!("no lease is revoked") };
    assert_eq!(ids(&revoke.leases), [6]);
    let Some(Kind::ResultAcks(acks)) = outgoing.try_recv().unwrap().kind else { panic!("no answer") };
    assert_eq!(ids(&acks.accepted), [1, 2, 5]);
    let refused: Vec<_> = acks.refused.iter().map(|r| (r.accepted, r.epoch, r.reason.as_str())).collect();
    assert_eq!(refused, [(false, 1, "stale_lease")]);
    assert!(outgoing.try_recv().is_err(), "one frame, however many results");
    let held = dispatch.with(SESSION, |session| session.held().keys().copied().collect::<Vec<_>>());
    assert_eq!(held.unwrap(), [Uuid::from_u128(4)]);
}

#[test]
fn an_end_frees_a_place_and_nothing_waits_again() {
    let waiting = Execution { state: State::Pending, ..execution(1) };
    let policy = Policy { retry: crate::firing::tests::spec().retry, delivery: Delivery::AtLeastOnce, random: 0.0 };
    let cancelled = Event::CancelRequested { reason: String::new() };
    let over = apply(&waiting, &cancelled, &policy, waiting.created_at).unwrap();
    let answers = Answers::of(&[finished(1)], vec![Ok(over)]);
    assert_eq!((answers.has_returned, answers.has_room), (false, true));
}

#[test]
fn words_carry_what_was_known_before_their_batch() {
    let (dispatch, _outgoing) = dispatch(100);
    dispatch.with(SESSION, |session| session.take(vec![Arc::new(execution(1))], 0));
    let started = Event::Started { session_id: SESSION, epoch: 1 };
    let older = Event::Started { session_id: SESSION, epoch: 0 };
    let words = [word(1, started.clone()), finished(1), word(1, older), word(2, started)];
    let known: Vec<_> = changes(&words, &dispatch.lock()).into_iter().map(|change| change.known).collect();
    let before = Some(Arc::new(execution(1)));
    assert_eq!(known, [before.clone(), before, None, None]);

    let now = Execution { progress: 3, ..execution(1) };
    let mut answers = Answers::of(&words[..1], vec![Ok(now.clone())]);
    answers.tell(&mut dispatch.lock());
    assert_eq!(changes(&words[1..2], &dispatch.lock())[0].known.as_deref(), Some(&now));
}
