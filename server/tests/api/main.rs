//! The API over real HTTP and real gRPC, on a SQLite store. No coordinator's loops run: the tests themselves let time and agents act.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test that cannot go on fails.

mod audit;
mod bad_input;
mod clients;
mod closed;
mod contract;
mod dead_letters;
mod edge;
mod executions;
mod grpc;
mod guards;
mod identity;
mod internal;
mod jobs;
mod keys;
mod limits;
mod matrix;
mod pages;
mod roles;
mod scheduler;
mod secrets;
mod security;
mod sign_in;
mod streams;
mod tenants;
mod together;
mod world;
