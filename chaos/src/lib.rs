//! Faults against a whole Orrery of real processes, and what must hold all the same. Nothing here shares code with the server.

pub mod caller;
pub mod checks;
pub mod error;
pub mod evidence;
pub mod faults;
pub mod journal;
pub mod ledger;
pub mod mutants;
pub mod oracle;
mod pgwire;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod scenario;
pub mod table;
pub mod token;
pub mod trap;
mod wait;
pub mod watch;
pub mod workload;
pub mod world;
