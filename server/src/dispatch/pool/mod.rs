//! Free agents, so that the one that is to get an execution is found without a look at the others. Pure.
//!
//! Agents of one [`Kind`] stand together, in the order in which they are chosen. What a lane needs is compared with kinds, once, and not with
//! agents: thousands of agents cost as much as the kinds that they are of.

mod load;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use uuid::Uuid;

pub(crate) use self::load::Load;
use self::load::Place;
use super::matching::Kind;
use crate::config::Strategy;
use crate::store::{Lane, NewSession};

/// A kind's number. It is not given again.
type Number = u64;

/// Agents with free slots, and the lanes that they serve.
#[derive(Debug)]
pub(crate) struct Pool {
    strategy: Strategy,
    lanes: BTreeMap<i64, Served>,
    /// Labels that lanes ask for.
    asked: BTreeSet<String>,
    kinds: HashMap<Number, Class>,
    numbers: HashMap<Arc<Kind>, Number>,
    next_number: Number,
    agents: HashMap<Uuid, Member>,
    /// Credits of all free agents.
    credits: usize,
    /// Who was given something last: the next in turn comes after it.
    last: Uuid,
}

/// A lane, and the kinds that serve it.
#[derive(Debug)]
struct Served {
    lane: Lane,
    by: Vec<Number>,
}

/// The agents of a kind.
#[derive(Debug)]
struct Class {
    kind: Arc<Kind>,
    agents: usize,
    lanes: Vec<i64>,
    /// Those that are free, the next to be chosen first.
    free: BTreeSet<Place>,
}

#[derive(Debug)]
struct Member {
    agent: Arc<NewSession>,
    kind: Number,
    load: Option<Load>,
}

impl Pool {
    /// A pool without agents and lanes.
    pub(crate) fn new(strategy: Strategy) -> Self {
        Self {
            strategy,
            lanes: BTreeMap::new(),
            asked: BTreeSet::new(),
            kinds: HashMap::new(),
            numbers: HashMap::new(),
            next_number: 0,
            agents: HashMap::new(),
            credits: 0,
            last: Uuid::nil(),
        }
    }

    /// Takes an agent in, not yet free.
    pub(crate) fn join(&mut self, id: Uuid, agent: Arc<NewSession>) {
        self.leave(id);
        let kind = self.class_of(&agent);
        self.agents.insert(id, Member { agent, kind, load: None });
    }

    /// The agent is gone.
    pub(crate) fn leave(&mut self, id: Uuid) {
        self.set(id, None);
        let Some(member) = self.agents.remove(&id) else { return };
        let Some(class) = self.kinds.get_mut(&member.kind) else { return };
        class.agents -= 1;
        if class.agents == 0
            && let Some(class) = self.kinds.remove(&member.kind)
        {
            self.numbers.remove(&class.kind);
            for lane in class.lanes {
                if let Some(served) = self.lanes.get_mut(&lane) {
                    served.by.retain(|number| *number != member.kind);
                }
            }
        }
    }

    /// What an agent takes now; `None`: nothing.
    pub(crate) fn set(&mut self, id: Uuid, load: Option<Load>) {
        let Some(member) = self.agents.get_mut(&id) else { return };
        let load = load.filter(|load| load.credits > 0);
        if member.load == load {
            return;
        }
        let before = std::mem::replace(&mut member.load, load);
        let Some(class) = self.kinds.get_mut(&member.kind) else { return };
        if let Some(before) = before {
            self.credits -= before.credits;
            class.free.remove(&Place::of(self.strategy, id, before));
        }
        if let Some(load) = load {
            self.credits += load.credits;
            class.free.insert(Place::of(self.strategy, id, load));
        }
    }

    /// Takes a lane in, unless it is known: lanes never change. Whether it was not.
    pub(crate) fn learn(&mut self, lane: Lane) -> bool {
        if self.lanes.contains_key(&lane.id) {
            return false;
        }
        let news = lane.selector.keys().filter(|key| !self.asked.contains(*key)).cloned().collect::<Vec<_>>();
        let id = lane.id;
        let by: Vec<Number> =
            self.kinds.iter().filter(|(_, class)| class.kind.fits(&lane)).map(|(number, _)| *number).collect();
        for number in &by {
            if let Some(class) = self.kinds.get_mut(number) {
                class.lanes.push(id);
            }
        }
        self.lanes.insert(id, Served { lane, by });
        if !news.is_empty() {
            self.asked.extend(news);
            self.sort_anew();
        }
        true
    }

    /// A lane.
    pub(crate) fn lane(&self, id: i64) -> Option<&Lane> {
        self.lanes.get(&id).map(|served| &served.lane)
    }

    /// The id of the lane that is the `n`th from the newest, from 0.
    pub(crate) fn nth_newest(&self, n: usize) -> Option<i64> {
        self.lanes.keys().rev().nth(n).copied()
    }

    /// Whether there is more than one lane.
    pub(crate) fn has_lanes(&self) -> bool {
        self.lanes.len() > 1
    }

    /// Credits of all free agents.
    pub(crate) fn credits(&self) -> usize {
        self.credits
    }

    /// The lanes that somebody free serves, by id.
    pub(crate) fn open_lanes(&self) -> Vec<i64> {
        let mut free = self.kinds.values().filter(|class| !class.free.is_empty());
        let mut lanes = free.next().map(|class| class.lanes.clone()).unwrap_or_default();
        for class in free {
            lanes.extend(&class.lanes);
        }
        lanes.sort_unstable();
        lanes.dedup();
        lanes
    }

    /// Who gets the next execution of a lane: by load, the agent with the smallest share of its slots in use, among equals the one with the
    /// most free; or the next in turn.
    pub(crate) fn choose(&mut self, lane: i64) -> Option<Uuid> {
        let served = self.lanes.get(&lane)?;
        let free = || served.by.iter().filter_map(|number| self.kinds.get(number)).map(|class| &class.free);
        let first = || free().filter_map(BTreeSet::first).min();
        let place = match self.strategy {
            Strategy::LeastLoaded => first(),
            Strategy::RoundRobin => {
                let next = free().filter_map(|free| free.range(Place::after(self.last)..).next()).min();
                next.or_else(first)
            }
        }?;
        let id = place.id();
        self.last = id;
        Some(id)
    }

    /// The class of an agent, made where it is the first of it.
    fn class_of(&mut self, agent: &NewSession) -> Number {
        let kind = Kind::of(agent, |label| self.asked.contains(label));
        let number = match self.numbers.get(&kind) {
            Some(number) => *number,
            None => self.add_class(kind),
        };
        if let Some(class) = self.kinds.get_mut(&number) {
            class.agents += 1;
        }
        number
    }

    fn add_class(&mut self, kind: Kind) -> Number {
        let (number, kind) = (self.next_number, Arc::new(kind));
        self.next_number += 1;
        let mut lanes = Vec::new();
        for (id, served) in self.lanes.iter_mut().filter(|(_, served)| kind.fits(&served.lane)) {
            served.by.push(number);
            lanes.push(*id);
        }
        self.numbers.insert(kind.clone(), number);
        self.kinds.insert(number, Class { kind, agents: 0, lanes, free: BTreeSet::new() });
        number
    }

    /// Puts every agent in its class again: labels tell agents apart that nobody asked for before.
    fn sort_anew(&mut self) {
        self.kinds.clear();
        self.numbers.clear();
        self.credits = 0;
        for served in self.lanes.values_mut() {
            served.by.clear();
        }
        for (id, member) in std::mem::take(&mut self.agents) {
            self.join(id, member.agent);
            self.set(id, member.load);
        }
    }
}
