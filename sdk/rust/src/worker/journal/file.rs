use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use orrery_proto::v1::{Finished, LogChunk};
use tokio::task::spawn_blocking;
use tracing::warn;

use super::Journal;
use super::record::{Line, Record};
use super::replace::{remove, replace};

/// Bytes of forgotten results from which on the file is written anew.
const SLACK: u64 = 4 * 1024 * 1024;

/// A journal in a directory: `results.jsonl`, one line a result or its removal, and `session`, the id of the session that they belong to.
/// Results that end at the same time share one fsync.
#[derive(Clone, Debug)]
pub struct FileJournal {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    disk: Mutex<Disk>,
    forgetting: AtomicBool,
    /// The file of the session's id.
    session: PathBuf,
}

/// What is to be written next.
#[derive(Debug, Default)]
struct Queue {
    lines: Vec<(Key, Line)>,
    /// How many results were ever queued.
    sequence: u64,
}

#[derive(Debug)]
struct Disk {
    path: PathBuf,
    file: File,
    /// The lines that count, by what they are about.
    live: BTreeMap<Key, String>,
    live_bytes: u64,
    file_bytes: u64,
    /// Results up to this number are on disk, but for the failed ones.
    synced: u64,
    failed: BTreeSet<u64>,
    /// A write failed, so that the file may end within a line, or lack what memory has: it is to be written anew.
    torn: bool,
    /// Held for the life of the journal: two agents on one directory would undo each other's lines.
    _lock: File,
}

type Key = (String, i64);

impl FileJournal {
    /// Opens the journal in `directory`, which is made if it is not there.
    ///
    /// # Errors
    /// Where it cannot be read or written, or another process holds it (`ErrorKind::WouldBlock`).
    pub fn open(directory: impl AsRef<Path>) -> io::Result<Self> {
        let directory = directory.as_ref();
        fs::create_dir_all(directory)?;
        let lock = File::create(directory.join("results.lock"))?;
        lock.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => io::Error::new(
                io::ErrorKind::WouldBlock,
                format!("another process uses the journal in {}", directory.display()),
            ),
            TryLockError::Error(e) => e,
        })?;
        let path = directory.join("results.jsonl");
        let live = read(&path)?;
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let mut disk = Disk {
            path,
            file,
            live,
            live_bytes: 0,
            file_bytes: 0,
            synced: 0,
            failed: BTreeSet::new(),
            torn: false,
            _lock: lock,
        };
        // Written anew at once: a line that a crash cut short would spoil the next one appended to it.
        disk.compact()?;
        let shared = Shared {
            queue: Mutex::default(),
            disk: Mutex::new(disk),
            forgetting: AtomicBool::new(false),
            session: directory.join("session"),
        };
        Ok(Self { shared: Arc::new(shared) })
    }
}

#[async_trait]
impl Journal for FileJournal {
    async fn record(&self, finished: &Finished) -> io::Result<()> {
        self.record_with(finished, &[]).await
    }

    async fn record_with(&self, finished: &Finished, tail: &[LogChunk]) -> io::Result<()> {
        let line = Line::Finished(Box::new(Record::of(finished, tail)));
        let number = {
            let mut queue = self.shared.queue();
            queue.lines.push(((finished.execution_id.clone(), finished.epoch), line));
            queue.sequence += 1;
            queue.sequence
        };
        let shared = self.shared.clone();
        spawn_blocking(move || shared.sync_up_to(number)).await.map_err(io::Error::other)?
    }

    fn forget(&self, execution_id: &str, epoch: i64) {
        let line = Line::Forgotten { execution_id: execution_id.to_owned(), epoch };
        self.shared.queue().lines.push(((execution_id.to_owned(), epoch), line));
        if !self.shared.forgetting.swap(true, Ordering::AcqRel) {
            let shared = self.shared.clone();
            spawn_blocking(move || {
                shared.forgetting.store(false, Ordering::Release);
                if let Err(error) = shared.disk().write(&shared.queue, false) {
                    warn!(%error, "the journal of results cannot be written");
                }
            });
        }
    }

    async fn load(&self) -> io::Result<Vec<Finished>> {
        let lines: Vec<String> = self.shared.disk().live.values().cloned().collect();
        Ok(lines.iter().filter_map(|line| parse(line)).filter_map(finished).collect())
    }

    async fn tails(&self) -> io::Result<Vec<LogChunk>> {
        let lines: Vec<String> = self.shared.disk().live.values().cloned().collect();
        let tail = |line| match line {
            Line::Finished(record) => record.tail(),
            Line::Forgotten { .. } => Vec::new(),
        };
        Ok(lines.iter().filter_map(|line| parse(line)).flat_map(tail).collect())
    }

    fn keeps_session(&self) -> bool {
        true
    }

    async fn keep_session(&self, session_id: Option<&str>) -> io::Result<()> {
        let (shared, id) = (self.shared.clone(), session_id.map(str::to_owned));
        let write = move || match id {
            Some(id) => replace(&shared.session, id.as_bytes()),
            None => remove(&shared.session),
        };
        spawn_blocking(write).await.map_err(io::Error::other)?
    }

    async fn session(&self) -> io::Result<Option<String>> {
        match fs::read(&self.shared.session) {
            Ok(bytes) => Ok(String::from_utf8(bytes).ok().filter(|id| !id.is_empty())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever gets the disk first writes for all that queued meanwhile; the others find their work done.
    fn sync_up_to(&self, number: u64) -> io::Result<()> {
        let mut disk = self.disk();
        let written = if disk.synced < number { disk.write(&self.queue, true) } else { Ok(()) };
        let failed = disk.failed.remove(&number);
        written?;
        if failed { Err(io::Error::other("the write it shared failed")) } else { Ok(()) }
    }
}

impl Disk {
    fn write(&mut self, queue: &Mutex<Queue>, sync: bool) -> io::Result<()> {
        let (lines, up_to) = {
            let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            (std::mem::take(&mut queue.lines), queue.sequence)
        };
        let results = lines.iter().any(|(_, line)| matches!(line, Line::Finished(_)));
        let written = self.append(lines).and_then(|()| if sync || results { self.file.sync_data() } else { Ok(()) });
        if written.is_err() {
            self.failed.extend(self.synced + 1..=up_to);
        }
        self.synced = up_to;
        self.torn |= written.is_err();
        written?;
        if self.file_bytes > self.live_bytes.saturating_add(SLACK) { self.compact() } else { Ok(()) }
    }

    fn append(&mut self, lines: Vec<(Key, Line)>) -> io::Result<()> {
        let mut text = String::new();
        for (key, line) in lines {
            let encoded = serde_json::to_string(&line)?;
            text.push_str(&encoded);
            text.push('\n');
            let old = match line {
                Line::Finished(_) => {
                    self.live_bytes += encoded.len() as u64;
                    self.live.insert(key, encoded)
                }
                Line::Forgotten { .. } => self.live.remove(&key),
            };
            self.live_bytes -= old.map_or(0, |old| old.len() as u64);
        }
        if self.torn {
            return self.compact();
        }
        self.file_bytes += text.len() as u64;
        self.file.write_all(text.as_bytes())
    }

    /// Writes the live lines to a new file and puts it in the old one's place.
    fn compact(&mut self) -> io::Result<()> {
        self.torn = true;
        let mut text = String::new();
        for line in self.live.values() {
            text.push_str(line);
            text.push('\n');
        }
        replace(&self.path, text.as_bytes())?;
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        self.live_bytes = self.live.values().map(|line| line.len() as u64).sum();
        self.file_bytes = text.len() as u64;
        self.torn = false;
        Ok(())
    }
}

fn read(path: &Path) -> io::Result<BTreeMap<Key, String>> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        other => other?,
    };
    let mut live = BTreeMap::new();
    for line in String::from_utf8_lossy(&bytes).lines() {
        match parse(line) {
            Some(Line::Finished(record)) => {
                let finished = Finished::from(*record);
                live.insert((finished.execution_id, finished.epoch), line.to_owned());
            }
            Some(Line::Forgotten { execution_id, epoch }) => {
                live.remove(&(execution_id, epoch));
            }
            None => warn!(path = %path.display(), "a line of the journal is cut short; left out"),
        }
    }
    Ok(live)
}

fn parse(line: &str) -> Option<Line> {
    serde_json::from_str(line).ok()
}

fn finished(line: Line) -> Option<Finished> {
    match line {
        Line::Finished(record) => Some(Finished::from(*record)),
        Line::Forgotten { .. } => None,
    }
}

#[cfg(test)]
mod tests {
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
            ..Finished::default()
        }
    }

    #[tokio::test]
    async fn the_last_output_is_kept_with_its_result() {
        let directory = tempfile::tempdir().expect("directory");
        let open = || FileJournal::open(directory.path()).expect("open");
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
        open().record_with(&result("a", 1), &tail).await.expect("record");
        let journal = open();
        assert_eq!(journal.load().await.expect("load"), [result("a", 1)]);
        assert_eq!(journal.tails().await.expect("tails"), tail);
        journal.forget("a", 1);
        journal.record(&result("b", 1)).await.expect("record");
        assert!(journal.tails().await.expect("tails").is_empty());
    }

    #[tokio::test]
    async fn the_next_process_finds_what_was_not_forgotten() {
        let directory = tempfile::tempdir().expect("directory");
        let journal = FileJournal::open(directory.path()).expect("open");
        for epoch in 1..=3 {
            journal.record(&result("a", epoch)).await.expect("record");
        }
        journal.forget("a", 2);
        journal.record(&result("b", 1)).await.expect("record");
        assert!(FileJournal::open(directory.path()).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock));
        // The queued removal holds the journal until it is written.
        while Arc::strong_count(&journal.shared) > 1 {
            tokio::task::yield_now().await;
        }
        drop(journal);
        let journal = FileJournal::open(directory.path()).expect("open again");
        assert_eq!(journal.load().await.expect("load"), [result("a", 1), result("a", 3), result("b", 1)]);
    }

    #[tokio::test]
    async fn a_line_cut_short_costs_only_itself() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("results.jsonl");
        FileJournal::open(directory.path()).expect("open").record(&result("a", 1)).await.expect("record");
        let mut text = fs::read_to_string(&path).expect("read");
        text.push_str("{\"finished\":{\"execution_id\":\"c");
        fs::write(&path, text).expect("write");
        let journal = FileJournal::open(directory.path()).expect("open again");
        journal.record(&result("b", 1)).await.expect("record");
        drop(journal);
        let journal = FileJournal::open(directory.path()).expect("open a third time");
        assert_eq!(journal.load().await.expect("load").len(), 2);
    }

    #[tokio::test]
    async fn a_write_that_failed_does_not_spoil_the_next() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("results.jsonl");
        let journal = FileJournal::open(directory.path()).expect("open");
        fs::write(&path, "{\"finished\":{\"exec").expect("half a line, as a full disk leaves it");
        journal.shared.disk().file = File::open(&path).expect("a file that cannot be written");
        journal.record(&result("a", 1)).await.expect_err("it cannot be written");
        journal.record(&result("b", 1)).await.expect("record");
        assert!(journal.shared.disk().failed.is_empty());
        drop(journal);
        let journal = FileJournal::open(directory.path()).expect("open again");
        assert_eq!(journal.load().await.expect("load"), [result("a", 1), result("b", 1)]);
    }

    #[tokio::test]
    async fn forgotten_results_do_not_fill_the_disk() {
        let directory = tempfile::tempdir().expect("directory");
        let journal = FileJournal::open(directory.path()).expect("open");
        let large = Finished { error_stack: "x".repeat(1 << 20), ..result("a", 1) };
        for epoch in 0..12 {
            journal.record(&Finished { epoch, ..large.clone() }).await.expect("record");
            journal.forget("a", epoch);
        }
        journal.record(&result("z", 1)).await.expect("record");
        let size = fs::metadata(directory.path().join("results.jsonl")).expect("file").len();
        assert!(size < 7 << 20, "{size}");
    }

    #[tokio::test]
    async fn many_at_once_are_all_stored() {
        let directory = tempfile::tempdir().expect("directory");
        let journal = FileJournal::open(directory.path()).expect("open");
        let tasks: Vec<_> = (0..64)
            .map(|epoch| {
                let journal = journal.clone();
                tokio::spawn(async move { journal.record(&result("a", epoch)).await })
            })
            .collect();
        for task in tasks {
            task.await.expect("task").expect("record");
        }
        assert_eq!(journal.load().await.expect("load").len(), 64);
    }

    #[tokio::test]
    async fn the_session_is_kept_until_it_is_over() {
        let directory = tempfile::tempdir().expect("directory");
        let open = || FileJournal::open(directory.path()).expect("open");
        let journal = open();
        assert_eq!(journal.session().await.expect("none yet"), None);
        for id in ["s1", "s2"] {
            journal.keep_session(Some(id)).await.expect("kept");
        }
        drop(journal);
        let journal = open();
        assert_eq!(journal.session().await.expect("read").as_deref(), Some("s2"));
        for _ in 0..2 {
            journal.keep_session(None).await.expect("forgotten");
        }
        assert_eq!(journal.session().await.expect("none any more"), None);
    }
}
