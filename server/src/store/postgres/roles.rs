//! [`Roles`].

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::audit::note;
use super::commit::commit;
use super::{PgStore, retried, violated};
use crate::audit::Deed;
use crate::error::Error;
use crate::store::rows::{role, role_binding};
use crate::store::{
    BindingFilter, Granted, Grantee, Notes, Page, Result, Role, RoleBinding, Roles, StoreError, absent, role_in_use,
    text,
};

/// What [`role`] reads.
macro_rules! role_columns {
    () => {
        "tenant_id, name, description, permissions, created_by, created_at, updated_at"
    };
}

/// What [`role_binding`] reads.
macro_rules! binding_columns {
    () => {
        "id, tenant_id, role, principal_kind, principal_id, tag, created_by, created_at"
    };
}

#[async_trait]
impl Roles for PgStore {
    async fn create_role(&self, role: &Role) -> Result<()> {
        let notes = self.notes();
        let mut tx = self.begin_identity().await?;
        let made = sqlx::query(
            "insert into roles (tenant_id, name, description, permissions, created_by, created_at, updated_at)
             values ($1, $2, $3, $4, $5, $6, $6)",
        )
        .bind(role.tenant_id)
        .bind(text::plain(&role.name))
        .bind(text::plain(&role.description))
        .bind(&role.permissions)
        .bind(role.created_by)
        .bind(role.created_at)
        .execute(&mut *tx)
        .await;
        match made {
            Err(error) if violated(&error) == Some("roles_name") => {
                return Err(StoreError::Refused(Box::new(Error::role_name_taken(&role.name))));
            }
            made => made?,
        };
        note(&mut tx, &notes.changed(0, || Deed::role_created(role))).await?;
        commit(tx).await
    }

    async fn roles(&self, tenant: Uuid, after: &str, limit: i64) -> Result<Vec<Role>> {
        // Byte by byte, as the other engine has it, whatever the database's collation.
        let found = sqlx::query(concat!(
            "select ",
            role_columns!(),
            " from roles where tenant_id = $1 and name collate \"C\" > $2 order by name collate \"C\" limit $3"
        ))
        .bind(tenant)
        .bind(text::plain(after))
        .bind(limit.max(0))
        .fetch_all(self.identity())
        .await?;
        found.iter().map(role).collect()
    }

    async fn role(&self, tenant: Uuid, name: &str) -> Result<Option<Role>> {
        let found = sqlx::query(concat!("select ", role_columns!(), " from roles where tenant_id = $1 and name = $2"))
            .bind(tenant)
            .bind(text::plain(name))
            .fetch_optional(self.identity())
            .await?;
        found.as_ref().map(role).transpose()
    }

    async fn change_role(&self, tenant: Uuid, name: &str, description: &str, permissions: &[String]) -> Result<Role> {
        let notes = self.notes();
        let mut tx = self.begin_identity().await?;
        let before = locked(&mut tx, tenant, name).await?;
        let changed = sqlx::query(concat!(
            "update roles set description = $3, permissions = $4, updated_at = clock_timestamp()
             where tenant_id = $1 and name = $2 returning ",
            role_columns!()
        ))
        .bind(tenant)
        .bind(text::plain(name))
        .bind(text::plain(description))
        .bind(permissions)
        .fetch_one(&mut *tx)
        .await?;
        let changed = role(&changed)?;
        note(&mut tx, &notes.changed(0, || Deed::role_changed(&before, &changed))).await?;
        commit(tx).await?;
        Ok(changed)
    }

    async fn delete_role(&self, tenant: Uuid, name: &str) -> Result<()> {
        let notes = self.notes();
        retried!(self, self.try_delete_role(tenant, name, &notes))
    }

    async fn bind_role(&self, binding: &RoleBinding, is_made: bool) -> Result<RoleBinding> {
        let notes = self.notes();
        retried!(self, self.try_bind(binding, is_made, &notes))
    }

    async fn role_bindings(&self, tenant: Uuid, filter: &BindingFilter, page: &Page) -> Result<Vec<RoleBinding>> {
        let found = sqlx::query(concat!(
            "select ",
            binding_columns!(),
            " from role_bindings where tenant_id = $1 and ($2::text is null or role = $2)
                and ($3::uuid is null or principal_id = $3) and ($4::uuid is null or id < $4) order by id desc limit $5"
        ))
        .bind(tenant)
        .bind(filter.role.as_deref().map(text::plain))
        .bind(filter.principal_id)
        .bind(page.after)
        .bind(page.limit.max(0))
        .fetch_all(self.identity())
        .await?;
        found.iter().map(role_binding).collect()
    }

    async fn role_binding(&self, tenant: Uuid, id: Uuid) -> Result<Option<RoleBinding>> {
        let found =
            sqlx::query(concat!("select ", binding_columns!(), " from role_bindings where tenant_id = $1 and id = $2"))
                .bind(tenant)
                .bind(id)
                .fetch_optional(self.identity())
                .await?;
        found.as_ref().map(role_binding).transpose()
    }

    async fn unbind_role(&self, tenant: Uuid, id: Uuid) -> Result<RoleBinding> {
        let notes = self.notes();
        let mut tx = self.begin_identity().await?;
        let gone = sqlx::query(concat!(
            "delete from role_bindings where tenant_id = $1 and id = $2 returning ",
            binding_columns!()
        ))
        .bind(tenant)
        .bind(id)
        .fetch_optional(&mut *tx)
        .await?;
        let gone = gone.as_ref().map(role_binding).ok_or(StoreError::NotFound)??;
        note(&mut tx, &notes.changed(0, || Deed::role_binding("roles:unbind", &gone))).await?;
        commit(tx).await?;
        Ok(gone)
    }

    async fn granted(&self, to: &Grantee<'_>) -> Result<Vec<Granted>> {
        let found = sqlx::query(
            "select b.role, b.tag, r.permissions
             from role_bindings b left join roles r on r.tenant_id = b.tenant_id and r.name = b.role
             where b.tenant_id = $1 and b.principal_kind = $2 and b.principal_id = $3
             union all
             select n.name, '', r.permissions
             from unnest($4::text[]) as n (name) left join roles r on r.tenant_id = $1 and r.name = n.name",
        )
        .bind(to.tenant)
        .bind(to.kind.as_json_str())
        .bind(to.id)
        .bind(to.roles.iter().map(|role| text::plain(role).into_owned()).collect::<Vec<String>>())
        .fetch_all(self.identity())
        .await?;
        let granted = |row: &PgRow| {
            Ok(Granted {
                role: row.try_get("role")?,
                tag: row.try_get("tag")?,
                permissions: row.try_get("permissions")?,
            })
        };
        found.iter().map(granted).collect()
    }
}

impl PgStore {
    async fn try_delete_role(&self, tenant: Uuid, name: &str, notes: &Notes) -> Result<()> {
        let mut tx = self.begin_identity().await?;
        // Who gives it to somebody meanwhile waits for this lock, and then finds no role.
        let role = locked(&mut tx, tenant, name).await?;
        let users: Vec<String> = sqlx::query_scalar(
            "select name from users where tenant_id = $1 and $2 = any(roles) order by name limit 10",
        )
        .bind(tenant)
        .bind(text::plain(name))
        .fetch_all(&mut *tx)
        .await?;
        let bindings: i64 = sqlx::query_scalar("select count(*) from role_bindings where tenant_id = $1 and role = $2")
            .bind(tenant)
            .bind(text::plain(name))
            .fetch_one(&mut *tx)
            .await?;
        if let Some(refused) = role_in_use(name, &users, bindings) {
            return Err(refused);
        }
        sqlx::query("delete from roles where tenant_id = $1 and name = $2")
            .bind(tenant)
            .bind(text::plain(name))
            .execute(&mut *tx)
            .await?;
        note(&mut tx, &notes.changed(0, || Deed::role_deleted(&role))).await?;
        commit(tx).await
    }

    async fn try_bind(&self, new: &RoleBinding, is_made: bool, notes: &Notes) -> Result<RoleBinding> {
        let mut tx = self.begin_identity().await?;
        if is_made && !missing(&mut tx, new.tenant_id, std::slice::from_ref(&new.role)).await?.is_empty() {
            return Err(StoreError::NotFound);
        }
        // What is there already is written over with itself, so that it is answered with.
        let bound = sqlx::query(concat!(
            "insert into role_bindings (id, tenant_id, role, principal_kind, principal_id, tag, created_by, created_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8)
             on conflict on constraint role_bindings_once do update set tag = excluded.tag returning ",
            binding_columns!()
        ))
        .bind(new.id)
        .bind(new.tenant_id)
        .bind(text::plain(&new.role))
        .bind(new.kind.as_json_str())
        .bind(new.principal_id)
        .bind(text::plain(&new.tag))
        .bind(new.created_by)
        .bind(new.created_at)
        .fetch_one(&mut *tx)
        .await?;
        let bound = role_binding(&bound)?;
        if bound.id == new.id {
            note(&mut tx, &notes.changed(0, || Deed::role_binding("roles:bind", &bound))).await?;
        }
        commit(tx).await?;
        Ok(bound)
    }
}

/// Roles that are being given to a user must be there, and stay until the transaction ends: whoever deletes one waits, and then finds who has it.
pub(super) async fn keep_roles(tx: &mut PgConnection, tenant: Uuid, made: &[String]) -> Result<()> {
    let missing = missing(tx, tenant, made).await?;
    if missing.is_empty() { Ok(()) } else { Err(StoreError::Refused(Box::new(Error::no_such_roles(&missing)))) }
}

/// Those of these roles that there are not; the others are kept from being deleted.
async fn missing(tx: &mut PgConnection, tenant: Uuid, names: &[String]) -> Result<Vec<String>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let there: Vec<String> = sqlx::query_scalar(
        "select name from roles where tenant_id = $1 and name = any($2) order by name for key share",
    )
    .bind(tenant)
    .bind(names.iter().map(|name| text::plain(name).into_owned()).collect::<Vec<_>>())
    .fetch_all(tx)
    .await?;
    Ok(absent(names, &there))
}

/// A role under a lock.
async fn locked(tx: &mut PgConnection, tenant: Uuid, name: &str) -> Result<Role> {
    let found =
        sqlx::query(concat!("select ", role_columns!(), " from roles where tenant_id = $1 and name = $2 for update"))
            .bind(tenant)
            .bind(text::plain(name))
            .fetch_optional(tx)
            .await?;
    found.as_ref().map(role).ok_or(StoreError::NotFound)?
}
