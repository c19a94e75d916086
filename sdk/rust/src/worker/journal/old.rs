//! The form before segments: `results.jsonl`, a line of JSON for each result or its removal.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use chrono::DateTime;
use orrery_proto::Json;
use orrery_proto::v1::{ErrorType, ExecutionStatus, Finished, LogChunk};
use serde::Deserialize;
use tracing::warn;

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Finished(Box<Record>),
    Forgotten { execution_id: String, epoch: i64 },
}

/// A result as it is kept there. Its JSON stands as a string, since the text may hold line breaks.
#[derive(Deserialize)]
struct Record {
    execution_id: String,
    epoch: i64,
    status: ExecutionStatus,
    #[serde(default)]
    result: Option<String>,
    #[serde(default)]
    error_type: Option<ErrorType>,
    #[serde(default)]
    error_message: String,
    #[serde(default)]
    error_stack: String,
    #[serde(default)]
    retryable: Option<bool>,
    duration_ms: i64,
    #[serde(default)]
    memory_peak_mb: Option<f64>,
    #[serde(default)]
    cpu_time_ms: Option<i64>,
    #[serde(default)]
    interrupted: bool,
    #[serde(default)]
    tail: Vec<Piece>,
}

/// Output as it is kept: as text.
#[derive(Deserialize)]
struct Piece {
    stream: i32,
    /// Microseconds since 1970.
    at: i64,
    attempt: i32,
    number: u32,
    text: String,
}

/// The results in `path` that were not forgotten, each with the last output of its attempt; none where the file is not there.
pub(super) fn read(path: &Path) -> io::Result<Vec<(Finished, Vec<LogChunk>)>> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut live = BTreeMap::new();
    for line in String::from_utf8_lossy(&bytes).lines() {
        match serde_json::from_str(line) {
            Ok(Line::Finished(record)) => {
                live.insert((record.execution_id.clone(), record.epoch), record);
            }
            Ok(Line::Forgotten { execution_id, epoch }) => {
                live.remove(&(execution_id, epoch));
            }
            Err(_) => warn!(path = %path.display(), "a line of the journal is cut short; left out"),
        }
    }
    Ok(live.into_values().map(|record| Record::taken_over(*record)).collect())
}

impl Record {
    fn taken_over(mut self) -> (Finished, Vec<LogChunk>) {
        let pieces = std::mem::take(&mut self.tail);
        let tail = pieces.into_iter().map(|piece| piece.chunk(&self.execution_id, self.epoch)).collect();
        let finished = Finished {
            execution_id: self.execution_id,
            epoch: self.epoch,
            status: self.status.into(),
            result: self.result.map(Json::new),
            error_type: self.error_type.unwrap_or(ErrorType::Unspecified).into(),
            error_message: self.error_message,
            error_stack: self.error_stack,
            retryable: self.retryable,
            duration_ms: self.duration_ms,
            memory_peak_mb: self.memory_peak_mb,
            cpu_time_ms: self.cpu_time_ms,
            interrupted: self.interrupted,
            started: false,
        };
        (finished, tail)
    }
}

impl Piece {
    fn chunk(self, execution_id: &str, epoch: i64) -> LogChunk {
        LogChunk {
            execution_id: execution_id.into(),
            epoch,
            stream: self.stream,
            at: DateTime::from_timestamp_micros(self.at).map(Into::into),
            data: self.text.into_bytes(),
            attempt: self.attempt,
            number: self.number,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the version before this form wrote it, the last line cut short by a crash.
    const WRITTEN: &str = concat!(
        r#"{"finished":{"execution_id":"a","epoch":1,"status":"completed","result":"{\n\"exact\": 1.50\n}","duration_ms":5}}"#,
        "\n",
        r#"{"finished":{"execution_id":"b","epoch":2,"status":"failed","error_type":"USER_ERROR","error_message":"two\nlines","#,
        r#""retryable":false,"duration_ms":7,"memory_peak_mb":0.25,"cpu_time_ms":3,"interrupted":true,"#,
        r#""tail":[{"stream":2,"at":1700000000123456,"attempt":3,"number":7,"text":"bye\n"}]}}"#,
        "\n",
        r#"{"forgotten":{"execution_id":"a","epoch":1}}"#,
        "\n",
        r#"{"finished":{"execution_id":"a","epoch":4,"status":"completed","result":"[1.50]","duration_ms":5}}"#,
        "\n",
        r#"{"finished":{"execution_id":"c"#,
    );

    #[test]
    fn what_the_version_before_left_is_read() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("results.jsonl");
        assert!(read(&path).expect("nothing there").is_empty());
        fs::write(&path, WRITTEN).expect("write");
        let results = read(&path).expect("read");
        assert_eq!(results.len(), 2);
        let (first, second) = (&results[0].0, &results[1].0);
        assert_eq!((first.execution_id.as_str(), first.epoch, first.status()), ("a", 4, ExecutionStatus::Completed));
        assert_eq!(first.result, Some(Json::new("[1.50]")));
        assert_eq!((second.error_type(), second.error_message.as_str()), (ErrorType::UserError, "two\nlines"));
        assert_eq!((second.retryable, second.duration_ms, second.interrupted), (Some(false), 7, true));
        assert_eq!((second.memory_peak_mb, second.cpu_time_ms), (Some(0.25), Some(3)));
        let chunk = &results[1].1[0];
        assert_eq!((chunk.execution_id.as_str(), chunk.epoch, chunk.number), ("b", 2, 7));
        assert_eq!((chunk.stream, chunk.attempt, chunk.data.as_slice()), (2, 3, b"bye\n".as_slice()));
        let at = chunk.at.as_ref().and_then(|at| at.instant()).map(|at| at.timestamp_micros());
        assert_eq!(at, Some(1_700_000_000_123_456));
    }
}
