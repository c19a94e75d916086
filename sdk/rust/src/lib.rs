//! Rust SDK of Orrery: a client for every call, a worker session, and a registry of typed functions.

#![cfg_attr(test, allow(clippy::expect_used, clippy::unwrap_used))]

pub mod client;
pub mod config;
mod endpoint;
mod error;
pub mod executor;
pub mod function;
pub mod secret;
pub mod tls;
pub mod worker;

pub use client::{Client, ClientOptions};
pub use error::{Error, FieldViolation};
pub use function::{FunctionContext, FunctionError, FunctionRegistry};
pub use orrery_proto::{Json, Timestamp, v1};
pub use tls::{ClientIdentity, ClientTls};
pub use tonic::transport::Channel;
pub use worker::{Worker, WorkerBuilder, WorkerError};

/// Keeps the examples of the README true.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
