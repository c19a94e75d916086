//! What a definition has to do with secrets, when it is saved: who may refer to which, and what is stored in the place of sensitive fields.

use std::collections::{BTreeMap, BTreeSet};

use orrery_proto::Json;
use orrery_proto::v1::CreateJobRequest;
use orrery_sdk::secret::{self, Found};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{Api, job_bounds, job_rights};
use crate::auth::{self, Caller, Principal};
use crate::error::{Error, FieldProblem};
use crate::job::JobSpec;
use crate::secret::sensitive;

/// What stands for a kept value where a definition is only checked.
const SOME_VALUE: &str = "~kept";

/// A definition, and what stands before the names of its fields.
pub(super) type Defined<'a> = (String, &'a mut JobSpec);

impl Api {
    /// Sees to what definitions ask for that are about to be saved: their caller may have them run,
    /// they keep within the bounds of their tenant, their references are of secrets that there are, and sensitive values are
    /// taken out and encrypted.
    ///
    /// Whoever saves a job that uses a secret could send it anywhere, so that takes `secrets:read`; also where a sensitive value is only kept, for
    /// what it is sent to may have changed.
    pub(super) async fn secure(&self, principal: &Principal, defined: Vec<Defined<'_>>) -> Result<(), Error> {
        job_rights::may_save(principal, &defined)?;
        let rules = self.tenants.rules(principal.tenant()).await?;
        let mut problems = Vec::new();
        for (prefix, spec) in &defined {
            problems.extend(job_bounds::problems(&rules, spec, prefix));
            problems.extend(self.unknown_secrets(principal.tenant(), spec, prefix).await?);
        }
        if !problems.is_empty() {
            return Err(Error::fields(problems));
        }
        for (_, spec) in defined {
            let paths = spec.sensitive.clone();
            while let Some((span, value)) = sensitive::unsealed(&spec.config, &paths) {
                let (reference, sealed) = self.vault.seal_apart(principal.tenant(), &Zeroizing::new(value)).await?;
                spec.config = sensitive::with_reference(&spec.config, &span, &reference);
                spec.sealed.push(sealed);
            }
        }
        Ok(())
    }

    /// The references of a definition that are to nothing. None are where it has none.
    ///
    /// # Errors
    /// PERMISSION_DENIED where the caller may not use secrets; the store's.
    pub(super) async fn unknown_secrets(
        &self,
        tenant: Uuid,
        spec: &JobSpec,
        prefix: &str,
    ) -> Result<Vec<FieldProblem>, Error> {
        let found = secret::find(spec.job_type.as_json_str(), &spec.config).unwrap_or_default();
        if found.is_empty() {
            return Ok(Vec::new());
        }
        auth::caller()?.needs("secrets:read")?;
        let names: BTreeSet<String> = found
            .iter()
            .filter(|found| !found.reference.is_sealed())
            .map(|found| found.reference.name.clone())
            .collect();
        let names: Vec<String> = names.into_iter().collect();
        let rows = if names.is_empty() { Vec::new() } else { self.store.secrets_named(tenant, &names).await? };
        let known: BTreeMap<String, Vec<i64>> = rows.into_iter().map(|row| (row.name, row.versions)).collect();
        Ok(found.into_iter().filter_map(|found| unknown(found, &known, prefix)).collect())
    }

    /// Puts what is stored in the places of masks, where a job that was read is sent back. Answers with the names of what was put back.
    pub(super) async fn unmask(
        &self,
        principal: &Caller,
        id: Uuid,
        request: &mut CreateJobRequest,
    ) -> Result<BTreeSet<String>, Error> {
        let Some(config) = request.config.as_ref().filter(|config| config.text.contains(secret::MASK)) else {
            return Ok(BTreeSet::new());
        };
        let stored = self.find_job(principal, id).await?.spec;
        let paths: Vec<String> = request.sensitive.iter().map(|field| sensitive::path(field).to_owned()).collect();
        let unmasked = sensitive::unmasked(&config.text, &paths, (&stored.config, &stored.sensitive));
        let (config, kept) = unmasked.map_err(|wrong| {
            let problem =
                |(path, message)| FieldProblem { field: format!("config.{path}"), code: "INVALID_SENSITIVE", message };
            Error::fields(wrong.into_iter().map(problem).collect())
        })?;
        request.config = Some(Json::new(config));
        Ok(kept)
    }
}

/// The same for a definition that is only checked: whatever is stored there, it is a text.
pub(super) fn unmask_any(request: &mut CreateJobRequest) -> BTreeSet<String> {
    let Some(config) = request.config.as_ref().filter(|config| config.text.contains(secret::MASK)) else {
        return BTreeSet::new();
    };
    let paths: Vec<String> = request.sensitive.iter().map(|field| sensitive::path(field).to_owned()).collect();
    let mut stored = config.text.clone();
    let reference = secret::Reference { name: SOME_VALUE.to_owned(), version: None };
    for path in &paths {
        if let Ok(span) = sensitive::find(&stored, path) {
            stored = sensitive::with_reference(&stored, &span, &reference);
        }
    }
    match sensitive::unmasked(&config.text, &paths, (&stored, &paths)) {
        Ok((config, kept)) => {
            request.config = Some(Json::new(config));
            kept
        }
        Err(_) => BTreeSet::new(),
    }
}

fn unknown(found: Found, known: &BTreeMap<String, Vec<i64>>, prefix: &str) -> Option<FieldProblem> {
    let Found { field, reference } = found;
    if reference.is_sealed() {
        return None;
    }
    let name = &reference.name;
    let message = match (known.get(name), reference.version) {
        (None, _) => format!("there is no secret {name}; put it first: orrery secret put {name}"),
        (Some(versions), Some(version)) if !versions.contains(&version) => {
            let kept: Vec<String> = versions.iter().map(ToString::to_string).collect();
            format!("there is no version {version} of the secret {name}; kept are {}", kept.join(", "))
        }
        _ => return None,
    };
    Some(FieldProblem { field: format!("{prefix}{field}"), code: "UNKNOWN_SECRET", message })
}

/// A definition of which a hash may be stored: a hash of a short value would give it away.
pub(super) fn without_values(spec: &JobSpec) -> std::borrow::Cow<'_, JobSpec> {
    if spec.sensitive.is_empty() {
        return std::borrow::Cow::Borrowed(spec);
    }
    let config = sensitive::masked(&spec.config, &spec.sensitive).into_owned();
    std::borrow::Cow::Owned(JobSpec { config, ..spec.clone() })
}
