//! Calls that were denied, on their way into the log. Nobody waits for it, and a flood of them costs little: what is alike within a second is one
//! entry with a count, who calls too often has one entry a minute, there are only so many entries a second, and what is beyond is counted and said.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::DateTime;
use orrery_proto::v1::AuditOutcome;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::throttle::{Counted, Throttle};
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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Denial {
    /// Whose log it goes into: that of the caller, where it is known, or of the user that it says it is.
    pub tenant: Uuid,
    pub author: Author,
    /// What was missing, such as `jobs:create`.
    pub action: &'static str,
    /// Such as `JobService/CreateJob`; empty where it was none.
    pub call: &'static str,
    /// Why, such as PERMISSION_DENIED.
    pub code: &'static str,
    /// Whose account was tried, where the call has named one.
    pub claimed: Option<Claimed>,
}

/// Whom somebody says to be who has not proved it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Claimed {
    User {
        tenant: Uuid,
        id: Uuid,
        name: String,
    },
    /// There is no user of that name.
    Nobody,
}

impl Claimed {
    /// Whose matter it is.
    pub fn tenant(&self) -> Option<Uuid> {
        match self {
            Self::User { tenant, .. } => Some(*tenant),
            Self::Nobody => None,
        }
    }
}

impl Denial {
    /// What it has in common with others that are one entry with it: all but which of the calls it was.
    fn alike(&self) -> Self {
        let author = Author { request_id: String::new(), ..self.author.clone() };
        Self { author, ..self.clone() }
    }

    fn entry(&self, calls: u64) -> AuditEntry {
        let Self { tenant, action, call, code, .. } = self;
        let (resource, after) = match &self.claimed {
            None => (Resource::new("call", call, call), json!({ "code": code, "calls": calls })),
            Some(claimed) => {
                let (user, is_known) = match claimed {
                    Claimed::User { id, name, .. } => (Resource::new("user", id, name), true),
                    Claimed::Nobody => (Resource::new("user", "", ""), false),
                };
                (user, json!({ "code": code, "calls": calls, "call": call, "userIsKnown": is_known }))
            }
        };
        denied(&self.author, Deed::new(*tenant, action, resource).after(&after))
    }
}

fn denied(author: &Author, deed: Deed) -> AuditEntry {
    AuditEntry {
        id: Uuid::now_v7(),
        // The database's clock says when it is written.
        at: DateTime::UNIX_EPOCH,
        author: Arc::new(author.clone()),
        deed,
        outcome: AuditOutcome::Denied,
    }
}

/// Where denied calls are told. Cheap to clone.
#[derive(Clone)]
pub struct Denials {
    waiting: mpsc::Sender<Denial>,
    shared: Arc<Shared>,
}

/// Writes what was told.
pub struct DenialLoop {
    waiting: mpsc::Receiver<Denial>,
    shared: Arc<Shared>,
    store: DynStore,
    metrics: Metrics,
}

#[derive(Default)]
struct Shared {
    dropped: AtomicU64,
    throttle: Mutex<Throttle>,
}

impl Shared {
    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Denials {
    /// The way in, and the loop behind it.
    pub fn new(store: DynStore, metrics: Metrics) -> (Self, DenialLoop) {
        let (sender, waiting) = mpsc::channel(WAITING);
        let shared = Arc::new(Shared::default());
        (Self { waiting: sender, shared: shared.clone() }, DenialLoop { waiting, shared, store, metrics })
    }

    /// Tells of one. It waits for nothing.
    pub fn tell(&self, denial: Denial) {
        if self.waiting.try_send(denial).is_err() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tells of one that was refused because there were too many of `caller`. Only one of each caller is written in a minute, with how many
    /// there were since the last one, and the others never get into the queue: a flood would fill it.
    pub fn tell_limited(&self, caller: &str, denial: Denial) {
        let admitted = self.shared.throttle().admit(caller, denial, Instant::now());
        if let Some(denial) = admitted {
            self.tell(denial);
        }
    }
}

impl DenialLoop {
    /// Goes on until the end, and writes what is there by then.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut window = Window::default();
        loop {
            // Where none is open, nothing is due but what was throttled; its callers are only known once one has come through the queue.
            let next = window.end.or_else(|| self.shared.throttle().next());
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = until(next) => {
                    self.write(std::mem::take(&mut window)).await;
                    window.add_all(self.shared.throttle().due(Instant::now()));
                }
                told = self.waiting.recv() => match told {
                    Some(denial) => window.add(denial, 1),
                    None => break,
                },
            }
        }
        while let Ok(denial) = self.waiting.try_recv() {
            window.add(denial, 1);
        }
        window.add_all(self.shared.throttle().rest());
        self.write(window).await;
    }

    async fn write(&self, window: Window) {
        let beyond = window.beyond + self.shared.throttle().beyond();
        let dropped = self.shared.dropped.swap(0, Ordering::Relaxed) + beyond;
        let entries = window.entries(dropped);
        if entries.is_empty() {
            return;
        }
        match self.store.record(&entries).await {
            Ok(()) => self.metrics.audit_dropped(dropped),
            Err(error) => {
                tracing::warn!(%error, entries = entries.len(), "denied calls could not be written to the audit log");
                // They are said, and counted, with the next ones.
                self.shared.dropped.fetch_add(dropped + window.calls(), Ordering::Relaxed);
            }
        }
    }
}

/// Until an instant, or for ever.
async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// What was told within a window.
#[derive(Default)]
struct Window {
    /// It is open from the first one on.
    end: Option<Instant>,
    known: HashMap<Denial, usize>,
    /// With how often it was told.
    kept: Vec<Counted>,
    beyond: u64,
}

impl Window {
    fn add(&mut self, denial: Denial, calls: u64) {
        self.end.get_or_insert_with(|| Instant::now() + WINDOW);
        let alike = denial.alike();
        match self.known.get(&alike) {
            Some(at) => self.kept[*at].1 += calls,
            None if self.kept.len() < KINDS => {
                self.known.insert(alike, self.kept.len());
                self.kept.push((denial, calls));
            }
            None => self.beyond += calls,
        }
    }

    fn add_all(&mut self, denials: Vec<Counted>) {
        for (denial, calls) in denials {
            self.add(denial, calls);
        }
    }

    fn calls(&self) -> u64 {
        self.kept.iter().map(|(_, count)| count).sum()
    }

    fn entries(&self, dropped: u64) -> Vec<AuditEntry> {
        let mut entries: Vec<AuditEntry> = self.kept.iter().map(|(denial, calls)| denial.entry(*calls)).collect();
        if dropped > 0 {
            let deed = Deed::new(DEPLOYMENT, "audit:drop", Resource::new("audit_log", "", ""));
            let nobody = Author { kind: "unknown".to_owned(), ..Author::default() };
            entries.push(denied(&nobody, deed.after(&json!({ "calls": dropped }))));
        }
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::tests::denial;

    #[test]
    fn a_flood_is_few_entries_and_what_is_beyond_is_said() {
        let mut window = Window::default();
        for n in 0..100_000 {
            window.add(denial(n % 1000), 1);
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
