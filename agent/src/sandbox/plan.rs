//! What goes from the agent to the process that contains itself, and back.

use std::collections::BTreeMap;
use std::path::PathBuf;

use orrery_sdk::config::SandboxLevel;
use serde::{Deserialize, Serialize};

use super::beneath::Beneath;
use super::files::Files;

/// How to contain a program.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(super) level: SandboxLevel,
    /// The user to become, and the group of the same number.
    pub(super) user: Option<u32>,
    pub(super) network: bool,
    /// Control groups to go into.
    pub(super) groups: Vec<PathBuf>,
    /// The most processes of the user, where the user is its own.
    pub(super) processes: Option<u64>,
    pub(super) files: Files,
    /// Private to it.
    pub(super) scratch: PathBuf,
    /// The most that the private directory of a container holds.
    pub(super) tmp_bytes: Option<u64>,
    pub(super) bubblewrap: PathBuf,
}

impl Plan {
    pub(crate) fn is_container(&self) -> bool {
        self.level == SandboxLevel::Container
    }
}

/// A program, and how to contain it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) plan: Plan,
    pub(crate) program: String,
    pub(crate) args: Vec<String>,
    pub(crate) directory: Option<PathBuf>,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) stdin: Option<Beneath>,
}

/// Why a program was not started. Where it was, nothing is said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NotEntered {
    /// It cannot be contained as it must be.
    Uncontained(String),
    /// There is no such program, or it may not be run; the error's number, if it has one, and text.
    NotStarted { errno: Option<i32>, message: String },
}
