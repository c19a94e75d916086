//! [`Agents`].

use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::audit::note;
use super::commit::commit;
use super::{PgStore, micros, rows};
use crate::audit::Deed;
use crate::store::{
    AgentScope, Agents, Certified, EnrolledAgent, JoinToken, NewJoinToken, Page, Result, StoreError, text,
};

/// `select` of what [`agent`] reads, or what follows `returning`.
macro_rules! agent_columns {
    () => {
        "id, tenant_id, name, queues, labels, created_by, serial, enrolled_at, renewed_at, certificate_expires_at, revoked_at, revoked_by"
    };
}

#[async_trait]
impl Agents for PgStore {
    async fn insert_join_token(&self, token: &NewJoinToken, ttl: Duration) -> Result<JoinToken> {
        let scope = &token.scope;
        let notes = self.notes();
        let mut tx = self.begin_identity().await?;
        let row = sqlx::query(
            "with old as (delete from agent_join_tokens where expires_at < clock_timestamp() - interval '30 days')
             insert into agent_join_tokens (id, tenant_id, hash, name, queues, labels, created_by, created_at, expires_at)
             select $1, $2, $3, $4, $5, $6, $7, t.now, t.now + $8 * interval '1 microsecond' from clock_timestamp() as t(now)
             returning id, tenant_id, name, queues, labels, created_by, expires_at",
        )
        .bind(token.id)
        .bind(scope.tenant_id)
        .bind(&token.hash[..])
        .bind(text::plain(&scope.name))
        .bind(scope.queues.iter().map(|queue| text::plain(queue).into_owned()).collect::<Vec<_>>())
        // A map of strings always can be written, and JSON escapes NULs.
        .bind(serde_json::to_string(&scope.labels).unwrap_or_default())
        .bind(scope.created_by)
        .bind(micros(ttl))
        .fetch_one(&mut *tx)
        .await?;
        let stored = join_token(&row)?;
        note(&mut tx, &notes.changed(0, || Deed::join_token(&stored, ttl))).await?;
        commit(tx).await?;
        Ok(stored)
    }

    async fn join_token(&self, hash: &[u8; 32]) -> Result<Option<JoinToken>> {
        let found = sqlx::query(
            "select id, tenant_id, name, queues, labels, created_by, expires_at from agent_join_tokens
             where hash = $1 and used_at is null and expires_at > clock_timestamp()",
        )
        .bind(&hash[..])
        .fetch_optional(self.identity())
        .await?;
        found.as_ref().map(join_token).transpose()
    }

    async fn enrol(&self, hash: &[u8; 32], id: Uuid, certificate: &Certified) -> Result<Option<EnrolledAgent>> {
        let notes = self.notes();
        let mut tx = self.begin_identity().await?;
        // Whoever comes second waits for the row of the token, and then finds it used.
        let found = sqlx::query(concat!(
            "with used as (
                update agent_join_tokens set used_at = clock_timestamp()
                where hash = $1 and used_at is null and expires_at > clock_timestamp()
                returning id, tenant_id, name, queues, labels, created_by, used_at
             )
             insert into agents (id, tenant_id, name, queues, labels, created_by, token_id, serial, enrolled_at, renewed_at, certificate_expires_at)
             select $2, u.tenant_id, u.name, u.queues, u.labels, u.created_by, u.id, $3, u.used_at, u.used_at, $4 from used u
             returning ",
            agent_columns!()
        ))
        .bind(&hash[..])
        .bind(id)
        .bind(&certificate.serial)
        .bind(certificate.expires_at)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(enrolled) = found.as_ref().map(agent).transpose()? else { return Ok(None) };
        note(&mut tx, &[notes.enrolled(&enrolled)]).await?;
        commit(tx).await?;
        Ok(Some(enrolled))
    }

    async fn enrolled_agent(&self, id: Uuid) -> Result<Option<EnrolledAgent>> {
        let found = sqlx::query(concat!("select ", agent_columns!(), " from agents where id = $1"))
            .bind(id)
            .fetch_optional(self.identity())
            .await?;
        found.as_ref().map(agent).transpose()
    }

    async fn enrolled_agents(&self, tenant: Uuid, page: &Page) -> Result<Vec<EnrolledAgent>> {
        let found = sqlx::query(concat!(
            "select ",
            agent_columns!(),
            " from agents where (tenant_id is null or tenant_id = $1) and ($2::uuid is null or id < $2) order by id desc limit $3"
        ))
        .bind(tenant)
        .bind(page.after)
        .bind(page.limit.max(0))
        .fetch_all(self.identity())
        .await?;
        found.iter().map(agent).collect()
    }

    async fn renew_agent(&self, id: Uuid, certificate: &Certified) -> Result<Option<EnrolledAgent>> {
        let notes = self.notes();
        let mut tx = self.begin_identity().await?;
        let found = sqlx::query(concat!(
            "update agents set serial = $2, certificate_expires_at = $3, renewed_at = clock_timestamp()
             where id = $1 and revoked_at is null returning ",
            agent_columns!()
        ))
        .bind(id)
        .bind(&certificate.serial)
        .bind(certificate.expires_at)
        .fetch_optional(&mut *tx)
        .await?;
        let renewed = found.as_ref().map(agent).transpose()?;
        if let Some(renewed) = &renewed {
            note(&mut tx, &notes.changed(0, || Deed::agent("agents:renew", renewed))).await?;
        }
        commit(tx).await?;
        Ok(renewed)
    }

    // By the role of the engine, which ends sessions.
    async fn revoke_agent(&self, tenant: Option<Uuid>, id: Uuid, by: Uuid) -> Result<Option<EnrolledAgent>> {
        let notes = self.notes();
        let mut tx = self.begin().await?;
        let was = "select revoked_at is null from agents where id = $1 for update";
        let was_good: Option<bool> = sqlx::query_scalar(was).bind(id).fetch_optional(&mut *tx).await?;
        let found = sqlx::query(concat!(
            "update agents set revoked_at = coalesce(revoked_at, clock_timestamp()), revoked_by = coalesce(revoked_by, $3)
             where id = $1 and ($2::uuid is null or tenant_id = $2) returning ",
            agent_columns!()
        ))
        .bind(id)
        .bind(tenant)
        .bind(by)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = found else {
            tx.rollback().await?;
            return Ok(None);
        };
        let revoked = agent(&row)?;
        end_sessions(&mut tx, &[id]).await?;
        if was_good == Some(true) {
            note(&mut tx, &notes.changed(0, || Deed::agent("agents:revoke", &revoked))).await?;
        }
        commit(tx).await?;
        Ok(Some(revoked))
    }

    async fn end_refused_agents(&self, agents: &[Uuid]) -> Result<Vec<Uuid>> {
        let refused: Vec<Uuid> = sqlx::query_scalar(
            "select w.id from unnest($1::uuid[]) as w(id) where not exists (
                select 1 from agents a where a.id = w.id and a.revoked_at is null and a.certificate_expires_at > clock_timestamp())",
        )
        .bind(agents)
        .fetch_all(self.pool())
        .await?;
        if !refused.is_empty() {
            let mut connection = self.pool().acquire().await.map_err(StoreError::from)?;
            end_sessions(&mut connection, &refused).await?;
        }
        Ok(refused)
    }
}

/// Ends what sessions of agents still live; the reaper takes their leases back.
async fn end_sessions(connection: &mut sqlx::PgConnection, agents: &[Uuid]) -> Result<()> {
    sqlx::query(
        "update agent_sessions set expires_at = clock_timestamp() where agent_id = any($1) and expires_at > clock_timestamp()",
    )
    .bind(agents)
    .execute(connection)
    .await?;
    Ok(())
}

fn scope(row: &PgRow, table: &'static str) -> Result<AgentScope> {
    Ok(AgentScope {
        tenant_id: row.try_get("tenant_id")?,
        name: row.try_get("name")?,
        queues: row.try_get("queues")?,
        labels: rows::json(table, rows::text(row, "labels")?)?,
        created_by: row.try_get("created_by")?,
    })
}

fn join_token(row: &PgRow) -> Result<JoinToken> {
    let scope = scope(row, "agent_join_tokens")?;
    Ok(JoinToken { id: row.try_get("id")?, scope, expires_at: row.try_get("expires_at")? })
}

fn agent(row: &PgRow) -> Result<EnrolledAgent> {
    Ok(EnrolledAgent {
        id: row.try_get("id")?,
        scope: scope(row, "agents")?,
        certificate: Certified { serial: row.try_get("serial")?, expires_at: row.try_get("certificate_expires_at")? },
        enrolled_at: row.try_get("enrolled_at")?,
        renewed_at: row.try_get("renewed_at")?,
        revoked_at: row.try_get("revoked_at")?,
        revoked_by: row.try_get("revoked_by")?,
    })
}
