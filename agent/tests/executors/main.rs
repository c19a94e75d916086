//! The executors against real processes, real sockets and real interpreters.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod command;
mod config;
mod crash;
mod function;
mod http;
mod sandbox;
mod stop;
mod support;
