//! Who can run what, and who gets it. Pure.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::config::Strategy;
use crate::store::{Assignment, Candidate, Lane};

/// An agent with free slots.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    pub session_id: Uuid,
    pub attachment: i64,
    pub worker_name: String,
    /// `None`: it serves all tenants.
    pub tenant_id: Option<Uuid>,
    pub queues: Vec<String>,
    pub executors: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub slots: usize,
    /// What it runs already.
    pub running: usize,
    /// What it takes beside.
    pub credits: usize,
}

/// Whether an agent can run what waits in a lane.
pub fn fits(offer: &Offer, lane: &Lane) -> bool {
    offer.tenant_id.is_none_or(|tenant| tenant == lane.tenant_id)
        && offer.queues.contains(&lane.queue)
        && offers_executor(&offer.executors, &lane.executor)
        && carries(&offer.labels, &lane.selector)
}

/// Whether an agent with these labels carries all that a selector asks for.
pub fn carries(labels: &BTreeMap<String, String>, selector: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Whether an agent that offers `executors` runs `wanted`: a function is offered by its name, or all of them by `function:*`.
pub fn offers_executor(executors: &[String], wanted: &str) -> bool {
    executors.iter().any(|offered| {
        offered == wanted || (wanted.starts_with("function:") && (offered == "function:*" || offered == "function"))
    })
}

/// Gives candidates, in their order, to agents. `turn` is where round robin goes on; it moves on.
pub fn assign(
    candidates: &[Candidate],
    offers: &mut [Offer],
    lanes: &BTreeMap<i64, Lane>,
    strategy: Strategy,
    turn: &mut usize,
) -> Vec<Option<Assignment>> {
    candidates
        .iter()
        .map(|candidate| {
            let lane = lanes.get(&candidate.execution.lane_id)?;
            let index = match strategy {
                Strategy::LeastLoaded => least_loaded(offers, lane),
                Strategy::RoundRobin => next_in_turn(offers, lane, turn),
            }?;
            let offer = offers.get_mut(index)?;
            offer.credits -= 1;
            offer.running += 1;
            let (session_id, attachment) = (offer.session_id, offer.attachment);
            Some(Assignment { session_id, attachment, worker_name: offer.worker_name.clone() })
        })
        .collect()
}

/// The agent with the smallest share of its slots in use; among equals the one with the most free.
fn least_loaded(offers: &[Offer], lane: &Lane) -> Option<usize> {
    let free = |offer: &Offer| offer.credits > 0 && fits(offer, lane);
    (0..offers.len()).filter(|index| free(&offers[*index])).min_by(|a, b| {
        let (a, b) = (&offers[*a], &offers[*b]);
        // a.running / a.slots < b.running / b.slots, without fractions.
        (a.running * b.slots.max(1)).cmp(&(b.running * a.slots.max(1))).then(b.credits.cmp(&a.credits))
    })
}

fn next_in_turn(offers: &[Offer], lane: &Lane, turn: &mut usize) -> Option<usize> {
    let count = offers.len();
    let index = (0..count)
        .map(|step| (*turn + step) % count)
        .find(|index| offers[*index].credits > 0 && fits(&offers[*index], lane))?;
    *turn = (index + 1) % count;
    Some(index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execution::{Execution, State};
    use chrono::DateTime;
    use orrery_proto::v1::TriggerType;

    fn lane(id: i64, queue: &str, executor: &str, selector: &[(&str, &str)]) -> Lane {
        let selector = selector.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Lane { id, tenant_id: Uuid::from_u128(1), queue: queue.into(), executor: executor.into(), selector }
    }

    fn offer(id: u128, slots: usize, running: usize) -> Offer {
        Offer {
            session_id: Uuid::from_u128(id),
            attachment: 1,
            worker_name: format!("a{id}"),
            tenant_id: None,
            queues: vec!["default".into()],
            executors: vec!["http".into(), "function:reports#daily".into()],
            labels: BTreeMap::from([("zone".into(), "eu".into())]),
            slots,
            running,
            credits: slots - running,
        }
    }

    fn candidate(lane_id: i64) -> Candidate {
        let at = DateTime::UNIX_EPOCH;
        Candidate {
            execution: Execution {
                id: Uuid::nil(),
                tenant_id: Uuid::from_u128(1),
                job_id: Uuid::nil(),
                job_name: String::new(),
                trigger: TriggerType::Manual,
                triggered_by: None,
                lane_id,
                queue: "default".into(),
                priority: 0,
                scheduled_at: at,
                run_at: at,
                start_by: None,
                created_at: at,
                state: State::Pending,
                attempt: 0,
                epoch: 0,
                losses: 0,
                job_version: 0,
                progress: 0,
                attempts: vec![],
                parameters: None,
                cancel_requested_at: None,
                cancel_reason: None,
                retry_of: None,
                traceparent: None,
                concurrency: None,
            },
        }
    }

    fn names(strategy: Strategy, offers: &mut [Offer], count: usize) -> Vec<Option<String>> {
        let lanes = BTreeMap::from([(1, lane(1, "default", "http", &[]))]);
        let candidates: Vec<_> = (0..count).map(|_| candidate(1)).collect();
        let given = assign(&candidates, offers, &lanes, strategy, &mut 0);
        given.into_iter().map(|a| a.map(|a| a.worker_name)).collect()
    }

    #[test]
    fn an_agent_fits_by_tenant_queue_executor_and_labels() {
        let agent = offer(1, 4, 0);
        assert!(fits(&agent, &lane(1, "default", "http", &[("zone", "eu")])));
        assert!(fits(&agent, &lane(1, "default", "function:reports#daily", &[])));
        assert!(!fits(&agent, &lane(1, "default", "function:reports#weekly", &[])));
        assert!(!fits(&agent, &lane(1, "default", "command", &[])));
        assert!(!fits(&agent, &lane(1, "mail", "http", &[])));
        assert!(!fits(&agent, &lane(1, "default", "http", &[("zone", "us")])));
        assert!(!fits(&agent, &lane(1, "default", "http", &[("disk", "ssd")])));
        let foreign = Offer { tenant_id: Some(Uuid::from_u128(2)), ..agent.clone() };
        assert!(!fits(&foreign, &lane(1, "default", "http", &[])));
        let any = Offer { executors: vec!["function:*".into()], ..agent };
        assert!(fits(&any, &lane(1, "default", "function:x#y", &[])));
        assert!(!fits(&any, &lane(1, "default", "http", &[])));
    }

    #[test]
    fn least_loaded_looks_at_shares_of_slots() {
        let mut offers = [offer(1, 10, 5), offer(2, 4, 0)];
        let given = names(Strategy::LeastLoaded, &mut offers, 5);
        let to_small = given.iter().flatten().filter(|name| *name == "a2").count();
        assert_eq!((given.len(), to_small), (5, 3), "{given:?}");
    }

    #[test]
    fn round_robin_takes_turns_and_nobody_gets_more_than_it_takes() {
        let mut offers = [offer(1, 1, 0), offer(2, 2, 0)];
        let given = names(Strategy::RoundRobin, &mut offers, 4);
        let expected = ["a1", "a2", "a2"].map(|n| Some(n.to_owned()));
        assert_eq!(given[..3], expected);
        assert_eq!(given[3], None);
    }
}
