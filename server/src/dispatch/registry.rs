use std::collections::HashMap;

use orrery_proto::v1::JobType;
use uuid::Uuid;

use super::Attached;
use super::pool::Pool;
use crate::config::Strategy;
use crate::store::Assignment;

/// The sessions attached to this coordinator, and who of them is free. Sessions are changed by [`Registry::change`] alone, so that what is
/// counted over all of them is true.
pub(crate) struct Registry {
    sessions: HashMap<Uuid, Attached>,
    pub(super) pool: Pool,
    /// Leases that sessions hold, or are about to.
    running: usize,
    /// How many they may be.
    places: usize,
    /// Somebody has named a lane that is not known here.
    pub(super) lane_missed: bool,
    /// More waits than could be given away.
    pub(super) has_backlog: bool,
}

/// Of all places, one of so many is never taken by what is not due yet.
const KEPT: usize = 4;

/// Behind a backlog, one place of so many is left to what goes out as it is made, and so many at most.
const ONE_IN: usize = 64;
const FEW: usize = 32;

impl Registry {
    pub(super) fn new(strategy: Strategy, places: usize) -> Self {
        Self {
            sessions: HashMap::new(),
            pool: Pool::new(strategy),
            running: 0,
            places,
            lane_missed: false,
            has_backlog: false,
        }
    }

    pub(super) fn sessions(&self) -> &HashMap<Uuid, Attached> {
        &self.sessions
    }

    pub(super) fn get(&self, id: Uuid) -> Option<&Attached> {
        self.sessions.get(&id)
    }

    /// Leases that sessions hold, or are about to.
    pub(super) fn running(&self) -> usize {
        self.running
    }

    /// Puts a session in, in place of an older attachment, which is answered.
    pub(super) fn insert(&mut self, session: Attached) -> Option<Attached> {
        let old = self.remove(session.id);
        self.pool.join(session.id, session.agent.clone());
        self.pool.set(session.id, session.load());
        self.running += session.running();
        self.sessions.insert(session.id, session);
        old
    }

    pub(super) fn remove(&mut self, id: Uuid) -> Option<Attached> {
        self.pool.leave(id);
        let session = self.sessions.remove(&id)?;
        self.running -= session.running();
        Some(session)
    }

    /// Changes a session.
    pub(super) fn change<T>(&mut self, id: Uuid, change: impl FnOnce(&mut Attached) -> T) -> Option<T> {
        let session = self.sessions.get_mut(&id)?;
        self.running -= session.running();
        let answer = change(session);
        self.running += session.running();
        self.pool.set(id, session.load());
        Some(answer)
    }

    /// Changes a session, if it is still on this attachment.
    pub(super) fn change_on<T>(
        &mut self,
        id: Uuid,
        attachment: i64,
        change: impl FnOnce(&mut Attached) -> T,
    ) -> Option<T> {
        self.sessions.get(&id).filter(|session| session.attachment == attachment)?;
        self.change(id, change)
    }

    /// How many executions could be given away now.
    pub(super) fn free(&self) -> usize {
        self.pool.credits().min(self.places.saturating_sub(self.running))
    }

    /// How many of those a claim leaves to what goes out as it is made: a few of many, while more waits than could be claimed.
    pub(super) fn kept(&self) -> usize {
        let few = ((self.running + self.free()) / ONE_IN).min(FEW);
        if self.has_backlog && self.pool.has_lanes() { few } else { 0 }
    }

    /// How many of those may be what is not due yet. Agents keep some of their slots beside.
    pub(super) fn spare(&self) -> usize {
        let places = self.places - self.places.div_ceil(KEPT);
        if self.has_backlog { 0 } else { self.pool.credits().min(places.saturating_sub(self.running)) }
    }

    /// Takes a credit of the agent that is to get the next execution of a lane, for what is not due yet: the last quarter of an agent's slots is
    /// kept for what comes before that.
    pub(super) fn reserve_spare(&mut self, lane: i64) -> Option<Assignment> {
        let id = (self.spare() > 0).then(|| self.pool.choose(lane))??;
        let taken =
            self.change(id, |session| session.load().is_some() && session.has_spare(KEPT) && session.reserve())?;
        self.sessions.get(&id).filter(|_| taken).map(assignment)
    }

    /// Takes a credit of the agent that is to get the next execution of a lane.
    pub(super) fn reserve(&mut self, lane: i64) -> Option<Assignment> {
        if self.running >= self.places {
            return None;
        }
        if self.pool.lane(lane).is_none() {
            self.lane_missed = true;
            return None;
        }
        loop {
            let id = self.pool.choose(lane)?;
            // A stream that has been cut since it was looked at takes nothing more.
            let taken = self.change(id, |session| session.load().is_some() && session.reserve())?;
            if let (true, Some(session)) = (taken, self.sessions.get(&id)) {
                return Some(assignment(session));
            }
        }
    }

    /// The type of the jobs whose executions wait in a lane.
    pub(super) fn job_type(&self, lane: i64) -> JobType {
        let executor = self.pool.lane(lane).map(|lane| lane.executor.split(':').next().unwrap_or_default());
        executor.and_then(JobType::from_json_str).unwrap_or_default()
    }
}

fn assignment(session: &Attached) -> Assignment {
    let (session_id, attachment) = (session.id, session.attachment);
    Assignment { session_id, attachment, worker_name: session.agent.name.clone() }
}
