//! Where there is no Linux, no process can be contained.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use orrery_sdk::config::SandboxLevel;
use serde::{Deserialize, Serialize};

use super::beneath::Beneath;
use super::files::Files;

/// How to contain a program.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(super) level: SandboxLevel,
    pub(super) user: Option<u32>,
    pub(super) network: bool,
    pub(super) groups: Vec<PathBuf>,
    pub(super) processes: Option<u64>,
    pub(super) files: Files,
    pub(super) scratch: PathBuf,
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

/// Why a program was not started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NotEntered {
    Uncontained(String),
    NotStarted { errno: Option<i32>, message: String },
}

/// Refuses.
pub(crate) fn inside() -> ExitCode {
    eprintln!("supervise --inside: processes can only be contained on Linux");
    ExitCode::from(2)
}
