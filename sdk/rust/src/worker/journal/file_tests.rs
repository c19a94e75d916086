use orrery_proto::Json;
use orrery_proto::v1::{ErrorType, ExecutionStatus};

use super::*;

fn result(execution_id: &str, epoch: i64) -> Finished {
    Finished {
        execution_id: execution_id.into(),
        epoch,
        status: ExecutionStatus::Failed.into(),
        result: Some(Json::new("{\n\"exact\": 1.50\n}")),
        error_type: ErrorType::UserError.into(),
        error_message: "two\nlines".into(),
        retryable: Some(false),
        duration_ms: 5,
        cpu_time_ms: Some(3),
        memory_peak_mb: Some(0.25),
        started: true,
        ..Finished::default()
    }
}

fn large(execution_id: &str, epoch: i64) -> Finished {
    Finished { error_stack: "x".repeat(1 << 20), ..result(execution_id, epoch) }
}

fn open(directory: &tempfile::TempDir) -> FileJournal {
    FileJournal::open(directory.path()).expect("open")
}

/// The journal as the next process finds it.
async fn opened_again(directory: &tempfile::TempDir, journal: FileJournal) -> FileJournal {
    // Whoever writes holds it until that is done.
    while Arc::strong_count(&journal.shared) > 1 {
        tokio::task::yield_now().await;
    }
    drop(journal);
    open(directory)
}

/// The segments with their bytes, oldest first.
fn segments(directory: &tempfile::TempDir) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(directory.path()).expect("directory").map(|entry| entry.expect("entry").path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|e| e == "log")).collect();
    paths.sort();
    // One may be removed meanwhile.
    paths.into_iter().filter_map(|path| fs::read(&path).ok().map(|bytes| (path, bytes))).collect()
}

fn bytes(directory: &tempfile::TempDir) -> usize {
    segments(directory).iter().map(|(_, bytes)| bytes.len()).sum()
}

#[tokio::test]
async fn the_last_output_is_kept_with_its_result() {
    let directory = tempfile::tempdir().expect("directory");
    let at = chrono::DateTime::from_timestamp_micros(1_700_000_000_123_456).expect("an instant");
    let chunk = |number, text: &str| LogChunk {
        execution_id: "a".into(),
        epoch: 1,
        stream: 2,
        at: Some(at.into()),
        data: text.into(),
        attempt: 3,
        number,
    };
    let tail = [chunk(7, "two\nlines"), chunk(8, "bye")];
    let journal = open(&directory);
    journal.record_with(&result("a", 1), &tail).await.expect("record");
    let journal = opened_again(&directory, journal).await;
    assert_eq!(journal.load().await.expect("load"), [result("a", 1)]);
    assert_eq!(journal.tails().await.expect("tails"), tail);
    journal.forget("a", 1);
    journal.record(&result("b", 1)).await.expect("record");
    assert!(journal.tails().await.expect("tails").is_empty());
}

#[tokio::test]
async fn the_next_process_finds_what_was_not_forgotten() {
    let directory = tempfile::tempdir().expect("directory");
    let journal = open(&directory);
    for epoch in 1..=3 {
        journal.record(&result("a", epoch)).await.expect("record");
    }
    journal.forget("a", 2);
    journal.record_all(&[result("b", 1), result("0193a5e0-0000-8000-8000-000000000001", 1)]).await.expect("record");
    journal.forget("0193a5e0-0000-8000-8000-000000000001", 1);
    assert!(FileJournal::open(directory.path()).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock));
    let journal = opened_again(&directory, journal).await;
    assert_eq!(journal.load().await.expect("load"), [result("a", 1), result("a", 3), result("b", 1)]);
}

#[tokio::test]
async fn a_crash_at_any_byte_costs_only_what_was_not_acknowledged() {
    let directory = tempfile::tempdir().expect("directory");
    let journal = open(&directory);
    let mut acknowledged = Vec::new();
    for number in 0..4 {
        let ids = [format!("{number}x"), format!("{number}y")];
        journal.record_all(&ids.each_ref().map(|id| result(id, 1))).await.expect("record");
        let (_, bytes) = segments(&directory).pop().expect("a segment");
        acknowledged.push(bytes.len());
    }
    let (path, whole) = segments(&directory).pop().expect("a segment");
    drop(opened_again(&directory, journal).await);
    for length in 0..=whole.len() {
        let after = tempfile::tempdir().expect("directory");
        fs::write(after.path().join(path.file_name().expect("a name")), &whole[..length]).expect("a torn segment");
        let journal = open(&after);
        let loaded = journal.load().await.expect("load");
        let safe = acknowledged.iter().filter(|end| **end <= length).count() * 2;
        assert!((safe..=safe + 2).contains(&loaded.len()), "cut at {length}");
        // What comes next is not spoilt by it.
        journal.record(&result("z", 9)).await.expect("record");
        let journal = opened_again(&after, journal).await;
        let again = journal.load().await.expect("load");
        assert_eq!((&again[..loaded.len()], &again[loaded.len()..]), (loaded.as_slice(), [result("z", 9)].as_slice()));
    }
}

#[tokio::test]
async fn the_form_before_is_taken_over_once() {
    let directory = tempfile::tempdir().expect("directory");
    let before = directory.path().join("results.jsonl");
    let line = r#"{"finished":{"execution_id":"a","epoch":1,"status":"completed","result":"[1.50]","duration_ms":5}}"#;
    fs::write(&before, format!("{line}\n")).expect("write");
    let journal = open(&directory);
    let loaded = journal.load().await.expect("load");
    assert_eq!((loaded.len(), &loaded[0].result), (1, &Some(Json::new("[1.50]"))));
    assert!(!before.exists());
    let journal = opened_again(&directory, journal).await;
    assert_eq!(journal.load().await.expect("load"), loaded);
    // A crash between the taking over and the removal of the old file.
    drop(journal);
    fs::write(&before, format!("{line}\n")).expect("write");
    assert_eq!(open(&directory).load().await.expect("load"), loaded);
}

#[tokio::test]
async fn a_form_of_a_later_version_is_left_alone() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("results-0000000007.log");
    fs::write(&path, "orrery-journal 3\nand what it holds").expect("write");
    let error = FileJournal::open(directory.path()).expect_err("it is not known");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(path.exists());
}

#[tokio::test]
async fn a_write_that_failed_is_told_and_does_not_spoil_the_next() {
    let directory = tempfile::tempdir().expect("directory");
    let journal = open(&directory);
    journal.record(&result("a", 1)).await.expect("record");
    journal.shared.disk().spoil();
    journal.record_all(&[result("b", 1), result("c", 1)]).await.expect_err("it cannot be written");
    assert_eq!(journal.load().await.expect("load"), [result("a", 1)]);
    journal.forget("b", 1);
    journal.record(&result("d", 1)).await.expect("record");
    let journal = opened_again(&directory, journal).await;
    assert_eq!(journal.load().await.expect("load"), [result("a", 1), result("d", 1)]);
}

#[tokio::test]
async fn what_is_not_safe_on_disk_is_not_acknowledged() {
    let directory = tempfile::tempdir().expect("directory");
    let journal = open(&directory);
    journal.shared.disk().lose();
    journal.record(&result("a", 1)).await.expect_err("no fsync, no promise");
    journal.record(&result("b", 1)).await.expect("a new segment");
    let journal = opened_again(&directory, journal).await;
    assert_eq!(journal.load().await.expect("load"), [result("b", 1)]);
}

#[tokio::test]
async fn forgotten_results_do_not_fill_the_disk() {
    let directory = tempfile::tempdir().expect("directory");
    let journal = open(&directory);
    journal.record(&result("kept", 1)).await.expect("record");
    let mut most = 0;
    for epoch in 0..60 {
        journal.record(&large("a", epoch)).await.expect("record");
        journal.forget("a", epoch);
        most = most.max(bytes(&directory));
    }
    assert!(most < 24 << 20, "{most}");
    let journal = opened_again(&directory, journal).await;
    assert_eq!(journal.load().await.expect("load"), [result("kept", 1)], "it was carried over");
}

#[tokio::test]
async fn a_segment_goes_when_nothing_in_it_or_before_it_is_wanted() {
    let directory = tempfile::tempdir().expect("directory");
    let journal = open(&directory);
    // Three segments of four results.
    for epoch in 0..12 {
        journal.record(&large("a", epoch)).await.expect("record");
    }
    let live =
        |journal: &FileJournal| journal.shared.disk().segments().iter().map(|(_, live)| *live).collect::<Vec<_>>();
    assert_eq!(live(&journal), [4, 4, 4]);
    for epoch in 4..8 {
        journal.forget("a", epoch);
    }
    journal.record(&result("b", 1)).await.expect("record");
    assert_eq!(live(&journal), [4, 0, 4, 1], "the removals of the first may stand in the second");
    for epoch in 1..4 {
        journal.forget("a", epoch);
    }
    journal.record(&result("b", 2)).await.expect("record");
    assert_eq!(live(&journal), [1, 0, 4, 2]);
    journal.forget("a", 0);
    journal.record(&result("b", 3)).await.expect("record");
    assert_eq!(live(&journal), [4, 3]);
    let journal = opened_again(&directory, journal).await;
    let ids: Vec<(String, i64)> = journal
        .load()
        .await
        .expect("load")
        .into_iter()
        .map(|finished| (finished.execution_id, finished.epoch))
        .collect();
    let expected = [("a", 8), ("a", 9), ("a", 10), ("a", 11), ("b", 1), ("b", 2), ("b", 3)];
    assert_eq!(ids, expected.map(|(id, epoch)| (id.to_owned(), epoch)));
}

#[tokio::test]
async fn many_starts_leave_few_segments() {
    let directory = tempfile::tempdir().expect("directory");
    let mut journal = open(&directory);
    journal.record(&result("a", 1)).await.expect("record");
    for _ in 0..50 {
        journal = opened_again(&directory, journal).await;
        assert_eq!(journal.load().await.expect("load"), [result("a", 1)]);
    }
    assert!(segments(&directory).len() < 20, "{}", segments(&directory).len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_are_all_stored_and_told() {
    let directory = tempfile::tempdir().expect("directory");
    let journal = open(&directory);
    let tasks: Vec<_> = (0..256)
        .map(|epoch| {
            let journal = journal.clone();
            tokio::spawn(async move {
                journal.record(&result("a", epoch)).await.expect("record");
                if epoch % 2 == 0 {
                    journal.forget("a", epoch);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("task");
    }
    assert_eq!(journal.load().await.expect("load").len(), 128);
}

#[tokio::test]
async fn a_removal_is_written_though_nothing_follows_it() {
    let directory = tempfile::tempdir().expect("directory");
    let journal = open(&directory);
    journal.record(&result("a", 1)).await.expect("record");
    let before = bytes(&directory);
    journal.forget("a", 1);
    let written = async {
        while bytes(&directory) == before {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), written).await.expect("in time");
}

#[tokio::test]
async fn the_session_is_kept_until_it_is_over() {
    let directory = tempfile::tempdir().expect("directory");
    let journal = open(&directory);
    assert_eq!(journal.session().await.expect("none yet"), None);
    for id in ["s1", "s2"] {
        journal.keep_session(Some(id)).await.expect("kept");
    }
    let journal = opened_again(&directory, journal).await;
    assert_eq!(journal.session().await.expect("read").as_deref(), Some("s2"));
    for _ in 0..2 {
        journal.keep_session(None).await.expect("forgotten");
    }
    assert_eq!(journal.session().await.expect("none any more"), None);
}
