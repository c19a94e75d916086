//! The calls on tenants.
//!
//! They are administered by the deployment: by whoever has `tenants:admin` and belongs to no tenant, or to the default one, which is where
//! `orrery admin create` makes the first administrator. To a tenant's own administrators other tenants are not there, and their own is as it
//! has been given to them.

use chrono::{DateTime, Utc};
use orrery_proto::v1::tenant_service_server::TenantService;
use orrery_proto::v1::{
    self, CreateTenantRequest, GetTenantRequest, GetTenantUsageRequest, ListTenantsRequest, ListTenantsResponse,
    ResumeTenantRequest, SuspendTenantRequest, TenantQuotas, TenantSettings, TenantStatus, TenantUsage,
    UpdateTenantRequest,
};
use orrery_sdk::config::SandboxLevel;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::page_token::{self, Listing, Scope, page};
use super::{Api, convert, request};
use crate::auth::{self, DEFAULT_TENANT, Principal};
use crate::error::{Error, Kind};
use crate::store::{ChangeTenant, StoreError, Wake};
use crate::tenant::{self, Quotas, Settings, Tenant};

/// The most characters of the reason of a suspension.
const REASON: usize = 1000;

#[tonic::async_trait]
impl TenantService for Api {
    async fn create_tenant(&self, request: Request<CreateTenantRequest>) -> Result<Response<v1::Tenant>, Status> {
        let principal = auth::caller()?;
        if !is_of_deployment(&principal) {
            return Err(not_of_deployment().into());
        }
        let message = request.into_inner();
        let mut settings = settings(message.settings.unwrap_or_default())?;
        // A program with its arguments is enough for most, and who needs more is asked for.
        settings.allow_shell = Some(settings.allow_shell.unwrap_or(false));
        let tenant = Tenant {
            name: name(&message.name),
            description: message.description,
            quotas: quotas(message.quotas.as_ref()),
            weight: weight(message.weight),
            settings,
            created_by: Some(principal.subject),
            ..Tenant::unnamed(request::id_if_any("id", &message.id)?.unwrap_or_else(Uuid::now_v7))
        };
        check(&tenant)?;
        let made = self.store.create_tenant(&tenant).await.map_err(Error::from)?;
        self.tenants.forget(made.id);
        Ok(Response::new(convert_tenant(made)))
    }

    async fn list_tenants(
        &self,
        request: Request<ListTenantsRequest>,
    ) -> Result<Response<ListTenantsResponse>, Status> {
        let principal = auth::caller()?;
        let message = request.into_inner();
        let size = page_token::page_size(message.page_size, 50, 1000)?;
        let scope = Scope::new(Listing::Tenants, &[&principal.tenant().to_string()]);
        let page = page(&scope, &message.page_token, size)?;
        if !administers(&principal) {
            let own = self.store.tenant(principal.tenant()).await.map_err(Error::from)?;
            let own = own.filter(|_| page.after.is_none()).map(convert_tenant);
            let answer = ListTenantsResponse { tenants: own.into_iter().collect(), next_page_token: String::new() };
            return Ok(Response::new(answer));
        }
        let mut found = self.store.tenants(&page).await.map_err(Error::from)?;
        let next_page_token = page_token::cut(&mut found, size, |tenant| scope.token(tenant.id.as_bytes()));
        let tenants = found.into_iter().map(convert_tenant).collect();
        Ok(Response::new(ListTenantsResponse { tenants, next_page_token }))
    }

    async fn get_tenant(&self, request: Request<GetTenantRequest>) -> Result<Response<v1::Tenant>, Status> {
        let principal = auth::caller()?;
        let id = request::id("id", &request.into_inner().id)?;
        Ok(Response::new(convert_tenant(self.seen_tenant(&principal, id).await?)))
    }

    async fn get_tenant_usage(&self, request: Request<GetTenantUsageRequest>) -> Result<Response<TenantUsage>, Status> {
        let principal = auth::caller()?;
        let id = request::id("id", &request.into_inner().id)?;
        let tenant = self.seen_tenant(&principal, id).await?;
        let counts = self.store.counts(Some(id)).await.map_err(Error::from)?;
        let executions_this_hour = self.store.hour_of(id).await.map_err(Error::from)?;
        let limits = self.limits.quotas();
        let own = tenant.quotas;
        Ok(Response::new(TenantUsage {
            id: id.to_string(),
            jobs: counts.total_jobs,
            pending: counts.pending,
            running: counts.running,
            executions_this_hour,
            quotas: Some(convert_quotas(Quotas {
                max_jobs: own.max_jobs.or(limits.max_jobs),
                max_executions_per_hour: own.max_executions_per_hour.or(limits.max_executions_per_hour),
                max_concurrent: own.max_concurrent.or(limits.max_concurrent),
                max_log_bytes: own.max_log_bytes.or(limits.max_log_bytes),
                max_result_bytes: own.max_result_bytes.or(limits.max_result_bytes),
            })),
        }))
    }

    async fn update_tenant(&self, request: Request<UpdateTenantRequest>) -> Result<Response<v1::Tenant>, Status> {
        let principal = auth::caller()?;
        let message = request.into_inner();
        let id = may_change(&principal, &message.id)?;
        let wanted = Tenant {
            name: name(&message.name),
            description: message.description,
            quotas: quotas(message.quotas.as_ref()),
            weight: weight(message.weight),
            settings: settings(message.settings.unwrap_or_default())?,
            ..Tenant::unnamed(id)
        };
        check(&wanted)?;
        let expected = Some(message.version).filter(|version| *version != 0);
        let decide = |stored: &Tenant, _: DateTime<Utc>| replaced(stored, &wanted, expected);
        self.change_tenant(id, &decide).await
    }

    async fn suspend_tenant(&self, request: Request<SuspendTenantRequest>) -> Result<Response<v1::Tenant>, Status> {
        let principal = auth::caller()?;
        let message = request.into_inner();
        let id = may_change(&principal, &message.id)?;
        if id == DEFAULT_TENANT {
            let message = "the default tenant is that of the deployment's administrators, who could not resume it";
            return Err(Error::new(Kind::Conflict, "DEFAULT_TENANT", message).into());
        }
        if message.reason.chars().count() > REASON || message.reason.chars().any(char::is_control) {
            let message = format!("give at most {REASON} characters, none of them control characters");
            return Err(Error::field("INVALID_REASON", "reason", message).into());
        }
        let decide = |stored: &Tenant, now: DateTime<Utc>| Ok(suspended(stored, &message.reason, now));
        self.change_tenant(id, &decide).await
    }

    async fn resume_tenant(&self, request: Request<ResumeTenantRequest>) -> Result<Response<v1::Tenant>, Status> {
        let principal = auth::caller()?;
        let id = may_change(&principal, &request.into_inner().id)?;
        let resumed = |stored: &Tenant, _: DateTime<Utc>| {
            Ok(Tenant { suspended_at: None, suspend_reason: String::new(), ..stored.clone() })
        };
        self.change_tenant(id, &resumed).await
    }
}

impl Api {
    /// A tenant that the caller may see: its own, whether it has a row or not, and others where it administers them.
    async fn seen_tenant(&self, principal: &Principal, id: Uuid) -> Result<Tenant, Error> {
        let own = id == principal.tenant();
        if !own && !administers(principal) {
            return Err(Error::tenant_not_found(id));
        }
        match self.store.tenant(id).await? {
            Some(tenant) => Ok(tenant),
            None if own => Ok(Tenant::unnamed(id)),
            None => Err(Error::tenant_not_found(id)),
        }
    }

    async fn change_tenant(&self, id: Uuid, decide: &ChangeTenant<'_>) -> Result<Response<v1::Tenant>, Status> {
        let changed = self.store.change_tenant(id, decide).await.map_err(|error| match error {
            StoreError::NotFound => Error::tenant_not_found(id),
            other => other.into(),
        })?;
        self.tenants.forget(id);
        self.allowance.forget(id);
        // What it may do and could not, or could and may not any more.
        for hint in [Wake::Plan, Wake::Work] {
            self.wake(hint).await;
        }
        Ok(Response::new(convert_tenant(changed)))
    }
}

/// Whether a caller is the deployment's own.
pub(super) fn is_of_deployment(principal: &Principal) -> bool {
    principal.tenant() == DEFAULT_TENANT
}

/// Whether a caller may administer tenants.
pub(super) fn administers(principal: &Principal) -> bool {
    is_of_deployment(principal) && principal.permissions.allow("tenants:admin")
}

fn not_of_deployment() -> Error {
    let message =
        "tenants are administered by the deployment: by keys of all tenants, and by callers of the default tenant";
    Error::new(Kind::Denied, "PERMISSION_DENIED", message)
}

/// The id of a tenant that a caller with `tenants:admin` may change.
fn may_change(principal: &Principal, id: &str) -> Result<Uuid, Error> {
    let id = request::id("id", id)?;
    match is_of_deployment(principal) {
        true => Ok(id),
        // That it is there is no news.
        false if id == principal.tenant() => Err(not_of_deployment()),
        false => Err(Error::tenant_not_found(id)),
    }
}

/// What is written of a tenant. Pure.
fn replaced(stored: &Tenant, wanted: &Tenant, expected: Option<i64>) -> Result<Tenant, Error> {
    if let Some(expected) = expected.filter(|expected| *expected != stored.version) {
        let message =
            format!("version: {expected} is not the newest, which is {}; read the tenant again", stored.version);
        return Err(
            Error::new(Kind::Conflict, "TENANT_VERSION_CONFLICT", message).with("currentVersion", stored.version)
        );
    }
    Ok(Tenant {
        name: wanted.name.clone(),
        description: wanted.description.clone(),
        quotas: wanted.quotas,
        weight: wanted.weight,
        settings: wanted.settings.clone(),
        ..stored.clone()
    })
}

/// One that is suspended already stays so, for the reason that it was. Pure.
fn suspended(stored: &Tenant, reason: &str, now: DateTime<Utc>) -> Tenant {
    match stored.suspended_at {
        Some(_) => stored.clone(),
        None => Tenant { suspended_at: Some(now), suspend_reason: reason.to_owned(), ..stored.clone() },
    }
}

fn check(tenant: &Tenant) -> Result<(), Error> {
    match tenant::problems(tenant) {
        problems if problems.is_empty() => Ok(()),
        problems => Err(Error::fields(problems)),
    }
}

fn name(name: &str) -> String {
    name.trim().to_ascii_lowercase()
}

fn weight(asked: i32) -> i32 {
    if asked == 0 { 1 } else { asked }
}

fn quotas(asked: Option<&TenantQuotas>) -> Quotas {
    let Some(asked) = asked else { return Quotas::default() };
    Quotas {
        max_jobs: asked.max_jobs,
        max_executions_per_hour: asked.max_executions_per_hour,
        max_concurrent: asked.max_concurrent,
        max_log_bytes: asked.max_log_bytes,
        max_result_bytes: asked.max_result_bytes,
    }
}

fn settings(asked: TenantSettings) -> Result<Settings, Error> {
    let min_sandbox = match asked.min_sandbox() {
        v1::SandboxLevel::Process => SandboxLevel::Process,
        v1::SandboxLevel::Container => SandboxLevel::Container,
        v1::SandboxLevel::None => SandboxLevel::None,
        v1::SandboxLevel::Unspecified if asked.min_sandbox == 0 => SandboxLevel::None,
        v1::SandboxLevel::Unspecified => {
            let message = format!("{} is unknown; give none, process or container", asked.min_sandbox);
            return Err(Error::field("INVALID_SETTING", "settings.minSandbox", message));
        }
    };
    Ok(Settings {
        allow_shell: asked.allow_shell,
        min_sandbox,
        ip_allow: asked.ip_allow,
        egress_allow: asked.egress_allow,
        egress_deny: asked.egress_deny,
    })
}

fn convert_quotas(quotas: Quotas) -> TenantQuotas {
    TenantQuotas {
        max_jobs: quotas.max_jobs,
        max_executions_per_hour: quotas.max_executions_per_hour,
        max_concurrent: quotas.max_concurrent,
        max_log_bytes: quotas.max_log_bytes,
        max_result_bytes: quotas.max_result_bytes,
    }
}

fn convert_tenant(tenant: Tenant) -> v1::Tenant {
    let status = if tenant.suspended_at.is_some() { TenantStatus::Suspended } else { TenantStatus::Active };
    let settings = tenant.settings;
    let min_sandbox = match settings.min_sandbox {
        SandboxLevel::None => v1::SandboxLevel::None,
        SandboxLevel::Process => v1::SandboxLevel::Process,
        SandboxLevel::Container => v1::SandboxLevel::Container,
    };
    v1::Tenant {
        id: tenant.id.to_string(),
        name: tenant.name,
        description: tenant.description,
        status: status.into(),
        suspended_at: convert::time(tenant.suspended_at),
        suspend_reason: tenant.suspend_reason,
        weight: tenant.weight,
        quotas: Some(convert_quotas(tenant.quotas)),
        settings: Some(TenantSettings {
            allow_shell: settings.allow_shell,
            min_sandbox: min_sandbox.into(),
            ip_allow: settings.ip_allow,
            egress_allow: settings.egress_allow,
            egress_deny: settings.egress_deny,
        }),
        created_at: convert::time(tenant.created_at),
        created_by: tenant.created_by.map(|id| id.to_string()).unwrap_or_default(),
        updated_at: convert::time(tenant.updated_at),
        version: tenant.version,
    }
}
