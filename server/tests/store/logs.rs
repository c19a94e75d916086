//! What executions print.

use chrono::DateTime;
use orrery_proto::v1::LogStream;
use orrery_server::execution::{Event, Execution};
use orrery_server::store::*;

use crate::support::*;

fn line(execution: &Execution, n: i64, text: &str) -> LogLine {
    LogLine {
        execution_id: execution.id,
        sequence: execution.epoch << 32 | n,
        epoch: execution.epoch,
        attempt: execution.attempt,
        stream: LogStream::Stdout,
        at: DateTime::UNIX_EPOCH + chrono::Duration::microseconds(n),
        text: text.to_owned(),
    }
}

async fn texts(store: &DynStore, execution: &Execution) -> Vec<String> {
    let lines = store.logs(TENANT, execution.id, 0, 1000).await.unwrap();
    lines.into_iter().map(|line| line.text).collect()
}

async fn leased_one(store: &DynStore) -> Execution {
    let (job, agent) = (job(store, "a").await, session(store, "agent").await);
    leased(store, &job, &agent).await
}

pub async fn lines_are_kept_in_order(store: DynStore) {
    let e = leased_one(&store).await;
    let lines = [line(&e, 2, "two"), LogLine { stream: LogStream::Stderr, ..line(&e, 1, "one") }, line(&e, 10, "ten")];
    store.append_logs(None, lines.to_vec(), 1000).await.unwrap();
    let kept = store.logs(TENANT, e.id, 0, 1000).await.unwrap();
    assert_eq!(kept, [lines[1].clone(), lines[0].clone(), lines[2].clone()]);
    assert_eq!(store.logs(TENANT, e.id, lines[1].sequence, 1).await.unwrap(), [lines[0].clone()]);
    assert!(store.logs(TENANT, e.id, lines[2].sequence, 10).await.unwrap().is_empty());
    store.append_logs(None, vec![], 1000).await.unwrap();
}

pub async fn repeated_lines_are_kept_once(store: DynStore) {
    let e = leased_one(&store).await;
    store.append_logs(None, vec![line(&e, 1, "one"), line(&e, 1, "one")], 1000).await.unwrap();
    let appends = (0..6).map(|_| {
        let (store, lines) = (store.clone(), vec![line(&e, 1, "one"), line(&e, 2, "two"), line(&e, 3, "three")]);
        tokio::spawn(async move { store.append_logs(None, lines, 12).await.unwrap() })
    });
    futures_util::future::join_all(appends).await;
    // And they cost their bytes once: three, three and five fit into twelve.
    assert_eq!(texts(&store, &e).await, ["one", "two", "three"]);
}

pub async fn lines_of_old_epochs_are_dropped(store: DynStore) {
    let old = leased_one(&store).await;
    let agent = store.sessions(TENANT, &Page { after: None, limit: 1 }).await.unwrap().remove(0);
    store.append_logs(None, vec![line(&old, 1, "old")], 1000).await.unwrap();
    apply(&store, &old, Event::LeaseExpired { session_id: agent.id, epoch: 1 }).await.unwrap();
    let new = claim(&store, &agent, 1).await.grants.remove(0).execution;
    store.append_logs(None, vec![line(&old, 2, "late"), line(&new, 1, "new")], 1000).await.unwrap();
    assert_eq!(texts(&store, &new).await, ["old", "new"]);
    let unknown = Execution { id: uuid::Uuid::new_v4(), ..new.clone() };
    store.append_logs(None, vec![line(&unknown, 1, "x"), line(&new, 2, "more")], 1000).await.unwrap();
    assert_eq!(texts(&store, &new).await, ["old", "new", "more"]);
    assert!(store.logs(TENANT, unknown.id, 0, 10).await.unwrap().is_empty());
}

pub async fn the_budget_holds_and_says_so(store: DynStore) {
    let e = leased_one(&store).await;
    store
        .append_logs(None, vec![line(&e, 1, "12345"), line(&e, 2, "12345"), line(&e, 3, "1"), line(&e, 4, "1")], 10)
        .await
        .unwrap();
    store.append_logs(None, vec![line(&e, 3, "1"), line(&e, 5, "1")], 10).await.unwrap();
    let kept = store.logs(TENANT, e.id, 0, 100).await.unwrap();
    assert_eq!(
        kept.iter().map(|l| l.stream).collect::<Vec<_>>(),
        [LogStream::Stdout, LogStream::Stdout, LogStream::System]
    );
    assert!(kept[2].text.contains("10 bytes"), "{}", kept[2].text);
}

pub async fn finished_executions_still_log(store: DynStore) {
    let e = leased_one(&store).await;
    apply(&store, &e, completed(&e)).await.unwrap();
    store.append_logs(None, vec![line(&e, 1, "late but its own")], 1000).await.unwrap();
    assert_eq!(texts(&store, &e).await, ["late but its own"]);
}

pub async fn only_the_tenant_writes(store: DynStore) {
    let e = leased_one(&store).await;
    store.append_logs(Some(OTHER_TENANT), vec![line(&e, 1, "forged")], 1000).await.unwrap();
    store.append_logs(Some(TENANT), vec![line(&e, 2, "own")], 1000).await.unwrap();
    assert_eq!(texts(&store, &e).await, ["own"]);
    apply(&store, &e, completed(&e)).await.unwrap();
    store.append_logs(Some(OTHER_TENANT), vec![line(&e, 3, "forged")], 1000).await.unwrap();
    assert_eq!(texts(&store, &e).await, ["own"]);
}

pub async fn logs_are_the_tenants(store: DynStore) {
    let e = leased_one(&store).await;
    store.append_logs(None, vec![line(&e, 1, "secret")], 1000).await.unwrap();
    assert!(store.logs(OTHER_TENANT, e.id, 0, 10).await.unwrap().is_empty());
    apply(&store, &e, completed(&e)).await.unwrap();
    assert!(store.logs(OTHER_TENANT, e.id, 0, 10).await.unwrap().is_empty());
    assert_eq!(store.logs(TENANT, e.id, 0, 10).await.unwrap().len(), 1);
}

pub async fn a_result_that_came_too_late_is_said_once(store: DynStore) {
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let first = leased(&store, &job, &agent).await;
    let late = RefusedResult { execution: first.id, epoch: 1, worker_name: "agent".to_owned(), tenant: Some(TENANT) };
    // As long as the lease is its own there is nothing to say.
    store.note_refused(std::slice::from_ref(&late)).await.unwrap();
    assert!(texts(&store, &first).await.is_empty());
    kill(&store, &agent).await;
    store.reap(std::time::Duration::ZERO, 100).await.unwrap();
    let said = "a result of epoch 1 came from agent agent after its lease was over, and was refused\n";
    let foreign = [
        RefusedResult { tenant: Some(OTHER_TENANT), ..late.clone() },
        RefusedResult { worker_name: "other".to_owned(), ..late.clone() },
        RefusedResult { epoch: 2, ..late.clone() },
        RefusedResult { execution: uuid::Uuid::new_v4(), ..late.clone() },
    ];
    store.note_refused(&foreign).await.unwrap();
    assert!(texts(&store, &first).await.is_empty(), "somebody else's word");
    let other = session(&store, "other").await;
    let second = claim(&store, &other, 1).await.grants.remove(0).execution;
    store.append_logs(None, vec![line(&second, 1, "two")], 1000).await.unwrap();
    store.note_refused(&[late.clone(), late.clone()]).await.unwrap();
    assert_eq!(texts(&store, &first).await, [said, "two"]);
    apply(&store, &second, completed(&second)).await.unwrap();
    store.note_refused(&[RefusedResult { tenant: None, ..late }]).await.unwrap();
    assert_eq!(texts(&store, &first).await, [said, "two"], "and once only");
    let lines = store.logs(TENANT, first.id, 0, 10).await.unwrap();
    assert_eq!((lines[0].stream, lines[0].attempt, lines[0].epoch), (LogStream::System, 1, 1));
}
