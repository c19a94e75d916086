//! How much of their hourly quotas tenants have used. A tenant without one has no row, and costs a look at its own.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::PgStore;
use super::commit::commit;
use crate::store::{Result, SetAside};

/// What tenants may still begin in this hour, under locks.
#[derive(Debug, Default)]
pub(super) struct Hours {
    hour: DateTime<Utc>,
    rooms: HashMap<Uuid, i64>,
}

impl Hours {
    /// Of those of these tenants that have a quota. Whoever counts in the same hour waits, so that this comes after all other locks.
    pub(super) async fn of(tx: &mut PgConnection, tenants: BTreeSet<Uuid>, default: i64) -> Result<Self> {
        let tenants: Vec<Uuid> = tenants.into_iter().collect();
        if tenants.is_empty() {
            return Ok(Self::default());
        }
        let found = sqlx::query(
            "select u.id, coalesce(t.max_executions_per_hour, $2) as most, date_trunc('hour', clock_timestamp(), 'UTC') as hour
             from unnest($1::uuid[]) as u(id) left join tenants t on t.id = u.id
             where coalesce(t.max_executions_per_hour, $2) > 0 order by u.id",
        )
        .bind(&tenants)
        .bind(default)
        .fetch_all(&mut *tx)
        .await?;
        let Some(first) = found.first() else { return Ok(Self::default()) };
        let hour: DateTime<Utc> = first.try_get("hour")?;
        let most = found.iter().map(|row| Ok((row.try_get("id")?, row.try_get("most")?)));
        let most = most.collect::<Result<HashMap<Uuid, i64>>>()?;
        let mut limited: Vec<Uuid> = most.keys().copied().collect();
        limited.sort_unstable();
        sqlx::query(
            "insert into tenant_hours (tenant_id, hour, executions) select u.id, $2, 0 from unnest($1::uuid[]) as u(id)
             on conflict do nothing",
        )
        .bind(&limited)
        .bind(hour)
        .execute(&mut *tx)
        .await?;
        let used: Vec<(Uuid, i64)> = sqlx::query_as(
            "select tenant_id, executions from tenant_hours where tenant_id = any($1) and hour = $2 order by tenant_id for update",
        )
        .bind(&limited)
        .bind(hour)
        .fetch_all(tx)
        .await?;
        let room = |(tenant, used): (Uuid, i64)| (tenant, (most.get(&tenant).copied().unwrap_or(0) - used).max(0));
        Ok(Self { hour, rooms: used.into_iter().map(room).collect() })
    }

    /// What a tenant may still begin; `None` where it has no quota.
    pub(super) fn room(&self, tenant: Uuid) -> Option<i64> {
        self.rooms.get(&tenant).copied()
    }

    /// Counts what is begun, one tenant each.
    pub(super) async fn count(&self, tx: &mut PgConnection, begun: impl Iterator<Item = Uuid>) -> Result<()> {
        let mut counts: HashMap<Uuid, i64> = HashMap::new();
        for tenant in begun.filter(|tenant| self.rooms.contains_key(tenant)) {
            *counts.entry(tenant).or_default() += 1;
        }
        if counts.is_empty() {
            return Ok(());
        }
        let (tenants, counts): (Vec<Uuid>, Vec<i64>) = counts.into_iter().unzip();
        sqlx::query(
            "update tenant_hours h set executions = h.executions + u.more
             from unnest($1::uuid[], $2::bigint[]) as u(id, more) where h.tenant_id = u.id and h.hour = $3",
        )
        .bind(tenants)
        .bind(counts)
        .bind(self.hour)
        .execute(tx)
        .await?;
        Ok(())
    }
}

impl PgStore {
    pub(super) async fn try_set_aside(&self, tenant: Uuid, wanted: i64, default: i64) -> Result<SetAside> {
        let mut tx = self.begin().await?;
        let hours = Hours::of(&mut tx, BTreeSet::from([tenant]), default).await?;
        let granted = hours.room(tenant).map_or(wanted, |room| room.min(wanted));
        let taken = usize::try_from(granted).unwrap_or(0);
        hours.count(&mut tx, std::iter::repeat_n(tenant, taken)).await?;
        let now = super::clock(&mut tx).await?;
        commit(tx).await?;
        let hour = if hours.rooms.is_empty() { now } else { hours.hour };
        Ok(SetAside::of(granted, hour, now))
    }
}
