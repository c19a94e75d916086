//! What a job does where the wall clock jumps.

use serde::{Deserialize, Serialize};

/// How a job treats wall-clock times that do not exist or exist twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DstPolicy {
    /// For times that a forward jump leaves out.
    pub gap: DstGap,
    /// For times that a backward jump repeats.
    pub overlap: DstOverlap,
}

/// For times in a gap, such as 02:30 on a spring morning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DstGap {
    /// Fixed-time jobs fire at the gap's end, interval jobs skip the gap.
    #[default]
    Auto,
    /// All times within the gap fire once, at its end.
    FireAtEnd,
    /// Times within the gap do not fire.
    Skip,
}

/// For times in an overlap, such as 02:30 on an autumn morning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DstOverlap {
    /// Fixed-time jobs fire on the first pass, interval jobs on both.
    #[default]
    Auto,
    /// Fire on the first pass only.
    First,
    /// Fire on the second pass only.
    Second,
    /// Fire on both passes.
    Both,
}

/// The passes of a repeated hour on which a job fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passes {
    First,
    Second,
    Both,
}

impl DstPolicy {
    /// Whether times in a gap fire at its end; `fixed_time` settles `Auto`.
    pub(super) fn fires_at_gap_end(self, fixed_time: bool) -> bool {
        match self.gap {
            DstGap::Auto => fixed_time,
            DstGap::FireAtEnd => true,
            DstGap::Skip => false,
        }
    }

    /// The passes of an overlap that fire; `fixed_time` settles `Auto`.
    pub(super) fn passes(self, fixed_time: bool) -> Passes {
        match self.overlap {
            DstOverlap::Auto if fixed_time => Passes::First,
            DstOverlap::Auto | DstOverlap::Both => Passes::Both,
            DstOverlap::First => Passes::First,
            DstOverlap::Second => Passes::Second,
        }
    }
}
