//! Follows an execution to its end.

use std::io::Write;
use std::time::Duration;

use orrery_proto::v1::{
    Execution, ExecutionStatus, FollowExecutionLogsRequest, GetExecutionRequest, LogEntry, LogStream,
    WatchExecutionRequest,
};
use tokio::time::Instant;
use tonic::Code;

use super::Context;
use super::connect::{Client, Error};
use super::exit::{Exit, Failure};
use super::output::{Output, Tone};

/// Between two attempts to follow, where the connection was lost.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a server may be away before following is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is still printed after the end of an execution may take this long to arrive.
const LAST_LOGS: Duration = Duration::from_secs(5);

/// Follows an execution to its end, printing what it prints, and ends as it did.
pub(super) async fn to_end(context: &Context, id: &str) -> Result<(), Failure> {
    let Context { client, out } = context;
    let execution = if out.json { end(client, id, |_| Ok(())).await? } else { end_with_logs(client, id, out).await? };
    if out.json {
        out.json(&execution)?;
    }
    outcome(&execution)
}

async fn end_with_logs(client: &Client, id: &str, out: &Output) -> Result<Execution, Failure> {
    let logs = follow_logs(client, id, out);
    let end = end(client, id, |_| Ok(()));
    tokio::pin!(logs, end);
    tokio::select! {
        execution = &mut end => {
            let execution = execution?;
            if let Ok(Err(failure)) = tokio::time::timeout(LAST_LOGS, logs).await {
                tolerate(failure, out)?;
            }
            Ok(execution)
        }
        printed = &mut logs => {
            if let Err(failure) = printed {
                tolerate(failure, out)?;
            }
            end.await
        }
    }
}

/// Without its logs an execution can still be waited for; without a reader it need not be.
fn tolerate(failure: Failure, out: &Output) -> Result<(), Failure> {
    if failure.exit == Exit::Ok {
        return Err(failure);
    }
    out.note(format!("the logs cannot be followed: {}", failure.message));
    Ok(())
}

/// Waits for the end of an execution and hands every change of it to `seen`.
pub(super) async fn end(
    client: &Client,
    id: &str,
    mut seen: impl FnMut(&Execution) -> Result<(), Failure>,
) -> Result<Execution, Failure> {
    let mut answered = Instant::now();
    loop {
        match watch(client, id, &mut seen).await? {
            Ok(Some(execution)) => return Ok(execution),
            Ok(None) => answered = Instant::now(),
            Err(error) => give_up_or_go_on(error, answered)?,
        }
        // Where watching does not work, as through a proxy without streams, asking does.
        match client.get_execution(GetExecutionRequest { id: id.to_owned() }).await {
            Ok(execution) => {
                answered = Instant::now();
                if is_finished(&execution) {
                    seen(&execution)?;
                    return Ok(execution);
                }
            }
            Err(error) => give_up_or_go_on(error, answered)?,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Follows one stream. The outer error is one of `seen`, the inner one the call's; `None` where it ended early.
async fn watch(
    client: &Client,
    id: &str,
    seen: &mut impl FnMut(&Execution) -> Result<(), Failure>,
) -> Result<Result<Option<Execution>, Error>, Failure> {
    let mut changes = match client.watch_execution(WatchExecutionRequest { id: id.to_owned() }).await {
        Ok(changes) => changes,
        Err(error) => return Ok(Err(error)),
    };
    loop {
        match changes.message().await {
            Ok(Some(execution)) => {
                seen(&execution)?;
                if is_finished(&execution) {
                    return Ok(Ok(Some(execution)));
                }
            }
            Ok(None) => return Ok(Ok(None)),
            Err(error) => return Ok(Err(error)),
        }
    }
}

fn give_up_or_go_on(error: Error, answered: Instant) -> Result<(), Failure> {
    let lost = matches!(
        error.grpc_code(),
        Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Internal | Code::Cancelled
    );
    let goes_on = lost && answered.elapsed() < PATIENCE || error.grpc_code() == Code::Unimplemented;
    if goes_on { Ok(()) } else { Err(error.into()) }
}

/// Prints what an execution printed and prints, until it is finished.
pub(super) async fn follow_logs(client: &Client, id: &str, out: &Output) -> Result<(), Failure> {
    let mut after = 0;
    let mut answered = Instant::now();
    loop {
        let request = FollowExecutionLogsRequest { id: id.to_owned(), after };
        let broken = match client.follow_execution_logs(request).await {
            Ok(mut entries) => loop {
                match entries.message().await {
                    Ok(Some(entry)) => {
                        answered = Instant::now();
                        after = entry.sequence;
                        print_entry(&entry, out)?;
                    }
                    Ok(None) => return Ok(()),
                    Err(error) => break error,
                }
            },
            Err(error) => error,
        };
        if broken.grpc_code() == Code::Unimplemented {
            return Err(broken.into());
        }
        give_up_or_go_on(broken, answered)?;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Prints one entry where it was printed: stdout to stdout, all else to stderr.
pub(super) fn print_entry(entry: &LogEntry, out: &Output) -> Result<(), Failure> {
    if out.json {
        return Ok(out.json_line(entry)?);
    }
    match entry.stream() {
        LogStream::Stdout | LogStream::Unspecified => {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(entry.text.as_bytes())?;
            stdout.flush()?;
        }
        // Where stderr is gone, stdout may still be read.
        LogStream::Stderr => drop(std::io::stderr().write_all(entry.text.as_bytes())),
        LogStream::System => {
            let text = out.paint_stderr(Tone::Quiet, entry.text.trim_end());
            drop(writeln!(std::io::stderr(), "{text}"));
        }
    }
    Ok(())
}

/// Whether an execution has reached its end.
pub(super) fn is_finished(execution: &Execution) -> bool {
    matches!(execution.status(), ExecutionStatus::Completed | ExecutionStatus::Failed | ExecutionStatus::Cancelled)
}

/// How a finished execution ends the command that waited for it.
pub(super) fn outcome(execution: &Execution) -> Result<(), Failure> {
    let Execution { id, error_message, .. } = execution;
    let kind = execution.error_type.map(|_| execution.error_type().as_json_str()).filter(|kind| !kind.is_empty());
    let reason: Vec<&str> = kind.into_iter().chain([error_message.as_str()]).filter(|part| !part.is_empty()).collect();
    let reason = if reason.is_empty() { String::new() } else { format!(": {}", reason.join(": ")) };
    match execution.status() {
        ExecutionStatus::Failed => {
            Err(Failure::new(Exit::Failed, "EXECUTION_FAILED", format!("execution {id} failed{reason}")))
        }
        ExecutionStatus::Cancelled => {
            Err(Failure::new(Exit::Failed, "EXECUTION_CANCELLED", format!("execution {id} was cancelled{reason}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use orrery_proto::v1::ErrorType;
    use tonic::Status;

    use super::*;

    #[test]
    fn the_end_of_an_execution_is_the_end_of_the_command() {
        let mut execution = Execution { id: "x".into(), ..Execution::default() };
        execution.set_status(ExecutionStatus::Completed);
        assert_eq!(outcome(&execution), Ok(()));
        execution.set_status(ExecutionStatus::Failed);
        execution.set_error_type(ErrorType::UserError);
        execution.error_message = "exit code 3".into();
        let failure = outcome(&execution).unwrap_err();
        assert_eq!(failure.exit, Exit::Failed);
        assert_eq!(failure.message, "execution x failed: USER_ERROR: exit code 3");
        execution.set_status(ExecutionStatus::Cancelled);
        assert_eq!(outcome(&execution).unwrap_err().exit.code(), 1);
    }

    #[test]
    fn refusals_end_the_wait_and_lost_connections_do_not() {
        let now = Instant::now();
        assert!(give_up_or_go_on(Status::not_found("no").into(), now).is_err());
        assert!(give_up_or_go_on(Status::permission_denied("no").into(), now).is_err());
        assert!(give_up_or_go_on(Status::unavailable("gone").into(), now).is_ok());
        let long_ago = now.checked_sub(PATIENCE).unwrap();
        assert!(give_up_or_go_on(Status::unavailable("gone").into(), long_ago).is_err());
    }
}
