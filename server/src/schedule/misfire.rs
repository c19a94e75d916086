//! What becomes of fires whose time has passed.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// What to do with fires whose instant passed more than the grace ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MisfirePolicy {
    /// Leave them all out.
    Skip,
    /// Fire the latest, leave the earlier ones out.
    #[default]
    FireOnce,
    /// Fire all that are not too late, the newest up to a number.
    FireAll,
}

/// The misfire policy of a job with its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Misfire {
    /// What to do.
    pub policy: MisfirePolicy,
    /// A fire at most this late is on time and fires under every policy. 60 s unless given.
    pub grace: Duration,
    /// `FireAll` fires the newest this many; values above 100,000 count as 100,000. 100 unless given.
    pub max_count: u32,
    /// `FireAll` leaves out what is later than this. Unlimited unless given.
    pub max_lateness: Option<Duration>,
}

impl Default for Misfire {
    fn default() -> Self {
        Self { policy: MisfirePolicy::default(), grace: Duration::from_secs(60), max_count: 100, max_lateness: None }
    }
}

/// A run of fires that did not become executions. One row, however many fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Omission {
    /// The first fire left out.
    pub from: DateTime<Utc>,
    /// The last fire left out.
    pub to: DateTime<Utc>,
    /// How many fires were left out.
    pub count: u64,
    /// Why.
    pub reason: OmissionReason,
}

/// Why fires were left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OmissionReason {
    /// Missed, and the policy is to skip.
    Misfire,
    /// Missed, and a later fire stands for them.
    Coalesced,
    /// Missed by more than the policy makes up for.
    MaxLateness,
    /// More were missed than the policy makes up for.
    MaxCount,
    /// The job was paused.
    Paused,
    /// The job or the scheduler was stopped.
    Stopped,
    /// An earlier execution was still running.
    Overlap,
}

impl OmissionReason {
    /// Every reason.
    pub const ALL: [Self; 7] =
        [Self::Misfire, Self::Coalesced, Self::MaxLateness, Self::MaxCount, Self::Paused, Self::Stopped, Self::Overlap];

    /// The reason's name in the database and in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Misfire => "misfire",
            Self::Coalesced => "coalesced",
            Self::MaxLateness => "max_lateness",
            Self::MaxCount => "max_count",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Overlap => "overlap",
        }
    }
}
