//! What attempts tell the loop: one queue, and few wake-ups.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use orrery_proto::v1::Finished;
use tokio::sync::Notify;

use super::finished::Ending;
use super::lease::LeaseKey;

/// So many reports are worth a wake-up, whatever else is under way.
const MANY: usize = 64;

#[derive(Debug)]
pub(super) enum Report {
    /// Polled once, it has not ended: it goes on.
    Waits(LeaseKey),
    /// The executor has ended.
    Ended(LeaseKey, Ending),
    /// Everything about this attempt is done, and its result is as safe as it can be made; absent where there is nothing to tell.
    Closed(LeaseKey, Option<Finished>),
    /// The same of many that wrote nothing.
    Recorded(Vec<Finished>),
}

/// The queue. Attempts that begin together are first polled within moments: the loop is woken when the last of them has been, and not by each,
/// so that what ended at once is told together.
#[derive(Debug, Default)]
pub(super) struct Reports {
    inner: Mutex<Inner>,
    told: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    queue: Vec<Report>,
    /// Attempts that have not been polled once.
    expected: usize,
    /// Those that are not waited for any more.
    overdue: HashSet<LeaseKey>,
}

impl Reports {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many attempts are about to be polled for the first time.
    pub(super) fn expect(&self, attempts: usize) {
        self.inner().expected += attempts;
    }

    /// This one takes its time over its first poll: the others are not to wait for it.
    pub(super) fn overdue(&self, key: LeaseKey) {
        let mut inner = self.inner();
        inner.expected = inner.expected.saturating_sub(1);
        inner.overdue.insert(key);
        self.wake(inner);
    }

    /// Adds a report; `first` where it comes of the first poll of an attempt.
    pub(super) fn push(&self, report: Report, first: bool) {
        let mut inner = self.inner();
        if first {
            let late = match &report {
                Report::Waits(key) | Report::Ended(key, _) => !inner.overdue.is_empty() && inner.overdue.remove(key),
                Report::Closed(..) | Report::Recorded(_) => false,
            };
            inner.expected = inner.expected.saturating_sub(usize::from(!late));
        }
        inner.queue.push(report);
        self.wake(inner);
    }

    fn wake(&self, inner: MutexGuard<'_, Inner>) {
        let wanted = !inner.queue.is_empty() && (inner.expected == 0 || inner.queue.len() >= MANY);
        drop(inner);
        if wanted {
            self.told.notify_one();
        }
    }

    /// Completes once there is enough to take, or has been. Cancel safe.
    pub(super) async fn some(&self) {
        self.told.notified().await;
    }

    /// Takes all reports into `taken`, which is empty.
    pub(super) fn take(&self, taken: &mut Vec<Report>) {
        std::mem::swap(&mut self.inner().queue, taken);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn key(epoch: i64) -> LeaseKey {
        LeaseKey::new("e", epoch)
    }

    fn woken(reports: &Reports) -> bool {
        reports.some().now_or_never().is_some()
    }

    #[test]
    fn the_loop_is_woken_by_the_last_of_those_that_began_together() {
        let reports = Reports::default();
        reports.expect(3);
        reports.push(Report::Waits(key(1)), true);
        reports.push(Report::Ended(key(1), Ending::Aborted), false);
        reports.push(Report::Waits(key(2)), true);
        assert!(!woken(&reports));
        reports.push(Report::Waits(key(3)), true);
        assert!(woken(&reports));
        let mut taken = Vec::new();
        reports.take(&mut taken);
        assert_eq!(taken.len(), 4);
        reports.push(Report::Ended(key(2), Ending::Aborted), false);
        assert!(woken(&reports), "nobody is waited for");
    }

    #[test]
    fn one_that_is_stuck_keeps_nobody_waiting() {
        let reports = Reports::default();
        reports.expect(2);
        reports.push(Report::Waits(key(1)), true);
        assert!(!woken(&reports));
        reports.overdue(key(2));
        assert!(woken(&reports));
        // Its own first poll ends at last, while another is expected.
        reports.take(&mut Vec::new());
        reports.expect(1);
        reports.push(Report::Waits(key(2)), true);
        assert!(!woken(&reports));
        reports.push(Report::Waits(key(3)), true);
        assert!(woken(&reports));
    }

    #[test]
    fn many_reports_wake_it_all_the_same() {
        let reports = Reports::default();
        reports.expect(MANY + 1);
        for epoch in 1..=64 {
            assert!(!woken(&reports));
            reports.push(Report::Waits(key(epoch)), true);
        }
        assert!(woken(&reports));
    }
}
