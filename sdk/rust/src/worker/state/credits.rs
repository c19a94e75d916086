//! Who may run here: the slots that are free, and what is held in the others.

use orrery_proto::v1::{Credit, HeldLease, agent_message::Kind};

use super::{Action, Mode, State};
use crate::worker::lease::LeaseKey;

/// Results that may wait for their acknowledgement, however few slots there are.
const UNHEARD: usize = 8 * 1024;

impl State {
    /// What is to be done once a turn, after everything that happened in it.
    pub(in crate::worker) fn settle(&mut self) {
        self.part();
        self.top_up();
    }

    /// Every lease under the session of now that has come and is not given up: what runs or is being stopped, what waits to run, at once or
    /// at its instant, what has ended untold, and what the shutdown could not stop. Never what was revoked.
    pub(super) fn held(&self) -> Vec<HeldLease> {
        let running = self.tasks.iter().filter(|(_, task)| !task.revoked).map(|(key, _)| key.held());
        let waiting = self.waiting.iter().map(|lease| LeaseKey::from(lease).held());
        let ended = self.results.held();
        let unfinished = self.unfinished.iter().map(LeaseKey::held);
        let armed = self.armed.keys().map(LeaseKey::held);
        running.chain(waiting).chain(armed).chain(ended).chain(unfinished).collect()
    }

    /// Slots that are taken. What waits for its instant has its own from its arrival on, so that it is there when it is to begin.
    pub(super) fn used(&self) -> usize {
        self.tasks.len() + self.waiting.len() + self.armed.len()
    }

    /// Grants as many credits as there are free slots beyond those already granted on this stream. A slot is free once its executor has
    /// ended, whoever asked for that. Where a coordinator does not acknowledge results, nothing new is taken until it does, so that they
    /// cannot pile up; a quick worker has thousands on their way all the time.
    fn top_up(&mut self) {
        let piled = self.results.is_full((self.terms.slots as usize).saturating_mul(4).max(UNHEARD));
        if self.mode != Mode::Serving || piled || self.session.as_ref().is_none_or(|session| session.inherited) {
            return;
        }
        let used = u32::try_from(self.used()).unwrap_or(u32::MAX);
        let free = self.terms.slots.saturating_sub(used);
        let Some(attachment) = &mut self.attachment else { return };
        if attachment.leave_at.is_none() && free > attachment.credits {
            let slots = free - attachment.credits;
            attachment.credits = free;
            self.send(Kind::Credit(Credit { slots }));
        }
    }

    /// Leaves the session of an earlier process once all that this one had to tell under it is told. It takes no work under it, since it
    /// may have been drained, of which nobody would tell this process.
    fn part(&mut self) {
        let inherited = self.session.as_ref().is_some_and(|session| session.inherited);
        let leaving = matches!(self.mode, Mode::Leaving { .. });
        if inherited && !leaving && self.attachment.is_some() && self.results.is_empty() {
            self.session = None;
            self.actions.push(Action::Part);
        }
    }
}
