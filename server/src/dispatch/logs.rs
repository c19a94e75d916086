use std::collections::BTreeSet;
use std::pin::Pin;

use chrono::Utc;
use futures_util::Stream;
use orrery_proto::v1::{LogAck, LogBatch, LogChunk};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use uuid::Uuid;

use super::AgentApi;
use super::enrolled::Stream as Tracked;
use crate::error::{Error, Kind};
use crate::store::LogLine;

impl AgentApi {
    /// Stores what comes on a stream of logs, batch by batch, and acknowledges each.
    pub(super) fn take_logs(
        &self,
        mut batches: Streaming<LogBatch>,
        tenant: Option<Uuid>,
        tracked: Option<Tracked>,
    ) -> Pin<Box<dyn Stream<Item = Result<LogAck, Status>> + Send>> {
        let (acks, outgoing) = mpsc::channel(16);
        let api = self.clone();
        self.tasks.spawn(async move {
            // That of an agent without a certificate is never cancelled.
            let refused = tracked.as_ref().map(|stream| stream.refused.clone()).unwrap_or_default();
            loop {
                let batch = tokio::select! {
                    () = api.shutdown.cancelled() => return,
                    () = refused.cancelled() => return,
                    batch = batches.message() => batch,
                };
                let Ok(Some(batch)) = batch else { return };
                let answer = api
                    .store_logs(&batch, tenant)
                    .await
                    .map(|()| LogAck { sequence: batch.sequence })
                    .map_err(Status::from);
                let failed = answer.is_err();
                if acks.send(answer).await.is_err() || failed {
                    return;
                }
            }
        });
        Box::pin(ReceiverStream::new(outgoing))
    }

    async fn store_logs(&self, batch: &LogBatch, tenant: Option<Uuid>) -> Result<(), Error> {
        let session = batch.session_id.parse::<Uuid>().ok();
        if session.and_then(|id| self.dispatch.with(id, |attached| attached.agent.tenant_id)) != Some(tenant) {
            let message =
                "sessionId: no such session is attached here; open the session first, to the same coordinator";
            return Err(Error::new(Kind::Conflict, "SESSION_NOT_ATTACHED", message));
        }
        let lines: Vec<LogLine> = batch.chunks.iter().filter_map(line).collect();
        let executions: BTreeSet<Uuid> = lines.iter().map(|line| line.execution_id).collect();
        self.store.append_logs(tenant, lines, self.limits.max_log_bytes).await?;
        self.store.changed(&executions.into_iter().collect::<Vec<_>>());
        Ok(())
    }
}

/// A chunk as it is stored, unless its execution is none.
fn line(chunk: &LogChunk) -> Option<LogLine> {
    Some(LogLine {
        execution_id: chunk.execution_id.parse().ok()?,
        sequence: (chunk.epoch << 32) | i64::from(chunk.number),
        epoch: chunk.epoch,
        attempt: chunk.attempt,
        stream: chunk.stream(),
        at: chunk.at.as_ref().and_then(orrery_proto::Timestamp::instant).unwrap_or_else(Utc::now),
        text: String::from_utf8_lossy(&chunk.data).replace('\0', "\u{2400}"),
    })
}
