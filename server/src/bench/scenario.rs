use clap::ValueEnum;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// How fast a queue is drained, beside the raw limit of the same tables
    Throughput,
    /// From a trigger to the start of its handler, on an idle system
    Latency,
    /// How fast executions are queued
    Enqueue,
    /// Many cron jobs that are due in the same second
    Herd,
    /// How far from its instant a cron job starts
    Precision,
    /// Many executions that run at the same time
    Concurrent,
    /// How fast a long queue is dispatched
    Pending,
    /// Reads of a long history
    History,
    /// What a tenant waits for beside another one's backlog
    Fairness,
    /// What many agents cost their coordinator
    Agents,
    /// Calls of the API while executions run
    Api,
    /// What grows at a steady rate
    Soak,
    /// How soon `orrery dev` serves
    Start,
    /// One table of all executions, or a small one of what lives beside history
    Layouts,
}

impl Scenario {
    /// As it is written on the command line.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}
