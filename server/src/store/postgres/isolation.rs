//! The roles that connections take, so that what a statement can reach is not the statement's to decide.
//!
//! The user that the service logs in as owns the tables, and migrates them. For all else each connection takes a role as soon as it is made:
//! [`API`] for what callers ask, which sees the rows of the one tenant that its transaction is bound to (see [`super::bound`]), and none in
//! a transaction that is bound to none; [`ENGINE`] for coordinators' own batches, which see the tables of the queue, of all tenants, and
//! no others; [`IDENTITY`] for who callers are; [`AUDIT`] for what seals and copies the records of all tenants. None of them owns anything or
//! can bypass row-level security, which is forced on every table. What each table is to them stands in [`super::tables`].

use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use super::tables::{self, Table};
use crate::store::{Result, StoreError};

/// Calls of one tenant.
pub(super) const API: &str = "orrery_api";
/// Coordinators' batches.
pub(super) const ENGINE: &str = "orrery_engine";
/// Logins, keys and tenants.
pub(super) const IDENTITY: &str = "orrery_identity";
/// Seals, heads and copies of what was done.
pub(super) const AUDIT: &str = "orrery_audit";
/// The user that has logged in.
pub(super) const NONE: &str = "none";

const ROLES: [&str; 4] = [API, ENGINE, IDENTITY, AUDIT];

/// How often the making of roles is tried where others make them as well: they are the cluster's, and no lock is.
const TRIES: u64 = 20;

/// What is known of one of the roles.
struct Known {
    name: String,
    can_bypass: bool,
    is_ours: bool,
}

/// Makes the roles, and lets the user that has logged in take them.
///
/// # Errors
/// [`StoreError::Unusable`] with what an administrator has to do, where this user may not; and where a role could bypass row-level security.
pub(super) async fn make(connection: &mut PgConnection) -> Result<()> {
    for attempt in 1.. {
        match try_make(connection).await {
            Err(StoreError::Database(error)) if was_raced(&error) && attempt < TRIES => {
                tokio::time::sleep(Duration::from_millis(rand::random_range(1..=5 * attempt))).await;
            }
            Err(StoreError::Database(error)) if code(&error).as_deref() == Some("42501") => {
                return Err(StoreError::Unusable(help(connection).await?));
            }
            done => return done,
        }
    }
    Ok(())
}

async fn try_make(connection: &mut PgConnection) -> Result<()> {
    let known = known(connection).await?;
    if let Some(bad) = known.iter().find(|role| role.can_bypass) {
        let name = &bad.name;
        return Err(StoreError::Unusable(format!(
            "the database role {name} can bypass row-level security, so that tenants would not be kept apart; as a superuser run: \
             alter role {name} nosuperuser nobypassrls"
        )));
    }
    for name in ROLES {
        let role = known.iter().find(|role| role.name == name);
        if role.is_none() {
            run(connection, format!("create role {name} nologin noinherit")).await?;
        }
        if !role.is_some_and(|role| role.is_ours) && !is_superuser(connection).await? {
            run(connection, format!("grant {name} to current_user")).await?;
        }
    }
    Ok(())
}

async fn known(connection: &mut PgConnection) -> Result<Vec<Known>> {
    // From 16 on, to be a member does not mean to be allowed to take a role.
    let found = sqlx::query(
        "select rolname::text as name, rolsuper or rolbypassrls as can_bypass, pg_has_role(session_user, oid,
            case when current_setting('server_version_num')::integer >= 160000 then 'SET' else 'MEMBER' end) as is_ours
         from pg_roles where rolname = any($1)",
    )
    .bind(ROLES.map(ToOwned::to_owned).to_vec())
    .fetch_all(connection)
    .await?;
    let role = |row: &PgRow| {
        Ok(Known {
            name: row.try_get("name")?,
            can_bypass: row.try_get("can_bypass")?,
            is_ours: row.try_get("is_ours")?,
        })
    };
    found.iter().map(role).collect()
}

async fn is_superuser(connection: &mut PgConnection) -> Result<bool> {
    let superuser = "select rolsuper from pg_roles where rolname = session_user";
    Ok(sqlx::query_scalar(superuser).fetch_one(connection).await?)
}

/// What an administrator has to do once for this user.
async fn help(connection: &mut PgConnection) -> Result<String> {
    let found = known(connection).await?;
    let user: String = sqlx::query_scalar("select quote_ident(session_user)").fetch_one(connection).await?;
    let missing = ROLES.into_iter().filter(|name| found.iter().all(|role| role.name != *name));
    let mut statements: Vec<String> = missing.map(|name| format!("create role {name} nologin noinherit;")).collect();
    statements.push(format!("grant {} to {user};", ROLES.join(", ")));
    Ok(format!(
        "the database user {user} may not make or take the roles that keep tenants apart; as a superuser run once: {}",
        statements.join(" ")
    ))
}

/// Whether somebody else has made a role, or granted one, at the same moment.
fn was_raced(error: &sqlx::Error) -> bool {
    let concurrently = |error: &sqlx::Error| {
        error.as_database_error().is_some_and(|db| db.message().contains("tuple concurrently updated"))
    };
    matches!(code(error).as_deref(), Some("42710" | "23505")) || concurrently(error)
}

fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

async fn run(connection: &mut PgConnection, statement: String) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await?;
    Ok(())
}

/// A table or partition as it is.
struct Relation {
    /// Quoted.
    name: String,
    /// Its own name, or that of the table that it is a partition of.
    listed: String,
    is_partition: bool,
    is_forced: bool,
    policies: Vec<String>,
    grants: Vec<String>,
}

impl Relation {
    fn of(row: &PgRow) -> Result<Self> {
        let sorted = |mut texts: Vec<String>| {
            texts.sort_unstable();
            texts
        };
        Ok(Self {
            name: row.try_get("name")?,
            listed: row.try_get("listed")?,
            is_partition: row.try_get("is_partition")?,
            is_forced: row.try_get("is_forced")?,
            policies: sorted(row.try_get("policies")?),
            grants: sorted(row.try_get("grants")?),
        })
    }

    /// Whether it is as it is to be. To look costs nothing; to make it so again would lock it against everybody.
    fn is_isolated(&self, table: &Table) -> bool {
        self.is_forced && self.policies == table.policies() && self.grants == table.grants(self.is_partition)
    }
}

/// Forces row-level security on the tables of the schema, with their policies, and lets each role have what it is to have. Tables that are
/// so already are not touched; each is changed in a transaction of its own, so that no two locks are held at once.
pub(super) async fn isolate(connection: &mut PgConnection) -> Result<()> {
    let usage = "select quote_ident(current_schema()) from unnest($1::text[]) as role
        where not has_schema_privilege(role, current_schema(), 'usage') limit 1";
    let schema: Option<String> =
        sqlx::query_scalar(usage).bind(ROLES.map(ToOwned::to_owned).to_vec()).fetch_optional(&mut *connection).await?;
    if let Some(schema) = schema {
        run(connection, format!("grant usage on schema {schema} to {}", ROLES.join(", "))).await?;
    }
    for relation in relations(connection).await? {
        let Some(table) = tables::listed(&relation.listed) else {
            tracing::debug!(table = relation.name, "a table that is not the scheduler's is left alone");
            continue;
        };
        if !relation.is_isolated(table) {
            let mut tx = connection.begin().await?;
            let isolated = run(&mut tx, table.isolate(&relation.name, relation.is_partition, &relation.policies)).await;
            isolated.map_err(|error| not_owned(error, &relation.name))?;
            tx.commit().await?;
        }
    }
    Ok(())
}

/// What to do where a table is somebody else's: one that an administrator has made, such as a partition.
fn not_owned(error: StoreError, table: &str) -> StoreError {
    match error {
        StoreError::Database(error) if code(&error).as_deref() == Some("42501") => StoreError::Unusable(format!(
            "the table {table} is not the database user's, who therefore cannot keep tenants apart in it; as its owner or a \
             superuser run: alter table {table} owner to the user of DATABASE_URL"
        )),
        other => other,
    }
}

async fn relations(connection: &mut PgConnection) -> Result<Vec<Relation>> {
    let found = sqlx::query(
        "select quote_ident(c.relname) as name, coalesce(p.relname, c.relname)::text as listed, p.oid is not null as is_partition,
            c.relrowsecurity and c.relforcerowsecurity as is_forced,
            array(select polname::text from pg_policy where polrelid = c.oid) as policies,
            array(select r.rolname || ' ' || lower(a.privilege_type) from aclexplode(c.relacl) a
                    join pg_roles r on r.oid = a.grantee where r.rolname = any($1)
                union select r.rolname || ' ' || lower(a.privilege_type) || '(' || string_agg(t.attname, ',' order by t.attname) || ')'
                    from pg_attribute t cross join aclexplode(t.attacl) a join pg_roles r on r.oid = a.grantee
                    where t.attrelid = c.oid and r.rolname = any($1) group by r.rolname, a.privilege_type) as grants
         from pg_class c
         left join pg_inherits i on i.inhrelid = c.oid left join pg_class p on p.oid = i.inhparent
         where c.relnamespace = (select oid from pg_namespace where nspname = current_schema()) and c.relkind in ('r', 'p')
         order by c.relname",
    )
    .bind(ROLES.map(ToOwned::to_owned).to_vec())
    .fetch_all(connection)
    .await?;
    found.iter().map(Relation::of).collect()
}
