//! What only a file can do.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use orrery_server::store::sqlite::SqliteStore;
use orrery_server::store::*;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

use crate::support::*;

async fn open(path: &Path) -> Result<DynStore> {
    Ok(Arc::new(SqliteStore::open(path).await?))
}

/// What a store says that cannot be opened.
async fn refusal(path: &Path) -> String {
    match open(path).await {
        Err(StoreError::Unusable(reason)) => reason,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was opened"),
    }
}

#[tokio::test]
async fn a_file_has_one_coordinator() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("orrery.db");
    let store = open(&path).await.unwrap();
    let job = job(&store, "a").await;
    let link = directory.path().join("link.db");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for name in [&path, &link] {
        let reason = refusal(name).await;
        assert!(reason.contains("orrery.db is in use by another coordinator"), "{reason}");
    }
    drop(store);
    let store = open(&link).await.unwrap();
    assert_eq!(job_now(&store, job.id).await, job);
}

#[tokio::test]
async fn what_cannot_be_opened_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing/orrery.db");
    assert!(refusal(&missing).await.contains("missing/orrery.db cannot be opened"));
    let text = directory.path().join("text.db");
    std::fs::write(&text, "no database at all, but text that is long enough to be looked at ".repeat(20)).unwrap();
    assert!(refusal(&text).await.contains("text.db cannot be opened"));
}

#[tokio::test]
async fn a_newer_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("orrery.db");
    drop(open(&path).await.unwrap());
    let mut connection = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
    sqlx::query(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time) values (999, 'later', true, x'', 0)",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    connection.close().await.unwrap();
    assert!(refusal(&path).await.contains("written by a newer version"));
}

/// A caller may stop waiting at any moment; its transaction then happened or did not, and the next one goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_that_are_given_up_leave_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("orrery.db")).await.unwrap();
    let job = job(&store, "a").await;
    let calls = (0..300_u64).map(|n| {
        let (store, job) = (store.clone(), job.clone());
        tokio::spawn(async move {
            let twice = vec![trigger_of(&job); 2];
            let call = store.trigger(twice, &|_, _, _| Ok(()));
            tokio::time::timeout(Duration::from_micros(n * 300), call).await.is_ok()
        })
    });
    let calls = futures_util::future::join_all(calls).await;
    let answered = calls.into_iter().filter(|answered| *answered.as_ref().unwrap()).count();
    // One more, which waits for those that nobody waits for any more.
    triggers(&store, &job, 1).await;
    let made = executions(&store).await.len();
    assert!(made > 2 * answered && made % 2 == 1);
    assert_eq!(job_now(&store, job.id).await.execution_count, made as i64);
}

/// A disk that is full, or a file that another process holds, is no bug and passes.
#[tokio::test]
async fn what_passes_is_called_unavailable() {
    let directory = tempfile::tempdir().unwrap();
    let options = SqliteConnectOptions::new()
        .filename(directory.path().join("any.db"))
        .create_if_missing(true)
        .busy_timeout(Duration::ZERO);
    let (mut one, mut two) = (options.connect().await.unwrap(), options.connect().await.unwrap());
    sqlx::query("create table t (a blob)").execute(&mut one).await.unwrap();
    sqlx::query("begin immediate").execute(&mut one).await.unwrap();
    let busy = sqlx::query("begin immediate").execute(&mut two).await.unwrap_err();
    assert!(matches!(StoreError::from(busy), StoreError::Unavailable(_)));
    sqlx::query("pragma max_page_count = 3").execute(&mut one).await.unwrap();
    let full = sqlx::query("insert into t values (zeroblob(100000))").execute(&mut one).await.unwrap_err();
    assert!(matches!(StoreError::from(full), StoreError::Unavailable(_)));
    let wrong = sqlx::query("select nothing from t").execute(&mut two).await.unwrap_err();
    assert!(matches!(StoreError::from(wrong), StoreError::Database(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_unreadable_job_holds_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("orrery.db");
    let store = open(&path).await.unwrap();
    let spoil = async |job: uuid::Uuid| {
        let mut raw = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
        let spoilt = r#"{"name": 1}"#;
        sqlx::query("update scheduled_jobs set spec = ?, version = version + 1 where id = ?")
            .bind(spoilt)
            .bind(job)
            .execute(&mut raw)
            .await
            .unwrap();
    };
    crate::catch_up::an_unreadable_job_holds_nobody_up(store, spoil).await;
}

/// There are no roles in a file: its tables themselves refuse what nobody does.
#[tokio::test]
async fn what_was_written_down_is_not_changed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("orrery.db");
    let store = open(&path).await.unwrap();
    crate::audit::recorded(&store, TENANT, 0..3).await;
    crate::seals::seal_all(&store).await;
    let mut connection = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
    for statement in [
        "update audit_entries set actor_name = 'nobody'",
        "delete from audit_entries",
        "insert or replace into audit_entries select * from audit_entries",
        "update audit_seals set hash = x''",
        "delete from audit_seals",
    ] {
        let refused = sqlx::query(statement).execute(&mut connection).await;
        let error = refused.expect_err(statement).to_string();
        assert!(error.contains("audit"), "{error}");
    }
    assert_eq!(store.audit_seals(TENANT, 0, 10).await.unwrap().len(), 1);
    connection.close().await.unwrap();
}
