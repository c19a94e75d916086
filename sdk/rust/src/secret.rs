//! Secrets of jobs: how a config refers to them, and how their values are kept out of all that leaves an agent.
//!
//! A job's config says `${secret:NAME}`; the coordinator sends the values with the lease; the agent puts them in just before the attempt
//! begins ([`substitute`]), and takes them out of everything that the attempt says ([`Redactor`]).

mod automaton;
mod config;
mod forms;
mod json;
mod redactor;
mod reference;
mod view;

pub use self::config::{Found, fields, find, substitute};
pub use self::redactor::{MASK, Redactor, Stream};
pub use self::reference::{MAX_NAME, MIN_VALUE, OPENING, Piece, Reference, name_problem, pieces};
