//! From pending executions to leases.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::apply::{Locked, applied, lock, policy_of, spec_of};
use super::commit::commit;
use super::pick::{self, Found};
use super::{PgStore, gates, lease};
use crate::admission::{Admission, Gate};
use crate::execution::{Event, Execution};
use crate::fairness::Turn;
use crate::store::{Assign, Assignment, Candidate, Claim, Claimed, Grant, Result};

/// What a claim knows so far.
#[derive(Default)]
struct Round {
    admission: Admission,
    /// Gates that are locked and counted.
    counted: BTreeSet<Gate>,
    /// Gates that somebody else has locked: what passes them is left for the next round.
    busy: BTreeSet<Gate>,
    has_locked: bool,
    offered: Vec<Locked>,
    /// Of the tenants of what is offered.
    weights: HashMap<Uuid, i32>,
    /// Whether it is worth to look again at once.
    more: bool,
    /// Executions that were picked, and whether some lanes were passed over, of a queue or tenant at its limit.
    picked: usize,
    passed_over: bool,
    /// How many were found in each lane, up to the limit of the claim; empty where only the heads of a single one were looked at.
    waiting: HashMap<i64, usize>,
}

impl PgStore {
    /// `said` is what a try before this one granted, whose outcome is unknown, and then what this one grants.
    pub(super) async fn try_claim(
        &self,
        claim: &Claim<'_>,
        assign: &Assign<'_>,
        said: &mut Option<Claimed>,
    ) -> Result<Claimed> {
        if claim.lanes.is_empty() || claim.limit == 0 {
            return Ok(Claimed::default());
        }
        let mut tx = self.begin_keyed().await?;
        if let Some(before) = said {
            let grants = standing(&mut tx, &before.grants).await?;
            if !grants.is_empty() {
                return Ok(Claimed { grants, ..before.clone() });
            }
        }
        let mut round = Round::default();
        let ahead = self.inner.turns.lock().unwrap_or_else(PoisonError::into_inner).all_ahead();
        let (looked, refused) = self.look(&mut tx, &mut round, (claim, &ahead)).await?;
        self.inner.is_backlog.store(looked >= claim.limit, Ordering::Relaxed);
        // What is at its limit stands before more than was looked at.
        if refused && looked >= claim.limit && round.offered.len() < claim.limit.div_ceil(2) {
            let places = claim.limit - round.offered.len();
            let taken: Vec<Uuid> = round.offered.iter().map(|l| l.execution.id).collect();
            let mut start = *self.inner.group_start.lock().unwrap_or_else(PoisonError::into_inner);
            let beyond = pick::beyond(&mut tx, claim, places, (&taken, &round.admission), (&mut start, &ahead)).await?;
            *self.inner.group_start.lock().unwrap_or_else(PoisonError::into_inner) = start;
            self.offer_of(&mut tx, &mut round, &beyond, claim).await?;
            round.more |= beyond.len() >= places;
            round.passed_over = true;
        } else {
            round.more |= looked >= claim.limit;
        }
        let mut claimed = Claimed { more: round.more, ..Claimed::default() };
        let offered = round.offered;
        let candidates: Vec<Candidate<'_>> = offered.iter().map(|l| Candidate { execution: &l.execution }).collect();
        let given: Vec<(Locked, Assignment)> = match candidates.is_empty() {
            true => Vec::new(),
            false => {
                let answers = assign(&candidates);
                offered.into_iter().zip(answers).filter_map(|(l, answer)| Some((l, answer?))).collect()
            }
        };
        if !given.is_empty() {
            claimed.grants = self.grant(&mut tx, given, claim).await?;
        }
        claimed.left = claimed.more || round.passed_over || claimed.grants.len() < round.picked;
        if claimed.more {
            claimed.drained = drained(&round.waiting, &claimed.grants, claim.limit);
        }
        // Before the end, for it may not come back.
        *said = Some(claimed);
        commit(tx).await?;
        let claimed = said.take().unwrap_or_default();
        let turn = |grant: &Grant| {
            let tenant = grant.execution.tenant_id;
            Turn { tenant, lane: grant.execution.lane_id, weight: round.weights.get(&tenant).copied().unwrap_or(1) }
        };
        let mut turns = self.inner.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.granted(claimed.grants.iter().map(turn));
        Ok(claimed)
    }

    /// Looks at the heads of the lanes, and offers what its limits allow. Answers with how many were looked at, and whether something was
    /// refused, or had to be left.
    ///
    /// Behind a backlog the heads of a single lane are locked as they are found. Where that gives less than was asked for, others may have locked
    /// some: then they are looked for as ever, so that what is left for the next round is known.
    async fn look(
        &self,
        tx: &mut PgConnection,
        round: &mut Round,
        (claim, ahead): (&Claim<'_>, &[(Uuid, f64)]),
    ) -> Result<(usize, bool)> {
        let (mut known, mut refused) = (HashSet::new(), false);
        if claim.lanes.len() == 1 && self.inner.is_backlog.load(Ordering::Relaxed) {
            let found = pick::lock_heads(tx, claim).await?;
            let looked = found.len();
            if looked < claim.limit {
                known = found.iter().map(|one| one.locked.execution.id).collect();
            }
            refused = self.offer(tx, round, found).await?;
            if looked >= claim.limit {
                round.picked += looked;
                return Ok((looked, refused));
            }
        }
        let heads = pick::heads(tx, claim, ahead).await?;
        let looked = heads.ids.len();
        round.picked += looked;
        round.passed_over |= heads.waiting.len() < claim.lanes.len();
        round.waiting = heads.waiting;
        let rest: Vec<Uuid> = heads.ids.into_iter().filter(|id| !known.contains(id)).collect();
        refused |= self.offer_of(tx, round, &rest, claim).await?;
        Ok((looked, refused))
    }

    /// Locks what was picked, and offers it as [`Self::offer`] does.
    async fn offer_of(
        &self,
        tx: &mut PgConnection,
        round: &mut Round,
        picked: &[Uuid],
        claim: &Claim<'_>,
    ) -> Result<bool> {
        let found = pick::lock(tx, picked, claim.tenant_limit).await?;
        round.more |= found.len() < picked.len();
        self.offer(tx, round, found).await
    }

    /// Offers what its limits allow. `true` where something was refused, or had to be left.
    async fn offer(&self, tx: &mut PgConnection, round: &mut Round, found: Vec<Found>) -> Result<bool> {
        self.count(tx, round, &found).await?;
        let mut refused = false;
        for one in found {
            let is_busy = one.gates.iter().any(|gate| round.busy.contains(gate));
            if is_busy || !round.admission.admit(&one.gates) {
                round.more |= is_busy;
                refused = true;
            } else {
                round.weights.insert(one.locked.execution.tenant_id, one.weight);
                round.offered.push(one.locked);
            }
        }
        Ok(refused)
    }

    /// Locks the gates that have a limit and are not counted yet, and counts what runs behind them. Where nothing has a limit this does
    /// nothing.
    async fn count(&self, tx: &mut PgConnection, round: &mut Round, found: &[Found]) -> Result<()> {
        let mut limits: BTreeMap<Gate, i64> = BTreeMap::new();
        limits.extend(found.iter().flat_map(|one| one.limits.iter().cloned()));
        limits.retain(|gate, _| !round.counted.contains(gate));
        if limits.is_empty() {
            return Ok(());
        }
        let is_job = |gate: &Gate| matches!(gate, Gate::Job(..));
        let shared: BTreeSet<Gate> = limits.keys().filter(|gate| !is_job(gate)).cloned().collect();
        let mut had = gates::lock_shared(tx, self.inner.scope, &shared, !round.has_locked).await?;
        round.has_locked = true;
        let job = |gate: &Gate| match gate {
            Gate::Job(_, job) => Some(*job),
            _ => None,
        };
        for (gate, limit) in gates::lock_jobs(tx, &limits.keys().filter_map(job).collect::<Vec<_>>()).await? {
            had.insert(gate.clone());
            // As it is under the lock; 0 where the limit was taken away meanwhile.
            limits.insert(gate, limit);
        }
        round.busy.extend(limits.keys().filter(|gate| !had.contains(gate)).cloned());
        let limits: Vec<(Gate, i64)> =
            limits.into_iter().filter(|(gate, limit)| had.contains(gate) && !(is_job(gate) && *limit <= 0)).collect();
        round.counted.extend(had);
        round.admission.learn(gates::counted(tx, &limits).await?);
        Ok(())
    }

    async fn grant(
        &self,
        tx: &mut PgConnection,
        given: Vec<(Locked, Assignment)>,
        claim: &Claim<'_>,
    ) -> Result<Vec<Grant>> {
        let sessions: HashSet<(Uuid, i64)> = given.iter().map(|(_, a)| (a.session_id, a.attachment)).collect();
        let (now, alive) = hold_sessions(tx, &sessions).await?;
        let specs = self.inner.specs.load(tx, given.iter().map(|(l, _)| l.version())).await?;
        let mut grants = Vec::with_capacity(given.len());
        let mut steps = Vec::with_capacity(given.len());
        for (locked, assignment) in given {
            if !alive.contains(&(assignment.session_id, assignment.attachment)) {
                continue;
            }
            // What cannot be read waits, and holds nobody up.
            let Ok(spec) = spec_of(&specs, locked.version()) else { continue };
            let policy = policy_of(&specs, locked.version());
            let timeout = spec.timeout(claim.timeouts);
            let event = Event::Granted {
                session_id: assignment.session_id,
                worker_name: assignment.worker_name,
                timeout: chrono::Duration::from_std(timeout).unwrap_or(chrono::Duration::days(365)),
                job_version: locked.version().1,
            };
            if let Ok(execution) = applied(&locked.execution, &event, &policy, now) {
                steps.push(locked);
                grants.push(Grant { execution, spec, timeout, attachment: assignment.attachment });
            }
        }
        let granted = steps.iter().zip(&grants).map(|(before, grant)| (before, &grant.execution)).collect::<Vec<_>>();
        lease::write(tx, &granted).await?;
        Ok(grants)
    }
}

/// The lanes in which nothing waits but what was granted.
fn drained(waiting: &HashMap<i64, usize>, grants: &[Grant], limit: usize) -> Vec<i64> {
    let mut granted: HashMap<i64, usize> = HashMap::new();
    for grant in grants {
        *granted.entry(grant.execution.lane_id).or_default() += 1;
    }
    let is_drained =
        |(lane, found): &(&i64, &usize)| **found < limit && granted.get(lane).copied().unwrap_or(0) == **found;
    waiting.iter().filter(is_drained).map(|(lane, _)| *lane).collect()
}

/// Which of these leases are held: a try before this one had been committed. Its locks are waited for, so that it is over one way or the other.
pub(super) async fn standing(tx: &mut PgConnection, grants: &[Grant]) -> Result<Vec<Grant>> {
    let locked = lock(tx, &grants.iter().map(|grant| grant.execution.id).collect::<Vec<_>>()).await?;
    let held: HashMap<Uuid, Execution> = locked.into_iter().map(|l| (l.execution.id, *l.execution)).collect();
    let stands = |grant: &&Grant| {
        held.get(&grant.execution.id).is_some_and(|stored| {
            let granted = |e: &Execution| (e.epoch, e.lease().map(|lease| (lease.session_id, lease.granted_at)));
            granted(stored) == granted(&grant.execution)
        })
    };
    Ok(grants.iter().filter(stands).cloned().collect())
}

/// The clock, and which of these sessions live on these attachments. They cannot end or move before this transaction does, so no lease is
/// granted to a session that is gone or to a stream that is lost; heartbeats go on.
pub(super) async fn hold_sessions(
    tx: &mut PgConnection,
    sessions: &HashSet<(Uuid, i64)>,
) -> Result<(DateTime<Utc>, HashSet<(Uuid, i64)>)> {
    let (ids, attachments): (Vec<Uuid>, Vec<i64>) = sessions.iter().copied().unzip();
    let held: Vec<(Uuid, i64)> = sqlx::query_as(
        "select s.id, s.attachment from agent_sessions s
         join unnest($1::uuid[], $2::bigint[]) as u(id, attachment) on u.id = s.id and u.attachment = s.attachment
         where s.expires_at > statement_timestamp() order by s.id for key share of s",
    )
    .bind(ids)
    .bind(attachments)
    .fetch_all(&mut *tx)
    .await?;
    Ok((super::clock(tx).await?, held.into_iter().collect()))
}
