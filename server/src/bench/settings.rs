use serde_json::{Value, json};

use super::scenario::Scenario;

/// What keeps the state in a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    Postgres,
    Sqlite,
}

/// What is measured, and how much of it.
#[derive(Clone, Debug)]
pub struct Settings {
    pub scenarios: Vec<Scenario>,
    /// A PostgreSQL whose user may create databases and roles; one of the bench's own where absent.
    pub database_url: Option<String>,
    /// Engines that `throughput` runs on.
    pub engines: Vec<Engine>,
    pub is_quick: bool,
    /// How often `throughput` is run; its figures are medians.
    pub runs: usize,
    /// Executions that `throughput` drains on PostgreSQL, and on SQLite.
    pub executions: u64,
    pub sqlite_executions: u64,
    /// Numbers of agent processes that `throughput` is run with.
    pub agents: Vec<usize>,
    /// Slots of all agents together.
    pub slots: u32,
    /// Triggers of `latency`.
    pub triggers: u32,
    /// How long each way of queueing is tried, in seconds.
    pub enqueue_seconds: u32,
    /// Numbers of jobs that are due at once.
    pub herd: Vec<u64>,
    pub precision_seconds: u32,
    /// Executions that run at once, and for how long.
    pub concurrent: u64,
    pub hold_seconds: u32,
    /// Lengths of queues, the smallest first.
    pub pending: Vec<u64>,
    /// Lengths of histories, and how often each kind of read is made.
    pub history: Vec<u64>,
    pub reads: u32,
    /// Executions that one tenant has waiting.
    pub fairness: u64,
    /// Numbers of agents' streams.
    pub streams: Vec<usize>,
    pub api_seconds: u32,
    pub soak_seconds: u32,
}

impl Settings {
    /// For the report.
    pub(super) fn json(&self) -> Value {
        json!({
            "quick": self.is_quick,
            "database": if self.database_url.is_some() { "given" } else { "private" },
            "runs": self.runs,
            "executions": self.executions,
            "sqlite_executions": self.sqlite_executions,
            "agents": self.agents,
            "slots": self.slots,
            "triggers": self.triggers,
            "enqueue_seconds": self.enqueue_seconds,
            "herd": self.herd,
            "precision_seconds": self.precision_seconds,
            "concurrent": self.concurrent,
            "hold_seconds": self.hold_seconds,
            "pending": self.pending,
            "history": self.history,
            "reads": self.reads,
            "fairness": self.fairness,
            "streams": self.streams,
            "api_seconds": self.api_seconds,
            "soak_seconds": self.soak_seconds,
            "journal": "on",
        })
    }
}
