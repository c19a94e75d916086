use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use orrery_proto::v1::coordinator_message::Kind;
use orrery_proto::v1::{Lease, LeaseBatch};
use orrery_proto::{Json, Timestamp};
use prost::Message;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::matching::{self, Offer};
use super::{Dispatch, Intake, Word};
use crate::config::Limits;
use crate::execution::{Event, Execution};
use crate::reconcile::{Backoff, Pace, Signals, rest};
use crate::store::{Candidate, Claim, DynStore, Grant, StoreError, Wake};
use crate::telemetry::{current_traceparent, set_parent};

/// The most that one claim takes, so that its transaction stays short.
const A_ROUND: usize = 500;

/// How many of the newest lanes are asked for again each time.
const LANES_AGAIN: usize = 64;

/// What the leases of one frame weigh, in bytes, unless a single one is heavier.
const FRAME_BYTES: usize = 1 << 20;

/// How long to wait for rows that somebody else has locked, and how often.
const LOCKED_PAUSE: Duration = Duration::from_millis(3);
const LOCKED_TRIES: u32 = 5;

/// Grants pending executions to this coordinator's agents.
pub struct Dispatcher {
    pub store: DynStore,
    pub dispatch: Arc<Dispatch>,
    pub intake: Intake,
    pub signals: Arc<Signals>,
    pub limits: Arc<Limits>,
}

impl Dispatcher {
    /// Grants until the end.
    pub async fn run(self, shutdown: CancellationToken) {
        // Where round robin goes on.
        let mut turn = 0;
        let (mut backoff, mut pace) = (Backoff::default(), Pace::default());
        loop {
            let next = match self.rounds(&mut turn).await {
                Ok(found) => {
                    backoff.reset();
                    Instant::now() + pace.after(found)
                }
                Err(error) => {
                    tracing::warn!(%error, source = ?std::error::Error::source(&error), "claiming failed; trying again");
                    Instant::now() + backoff.next()
                }
            };
            if !rest(&self.signals.work, next, &shutdown).await {
                return;
            }
        }
    }

    /// Claims until there is nothing more to claim, or nobody to take it. Answers with whether anything waited.
    async fn rounds(&self, turn: &mut usize) -> Result<bool, StoreError> {
        let mut locked = 0;
        let mut found = false;
        loop {
            let offers = self.dispatch.offers();
            let room = self.limits.max_concurrent_jobs.saturating_sub(self.dispatch.running());
            let free = offers.iter().map(|offer| offer.credits).sum::<usize>().min(room).min(A_ROUND);
            if free == 0 {
                return Ok(found);
            }
            let lanes = self.lanes(&offers).await?;
            if lanes.is_empty() {
                return Ok(found);
            }
            let claimed = self.claim(turn, within(offers, free), &lanes, free).await?;
            let granted = claimed.grants.len();
            if granted > 0 {
                self.dispatch.claimed(granted);
            }
            found |= granted > 0 || claimed.more;
            self.hand_over(claimed.grants).await;
            if !claimed.more {
                return Ok(found);
            } else if granted == 0 {
                // Others are at these rows, a planner or another coordinator, and will be done in a moment.
                locked += 1;
                if locked > LOCKED_TRIES {
                    return Ok(found);
                }
                tokio::time::sleep(LOCKED_PAUSE).await;
            }
        }
    }

    async fn claim(
        &self,
        turn: &mut usize,
        offers: Vec<Offer>,
        lanes: &[i64],
        limit: usize,
    ) -> Result<crate::store::Claimed, StoreError> {
        let tenant_limit = self.limits.tenant_max_concurrent;
        let claim = Claim { lanes, limit, tenant_limit, timeouts: self.limits.timeouts() };
        // The closure may run again where the transaction is retried, so it begins from the same offers each time.
        let next = Mutex::new(*turn);
        let assign = |candidates: &[Candidate]| {
            let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
            let lanes = self.dispatch.lanes();
            matching::assign(candidates, &mut offers.clone(), &lanes, self.limits.strategy, &mut next)
        };
        let claimed = self.store.claim(&claim, &assign).await?;
        *turn = next.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(claimed)
    }

    /// The lanes whose executions somebody here can run.
    async fn lanes(&self, offers: &[Offer]) -> Result<Vec<i64>, StoreError> {
        // Ids are handed out before they are committed: a lane may appear below one that is known already, but not for long.
        let newest = self.dispatch.lanes().keys().rev().nth(LANES_AGAIN).copied().unwrap_or(0);
        let new = self.store.lanes_after(newest).await?;
        let mut known = self.dispatch.lanes();
        known.extend(new.into_iter().map(|lane| (lane.id, lane)));
        Ok(known
            .values()
            .filter(|lane| offers.iter().any(|offer| matching::fits(offer, lane)))
            .map(|lane| lane.id)
            .collect())
    }

    /// Sends leases to their agents; what cannot be sent is given back.
    async fn hand_over(&self, grants: Vec<Grant>) {
        let mut batches: BTreeMap<(Uuid, i64), Vec<Grant>> = BTreeMap::new();
        for grant in grants {
            if let Some(lease) = grant.execution.lease() {
                batches.entry((lease.session_id, grant.attachment)).or_default().push(grant);
            }
        }
        for ((session, attachment), batch) in batches {
            let executions: Vec<(Uuid, i64)> = batch.iter().map(|g| (g.execution.id, g.execution.epoch)).collect();
            let frames = frames(batch.iter().map(lease));
            // The session may have moved to another stream meanwhile, which does not know of these leases.
            let sent = self.dispatch.on(session, attachment, |attached| {
                attached.credits = attached.credits.saturating_sub(executions.len());
                attached.held.extend(executions.iter().copied());
                frames.into_iter().all(|leases| attached.send(Kind::Leases(LeaseBatch { leases, works: Vec::new() })))
            });
            if sent != Some(true) {
                for (execution, epoch) in &executions {
                    let event = Event::Released { session_id: session, epoch: *epoch };
                    self.intake.say(Word { session, execution: *execution, event }).await;
                }
            }
            for (execution, _) in executions {
                let _ = self.store.wake(Wake::Execution(execution)).await;
            }
        }
    }
}

/// The offers, cut down to `free` places in all.
fn within(mut offers: Vec<Offer>, mut free: usize) -> Vec<Offer> {
    for offer in &mut offers {
        offer.credits = offer.credits.min(free);
        free -= offer.credits;
    }
    offers
}

/// Leases in frames of about a mebibyte: an agent reads no frame that is much larger.
fn frames(leases: impl Iterator<Item = Lease>) -> Vec<Vec<Lease>> {
    let mut frames: Vec<Vec<Lease>> = Vec::new();
    let mut size = usize::MAX;
    for lease in leases {
        let weight = lease.encoded_len();
        if size.saturating_add(weight) > FRAME_BYTES {
            frames.push(Vec::new());
            size = 0;
        }
        size += weight;
        if let Some(frame) = frames.last_mut() {
            frame.push(lease);
        }
    }
    frames
}

fn lease(grant: &Grant) -> Lease {
    let execution = &grant.execution;
    Lease {
        execution_id: execution.id.to_string(),
        epoch: execution.epoch,
        job_id: execution.job_id.to_string(),
        job_name: execution.job_name.clone(),
        tenant_id: execution.tenant_id.to_string(),
        executor: grant.spec.job_type.as_json_str().to_owned(),
        config: Some(Json::new(grant.spec.config.clone())),
        parameters: execution.parameters.clone().map(Json::new),
        attempt: execution.attempt,
        scheduled_at: Some(Timestamp::from(execution.scheduled_at)),
        timeout_ms: i64::try_from(grant.timeout.max(Duration::from_millis(1)).as_millis()).unwrap_or(i64::MAX),
        traceparent: traced(execution).unwrap_or_default(),
        ..Lease::default()
    }
}

/// The trace that the target is told of: that of the call that asked for the execution, or a new one for a fire, through this grant.
fn traced(execution: &Execution) -> Option<String> {
    let span =
        tracing::info_span!("lease", execution = %execution.id, job = %execution.job_name, epoch = execution.epoch);
    if let Some(parent) = &execution.traceparent {
        set_parent(&span, parent);
    }
    span.in_scope(current_traceparent).or_else(|| execution.traceparent.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_sent_in_frames_that_agents_can_read() {
        let lease = |bytes: usize| Lease { config: Some(Json::new("x".repeat(bytes))), ..Lease::default() };
        let sizes = |leases: Vec<Lease>| frames(leases.into_iter()).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(vec![]), [0_usize; 0]);
        assert_eq!(sizes(vec![lease(10), lease(10)]), [2]);
        assert_eq!(sizes(vec![lease(600 << 10), lease(600 << 10), lease(1)]), [1, 2]);
        assert_eq!(sizes(vec![lease(3 << 20), lease(3 << 20)]), [1, 1], "a heavy one goes alone");
    }
}
