//! Who can run what. Pure.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::store::{Lane, NewSession};

/// What an agent can run. Agents of the same kind can take the place of each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// `None`: it serves all tenants.
    pub tenant_id: Option<Uuid>,
    pub queues: Vec<String>,
    pub executors: Vec<String>,
    pub labels: BTreeMap<String, String>,
}

impl Kind {
    /// That of an agent, as far as its labels are `asked` for. Labels that nobody asks for, such as a host's name, tell no kinds apart.
    pub fn of(agent: &NewSession, asked: impl Fn(&str) -> bool) -> Self {
        let (mut queues, mut executors) = (agent.queues.clone(), agent.executors.clone());
        queues.sort_unstable();
        executors.sort_unstable();
        let labels = agent.labels.iter().filter(|(key, _)| asked(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
        Self { tenant_id: agent.tenant_id, queues, executors, labels }
    }

    /// Whether it can run what waits in a lane.
    pub fn fits(&self, lane: &Lane) -> bool {
        self.tenant_id.is_none_or(|tenant| tenant == lane.tenant_id)
            && self.queues.contains(&lane.queue)
            && offers_executor(&self.executors, &lane.executor)
            && carries(&self.labels, &lane.selector)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(id: i64, queue: &str, executor: &str, selector: &[(&str, &str)]) -> Lane {
        let selector = selector.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Lane { id, tenant_id: Uuid::from_u128(1), queue: queue.into(), executor: executor.into(), selector }
    }

    #[test]
    fn an_agent_fits_by_tenant_queue_executor_and_labels() {
        let agent = Kind {
            tenant_id: None,
            queues: vec!["default".into()],
            executors: vec!["http".into(), "function:reports#daily".into()],
            labels: BTreeMap::from([("zone".into(), "eu".into())]),
        };
        assert!(agent.fits(&lane(1, "default", "http", &[("zone", "eu")])));
        assert!(agent.fits(&lane(1, "default", "function:reports#daily", &[])));
        assert!(!agent.fits(&lane(1, "default", "function:reports#weekly", &[])));
        assert!(!agent.fits(&lane(1, "default", "command", &[])));
        assert!(!agent.fits(&lane(1, "mail", "http", &[])));
        assert!(!agent.fits(&lane(1, "default", "http", &[("zone", "us")])));
        assert!(!agent.fits(&lane(1, "default", "http", &[("disk", "ssd")])));
        let foreign = Kind { tenant_id: Some(Uuid::from_u128(2)), ..agent.clone() };
        assert!(!foreign.fits(&lane(1, "default", "http", &[])));
        let any = Kind { executors: vec!["function:*".into()], ..agent };
        assert!(any.fits(&lane(1, "default", "function:x#y", &[])));
        assert!(!any.fits(&lane(1, "default", "http", &[])));
    }
}
