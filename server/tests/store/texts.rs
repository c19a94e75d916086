//! Texts as odd as callers send them.

use orrery_proto::v1::ExecutionStatus;
use orrery_server::execution::Report;
use orrery_server::store::*;

use crate::support::*;

const DIGITS: &str = r#"{"big": 123456789012345678901234567890, "money": 1.50, "whole": 30000, "small": 0.0000001}"#;

fn numbers(text: &str) -> Vec<bool> {
    ["123456789012345678901234567890", "1.50", "30000", "0.0000001"].iter().map(|n| text.contains(n)).collect()
}

pub async fn digits_are_kept(store: DynStore) {
    let job = job_with(&store, "a", |j| j.spec.config = DIGITS.to_owned()).await;
    let agent = session(&store, "agent").await;
    assert_eq!(job_now(&store, job.id).await.spec.config, DIGITS);
    let asked = Trigger { parameters: Some(DIGITS.to_owned()), ..trigger_of(&job) };
    let made = store.trigger(vec![asked], &|_, _, _| Ok(())).await.unwrap().remove(0);
    let leased = claim(&store, &agent, 1).await.grants.remove(0);
    assert_eq!((leased.spec.config.as_str(), leased.execution.parameters.as_deref()), (DIGITS, Some(DIGITS)));
    let said = Report { result: Some(DIGITS.to_owned()), ..report(ExecutionStatus::Completed) };
    apply(&store, &leased.execution, finished(&leased.execution, said)).await.unwrap();
    let kept = execution(&store, made.id).await;
    assert_eq!(numbers(outcome(&kept).result.as_ref().unwrap()), [true; 4]);
    assert_eq!(numbers(kept.parameters.as_ref().unwrap()), [true; 4]);
}

pub async fn nuls_do_no_harm(store: DynStore) {
    let nul = r#"{"a\u0000": "\u0000", "kept": "\\u0000"}"#;
    let job = job_with(&store, "nul\0name", |j| {
        j.spec.config = nul.to_owned();
        j.spec.description = "\0".to_owned();
        j.spec.tags = vec!["\0".to_owned()];
        j.spec.queue = "q\0".to_owned();
    })
    .await;
    assert_eq!(job_now(&store, job.id).await.spec, job.spec);
    let agent = store
        .open_session(&NewSession { version: "\0".to_owned(), ..crate::support::agent("a\0") }, MINUTE)
        .await
        .unwrap();
    let asked = Trigger {
        parameters: Some(nul.to_owned()),
        traceparent: Some("\0".to_owned()),
        idempotency: key("\0", 1),
        ..trigger_of(&job)
    };
    let made = store.trigger(vec![asked.clone()], &|_, _, _| Ok(())).await.unwrap().remove(0);
    assert_eq!(store.trigger(vec![asked], &|_, _, _| Ok(())).await.unwrap()[0].id, made.id);
    let leased = claim(&store, &agent, 1).await.grants.remove(0).execution;
    assert_eq!(leased.parameters.as_deref(), Some(nul));
    let said = Report {
        result: Some(nul.to_owned()),
        error_message: "a\0b".to_owned(),
        error_stack: "\0".to_owned(),
        ..report(ExecutionStatus::Failed)
    };
    let line = LogLine {
        execution_id: leased.id,
        sequence: 1 << 32 | 1,
        epoch: 1,
        attempt: 1,
        stream: orrery_proto::v1::LogStream::Stdout,
        at: chrono::DateTime::UNIX_EPOCH,
        text: "a\0b".to_owned(),
    };
    store.append_logs(None, vec![line], 100).await.unwrap();
    apply(&store, &leased, finished(&leased, said)).await.unwrap();
    let kept = execution(&store, made.id).await;
    let result: serde_json::Value = serde_json::from_str(outcome(&kept).result.as_ref().unwrap()).unwrap();
    assert_eq!(result["kept"], "\\u0000", "an escaped backslash is no escape of NUL");
    assert_eq!(result.as_object().unwrap().len(), 2);
    let shown = |text: &str| text == "a\u{2400}b" || text == "a\0b";
    assert!(shown(&outcome(&kept).error_message));
    assert!(shown(&store.logs(TENANT, kept.id, 0, 1).await.unwrap()[0].text));
}

pub async fn odd_json_does_not_fail_its_batch(store: DynStore) {
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
    let odd = [
        r#""\ud800""#.to_owned(),
        r#"{"\udc00": "\ud83d\ude00"}"#.to_owned(),
        "[1e999999999, 2]".to_owned(),
        "1e-999999999999999999999999".to_owned(),
        format!("0.{}1", "0".repeat(20_000)),
        "9".repeat(140_000),
        deep(900),
        deep(100_000),
        "{oops".to_owned(),
        "raw \0 nul".to_owned(),
        String::new(),
    ];
    triggers(&store, &job, odd.len() + 1).await;
    let grants = claim(&store, &agent, 100).await.grants;
    let results = odd.iter().cloned().chain(["{\"fine\": 1}".to_owned()]);
    let changes: Vec<Change> = grants
        .iter()
        .zip(results)
        .map(|(grant, result)| {
            let said = Report { result: Some(result), ..report(ExecutionStatus::Completed) };
            change(&grant.execution, finished(&grant.execution, said))
        })
        .collect();
    assert_eq!(changes.len(), odd.len() + 1);
    for answer in store.apply(changes).await.unwrap() {
        assert_eq!(answer.unwrap().status(), ExecutionStatus::Completed);
    }
    for grant in &grants {
        let kept = execution(&store, grant.execution.id).await;
        let text = outcome(&kept).result.clone().expect("something is said of it");
        assert!(serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok(), "it is JSON: {text:.100}");
    }
    let last = execution(&store, grants.last().unwrap().execution.id).await;
    assert_eq!(outcome(&last).result.as_ref().unwrap().replace(' ', ""), "{\"fine\":1}");
}
