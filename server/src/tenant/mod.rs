//! Tenants: who shares the deployment, how much each may have, and what bounds what it may do.

mod allowance;
mod definition;
mod directory;

use chrono::{DateTime, Utc};
use orrery_sdk::config::SandboxLevel;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::allowance::Allowance;
pub use self::definition::problems;
pub use self::directory::{Directory, Rules};

/// The most turns that one tenant has where another has one.
pub const MOST_WEIGHT: i32 = 1000;

/// A tenant as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Tenant {
    pub id: Uuid,
    /// In lower case; unique.
    pub name: String,
    pub description: String,
    pub quotas: Quotas,
    /// How many turns it has, where another has one.
    pub weight: i32,
    pub settings: Settings,
    pub suspended_at: Option<DateTime<Utc>>,
    pub suspend_reason: String,
    /// Rises with each change; 0: it has no row.
    pub version: i64,
    /// `None`: it has no row.
    pub created_at: Option<DateTime<Utc>>,
    /// `None`: nobody made it by a call.
    pub created_by: Option<Uuid>,
    pub updated_at: Option<DateTime<Utc>>,
}

/// How much a tenant may have. `None` is the deployment's default, 0 no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    pub max_jobs: Option<i64>,
    /// In an hour of the clock.
    pub max_executions_per_hour: Option<i64>,
    pub max_concurrent: Option<i32>,
    /// Of one execution.
    pub max_log_bytes: Option<i64>,
    /// Of one execution.
    pub max_result_bytes: Option<i64>,
}

/// What bounds what a tenant may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    /// `None`: the deployment's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_shell: Option<bool>,
    pub min_sandbox: SandboxLevel,
    /// Networks that its callers come from; any where empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ip_allow: Vec<String>,
    /// What its http jobs may call beside public addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub egress_allow: Vec<String>,
    /// What its http jobs may not call.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub egress_deny: Vec<String>,
}

impl Tenant {
    /// One that has no row: tokens name it, and the deployment's defaults are its quotas and settings.
    pub fn unnamed(id: Uuid) -> Self {
        Self {
            id,
            name: id.to_string(),
            description: String::new(),
            quotas: Quotas::default(),
            weight: 1,
            settings: Settings::default(),
            suspended_at: None,
            suspend_reason: String::new(),
            version: 0,
            created_at: None,
            created_by: None,
            updated_at: None,
        }
    }
}
