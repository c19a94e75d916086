//! Taking no further work, and the way out.

use orrery_proto::v1::{Drain, Release, agent_message::Kind};
use tokio::time::Instant;

use super::{Action, State};
use crate::worker::finished::Cause;
use crate::worker::lease::LeaseKey;

/// Whether the worker takes work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::worker) enum Mode {
    Serving,
    /// Takes nothing new, but stays: somebody drained it from outside.
    Draining,
    /// Takes nothing new and ends.
    Leaving {
        /// When to stop what still runs; `None` once that is done.
        stop_at: Option<Instant>,
        /// Until when to wait for acknowledgements; set when the last task has ended.
        flush_by: Option<Instant>,
    },
}

impl Mode {
    pub(super) fn deadline(self) -> Option<Instant> {
        match self {
            Self::Leaving { stop_at, flush_by } => flush_by.or(stop_at),
            Self::Serving | Self::Draining => None,
        }
    }
}

impl State {
    /// Takes no further work, as a coordinator asked.
    pub(super) fn drain(&mut self) {
        if self.mode == Mode::Serving {
            self.mode = Mode::Draining;
            self.say_drain();
        }
    }

    /// The worker is to end: what runs may go on for a while, then it is stopped.
    pub(in crate::worker) fn shut_down(&mut self, now: Instant) {
        if matches!(self.mode, Mode::Leaving { .. }) {
            return;
        }
        let said = self.mode == Mode::Draining;
        self.mode = Mode::Leaving { stop_at: Some(now + self.terms.drain_timeout), flush_by: None };
        if !said {
            self.say_drain();
        }
    }

    /// Whether everything is done that a shutdown waits for.
    pub(in crate::worker) fn has_left(&self, now: Instant) -> bool {
        let Mode::Leaving { flush_by, .. } = self.mode else { return false };
        // What is in the outbox still goes before the farewell. Without a stream there is none, and so nothing that gives back.
        let flushed = self.results.is_empty() && (self.is_attached() || self.unfinished.is_empty());
        self.tasks.is_empty() && (flushed || flush_by.is_some_and(|by| now >= by))
    }

    /// Whether there are results that the session's end would make worthless.
    pub(in crate::worker) fn has_untold(&self) -> bool {
        self.results.are_of_session()
    }

    /// Says so on the stream, if there is one, and gives back what has not begun.
    pub(super) fn say_drain(&mut self) {
        if self.attachment.is_none() {
            return;
        }
        self.send(Kind::Drain(Drain {}));
        let mut leases: Vec<_> = self.waiting.drain(..).map(|lease| LeaseKey::from(&lease).held()).collect();
        leases.extend(self.disarm_all());
        if !leases.is_empty() {
            self.send(Kind::Release(Release { leases }));
        }
    }

    pub(super) fn tick_drain(&mut self, now: Instant) {
        let Mode::Leaving { stop_at, flush_by } = &mut self.mode else { return };
        if self.tasks.is_empty() {
            flush_by.get_or_insert(now + self.terms.flush_timeout);
        } else if stop_at.is_some_and(|at| now >= at) {
            *stop_at = None;
            let stops = self.tasks.iter().filter(|(_, task)| !task.revoked);
            self.actions.extend(stops.map(|(key, _)| Action::Stop(key.clone(), Cause::ShutDown)));
        }
    }
}
