use async_trait::async_trait;
use uuid::Uuid;

use crate::store::*;

/// What executions print.
#[async_trait]
pub trait Logs: Send + Sync {
    /// Stores lines of attempts whose epoch is their execution's newest; others are dropped. A line that is stored already is skipped.
    /// An execution keeps at most `max_bytes`; what is beyond is dropped and said once, in a system line. Only executions of `tenant`
    /// are written to, where one is given.
    async fn append_logs(&self, tenant: Option<Uuid>, lines: Vec<LogLine>, max_bytes: i64) -> Result<()>;

    /// Says in the logs of executions that results came too late and were refused; see [`RefusedResult::line`]. What is said already is not
    /// said again.
    async fn note_refused(&self, refused: &[RefusedResult]) -> Result<()>;

    /// Lines after a sequence number, oldest first.
    async fn logs(&self, tenant: Uuid, execution: Uuid, after: i64, limit: i64) -> Result<Vec<LogLine>>;
}
