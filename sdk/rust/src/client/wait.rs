use std::time::Duration;

use orrery_proto::v1::{Execution, ExecutionStatus, GetExecutionRequest, WatchExecutionRequest};
use tonic::Code;

use super::Client;
use crate::error::Error;

/// Between two questions where watching does not work.
const POLL: Duration = Duration::from_secs(1);

/// Whether an execution has reached its end.
pub fn is_finished(execution: &Execution) -> bool {
    matches!(execution.status(), ExecutionStatus::Completed | ExecutionStatus::Failed | ExecutionStatus::Cancelled)
}

/// What to do about an error while waiting.
#[derive(Debug, PartialEq, Eq)]
enum Remedy {
    /// Ask again later.
    Again,
    /// Watching is not offered here (an old server, a proxy without streams): ask from time to time.
    Poll,
    GiveUp,
}

fn remedy(code: Code) -> Remedy {
    match code {
        Code::NotFound
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::InvalidArgument
        | Code::FailedPrecondition => Remedy::GiveUp,
        Code::Unimplemented => Remedy::Poll,
        _ => Remedy::Again,
    }
}

impl Client {
    /// Waits for the end of an execution, however long that takes and however often the connection is lost meanwhile. Put
    /// [`tokio::time::timeout`] around it to wait no longer than that.
    ///
    /// # Errors
    /// EXECUTION_NOT_FOUND and refusals of the caller; never for want of a connection.
    pub async fn wait(&self, execution_id: &str) -> Result<Execution, Error> {
        let mut watching = true;
        loop {
            if watching {
                match self.watch_to_end(execution_id).await {
                    Ok(Some(execution)) => return Ok(execution),
                    Ok(None) => {}
                    Err(error) => match remedy(error.grpc_code()) {
                        Remedy::GiveUp => return Err(error),
                        Remedy::Poll => watching = false,
                        Remedy::Again => {}
                    },
                }
            }
            match self.get_execution(GetExecutionRequest { id: execution_id.to_owned() }).await {
                Ok(execution) if is_finished(&execution) => return Ok(execution),
                Err(error) if remedy(error.grpc_code()) != Remedy::Again => return Err(error),
                Ok(_) | Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// Follows one stream; `None` where it ended before the execution did.
    async fn watch_to_end(&self, execution_id: &str) -> Result<Option<Execution>, Error> {
        let mut changes = self.watch_execution(WatchExecutionRequest { id: execution_id.to_owned() }).await?;
        while let Some(execution) = changes.message().await? {
            if is_finished(&execution) {
                return Ok(Some(execution));
            }
        }
        Ok(None)
    }
}
