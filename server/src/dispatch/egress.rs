use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use orrery_agent::egress;
use orrery_proto::v1::{JobType, Work};
use uuid::Uuid;

use crate::store::{Grant, StoreError};
use crate::tenant::{Directory, Rules};

/// What http jobs may call beside public addresses, by the server's word; agents bound it by their own.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    server: Arc<[String]>,
}

/// What bounds leases, by their tenants' word and the server's: as it is now, whatever it was when their jobs were saved.
#[derive(Debug, Default)]
pub(super) struct Bounds {
    server: Arc<[String]>,
    tenants: HashMap<Uuid, Arc<Rules>>,
}

impl Egress {
    /// What the server opens to all tenants.
    pub fn new(server: &egress::Rules) -> Self {
        Self { server: server.texts().collect() }
    }

    /// What bounds these leases.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn bounds(&self, tenants: &Directory, grants: &[Grant]) -> Result<Bounds, StoreError> {
        let mut bounds = Bounds { server: self.server.clone(), tenants: HashMap::new() };
        for tenant in grants.iter().map(|grant| grant.execution.tenant_id) {
            if let Entry::Vacant(first) = bounds.tenants.entry(tenant) {
                first.insert(tenants.rules(tenant).await?);
            }
        }
        Ok(bounds)
    }
}

impl Bounds {
    /// What the texts of a lease weigh, in bytes.
    pub(super) fn weight(&self, grant: &Grant) -> usize {
        if grant.spec.job_type != JobType::Http {
            return 0;
        }
        let own = self.tenants.get(&grant.execution.tenant_id);
        let own = own.into_iter().flat_map(|rules| rules.egress_allow.iter().chain(&rules.egress_deny));
        self.server.iter().chain(own).map(String::len).sum()
    }

    /// Writes them into what is sent. Only calls of http jobs are checked against what is opened and closed.
    pub(super) fn write(&self, grant: &Grant, work: &mut Work) {
        let own = self.tenants.get(&grant.execution.tenant_id);
        if let Some(rules) = own {
            work.sandbox_level = rules.min_sandbox.as_str().to_owned();
            work.shell_allowed = Some(rules.shell_allowed);
        }
        if grant.spec.job_type == JobType::Http {
            work.egress_allow = self.server.to_vec();
            if let Some(rules) = own {
                work.egress_allow.extend(rules.egress_allow.iter().cloned());
                work.egress_deny = rules.egress_deny.clone();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use orrery_sdk::config::SandboxLevel;

    use super::*;
    use crate::dispatch::tests::{execution, spec};

    /// As they are when the lease is sent, whatever they were when the job was saved.
    #[test]
    fn a_lease_carries_the_bounds_of_its_tenant() {
        let execution = execution(1);
        let tenant = execution.tenant_id;
        let rules = Rules {
            shell_allowed: false,
            min_sandbox: SandboxLevel::Process,
            egress_allow: vec!["10.1.0.0/16".into()],
            egress_deny: vec!["10.1.2.0/24".into()],
            ..Rules::default()
        };
        let bounds =
            Bounds { server: Arc::new(["127.0.0.1".to_owned()]), tenants: HashMap::from([(tenant, Arc::new(rules))]) };
        let mut spec = spec("{}".to_owned());
        let sent = |spec: &crate::job::JobSpec| {
            let spec = Arc::new(spec.clone());
            let grant = Grant { execution: execution.clone(), spec, timeout: Duration::from_secs(1), attachment: 1 };
            let mut work = Work::default();
            bounds.write(&grant, &mut work);
            work
        };
        spec.job_type = JobType::Http;
        let http = sent(&spec);
        assert_eq!(
            (http.egress_allow, http.egress_deny),
            (vec!["127.0.0.1".into(), "10.1.0.0/16".into()], vec!["10.1.2.0/24".to_owned()])
        );
        spec.job_type = JobType::Command;
        let command = sent(&spec);
        assert_eq!((command.sandbox_level.as_str(), command.shell_allowed), ("process", Some(false)));
        assert!(command.egress_allow.is_empty() && command.egress_deny.is_empty());
    }
}
