use async_trait::async_trait;
use uuid::Uuid;

use crate::error::{Error, Kind};
use crate::store::*;

/// Roles that tenants make, and who has which.
#[async_trait]
pub trait Roles: Send + Sync {
    /// Stores a role.
    ///
    /// # Errors
    /// [`StoreError::Refused`] (ROLE_NAME_TAKEN).
    async fn create_role(&self, role: &Role) -> Result<()>;

    /// Roles of a tenant with a greater name, by name.
    async fn roles(&self, tenant: Uuid, after: &str, limit: i64) -> Result<Vec<Role>>;

    /// One role.
    async fn role(&self, tenant: Uuid, name: &str) -> Result<Option<Role>>;

    /// Replaces what a role may do.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    async fn change_role(&self, tenant: Uuid, name: &str, description: &str, permissions: &[String]) -> Result<Role>;

    /// Deletes a role that nobody has.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Refused`] (ROLE_IN_USE) with who has it.
    async fn delete_role(&self, tenant: Uuid, name: &str) -> Result<()>;

    /// Binds a role, and answers with the binding: with the one that is there, where the same role is bound to the same for the same tag. With
    /// `is_made` the role must be one that the tenant has made.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] where there is no such role.
    async fn bind_role(&self, binding: &RoleBinding, is_made: bool) -> Result<RoleBinding>;

    /// Bindings, newest first.
    async fn role_bindings(&self, tenant: Uuid, filter: &BindingFilter, page: &Page) -> Result<Vec<RoleBinding>>;

    /// One binding.
    async fn role_binding(&self, tenant: Uuid, id: Uuid) -> Result<Option<RoleBinding>>;

    /// Takes a binding away.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    async fn unbind_role(&self, tenant: Uuid, id: Uuid) -> Result<RoleBinding>;

    /// The roles that somebody has: those that are bound to it, and what is known of those that it is said to have.
    async fn granted(&self, to: &Grantee<'_>) -> Result<Vec<Granted>>;
}

/// Those of these roles that are not there.
pub(in crate::store) fn absent(names: &[String], there: &[String]) -> Vec<String> {
    names.iter().filter(|name| !there.contains(&text::plain(name).into_owned())).cloned().collect()
}

/// Why a role is not deleted: who would lose it.
pub(in crate::store) fn role_in_use(name: &str, users: &[String], bindings: i64) -> Option<StoreError> {
    if users.is_empty() && bindings == 0 {
        return None;
    }
    let mut who = users.to_vec();
    if bindings > 0 {
        who.push(format!("{bindings} bindings (orrery role bindings --role {name})"));
    }
    let message = format!("the role {name} is that of {}; take it away from them first", who.join(", "));
    let error = Error::new(Kind::Conflict, "ROLE_IN_USE", message);
    Some(StoreError::Refused(Box::new(error.with("bindings", bindings))))
}
