//! The whole system: real processes and real faults over real sockets, with a local target that keeps its own account of what arrived.
//!
//! PostgreSQL is found in ORRERY_TEST_DATABASE_URL, as `scripts/with-servers.sh COMMAND` exports it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod commit_cutter;
mod dynamic;
#[macro_use]
mod engine;
mod journal;
mod private_postgres;
mod private_redis;
mod process;
mod proxy;
mod rest;
mod secured;
mod target;
mod token;
mod wait;
mod world;

mod armed;
mod backlog;
mod bench;
mod clocks;
mod coordinators;
mod credentials;
mod cut_stream;
mod database_down;
mod dev_program;
mod digits;
mod egress;
mod failover;
mod firing;
mod fleet;
mod functions;
mod identities;
mod killed_postgres;
mod lifecycle;
mod logs;
mod lost_agent;
mod lost_answers;
mod many;
mod metrics;
mod overlap;
mod poison;
mod redis_faults;
mod reflection;
mod repeating;
mod restart;
mod retry;
mod roles;
mod rolling;
mod routing;
mod secrets;
mod settings;
mod signed_in;
mod stalled;
mod stopping;
mod strangers;
mod tenants;
mod tls;
mod traces;
