//! What is known of tenants in this process: as they were moments ago, with the deployment's defaults filled in.
//!
//! A tenant that calls, or whose work is handed out, is read once a second at most, and beside the calls that ask for it. What was changed
//! elsewhere counts after [`KEPT`] at the latest, what was changed here at once. The database decides wherever it has to be exact.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use orrery_sdk::config::SandboxLevel;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Quotas, Tenant};
use crate::config::Limits;
use crate::edge::{self, Networks};
use crate::error::Error;
use crate::store::{DynStore, StoreError};

/// How long a tenant that was read counts.
const KEPT: Duration = Duration::from_secs(3);
/// How old it may be before it is read again, beside the calls.
const FRESH: Duration = Duration::from_secs(1);
/// Tenants that are remembered.
const MOST: usize = 20_000;

/// The tenants. Cheap to clone.
#[derive(Clone)]
pub struct Directory {
    inner: Arc<Inner>,
}

struct Inner {
    store: DynStore,
    quotas: Quotas,
    shell_allowed: bool,
    known: Mutex<HashMap<Uuid, Entry>>,
}

struct Entry {
    read_at: Instant,
    is_being_read: bool,
    rules: Arc<Rules>,
}

/// What holds for a tenant: its own word, or the deployment's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// Why it is suspended, where it is.
    pub suspended: Option<String>,
    /// 0: no limit.
    pub max_jobs: i64,
    /// 0: no limit.
    pub max_executions_per_hour: i64,
    /// Of one execution; 0: no limit.
    pub max_log_bytes: i64,
    /// Of one execution; 0: no limit.
    pub max_result_bytes: i64,
    pub shell_allowed: bool,
    pub min_sandbox: SandboxLevel,
    pub ip_allow: Networks,
    pub egress_allow: Vec<String>,
    pub egress_deny: Vec<String>,
}

impl Directory {
    /// The tenants of a store, with the defaults of these limits.
    pub fn new(store: DynStore, limits: &Limits) -> Self {
        let inner = Inner {
            store,
            quotas: limits.quotas(),
            shell_allowed: limits.allow_shell.unwrap_or(false),
            known: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What holds for a tenant.
    ///
    /// # Errors
    /// The store's, where the tenant was not read in the last seconds.
    pub async fn rules(&self, tenant: Uuid) -> Result<Arc<Rules>, StoreError> {
        let now = Instant::now();
        {
            let mut known = self.known();
            if let Some(entry) = known.get_mut(&tenant).filter(|entry| now < entry.read_at + KEPT) {
                if now >= entry.read_at + FRESH && !entry.is_being_read {
                    entry.is_being_read = true;
                    let this = self.clone();
                    // One that fails is tried again by whoever asks then.
                    tokio::spawn(async move { this.read(tenant).await.map(drop) });
                }
                return Ok(entry.rules.clone());
            }
        }
        self.read(tenant).await
    }

    /// Whether callers of a tenant may call from an address now. Agents go on while their tenant is suspended: what they run is to end well.
    ///
    /// # Errors
    /// TENANT_SUSPENDED, ADDRESS_NOT_ALLOWED; the store's.
    pub async fn admit(&self, tenant: Uuid, address: Option<IpAddr>, is_agent: bool) -> Result<(), Error> {
        let rules = self.rules(tenant).await?;
        if let Some(reason) = rules.suspended.as_ref().filter(|_| !is_agent) {
            return Err(Error::tenant_suspended(reason));
        }
        edge::admit(&rules.ip_allow, address, "the tenant's ipAllow does not name it")
    }

    /// A tenant was changed here.
    pub fn forget(&self, tenant: Uuid) {
        self.known().remove(&tenant);
    }

    async fn read(&self, tenant: Uuid) -> Result<Arc<Rules>, StoreError> {
        // As old as the question, not as the answer.
        let read_at = Instant::now();
        let found = self.inner.store.tenant(tenant).await;
        let mut known = self.known();
        let found = match found {
            Ok(found) => found.unwrap_or_else(|| Tenant::unnamed(tenant)),
            Err(error) => {
                if let Some(entry) = known.get_mut(&tenant) {
                    entry.is_being_read = false;
                }
                return Err(error);
            }
        };
        let rules = Arc::new(self.inner.rules_of(&found));
        if known.len() >= MOST && !known.contains_key(&tenant) {
            known.retain(|_, entry| read_at < entry.read_at + KEPT);
        }
        if known.len() < MOST || known.contains_key(&tenant) {
            known.insert(tenant, Entry { read_at, is_being_read: false, rules: rules.clone() });
        }
        Ok(rules)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Uuid, Entry>> {
        self.inner.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn rules_of(&self, tenant: &Tenant) -> Rules {
        let of = |own: Option<i64>, default: Option<i64>| own.or(default).unwrap_or(0);
        let Quotas { max_jobs, max_executions_per_hour, max_log_bytes, max_result_bytes, .. } = tenant.quotas;
        let settings = &tenant.settings;
        Rules {
            suspended: tenant.suspended_at.map(|_| tenant.suspend_reason.clone()),
            max_jobs: of(max_jobs, self.quotas.max_jobs),
            max_executions_per_hour: of(max_executions_per_hour, self.quotas.max_executions_per_hour),
            max_log_bytes: of(max_log_bytes, self.quotas.max_log_bytes),
            max_result_bytes: of(max_result_bytes, self.quotas.max_result_bytes),
            shell_allowed: settings.allow_shell.unwrap_or(self.shell_allowed),
            min_sandbox: settings.min_sandbox,
            // Each was read before it was stored. One that another version knows and this one does not lets nobody in.
            ip_allow: Networks::of(settings.ip_allow.iter().map(String::as_str))
                .unwrap_or_else(|_| Networks::nowhere()),
            egress_allow: settings.egress_allow.clone(),
            egress_deny: settings.egress_deny.clone(),
        }
    }
}
