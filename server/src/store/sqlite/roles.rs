//! Roles and who has them.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::audit::note;
use super::rows::{json, micros, to_json};
use super::{SqliteStore, Work};
use crate::audit::Deed;
use crate::error::Error;
use crate::store::rows::{role, role_binding};
use crate::store::text::plain;
use crate::store::{
    BindingFilter, Granted, Grantee, Page, Result, Role, RoleBinding, Roles, StoreError, absent, role_in_use,
};

const ROLES: &str = "roles";

#[async_trait]
impl Roles for SqliteStore {
    async fn create_role(&self, role: &Role) -> Result<()> {
        let notes = self.notes();
        let mut work = self.write().await?;
        let made = sqlx::query(
            "insert into roles (tenant_id, name, description, permissions, created_by, created_at, updated_at) \
             values (?1, ?2, ?3, ?4, ?5, ?6, ?6) on conflict (tenant_id, name) do nothing",
        )
        .bind(role.tenant_id)
        .bind(plain(&role.name))
        .bind(plain(&role.description))
        .bind(to_json(ROLES, &role.permissions)?)
        .bind(role.created_by)
        .bind(micros(role.created_at))
        .execute(&mut *work.tx)
        .await?;
        if made.rows_affected() == 0 {
            return Err(StoreError::Refused(Box::new(Error::role_name_taken(&role.name))));
        }
        note(&mut work, &notes.changed(0, || Deed::role_created(role))).await?;
        work.commit().await
    }

    async fn roles(&self, tenant: Uuid, after: &str, limit: i64) -> Result<Vec<Role>> {
        let rows = sqlx::query("select * from roles where tenant_id = ?1 and name > ?2 order by name limit ?3")
            .bind(tenant)
            .bind(plain(after))
            .bind(limit.max(0))
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(role).collect()
    }

    async fn role(&self, tenant: Uuid, name: &str) -> Result<Option<Role>> {
        let row = sqlx::query("select * from roles where tenant_id = ? and name = ?")
            .bind(tenant)
            .bind(plain(name))
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map(role).transpose()
    }

    async fn change_role(&self, tenant: Uuid, name: &str, description: &str, permissions: &[String]) -> Result<Role> {
        let notes = self.notes();
        let mut work = self.write().await?;
        let before = found(&mut work, tenant, name).await?;
        let row = sqlx::query(
            "update roles set description = ?3, permissions = ?4, updated_at = ?5 where tenant_id = ?1 and name = ?2 returning *",
        )
        .bind(tenant)
        .bind(plain(name))
        .bind(plain(description))
        .bind(to_json(ROLES, &permissions)?)
        .bind(micros(work.now))
        .fetch_optional(&mut *work.tx)
        .await?;
        let changed = row.as_ref().map(role).ok_or(StoreError::NotFound)??;
        note(&mut work, &notes.changed(0, || Deed::role_changed(&before, &changed))).await?;
        work.commit().await?;
        Ok(changed)
    }

    async fn delete_role(&self, tenant: Uuid, name: &str) -> Result<()> {
        let notes = self.notes();
        let mut work = self.write().await?;
        let role = found(&mut work, tenant, name).await?;
        let users: Vec<String> = sqlx::query_scalar(
            "select name from users where tenant_id = ?1 and exists (select 1 from json_each(roles) where value = ?2) \
             order by name limit 10",
        )
        .bind(tenant)
        .bind(plain(name))
        .fetch_all(&mut *work.tx)
        .await?;
        let bindings: i64 = sqlx::query_scalar("select count(*) from role_bindings where tenant_id = ? and role = ?")
            .bind(tenant)
            .bind(plain(name))
            .fetch_one(&mut *work.tx)
            .await?;
        if let Some(refused) = role_in_use(name, &users, bindings) {
            return Err(refused);
        }
        sqlx::query("delete from roles where tenant_id = ? and name = ?")
            .bind(tenant)
            .bind(plain(name))
            .execute(&mut *work.tx)
            .await?;
        note(&mut work, &notes.changed(0, || Deed::role_deleted(&role))).await?;
        work.commit().await
    }

    async fn bind_role(&self, new: &RoleBinding, is_made: bool) -> Result<RoleBinding> {
        let notes = self.notes();
        let mut work = self.write().await?;
        if is_made {
            found(&mut work, new.tenant_id, &new.role).await?;
        }
        // What is there already is written over with itself, so that it is answered with.
        let row = sqlx::query(
            "insert into role_bindings (id, tenant_id, role, principal_kind, principal_id, tag, created_by, created_at) \
             values (?, ?, ?, ?, ?, ?, ?, ?) \
             on conflict (tenant_id, principal_kind, principal_id, role, tag) do update set tag = excluded.tag returning *",
        )
        .bind(new.id)
        .bind(new.tenant_id)
        .bind(plain(&new.role))
        .bind(new.kind.as_json_str())
        .bind(new.principal_id)
        .bind(plain(&new.tag))
        .bind(new.created_by)
        .bind(micros(new.created_at))
        .fetch_one(&mut *work.tx)
        .await?;
        let bound = role_binding(&row)?;
        if bound.id == new.id {
            note(&mut work, &notes.changed(0, || Deed::role_binding("roles:bind", &bound))).await?;
        }
        work.commit().await?;
        Ok(bound)
    }

    async fn role_bindings(&self, tenant: Uuid, filter: &BindingFilter, page: &Page) -> Result<Vec<RoleBinding>> {
        let rows = sqlx::query(
            "select * from role_bindings where tenant_id = ?1 and (?2 is null or role = ?2) \
             and (?3 is null or principal_id = ?3) and (?4 is null or id < ?4) order by id desc limit ?5",
        )
        .bind(tenant)
        .bind(filter.role.as_deref().map(plain))
        .bind(filter.principal_id)
        .bind(page.after)
        .bind(page.limit.max(0))
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(role_binding).collect()
    }

    async fn role_binding(&self, tenant: Uuid, id: Uuid) -> Result<Option<RoleBinding>> {
        let row = sqlx::query("select * from role_bindings where tenant_id = ? and id = ?")
            .bind(tenant)
            .bind(id)
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map(role_binding).transpose()
    }

    async fn unbind_role(&self, tenant: Uuid, id: Uuid) -> Result<RoleBinding> {
        let notes = self.notes();
        let mut work = self.write().await?;
        let row = sqlx::query("delete from role_bindings where tenant_id = ? and id = ? returning *")
            .bind(tenant)
            .bind(id)
            .fetch_optional(&mut *work.tx)
            .await?;
        let gone = row.as_ref().map(role_binding).ok_or(StoreError::NotFound)??;
        note(&mut work, &notes.changed(0, || Deed::role_binding("roles:unbind", &gone))).await?;
        work.commit().await?;
        Ok(gone)
    }

    async fn granted(&self, to: &Grantee<'_>) -> Result<Vec<Granted>> {
        let names: Vec<_> = to.roles.iter().map(|role| plain(role)).collect();
        let rows = sqlx::query(
            "select b.role as role, b.tag as tag, r.permissions as permissions \
             from role_bindings b left join roles r on r.tenant_id = b.tenant_id and r.name = b.role \
             where b.tenant_id = ?1 and b.principal_kind = ?2 and b.principal_id = ?3 \
             union all \
             select n.value, '', r.permissions from json_each(?4) n left join roles r on r.tenant_id = ?1 and r.name = n.value",
        )
        .bind(to.tenant)
        .bind(to.kind.as_json_str())
        .bind(to.id)
        .bind(to_json(ROLES, &names)?)
        .fetch_all(&self.readers)
        .await?;
        let granted = |row: &SqliteRow| {
            let is_made = row.try_get::<Option<&str>, _>("permissions")?.is_some();
            let permissions = if is_made { Some(json(row, ROLES, "permissions")?) } else { None };
            Ok(Granted { role: row.try_get("role")?, tag: row.try_get("tag")?, permissions })
        };
        rows.iter().map(granted).collect()
    }
}

/// Roles that are being given to a user must be there. Nobody else writes until the transaction ends.
pub(super) async fn require_roles(work: &mut Work, tenant: Uuid, made: &[String]) -> Result<()> {
    if made.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = made.iter().map(|name| plain(name)).collect();
    let there: Vec<String> =
        sqlx::query_scalar("select name from roles where tenant_id = ? and name in (select value from json_each(?))")
            .bind(tenant)
            .bind(to_json(ROLES, &names)?)
            .fetch_all(&mut *work.tx)
            .await?;
    let missing = absent(made, &there);
    if missing.is_empty() { Ok(()) } else { Err(StoreError::Refused(Box::new(Error::no_such_roles(&missing)))) }
}

/// A role as it stands in a transaction.
async fn found(work: &mut Work, tenant: Uuid, name: &str) -> Result<Role> {
    let row = sqlx::query("select * from roles where tenant_id = ? and name = ?")
        .bind(tenant)
        .bind(plain(name))
        .fetch_optional(&mut *work.tx)
        .await?;
    row.as_ref().map(role).ok_or(StoreError::NotFound)?
}
