//! Agents that have enrolled, and the tokens by which they may.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::audit::note;
use super::rows::{after, before, instant, json, maybe_instant, micros, to_json};
use super::{SqliteStore, Work, rows};
use crate::audit::Deed;
use crate::store::text::{jsonb, plain};
use crate::store::{AgentScope, Agents, Certified, EnrolledAgent, JoinToken, NewJoinToken, Page, Result};

const AGENTS: &str = "agents";
const TOKENS: &str = "agent_join_tokens";
/// How long tokens that are over are kept.
const KEPT: Duration = Duration::from_secs(30 * 86_400);

#[async_trait]
impl Agents for SqliteStore {
    async fn insert_join_token(&self, token: &NewJoinToken, ttl: Duration) -> Result<JoinToken> {
        let notes = self.notes();
        let mut work = self.write().await?;
        sqlx::query("delete from agent_join_tokens where expires_at < ?")
            .bind(micros(before(work.now, KEPT)))
            .execute(&mut *work.tx)
            .await?;
        let scope = &token.scope;
        let row = sqlx::query(
            "insert into agent_join_tokens (id, tenant_id, hash, name, queues, labels, created_by, created_at, expires_at) \
             values (?, ?, ?, ?, ?, ?, ?, ?, ?) returning *",
        )
        .bind(token.id)
        .bind(scope.tenant_id)
        .bind(token.hash.as_slice())
        .bind(plain(&scope.name).into_owned())
        .bind(jsonb(&to_json(TOKENS, &scope.queues)?).into_owned())
        .bind(jsonb(&to_json(TOKENS, &scope.labels)?).into_owned())
        .bind(scope.created_by)
        .bind(micros(work.now))
        .bind(micros(after(work.now, ttl)))
        .fetch_one(&mut *work.tx)
        .await?;
        let stored = join_token(&row)?;
        note(&mut work, &notes.changed(0, || Deed::join_token(&stored, ttl))).await?;
        work.commit().await?;
        Ok(stored)
    }

    async fn join_token(&self, hash: &[u8; 32]) -> Result<Option<JoinToken>> {
        let row = sqlx::query("select * from agent_join_tokens where hash = ? and used_at is null and expires_at > ?")
            .bind(hash.as_slice())
            .bind(micros(self.clock()))
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map(join_token).transpose()
    }

    async fn enrol(&self, hash: &[u8; 32], id: Uuid, certificate: &Certified) -> Result<Option<EnrolledAgent>> {
        let notes = self.notes();
        let mut work = self.write().await?;
        let used = sqlx::query(
            "update agent_join_tokens set used_at = ?1 where hash = ?2 and used_at is null and expires_at > ?1",
        )
        .bind(micros(work.now))
        .bind(hash.as_slice())
        .execute(&mut *work.tx)
        .await?;
        if used.rows_affected() == 0 {
            return Ok(None);
        }
        sqlx::query(
            "insert into agents (id, tenant_id, name, queues, labels, created_by, token_id, serial, enrolled_at, renewed_at, \
             certificate_expires_at) select ?1, tenant_id, name, queues, labels, created_by, id, ?2, ?3, ?3, ?4 \
             from agent_join_tokens where hash = ?5",
        )
        .bind(id)
        .bind(&certificate.serial)
        .bind(micros(work.now))
        .bind(micros(certificate.expires_at))
        .bind(hash.as_slice())
        .execute(&mut *work.tx)
        .await?;
        let enrolled = by_id(&mut work, id).await?;
        note(&mut work, &[notes.enrolled(&enrolled)]).await?;
        work.commit().await?;
        Ok(Some(enrolled))
    }

    async fn enrolled_agent(&self, id: Uuid) -> Result<Option<EnrolledAgent>> {
        let row = sqlx::query("select * from agents where id = ?").bind(id).fetch_optional(&self.readers).await?;
        row.as_ref().map(agent).transpose()
    }

    async fn enrolled_agents(&self, tenant: Uuid, page: &Page) -> Result<Vec<EnrolledAgent>> {
        let found = sqlx::query(
            "select * from agents where (tenant_id is null or tenant_id = ?1) and (?2 is null or id < ?2) order by id desc limit ?3",
        )
        .bind(tenant)
        .bind(page.after)
        .bind(page.limit.max(0))
        .fetch_all(&self.readers)
        .await?;
        found.iter().map(agent).collect()
    }

    async fn renew_agent(&self, id: Uuid, certificate: &Certified) -> Result<Option<EnrolledAgent>> {
        let notes = self.notes();
        let mut work = self.write().await?;
        let done = sqlx::query(
            "update agents set serial = ?, certificate_expires_at = ?, renewed_at = ? where id = ? and revoked_at is null",
        )
        .bind(&certificate.serial)
        .bind(micros(certificate.expires_at))
        .bind(micros(work.now))
        .bind(id)
        .execute(&mut *work.tx)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(None);
        }
        let renewed = by_id(&mut work, id).await?;
        note(&mut work, &notes.changed(0, || Deed::agent("agents:renew", &renewed))).await?;
        work.commit().await?;
        Ok(Some(renewed))
    }

    async fn revoke_agent(&self, tenant: Option<Uuid>, id: Uuid, by: Uuid) -> Result<Option<EnrolledAgent>> {
        let notes = self.notes();
        let mut work = self.write().await?;
        let was_good: Option<bool> = sqlx::query_scalar("select revoked_at is null from agents where id = ?")
            .bind(id)
            .fetch_optional(&mut *work.tx)
            .await?;
        let done = sqlx::query(
            "update agents set revoked_at = coalesce(revoked_at, ?1), revoked_by = coalesce(revoked_by, ?2) \
             where id = ?3 and (?4 is null or tenant_id = ?4)",
        )
        .bind(micros(work.now))
        .bind(by)
        .bind(id)
        .bind(tenant)
        .execute(&mut *work.tx)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(None);
        }
        end_sessions(&mut work, id).await?;
        let revoked = by_id(&mut work, id).await?;
        if was_good == Some(true) {
            note(&mut work, &notes.changed(0, || Deed::agent("agents:revoke", &revoked))).await?;
        }
        work.commit().await?;
        Ok(Some(revoked))
    }

    async fn end_refused_agents(&self, agents: &[Uuid]) -> Result<Vec<Uuid>> {
        let mut refused = Vec::new();
        for id in agents {
            let is_good: Option<i64> = sqlx::query_scalar(
                "select 1 from agents where id = ? and revoked_at is null and certificate_expires_at > ?",
            )
            .bind(id)
            .bind(micros(self.clock()))
            .fetch_optional(&self.readers)
            .await?;
            if is_good.is_none() {
                refused.push(*id);
            }
        }
        // Hardly ever: whoever only looks takes no turn of the one connection that writes.
        if !refused.is_empty() {
            let mut work = self.write().await?;
            for id in &refused {
                end_sessions(&mut work, *id).await?;
            }
            work.commit().await?;
        }
        Ok(refused)
    }
}

/// Ends what sessions of an agent still live; the reaper takes their leases back.
async fn end_sessions(work: &mut Work, agent: Uuid) -> Result<()> {
    sqlx::query("update agent_sessions set expires_at = ?1 where agent_id = ?2 and expires_at > ?1")
        .bind(micros(work.now))
        .bind(agent)
        .execute(&mut *work.tx)
        .await?;
    Ok(())
}

/// Reads an agent back.
async fn by_id(work: &mut Work, id: Uuid) -> Result<EnrolledAgent> {
    let row = sqlx::query("select * from agents where id = ?").bind(id).fetch_one(&mut *work.tx).await?;
    agent(&row)
}

fn scope(row: &SqliteRow, table: &'static str) -> Result<AgentScope> {
    Ok(AgentScope {
        tenant_id: row.try_get("tenant_id")?,
        name: row.try_get("name")?,
        queues: json(row, table, "queues")?,
        labels: json(row, table, "labels")?,
        created_by: row.try_get("created_by")?,
    })
}

fn join_token(row: &SqliteRow) -> Result<JoinToken> {
    let expires_at = rows::instant(row, TOKENS, "expires_at")?;
    Ok(JoinToken { id: row.try_get("id")?, scope: scope(row, TOKENS)?, expires_at })
}

fn agent(row: &SqliteRow) -> Result<EnrolledAgent> {
    Ok(EnrolledAgent {
        id: row.try_get("id")?,
        scope: scope(row, AGENTS)?,
        certificate: Certified {
            serial: row.try_get("serial")?,
            expires_at: instant(row, AGENTS, "certificate_expires_at")?,
        },
        enrolled_at: instant(row, AGENTS, "enrolled_at")?,
        renewed_at: instant(row, AGENTS, "renewed_at")?,
        revoked_at: maybe_instant(row, AGENTS, "revoked_at")?,
        revoked_by: row.try_get("revoked_by")?,
    })
}
