//! What attempts tell the loop: one queue, and few wake-ups.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use orrery_proto::v1::Finished;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::finished::Ending;
use super::lease::LeaseKey;

/// So many reports are worth a wake-up, whatever else is under way.
const MANY: usize = 64;

#[derive(Debug)]
pub(super) enum Report {
    /// Polled once, it has not ended: it goes on, on a task of its own.
    Waits(LeaseKey, AbortHandle),
    /// The executor has ended.
    Ended(LeaseKey, Ending),
    /// Everything about this attempt is done, and its result is as safe as it can be made; absent where there is nothing to tell.
    Closed(LeaseKey, Option<Finished>),
    /// The same of many that wrote nothing.
    Recorded(Vec<Finished>),
}

impl Report {
    fn abandon(self) {
        if let Self::Waits(_, task) = self {
            task.abort();
        }
    }
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
    closed: bool,
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
                Report::Waits(key, _) | Report::Ended(key, _) => !inner.overdue.is_empty() && inner.overdue.remove(key),
                Report::Closed(..) | Report::Recorded(_) => false,
            };
            inner.expected = inner.expected.saturating_sub(usize::from(!late));
        }
        if inner.closed {
            drop(inner);
            return report.abandon();
        }
        inner.queue.push(report);
        self.wake(inner);
    }

    /// Nobody takes reports any more: what goes on is aborted.
    pub(super) fn close(&self) {
        let mut inner = self.inner();
        inner.closed = true;
        let queue = std::mem::take(&mut inner.queue);
        drop(inner);
        queue.into_iter().for_each(Report::abandon);
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

    fn waits(epoch: i64) -> Report {
        Report::Waits(key(epoch), tokio::spawn(std::future::pending::<()>()).abort_handle())
    }

    fn ended(epoch: i64) -> Report {
        Report::Ended(key(epoch), Ending::Aborted)
    }

    fn woken(reports: &Reports) -> bool {
        reports.some().now_or_never().is_some()
    }

    #[tokio::test]
    async fn the_loop_is_woken_by_the_last_of_those_that_began_together() {
        let reports = Reports::default();
        reports.expect(3);
        reports.push(waits(1), true);
        reports.push(ended(1), false);
        reports.push(ended(2), true);
        assert!(!woken(&reports));
        reports.push(waits(3), true);
        assert!(woken(&reports));
        let mut taken = Vec::new();
        reports.take(&mut taken);
        assert_eq!(taken.len(), 4);
        reports.push(ended(3), false);
        assert!(woken(&reports), "nobody is waited for");
    }

    #[tokio::test]
    async fn one_that_is_stuck_keeps_nobody_waiting() {
        let reports = Reports::default();
        reports.expect(2);
        reports.push(waits(1), true);
        assert!(!woken(&reports));
        reports.overdue(key(2));
        assert!(woken(&reports));
        // Its own first poll ends at last, while another is expected.
        reports.take(&mut Vec::new());
        reports.expect(1);
        reports.push(waits(2), true);
        assert!(!woken(&reports));
        reports.push(waits(3), true);
        assert!(woken(&reports));
    }

    #[tokio::test]
    async fn many_reports_wake_it_all_the_same() {
        let reports = Reports::default();
        reports.expect(MANY + 1);
        for epoch in 1..=64 {
            assert!(!woken(&reports));
            reports.push(ended(epoch), true);
        }
        assert!(woken(&reports));
    }

    #[tokio::test]
    async fn what_goes_on_when_nobody_listens_any_more_is_aborted() {
        let reports = Reports::default();
        let tasks = [1, 2].map(|epoch| (epoch, tokio::spawn(std::future::pending::<()>())));
        let [(one, first), (two, second)] = tasks;
        reports.push(Report::Waits(key(one), first.abort_handle()), true);
        reports.close();
        reports.push(Report::Waits(key(two), second.abort_handle()), true);
        for task in [first, second] {
            assert!(task.await.is_err_and(|error| error.is_cancelled()));
        }
    }
}
