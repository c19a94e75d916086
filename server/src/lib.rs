//! The Orrery coordinator.

pub mod config;
pub mod error;
pub mod execution;
pub mod firing;
pub mod job;
pub mod schedule;
pub mod store;
