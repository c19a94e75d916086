use std::collections::HashSet;
use std::io::{IsTerminal, Write};

use chrono::{SecondsFormat, Utc};
use orrery_proto::v1::ExecutionStatus;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::execution::{Execution, State};
use crate::store::DynStore;

/// Executions remembered, so that one that ends is shown once although it is hinted at several times.
const REMEMBERED: usize = 10_000;

/// Whether a person looks on.
pub(super) fn is_watched() -> bool {
    std::io::stdout().is_terminal()
}

/// Prints a line for each execution that ends, until the end.
pub(super) async fn show(store: DynStore, tenant: Uuid, shutdown: CancellationToken) {
    let mut changes = store.changes();
    let mut shown = HashSet::new();
    loop {
        let changed = tokio::select! {
            () = shutdown.cancelled() => return,
            changed = changes.recv() => changed,
        };
        let changed = match changed {
            Ok(changed) => changed,
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return,
        };
        for id in changed.iter() {
            if shown.contains(id) {
                continue;
            }
            let Ok(Some(execution)) = store.execution(tenant, *id).await else { continue };
            if let Some(line) = line(&execution, colour()) {
                if shown.len() >= REMEMBERED {
                    shown.clear();
                }
                shown.insert(*id);
                // A closed terminal is no reason to stop scheduling.
                let _ = writeln!(std::io::stdout().lock(), "{line}");
            }
        }
    }
}

fn colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}

/// A finished execution in one line.
fn line(execution: &Execution, colour: bool) -> Option<String> {
    let State::Done(outcome) = &execution.state else { return None };
    let (mark, code) = match outcome.status {
        ExecutionStatus::Completed => ("completed", "32"),
        ExecutionStatus::Cancelled => ("cancelled", "33"),
        _ => ("failed   ", "31"),
    };
    let mark = if colour { format!("\u{1b}[{code}m{mark}\u{1b}[0m") } else { mark.to_owned() };
    let time = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
    let took = outcome.duration_ms.map(|ms| format!("{ms} ms")).unwrap_or_default();
    let attempts = if execution.attempt > 1 { format!(" after {} attempts", execution.attempt) } else { String::new() };
    let why = if outcome.error_message.is_empty() { String::new() } else { format!("  {}", outcome.error_message) };
    Some(format!("{time}  {mark}  {:<24} {took:>9}{attempts}  {}{why}", execution.job_name, execution.id))
}
