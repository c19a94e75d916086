//! The Orrery coordinator.

pub mod admission;
pub mod api;
pub mod auth;
pub mod bench;
pub mod breaker;
pub mod cache;
pub mod cli;
pub mod clock;
pub mod concurrency;
pub mod config;
pub mod coordinator;
pub mod dispatch;
pub mod error;
pub mod execution;
pub mod firing;
pub mod gateway;
pub mod job;
pub mod limiter;
pub mod lock;
pub mod reconcile;
pub mod redis;
pub mod run;
pub mod schedule;
pub mod sibling;
pub mod store;
pub mod telemetry;
