//! A worker against a scripted coordinator over a real socket. Nothing here sleeps: every wait is for something to happen.

#![allow(clippy::expect_used, clippy::unwrap_used)]

mod executors;
mod fake;
mod leases;
mod output;
mod session;
mod shutdown;
