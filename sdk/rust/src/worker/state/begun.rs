//! How the beginning of an attempt is told: apart where it goes on, with its end where that comes at once.

use std::time::Duration;

use orrery_proto::v1::Finished;
use tokio::time::Instant;

use super::{Action, State, started_message};
use crate::worker::lease::LeaseKey;

/// How long the first poll of a task may take before its beginning is told all the same.
pub(super) const YOUNG: Duration = Duration::from_millis(50);

impl State {
    /// A task has been polled and goes on.
    pub(in crate::worker) fn goes_on(&mut self, key: &LeaseKey) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        if self.attachment.is_some() && !task.revoked && !task.worked && !task.said {
            task.said = true;
            self.send(started_message(key));
        }
    }

    /// The work of a task has ended, and its result is to be made safe. Where its beginning has not been told yet, the result is to tell that
    /// too.
    pub(in crate::worker) fn worked(&mut self, key: &LeaseKey, finished: &mut Finished) {
        if let Some(task) = self.tasks.get_mut(key) {
            task.worked = true;
            finished.started = !task.said;
        }
    }

    /// Tells of tasks that are still being polled for the first time.
    pub(super) fn tick_young(&mut self, now: Instant) {
        while let Some((key, _)) = self.young.pop_front_if(|(_, begun)| now >= *begun + YOUNG) {
            if self.tasks.get(&key).is_some_and(|task| !task.said && !task.worked) {
                self.goes_on(&key);
                self.actions.push(Action::Overdue(key));
            }
        }
    }
}
