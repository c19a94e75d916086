//! Calls that were denied, on their way into the log. Nobody waits for it, and a flood of them costs little: what is alike within a second is one
//! entry with a count, there are only so many entries a second, and what is beyond is counted and said.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::DateTime;
use orrery_proto::v1::AuditOutcome;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Author, DEPLOYMENT, Deed, Resource};
use crate::store::{AuditEntry, DynStore};
use crate::telemetry::Metrics;

/// Denials that may wait to be looked at.
const WAITING: usize = 4096;
/// Different ones within a window.
const KINDS: usize = 256;
/// How long alike ones are counted together.
const WINDOW: Duration = Duration::from_secs(1);

/// A call that was denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Whose log it goes into: that of the caller, where it is known.
    pub tenant: Uuid,
    pub author: Author,
    /// What was missing, such as `jobs:create`.
    pub action: &'static str,
    /// Such as `JobService/CreateJob`; empty where it was none.
    pub call: &'static str,
    /// Why, such as PERMISSION_DENIED.
    pub code: &'static str,
}

/// Where denied calls are told. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Denials {
    waiting: mpsc::Sender<Denial>,
    dropped: Arc<AtomicU64>,
}

/// Writes what was told.
pub struct DenialLoop {
    waiting: mpsc::Receiver<Denial>,
    dropped: Arc<AtomicU64>,
    store: DynStore,
    metrics: Metrics,
}

impl Denials {
    /// The way in, and the loop behind it.
    pub fn new(store: DynStore, metrics: Metrics) -> (Self, DenialLoop) {
        let (sender, waiting) = mpsc::channel(WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        (Self { waiting: sender, dropped: dropped.clone() }, DenialLoop { waiting, dropped, store, metrics })
    }

    /// Tells of one. It waits for nothing.
    pub fn tell(&self, denial: Denial) {
        if self.waiting.try_send(denial).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl DenialLoop {
    /// Goes on until the end, and writes what is there by then.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let first = tokio::select! {
                () = shutdown.cancelled() => break,
                first = self.waiting.recv() => first,
            };
            let Some(first) = first else { return };
            let mut window = Window::default();
            window.add(first);
            let end = tokio::time::sleep(WINDOW);
            tokio::pin!(end);
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => break,
                    () = &mut end => break,
                    more = self.waiting.recv() => match more {
                        Some(more) => window.add(more),
                        None => break,
                    },
                }
            }
            self.write(window).await;
        }
        let mut left = Window::default();
        while let Ok(denial) = self.waiting.try_recv() {
            left.add(denial);
        }
        self.write(left).await;
    }

    async fn write(&self, window: Window) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed) + window.beyond;
        let entries = window.entries(dropped);
        if entries.is_empty() {
            return;
        }
        self.metrics.audit_dropped(dropped);
        if let Err(error) = self.store.record(&entries).await {
            tracing::warn!(%error, entries = entries.len(), "denied calls could not be written to the audit log");
            // It is said with the next ones.
            self.dropped.fetch_add(dropped + window.calls(), Ordering::Relaxed);
        }
    }
}

/// What denials have in common that are one entry: tenant, kind and id of who called, address, action, call, and code.
type Alike = (Uuid, String, Uuid, String, &'static str, &'static str, &'static str);

/// What was told within a window.
#[derive(Default)]
struct Window {
    known: HashMap<Alike, usize>,
    /// With how often it was told.
    kept: Vec<(Denial, u64)>,
    beyond: u64,
}

impl Window {
    fn add(&mut self, denial: Denial) {
        let Author { kind, id, address, .. } = &denial.author;
        let alike = (denial.tenant, kind.clone(), *id, address.clone(), denial.action, denial.call, denial.code);
        match self.known.get(&alike) {
            Some(at) => self.kept[*at].1 += 1,
            None if self.kept.len() < KINDS => {
                self.known.insert(alike, self.kept.len());
                self.kept.push((denial, 1));
            }
            None => self.beyond += 1,
        }
    }

    fn calls(&self) -> u64 {
        self.kept.iter().map(|(_, count)| count).sum()
    }

    fn entries(&self, dropped: u64) -> Vec<AuditEntry> {
        let entry = |author: &Author, deed| AuditEntry {
            id: Uuid::now_v7(),
            // The database's clock says when it is written.
            at: DateTime::UNIX_EPOCH,
            author: Arc::new(author.clone()),
            deed,
            outcome: AuditOutcome::Denied,
        };
        let denied = |(denial, count): &(Denial, u64)| {
            let deed = Deed::new(denial.tenant, denial.action, Resource::new("call", denial.call, denial.call));
            entry(&denial.author, deed.after(&json!({ "code": denial.code, "calls": count })))
        };
        let mut entries: Vec<AuditEntry> = self.kept.iter().map(denied).collect();
        if dropped > 0 {
            let deed = Deed::new(DEPLOYMENT, "audit:drop", Resource::new("audit_log", "", ""));
            let nobody = Author { kind: "unknown".to_owned(), ..Author::default() };
            entries.push(entry(&nobody, deed.after(&json!({ "calls": dropped }))));
        }
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(n: u64) -> Denial {
        let author = Author { kind: "key".to_owned(), id: Uuid::from_u64_pair(0, n), ..Author::default() };
        Denial {
            tenant: Uuid::nil(),
            author,
            action: "jobs:create",
            call: "JobService/CreateJob",
            code: "PERMISSION_DENIED",
        }
    }

    #[test]
    fn a_flood_is_few_entries_and_what_is_beyond_is_said() {
        let mut window = Window::default();
        for n in 0..100_000 {
            window.add(denial(n % 1000));
        }
        let entries = window.entries(window.beyond + 5);
        assert_eq!(entries.len(), KINDS + 1);
        let after = |entry: &AuditEntry| entry.deed.after.clone().unwrap();
        assert_eq!(after(&entries[0]), r#"{"calls":100,"code":"PERMISSION_DENIED"}"#);
        let last = &entries[KINDS];
        assert_eq!((last.deed.action.as_str(), last.deed.tenant), ("audit:drop", DEPLOYMENT));
        assert_eq!(after(last), format!(r#"{{"calls":{}}}"#, 100_000 - 100 * KINDS + 5));
        assert_eq!(window.calls() + window.beyond, 100_000);
    }

    #[test]
    fn nothing_told_is_nothing_written() {
        assert_eq!(Window::default().entries(0), []);
    }
}
