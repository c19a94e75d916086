//! One planning decision: which fires become executions, which are left out.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::Schedule;
use super::misfire::{Misfire, MisfirePolicy, Omission, OmissionReason};

/// The most fires of a cron job that one call counts as left out, or walks back over.
const STEP_LIMIT: u64 = 100_000;

/// What a planning decision depends on.
#[derive(Debug, Clone, Copy)]
pub struct PlanInput<'a> {
    /// How the job fires.
    pub schedule: &'a Schedule,
    /// Everything before this instant has been planned.
    pub cursor: DateTime<Utc>,
    /// The time now.
    pub now: DateTime<Utc>,
    /// Fires up to here are planned, inclusive.
    pub horizon: DateTime<Utc>,
    /// The job's end, inclusive.
    pub not_after: Option<DateTime<Utc>>,
    /// Executions the job may still have. Fires left out do not use them up.
    pub remaining: Option<u32>,
    /// The most fires of one call; 0 counts as 1.
    pub max_batch: usize,
    /// What to do with missed fires.
    pub misfire: &'a Misfire,
}

/// A planning decision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The fires that become executions, in order.
    pub fires: Vec<DateTime<Utc>>,
    /// The fires left out, in order.
    pub omissions: Vec<Omission>,
    /// The next fire not yet planned; `None` when the job never fires again.
    pub cursor: Option<DateTime<Utc>>,
    /// Whether a limit ended this call before the horizon, so that another call should follow at once.
    pub more: bool,
}

/// Decides on the fires from the cursor to the horizon.
///
/// The work is bounded: a call ends after `max_batch` fires or after counting 100,000 omissions, with the cursor where it
/// got to and `more` set. Over successive calls every fire of the schedule is in `fires` or in exactly one omission, until
/// the job's end or its last execution.
#[must_use]
pub fn plan(input: PlanInput<'_>) -> Plan {
    if input.remaining == Some(0) {
        return Plan::default();
    }
    let mut planner = Planner::new(input);
    planner.settle_missed();
    planner.fire();
    planner.finish()
}

struct Planner<'a> {
    input: PlanInput<'a>,
    plan: Plan,
    /// The first fire not yet decided.
    next: Option<DateTime<Utc>>,
    /// The last instant of this call, inclusive.
    end: DateTime<Utc>,
    /// Omissions that may still be counted.
    budget: u64,
}

impl<'a> Planner<'a> {
    fn new(input: PlanInput<'a>) -> Self {
        Self {
            plan: Plan::default(),
            next: input.schedule.next_from(input.cursor),
            end: input.not_after.map_or(input.horizon, |last| last.min(input.horizon)),
            budget: STEP_LIMIT,
            input,
        }
    }

    /// Leaves out what the policy gives up of the missed fires; those it keeps are then next.
    fn settle_missed(&mut self) {
        let misfire = self.input.misfire;
        let missed_before = ago(self.input.now, misfire.grace).min(just_after(self.end));
        match misfire.policy {
            MisfirePolicy::Skip => self.omit_before(missed_before, OmissionReason::Misfire),
            MisfirePolicy::FireOnce => {
                if let Some(latest) = self.input.schedule.previous_before(missed_before) {
                    self.omit_before(latest, OmissionReason::Coalesced);
                }
            }
            MisfirePolicy::FireAll => {
                if let Some(lateness) = misfire.max_lateness {
                    let too_late = ago(self.input.now, lateness).min(missed_before);
                    self.omit_before(too_late, OmissionReason::MaxLateness);
                }
                let kept = self.newest_missed(missed_before, misfire.max_count);
                self.omit_before(kept, OmissionReason::MaxCount);
            }
        }
    }

    /// The instant from which the newest `count` undecided fires before `missed_before` lie.
    fn newest_missed(&self, missed_before: DateTime<Utc>, count: u32) -> DateTime<Utc> {
        let mut from = missed_before;
        for _ in 0..u64::from(count).min(STEP_LIMIT) {
            if self.next.is_none_or(|next| next >= from) {
                break;
            }
            match self.input.schedule.previous_before(from) {
                Some(earlier) => from = earlier,
                None => break,
            }
        }
        from
    }

    /// Leaves out the undecided fires before `limit`, as far as the budget goes.
    fn omit_before(&mut self, limit: DateTime<Utc>, reason: OmissionReason) {
        let Some(from) = self.next.filter(|next| *next < limit && self.budget > 0) else {
            return;
        };
        let Some(last) = self.input.schedule.previous_before(limit) else {
            return;
        };
        let counted = self.input.schedule.count(from, last, self.budget);
        self.plan.omissions.push(Omission { from, to: counted.to, count: counted.count, reason });
        self.next = self.input.schedule.next_after(counted.to);
        if counted.to < last {
            self.budget = 0;
        } else {
            self.budget = self.budget.saturating_sub(counted.count).max(1);
        }
    }

    /// Fires what is next up to the end, unless the budget ended on the way here.
    fn fire(&mut self) {
        if self.budget == 0 {
            return;
        }
        let most = self.input.max_batch.max(1);
        let left = self.input.remaining.map_or(usize::MAX, |left| left as usize);
        while let Some(at) = self.next.filter(|at| *at <= self.end) {
            if self.plan.fires.len() >= most.min(left) {
                break;
            }
            self.plan.fires.push(at);
            self.next = self.input.schedule.next_after(at);
        }
    }

    fn finish(mut self) -> Plan {
        let ended = |at: &DateTime<Utc>| self.input.not_after.is_some_and(|last| *at > last);
        let fired = self.plan.fires.len();
        let used_up = self.input.remaining.is_some_and(|left| fired >= left as usize);
        self.plan.cursor = self.next.filter(|at| !used_up && !ended(at));
        self.plan.more = self.plan.cursor.is_some_and(|at| at <= self.end);
        self.plan
    }
}

/// `now - age`, or the beginning of time.
fn ago(now: DateTime<Utc>, age: Duration) -> DateTime<Utc> {
    TimeDelta::from_std(age).ok().and_then(|age| now.checked_sub_signed(age)).unwrap_or(DateTime::<Utc>::MIN_UTC)
}

/// The least instant after `at`.
fn just_after(at: DateTime<Utc>) -> DateTime<Utc> {
    at.checked_add_signed(TimeDelta::nanoseconds(1)).unwrap_or(at)
}
