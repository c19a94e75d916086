//! [`Sessions`].

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;
use orrery_proto::v1::Delivery;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::apply::Locked;
use super::audit::note;
use super::commit::{Tries, commit, in_time};
use super::leases::held;
use super::rows::live_columns;
use super::{PgStore, micros, retried, rows};
use crate::audit::Deed;
use crate::execution::{Event, Execution, State};
use crate::store::{Held, Holding, NewSession, Page, Renewed, Result, Resumed, Session, Sessions, StoreError, text};

/// Before each try of a renewal: whoever holds a session's row does so for a moment.
const RENEWAL_PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(20), Duration::from_millis(100)];

/// How long one may take.
const A_RENEWAL: Duration = Duration::from_secs(4);

/// The columns of a session, of table `s`.
macro_rules! session_columns {
    () => {
        "s.id, s.tenant_id, s.agent_id, s.name, s.version, s.labels, s.queues, s.executors, s.slots, s.coordinator_id, s.address,
         s.attachment, s.attached, s.draining, s.opened_at, s.renewed_at, s.expires_at"
    };
}

#[async_trait]
impl Sessions for PgStore {
    async fn open_session(&self, session: &NewSession, ttl: Duration) -> Result<Session> {
        let row = sqlx::query(concat!(
            "insert into agent_sessions as s (id, tenant_id, name, version, labels, queues, executors, slots, coordinator_id,
                address, agent_id, attachment, attached, opened_at, renewed_at, expires_at)
             select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $12, 1, true, t.now, t.now, t.now + $11 * interval '1 microsecond'
             from clock_timestamp() as t(now) returning ",
            session_columns!()
        ))
        .bind(Uuid::new_v4())
        .bind(session.tenant_id)
        .bind(text::plain(&session.name))
        .bind(text::plain(&session.version))
        .bind(labels(session))
        .bind(all_plain(&session.queues))
        .bind(all_plain(&session.executors))
        .bind(session.slots)
        .bind(session.coordinator_id)
        .bind(text::plain(&session.address))
        .bind(micros(ttl))
        .bind(session.agent_id)
        .fetch_one(self.pool())
        .await?;
        session_of(&row, 0)
    }

    async fn resume_session(
        &self,
        id: Uuid,
        session: &NewSession,
        held: &Holding<'_>,
        ttl: Duration,
    ) -> Result<Option<Resumed>> {
        let mut tries = Tries::new(&self.inner.evict);
        let resumed = retried!(self, tries, self.try_resume(id, session, held, ttl));
        self.tell_of_lost(&tries);
        resumed
    }

    async fn renew_sessions(&self, sessions: &[(Uuid, i64)], ttl: Duration) -> Result<Renewed> {
        let mut done = Renewed::default();
        let mut wanted = sessions.to_vec();
        for pause in RENEWAL_PAUSES {
            if wanted.is_empty() {
                break;
            }
            tokio::time::sleep(pause).await;
            let away = || Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut));
            let found =
                tokio::time::timeout(A_RENEWAL, self.try_renew(&wanted, ttl)).await.unwrap_or_else(|_| away())?;
            done.renewed.extend(found.renewed);
            wanted.retain(|(id, _)| found.busy.contains(id));
            done.busy = found.busy;
        }
        Ok(done)
    }

    async fn spare_sessions(&self, coordinator: Uuid, quiet: Duration, grace: Duration) -> Result<u64> {
        let query = sqlx::query(
            "with t as (select clock_timestamp() + $3 * interval '1 microsecond' as least)
             update agent_sessions s set expires_at = t.least from t where s.expires_at < t.least
               and (s.agent_id is null or exists (select 1 from agents a where a.id = s.agent_id and a.revoked_at is null
                    and a.certificate_expires_at > clock_timestamp()))
               and not exists (
                select 1 from coordinators where id <> $1 and last_seen_at > clock_timestamp() - $2 * interval '1 microsecond')",
        )
        .bind(coordinator)
        .bind(micros(quiet))
        .bind(micros(grace));
        in_time(async { Ok(query.execute(self.pool()).await?.rows_affected()) }).await
    }

    async fn detach_session(&self, id: Uuid, attachment: i64) -> Result<()> {
        sqlx::query("update agent_sessions set attached = false where id = $1 and attachment = $2")
            .bind(id)
            .bind(attachment)
            .execute(self.pool())
            .await?;
        Ok(())
    }

    async fn close_session(&self, id: Uuid, attachment: i64) -> Result<()> {
        retried!(self, self.try_close(id, attachment))
    }

    async fn drain_session(&self, tenant: Option<Uuid>, id: Uuid) -> Result<bool> {
        let notes = self.notes();
        let mut tx = self.begin_all(tenant).await?;
        let drained: Option<(Option<Uuid>, String)> = sqlx::query_as(
            "update agent_sessions set draining = true
             where id = $1 and ($2::uuid is null or tenant_id = $2) and expires_at > clock_timestamp() returning tenant_id, name",
        )
        .bind(id)
        .bind(tenant)
        .fetch_optional(&mut *tx)
        .await?;
        if let Some((of, name)) = &drained {
            note(&mut tx, &notes.changed(0, || Deed::drained(*of, id, name))).await?;
        }
        commit(tx).await?;
        Ok(drained.is_some())
    }

    async fn held(&self, session: Uuid) -> Result<Vec<Held>> {
        let found = sqlx::query("select session_id, id, epoch from live_executions where session_id = $1 order by id")
            .bind(session)
            .fetch_all(self.pool())
            .await?;
        found.iter().map(held).collect()
    }

    async fn sessions(&self, tenant: Uuid, page: &Page) -> Result<Vec<Session>> {
        let found = sqlx::query(concat!(
            "select ",
            session_columns!(),
            ", (select count(*) from live_executions e where e.session_id = s.id) as running from agent_sessions s
             where (s.tenant_id is null or s.tenant_id = $1) and s.expires_at > clock_timestamp()
               and ($2::uuid is null or s.id > $2)
             order by s.id limit $3"
        ))
        .bind(tenant)
        .bind(page.after)
        .bind(page.limit.max(0))
        .fetch_all(&mut *self.read_for(tenant).await?)
        .await?;
        found.iter().map(|row| session_of(row, row.try_get("running")?)).collect()
    }
}

impl PgStore {
    async fn try_renew(&self, sessions: &[(Uuid, i64)], ttl: Duration) -> Result<Renewed> {
        let (ids, attachments): (Vec<Uuid>, Vec<i64>) = sessions.iter().copied().unzip();
        let found: Vec<(Uuid, bool)> = sqlx::query_as(
            "with wanted as (select * from unnest($1::uuid[], $2::bigint[]) as u(id, attachment)),
             held as (
                select s.id from agent_sessions s join wanted u on u.id = s.id and u.attachment = s.attachment
                where s.expires_at > clock_timestamp() order by s.id for no key update of s skip locked
             ),
             renewed as (
                update agent_sessions s set renewed_at = t.now, expires_at = t.now + $3 * interval '1 microsecond'
                from held, (select clock_timestamp() as now offset 0) t where s.id = held.id returning s.id
             )
             select s.id, s.id in (select id from renewed) from agent_sessions s
             join wanted u on u.id = s.id and u.attachment = s.attachment where s.expires_at > statement_timestamp()",
        )
        .bind(ids)
        .bind(attachments)
        .bind(micros(ttl))
        .fetch_all(&self.inner.beats)
        .await?;
        let (renewed, busy): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, renewed)| *renewed);
        let ids = |found: Vec<(Uuid, bool)>| found.into_iter().map(|(id, _)| id).collect();
        Ok(Renewed { renewed: ids(renewed), busy: ids(busy) })
    }

    async fn try_resume(
        &self,
        id: Uuid,
        session: &NewSession,
        held: &Holding<'_>,
        ttl: Duration,
    ) -> Result<Option<Resumed>> {
        let mut tx = self.begin_keyed().await?;
        // Waits for claims that are granting to the older attachment (they hold it `for key share`), so that what they grant is seen below.
        sqlx::query("select 1 from agent_sessions where id = $1 for update").bind(id).execute(&mut *tx).await?;
        let row = sqlx::query(concat!(
            "update agent_sessions s set attachment = s.attachment + 1, attached = true, version = $4, labels = $5, queues = $6,
                executors = $7, slots = $8, coordinator_id = $9, address = $10, renewed_at = clock_timestamp(),
                expires_at = clock_timestamp() + $11 * interval '1 microsecond'
             where s.id = $1 and s.tenant_id is not distinct from $2 and s.name = $3 and s.agent_id is not distinct from $12
               and s.expires_at > clock_timestamp()
             returning ",
            session_columns!()
        ))
        .bind(id)
        .bind(session.tenant_id)
        .bind(text::plain(&session.name))
        .bind(text::plain(&session.version))
        .bind(labels(session))
        .bind(all_plain(&session.queues))
        .bind(all_plain(&session.executors))
        .bind(session.slots)
        .bind(session.coordinator_id)
        .bind(text::plain(&session.address))
        .bind(micros(ttl))
        .bind(session.agent_id)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else {
            // Now: a transaction that is dropped ends a moment later, and until then the reaper passes the session over.
            tx.rollback().await?;
            return Ok(None);
        };
        let named: HashSet<(Uuid, i64)> = held.leases.iter().copied().collect();
        let (kept, lost): (Vec<Locked>, Vec<Locked>) = lock_held(&mut tx, id)
            .await?
            .into_iter()
            .partition(|l| named.contains(&(l.execution.id, l.execution.epoch)));
        let lease = |l: &Locked| Held { session_id: id, execution_id: l.execution.id, epoch: l.execution.epoch };
        let kept = kept.iter().map(lease).collect();
        let taken_back = self.take_back(&mut tx, id, lost, held.continued).await?;
        let session = session_of(&row, 0)?;
        commit(tx).await?;
        Ok(Some(Resumed { session, held: kept, taken_back }))
    }

    /// Takes leases of a session back. What the agent has not begun goes to others as if it had never been given; what it has begun is lost.
    /// So is what may not run twice, unless its agent is known to tell of all that it begins (`tells_all`).
    async fn take_back(
        &self,
        tx: &mut PgConnection,
        id: Uuid,
        locked: Vec<Locked>,
        tells_all: bool,
    ) -> Result<Vec<Execution>> {
        let now = super::clock(tx).await?;
        let changed = self
            .apply_to(tx, locked, now, |execution, policy| {
                let epoch = execution.epoch;
                match &execution.state {
                    State::Leased(_) if tells_all || policy.delivery != Delivery::AtMostOnce => {
                        Event::Released { session_id: id, epoch }
                    }
                    _ => Event::LeaseExpired { session_id: id, epoch },
                }
            })
            .await?;
        Ok(changed.into_iter().map(|(_, after)| after).collect())
    }

    /// Ends a session and takes its leases back.
    async fn try_close(&self, id: Uuid, attachment: i64) -> Result<()> {
        let mut tx = self.begin_keyed().await?;
        // First, so that a claim that is granting to it is waited for, and later ones find it gone.
        let gone = sqlx::query("delete from agent_sessions where id = $1 and attachment = $2")
            .bind(id)
            .bind(attachment)
            .execute(&mut *tx)
            .await?;
        if gone.rows_affected() > 0 {
            let locked = lock_held(&mut tx, id).await?;
            // It has told all that it had begun before it said goodbye.
            self.take_back(&mut tx, id, locked, true).await?;
        }
        commit(tx).await?;
        Ok(())
    }
}

async fn lock_held(tx: &mut PgConnection, session: Uuid) -> Result<Vec<Locked>> {
    let found = sqlx::query(concat!(
        "select ",
        live_columns!(),
        " from live_executions e join scheduled_jobs j on j.id = e.job_id
         where e.session_id = $1 order by e.id for update of e"
    ))
    .bind(session)
    .fetch_all(tx)
    .await?;
    found.iter().map(Locked::of).collect()
}

fn labels(session: &NewSession) -> String {
    // A map of strings always can be written, and JSON escapes NULs.
    serde_json::to_string(&session.labels).unwrap_or_default()
}

fn all_plain(texts: &[String]) -> Vec<String> {
    texts.iter().map(|t| text::plain(t).into_owned()).collect()
}

fn session_of(row: &PgRow, running: i64) -> Result<Session> {
    Ok(Session {
        id: row.try_get("id")?,
        agent: NewSession {
            tenant_id: row.try_get("tenant_id")?,
            agent_id: row.try_get("agent_id")?,
            name: row.try_get("name")?,
            version: row.try_get("version")?,
            labels: rows::json("agent_sessions", rows::text(row, "labels")?)?,
            queues: row.try_get("queues")?,
            executors: row.try_get("executors")?,
            slots: row.try_get("slots")?,
            coordinator_id: row.try_get("coordinator_id")?,
            address: row.try_get("address")?,
        },
        attachment: row.try_get("attachment")?,
        attached: row.try_get("attached")?,
        draining: row.try_get("draining")?,
        opened_at: row.try_get("opened_at")?,
        renewed_at: row.try_get("renewed_at")?,
        expires_at: row.try_get("expires_at")?,
        running,
    })
}
