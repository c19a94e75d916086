//! The values that leases are sent with. They are decrypted when the frame is made, for leases that live, and are in no frame but that of the
//! agent that holds them.

use std::collections::{BTreeSet, HashMap};

use orrery_proto::v1::{ErrorType, ExecutionStatus};
use orrery_sdk::secret::{self, Found, OPENING, Reference};
use uuid::Uuid;

use crate::execution::Report;
use crate::secret::{Resolved, Unresolved, Value, Vault};
use crate::store::{Grant, StoreError};

/// A version of a job.
type Version = (Uuid, i64);

/// The values that versions of jobs need.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    values: HashMap<Version, Vec<(String, Value)>>,
    /// Why versions cannot run.
    failed: HashMap<Version, Failed>,
}

#[derive(Debug)]
struct Failed {
    error: ErrorType,
    message: String,
}

fn version(grant: &Grant) -> Version {
    (grant.execution.job_id, grant.execution.job_version)
}

/// Whether a lease cannot do without secrets, as nearly as it can be told at a glance.
pub(super) fn needs_any(grant: &Grant) -> bool {
    grant.spec.config.contains(OPENING)
}

impl Secrets {
    /// Those of leases: a statement for each tenant at most, whatever their number.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn of(vault: &Vault, grants: &[Grant]) -> Result<Self, StoreError> {
        let mut found: HashMap<Version, (Uuid, Vec<Found>)> = HashMap::new();
        for grant in grants {
            found.entry(version(grant)).or_insert_with(|| {
                let (job_type, config) = (grant.spec.job_type.as_json_str(), &grant.spec.config);
                // What is no reference where it stands is left as it is: it was saved before there were any.
                (grant.execution.tenant_id, secret::find(job_type, config).unwrap_or_default())
            });
        }
        let mut wanted: HashMap<Uuid, BTreeSet<Reference>> = HashMap::new();
        for (tenant, found) in found.values() {
            wanted.entry(*tenant).or_default().extend(found.iter().map(|found| found.reference.clone()));
        }
        let mut resolved: HashMap<Uuid, Resolved> = HashMap::new();
        for (tenant, references) in wanted {
            resolved.insert(tenant, vault.resolve(tenant, references).await?);
        }
        let mut secrets = Self::default();
        for (version, (tenant, found)) in found {
            let of_tenant = resolved.get(&tenant);
            match values(&found, |reference| of_tenant.and_then(|known| known.get(reference)).cloned()) {
                Ok(values) => drop(secrets.values.insert(version, values)),
                Err(failed) => drop(secrets.failed.insert(version, failed)),
            }
        }
        Ok(secrets)
    }

    /// Of a lease, by what stands in its references.
    pub(super) fn values(&self, grant: &Grant) -> &[(String, Value)] {
        self.values.get(&version(grant)).map_or(&[], Vec::as_slice)
    }

    /// The end of an attempt that cannot begin, where it is one.
    pub(super) fn failure(&self, grant: &Grant) -> Option<Report> {
        let Failed { error, message } = self.failed.get(&version(grant))?;
        Some(Report {
            status: ExecutionStatus::Failed,
            result: None,
            error_type: Some(*error),
            error_message: message.clone(),
            error_stack: String::new(),
            retryable: None,
            duration_ms: 0,
            memory_peak_mb: None,
            cpu_time_ms: None,
        })
    }
}

/// The values of references, or what is to be said where one has none.
fn values(
    found: &[Found],
    resolved: impl Fn(&Reference) -> Option<Result<Value, Unresolved>>,
) -> Result<Vec<(String, Value)>, Failed> {
    let mut values = Vec::with_capacity(found.len());
    let (mut missing, mut closed) = (Vec::new(), Vec::new());
    for Found { field, reference } in found {
        match resolved(reference).unwrap_or(Err(Unresolved::Missing)) {
            Ok(value) => values.push((reference.key(), value)),
            Err(_) if reference.is_sealed() => {
                closed.push(format!("{field}: its value cannot be decrypted; give it anew"))
            }
            Err(Unresolved::Missing) => missing.push(format!("{field}: there is no secret {}", reference.key())),
            Err(Unresolved::Closed) => {
                closed
                    .push(format!("{field}: the secret {} cannot be decrypted; see the server's log", reference.key()));
            }
        }
    }
    if !missing.is_empty() {
        let message = format!("{}; put it by `orrery secret put`, or change the job", missing.join("; "));
        return Err(Failed { error: ErrorType::ValidationError, message });
    }
    if !closed.is_empty() {
        return Err(Failed { error: ErrorType::SystemError, message: closed.join("; ") });
    }
    Ok(values)
}
