//! Agents, as their sessions show them.

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;
use orrery_proto::v1::Delivery;
use sqlx::Sqlite;
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use uuid::Uuid;

use super::audit::note;
use super::leases::{held, lease_expired};
use super::rows::{self, after, before, micros, to_json};
use super::{SqliteStore, Work, executions};
use crate::audit::Deed;
use crate::execution::{Event, Execution, State};
use crate::store::text::{jsonb, plain};
use crate::store::{Held, Holding, NewSession, Page, Reaped, Renewed, Result, Resumed, Session, Sessions};

const TABLE: &str = "agent_sessions";

/// `select` of what [`rows::session`] reads.
macro_rules! select_sessions {
    ($rest:literal) => {
        concat!(
            "select s.*, (select count(*) from live_executions e where e.session_id = s.id) as running from agent_sessions s ",
            $rest
        )
    };
}

#[async_trait]
impl Sessions for SqliteStore {
    async fn open_session(&self, session: &NewSession, ttl: Duration) -> Result<Session> {
        let mut work = self.write().await?;
        let id = Uuid::new_v4();
        let statement = sqlx::query(
            "insert into agent_sessions (tenant_id, name, version, labels, queues, executors, slots, coordinator_id, address, \
             renewed_at, expires_at, agent_id, id, opened_at, attachment, attached, draining) \
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?10, 1, 1, 0)",
        );
        said(statement, session, &work, ttl)?.bind(id).execute(&mut *work.tx).await?;
        let opened = by_id(&mut work, id).await?;
        work.commit().await?;
        opened.ok_or_else(|| rows::corrupt(TABLE, "a session was not stored"))
    }

    async fn resume_session(
        &self,
        id: Uuid,
        session: &NewSession,
        holding: &Holding<'_>,
        ttl: Duration,
    ) -> Result<Option<Resumed>> {
        let mut work = self.write().await?;
        let statement = sqlx::query(
            "update agent_sessions set attachment = attachment + 1, attached = 1, version = ?3, labels = ?4, queues = ?5, \
             executors = ?6, slots = ?7, coordinator_id = ?8, address = ?9, renewed_at = ?10, expires_at = ?11 \
             where id = ?13 and tenant_id is ?1 and name = ?2 and agent_id is ?12 and expires_at > ?10",
        );
        let done = said(statement, session, &work, ttl)?.bind(id).execute(&mut *work.tx).await?;
        if done.rows_affected() == 0 {
            return Ok(None);
        }
        let leases = held(&mut work.tx, id).await?;
        let named: HashSet<(Uuid, i64)> = holding.leases.iter().copied().collect();
        let (held, lost): (Vec<Held>, Vec<Held>) =
            leases.into_iter().partition(|lease| named.contains(&(lease.execution_id, lease.epoch)));
        let taken_back = self.take_all_back(&mut work, &lost, holding.continued).await?;
        let session = by_id(&mut work, id).await?.ok_or_else(|| rows::corrupt(TABLE, "a session was not stored"))?;
        work.commit().await?;
        Ok(Some(Resumed { session, held, taken_back }))
    }

    async fn renew_sessions(&self, sessions: &[(Uuid, i64)], ttl: Duration) -> Result<Renewed> {
        let mut work = self.write().await?;
        let mut renewed = Vec::with_capacity(sessions.len());
        for (id, attachment) in sessions {
            let done = sqlx::query(
                "update agent_sessions set renewed_at = ?1, expires_at = ?2 where id = ?3 and attachment = ?4 and expires_at > ?1",
            )
            .bind(micros(work.now))
            .bind(micros(after(work.now, ttl)))
            .bind(id)
            .bind(attachment)
            .execute(&mut *work.tx)
            .await?;
            if done.rows_affected() > 0 {
                renewed.push(*id);
            }
        }
        work.commit().await?;
        Ok(Renewed { renewed, busy: Vec::new() })
    }

    async fn spare_sessions(&self, coordinator: Uuid, quiet: Duration, grace: Duration) -> Result<u64> {
        let mut work = self.write().await?;
        let done = sqlx::query(
            "update agent_sessions set expires_at = ?1 where expires_at < ?1 \
             and (agent_id is null or exists (select 1 from agents a where a.id = agent_id and a.revoked_at is null \
             and a.certificate_expires_at > ?4)) \
             and not exists (select 1 from coordinators where id <> ?2 and last_seen_at > ?3)",
        )
        .bind(micros(after(work.now, grace)))
        .bind(coordinator)
        .bind(micros(before(work.now, quiet)))
        .bind(micros(work.now))
        .execute(&mut *work.tx)
        .await?;
        work.commit().await?;
        Ok(done.rows_affected())
    }

    async fn detach_session(&self, id: Uuid, attachment: i64) -> Result<()> {
        let mut work = self.write().await?;
        sqlx::query("update agent_sessions set attached = 0 where id = ? and attachment = ?")
            .bind(id)
            .bind(attachment)
            .execute(&mut *work.tx)
            .await?;
        work.commit().await
    }

    async fn close_session(&self, id: Uuid, attachment: i64) -> Result<()> {
        let mut work = self.write().await?;
        let done = sqlx::query("delete from agent_sessions where id = ? and attachment = ?")
            .bind(id)
            .bind(attachment)
            .execute(&mut *work.tx)
            .await?;
        if done.rows_affected() > 0 {
            let leases = held(&mut work.tx, id).await?;
            // It has told all that it had begun before it said goodbye.
            self.take_all_back(&mut work, &leases, true).await?;
        }
        work.commit().await
    }

    async fn drain_session(&self, tenant: Option<Uuid>, id: Uuid) -> Result<bool> {
        let notes = self.notes();
        let mut work = self.write().await?;
        let drained: Option<(Option<Uuid>, String)> = sqlx::query_as(
            "update agent_sessions set draining = 1 where id = ?1 and expires_at > ?2 and (?3 is null or tenant_id = ?3) \
             returning tenant_id, name",
        )
        .bind(id)
        .bind(micros(work.now))
        .bind(tenant)
        .fetch_optional(&mut *work.tx)
        .await?;
        if let Some((of, name)) = &drained {
            note(&mut work, &notes.changed(0, || Deed::drained(*of, id, name))).await?;
        }
        work.commit().await?;
        Ok(drained.is_some())
    }

    async fn held(&self, session: Uuid) -> Result<Vec<Held>> {
        let mut work = self.read().await?;
        held(&mut work.tx, session).await
    }

    async fn sessions(&self, tenant: Uuid, page: &Page) -> Result<Vec<Session>> {
        let found = sqlx::query(select_sessions!(
            "where (s.tenant_id is null or s.tenant_id = ?1) and s.expires_at > ?2 and (?3 is null or s.id > ?3) order by s.id limit ?4"
        ))
        .bind(tenant)
        .bind(micros(self.clock()))
        .bind(page.after)
        .bind(page.limit.max(0))
        .fetch_all(&self.readers)
        .await?;
        found.iter().map(rows::session).collect()
    }
}

impl SqliteStore {
    /// Takes leases back. What was not begun goes to others as if it had never been given; what was is lost. So is what may not run twice,
    /// unless its agent is known to tell of all that it begins (`tells_all`).
    async fn take_all_back(&self, work: &mut Work, leases: &[Held], tells_all: bool) -> Result<Vec<Execution>> {
        let mut reaped = Reaped::default();
        for lease in leases {
            let Some(execution) = executions::live(&mut work.tx, lease.execution_id).await? else { continue };
            let spec = self.spec(work, execution.job_id, execution.job_version).await?;
            let event = match execution.state {
                State::Leased(_) if tells_all || spec.delivery != Delivery::AtMostOnce => released,
                _ => lease_expired,
            };
            self.take_back(work, execution, &mut reaped, event).await?;
        }
        Ok(reaped.executions.into_iter().map(|(_, after)| after).collect())
    }
}

fn released(lease: &Held) -> Event {
    Event::Released { session_id: lease.session_id, epoch: lease.epoch }
}

async fn by_id(work: &mut Work, id: Uuid) -> Result<Option<Session>> {
    let row = sqlx::query(select_sessions!("where s.id = ?")).bind(id).fetch_optional(&mut *work.tx).await?;
    row.as_ref().map(rows::session).transpose()
}

/// Binds what an agent says of itself (parameters 1 to 9), the instant, the expiry and the enrolled agent (10 to 12).
fn said<'q>(
    statement: Query<'q, Sqlite, SqliteArguments>,
    session: &NewSession,
    work: &Work,
    ttl: Duration,
) -> Result<Query<'q, Sqlite, SqliteArguments>> {
    Ok(statement
        .bind(session.tenant_id)
        .bind(plain(&session.name).into_owned())
        .bind(plain(&session.version).into_owned())
        .bind(jsonb(&to_json(TABLE, &session.labels)?).into_owned())
        .bind(jsonb(&to_json(TABLE, &session.queues)?).into_owned())
        .bind(jsonb(&to_json(TABLE, &session.executors)?).into_owned())
        .bind(session.slots)
        .bind(session.coordinator_id)
        .bind(plain(&session.address).into_owned())
        .bind(micros(work.now))
        .bind(micros(after(work.now, ttl)))
        .bind(session.agent_id))
}
