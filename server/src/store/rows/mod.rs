//! Rows of any engine, so that what both keep alike is read once.

mod audit;
mod columns;
mod identity;
mod roles;
mod seals;
mod secrets;
mod tenants;

pub(in crate::store) use audit::{audit_entry, audit_row};
pub(in crate::store) use columns::{Columns, plain_columns};
pub(in crate::store) use identity::{audited_session, user, user_session};
pub(in crate::store) use roles::{role, role_binding};
pub(in crate::store) use seals::{head, seal};
pub(in crate::store) use secrets::sealed_secret;
pub(in crate::store) use tenants::tenant;
