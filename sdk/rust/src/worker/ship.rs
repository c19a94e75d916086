//! Ships output on its own stream, one batch at a time, so that a flood of it delays no heartbeat.

use std::sync::Arc;
use std::time::Duration;

use orrery_proto::v1::LogBatch;
use orrery_proto::v1::agent_service_client::AgentServiceClient;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tracing::{debug, warn};

use super::backoff::Backoff;
use super::logs::{Batch, Logs};
use crate::endpoint::Authorized;
use crate::error::Error;

/// Small pieces are joined for this long.
const WINDOW: Duration = Duration::from_millis(100);
/// How long a coordinator may take to store a batch.
const ACKNOWLEDGE: Duration = Duration::from_secs(30);
/// After so many refusals of one batch it is given up; it would hold up all that come after it for ever.
const REFUSALS: u32 = 3;

/// Where output goes: the coordinator that the session is attached to.
#[derive(Clone)]
pub(super) struct Destination {
    pub(super) client: AgentServiceClient<Authorized>,
    pub(super) session_id: String,
}

/// Ships for ever. A batch is kept until it is acknowledged, whatever happens to the stream meanwhile.
pub(super) async fn ship(logs: Arc<Logs>, mut destination: watch::Receiver<Option<Destination>>) {
    let mut backoff = Backoff::new(WINDOW, Duration::from_secs(5));
    let mut unsent: Option<Batch> = None;
    let mut refusals = 0;
    loop {
        let Ok(current) = destination.wait_for(Option::is_some).await.map(|d| d.clone()) else { return };
        let Some(current) = current else { continue };
        if unsent.is_none() {
            tokio::select! {
                () = logs.ready(WINDOW) => {}
                _ = destination.changed() => continue,
            }
        }
        let outcome = tokio::select! {
            outcome = stream(&logs, current, &mut unsent, &mut backoff) => outcome,
            _ = destination.changed() => continue,
        };
        debug!(reason = outcome.message(), "the stream of logs ended");
        if is_absence(&outcome) {
            refusals = 0;
        } else {
            refusals += 1;
        }
        if refusals >= REFUSALS
            && let Some(batch) = unsent.take()
        {
            warn!(reason = outcome.message(), chunks = batch.chunks.len(), "the coordinator refuses output; dropped");
            logs.give_up(&batch);
            refusals = 0;
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next(rand::random())) => {}
            _ = destination.changed() => backoff.reset(),
        }
    }
}

/// Whether output only has to wait for a coordinator that takes it: nobody is there, or the session is not attached there yet, or not any
/// more.
fn is_absence(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded)
        || Error::from(status.clone()).code() == "SESSION_NOT_ATTACHED"
}

/// Ships batches on one stream until it fails. The sequence counts within the stream; a batch waits for the acknowledgement of the one
/// before it.
async fn stream(logs: &Logs, destination: Destination, unsent: &mut Option<Batch>, backoff: &mut Backoff) -> Status {
    let Destination { mut client, session_id } = destination;
    let (sender, receiver) = mpsc::channel(1);
    let mut receiver = Some(receiver);
    let mut acks = None;
    for sequence in 1.. {
        let batch = match unsent.take().or_else(|| logs.take()) {
            Some(batch) => batch,
            None => {
                logs.ready(WINDOW).await;
                let Some(batch) = logs.take() else { continue };
                batch
            }
        };
        let message = LogBatch { session_id: session_id.clone(), sequence, chunks: batch.chunks.clone() };
        let batch = unsent.insert(batch);
        if sender.send(message).await.is_err() {
            return Status::unavailable("the stream ended");
        }
        // Opened with the first batch under way: a server may answer a stream only once something has come on it.
        if let Some(receiver) = receiver.take() {
            match tokio::time::timeout(ACKNOWLEDGE, client.logs(ReceiverStream::new(receiver))).await {
                Ok(Ok(answer)) => acks = Some(answer.into_inner()),
                Ok(Err(status)) => return status,
                Err(_) => return Status::deadline_exceeded("the stream was not opened in time"),
            }
        }
        let Some(acks) = &mut acks else { return Status::internal("no stream") };
        let acknowledged = async {
            loop {
                match acks.message().await {
                    Ok(Some(ack)) if ack.sequence >= sequence => return None,
                    Ok(Some(_)) => {}
                    Ok(None) => return Some(Status::unavailable("the coordinator ended the stream")),
                    Err(status) => return Some(status),
                }
            }
        };
        match tokio::time::timeout(ACKNOWLEDGE, acknowledged).await {
            Ok(None) => {}
            Ok(Some(status)) => return status,
            Err(_) => return Status::deadline_exceeded("output was not acknowledged in time"),
        }
        logs.settle(batch);
        *unsent = None;
        backoff.reset();
    }
    Status::internal("sequences are used up")
}
