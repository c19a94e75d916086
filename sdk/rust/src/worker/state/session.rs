use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// A session that this worker holds.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: String,
    pub(super) ttl: Duration,
    pub(super) heartbeat: Duration,
    pub(super) trusted_until: Instant,
    /// It is an earlier process's, resumed to tell what that one had done.
    pub(super) inherited: bool,
}

impl Session {
    /// How long after its sending an acknowledged heartbeat is trusted.
    pub(super) fn trust(ttl: Duration) -> Duration {
        let margin = (ttl / 10).max(Duration::from_millis(200));
        ttl.saturating_sub(margin)
    }

    /// How long a heartbeat may stay without acknowledgement before another coordinator is tried: short enough to resume elsewhere
    /// before the trust is over.
    pub(super) fn patience(&self) -> Duration {
        self.ttl.mul_f64(0.4)
    }
}

/// The stream it is attached by.
#[derive(Debug)]
pub(super) struct Attachment {
    /// Credits granted on this stream that no lease has used up.
    pub(super) credits: u32,
    pub(super) next_heartbeat: Instant,
    /// Heartbeats without acknowledgement: sequence and sending time, oldest first.
    pub(super) unacknowledged: VecDeque<(u64, Instant)>,
    /// The newest heartbeat that was acknowledged; 0 before the first.
    pub(super) heard: u64,
    /// When to move to another coordinator, where one asked for that.
    pub(super) leave_at: Option<Instant>,
    pub(super) proven: bool,
}
