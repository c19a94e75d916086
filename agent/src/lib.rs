//! The Orrery agent: runs leased executions on a host.

#![cfg_attr(test, allow(clippy::expect_used, clippy::unwrap_used))]

pub mod config;
mod daemon;
pub mod egress;
pub mod executor;
pub mod identity;
pub mod install;
mod program;
pub mod sandbox;

pub use config::AgentOptions;
pub use daemon::{Agent, AgentError};
pub use program::run_program;
