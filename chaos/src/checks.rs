//! What must hold, whatever died. Pure: each check takes the evidence and answers with what is wrong.

mod fires;
pub(crate) mod history;
mod leases;
mod processes;
mod runs;
#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::error::Result;
use crate::evidence::Evidence;

/// What may not be otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Invariant {
    /// The fires are the oracle's: each once, or omitted for a reason that covers it.
    I1,
    /// One terminal state, never changed.
    I2,
    /// No write under an old epoch, or for a session that is over, is accepted.
    I3,
    /// Every lease ends by its deadline and two lives of a session.
    I4,
    /// A job's limit of executions at once holds, in the database and on the hosts.
    I5,
    /// Attempts stay within their budget.
    I6,
    /// Each lease starts its work once at most, and what is called completed has been done.
    I7,
    /// No process outlives its lease.
    I8,
    /// Memory and queues are bounded, and everything that waits is done in the end.
    I9,
    /// What a scenario measures keeps its goal.
    Goal,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    pub invariant: Invariant,
    pub text: String,
}

/// What the checks found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// How many facts were looked at.
    pub checks: u64,
    pub violations: Vec<Violation>,
}

impl Findings {
    /// Looks at one fact.
    fn check(&mut self, invariant: Invariant, holds: bool, text: impl FnOnce() -> String) {
        self.checks += 1;
        if !holds {
            self.violations.push(Violation { invariant, text: text() });
        }
    }
}

/// What a scenario promises beyond what always holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Promises {
    /// No agent is hurt: no attempt may be lost, and none made twice.
    pub lossless: bool,
}

/// Checks everything.
///
/// # Errors
/// Where the oracle cannot read a job's plan.
pub fn all(evidence: &Evidence, promises: Promises) -> Result<Findings> {
    let mut findings = Findings::default();
    fires::check(evidence, &mut findings)?;
    fires::check_asked(evidence, &mut findings);
    history::check(evidence, &mut findings);
    leases::check(evidence, &mut findings);
    runs::check(evidence, promises, &mut findings);
    processes::check(evidence, &mut findings);
    Ok(findings)
}
