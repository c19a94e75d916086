use chrono::DateTime;
use orrery_proto::Json;
use orrery_proto::v1::{ErrorType, ExecutionStatus, Finished, LogChunk};
use serde::{Deserialize, Serialize};

/// One line of a journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    Finished(Box<Record>),
    Forgotten { execution_id: String, epoch: i64 },
}

/// A result as it is kept. Its JSON stands there as a string, since the text may hold line breaks, and to keep it to the last digit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    execution_id: String,
    epoch: i64,
    status: ExecutionStatus,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error_type: Option<ErrorType>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    error_message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    error_stack: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retryable: Option<bool>,
    duration_ms: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    memory_peak_mb: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cpu_time_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    interrupted: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    started: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tail: Vec<Piece>,
}

/// Output as it is kept: as text, which is how a coordinator stores it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Piece {
    stream: i32,
    /// Microseconds since 1970.
    at: i64,
    attempt: i32,
    number: u32,
    text: String,
}

impl Record {
    /// A result with the last output of its attempt.
    pub(super) fn of(finished: &Finished, tail: &[LogChunk]) -> Self {
        let piece = |chunk: &LogChunk| Piece {
            stream: chunk.stream,
            at: chunk.at.as_ref().and_then(|at| at.instant()).map_or(0, |at| at.timestamp_micros()),
            attempt: chunk.attempt,
            number: chunk.number,
            text: String::from_utf8_lossy(&chunk.data).into_owned(),
        };
        Self { tail: tail.iter().map(piece).collect(), ..Self::from(finished) }
    }

    /// That output.
    pub(super) fn tail(&self) -> Vec<LogChunk> {
        let chunk = |piece: &Piece| LogChunk {
            execution_id: self.execution_id.clone(),
            epoch: self.epoch,
            stream: piece.stream,
            at: DateTime::from_timestamp_micros(piece.at).map(Into::into),
            data: piece.text.clone().into_bytes(),
            attempt: piece.attempt,
            number: piece.number,
        };
        self.tail.iter().map(chunk).collect()
    }
}

impl From<&Finished> for Record {
    fn from(finished: &Finished) -> Self {
        Self {
            tail: Vec::new(),
            execution_id: finished.execution_id.clone(),
            epoch: finished.epoch,
            status: finished.status(),
            result: finished.result.as_ref().map(|json| json.text.clone()),
            error_type: Some(finished.error_type()).filter(|kind| *kind != ErrorType::Unspecified),
            error_message: finished.error_message.clone(),
            error_stack: finished.error_stack.clone(),
            retryable: finished.retryable,
            duration_ms: finished.duration_ms,
            memory_peak_mb: finished.memory_peak_mb,
            cpu_time_ms: finished.cpu_time_ms,
            interrupted: finished.interrupted,
            started: finished.started,
        }
    }
}

impl From<Record> for Finished {
    fn from(record: Record) -> Self {
        Self {
            execution_id: record.execution_id,
            epoch: record.epoch,
            status: record.status.into(),
            result: record.result.map(Json::new),
            error_type: record.error_type.unwrap_or(ErrorType::Unspecified).into(),
            error_message: record.error_message,
            error_stack: record.error_stack,
            retryable: record.retryable,
            duration_ms: record.duration_ms,
            memory_peak_mb: record.memory_peak_mb,
            cpu_time_ms: record.cpu_time_ms,
            interrupted: record.interrupted,
            started: record.started,
        }
    }
}
