//! How much of their hourly quotas tenants have used. A tenant without one has no row, and costs a look at its own.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::PgStore;
use super::commit::commit;
use crate::store::{Result, SetAside, StoreError};

/// How many times what is asked for must be left of a quota, for it to be counted at the end only.
const PLENTY: i64 = 4;

/// How often each tenant is named.
pub(super) fn per_tenant(tenants: impl Iterator<Item = Uuid>) -> BTreeMap<Uuid, i64> {
    let mut counts = BTreeMap::new();
    for tenant in tenants {
        *counts.entry(tenant).or_default() += 1;
    }
    counts
}

/// What tenants may still begin in this hour. A tenant's row is everybody's who begins something of it: where plenty is left it is locked
/// only to be counted, as the last thing of the transaction, and what would pass the quota then undoes it all. Where little is left it is
/// locked from the beginning, and what is read is what there is.
#[derive(Debug, Default)]
pub(super) struct Hours {
    hour: DateTime<Utc>,
    quotas: HashMap<Uuid, Quota>,
}

#[derive(Debug)]
struct Quota {
    most: i64,
    used: i64,
}

impl Quota {
    fn room(&self) -> i64 {
        (self.most - self.used).max(0)
    }
}

impl Hours {
    /// Of those of these tenants that have a quota, for as much at most of each. Whoever counts in the same hour may wait for those who do,
    /// so that this comes after all other locks.
    pub(super) async fn of(tx: &mut PgConnection, asked: &BTreeMap<Uuid, i64>, default: i64) -> Result<Self> {
        if asked.is_empty() {
            return Ok(Self::default());
        }
        let found = sqlx::query(
            "select u.id, n.hour, coalesce(t.max_executions_per_hour, $2) as most, h.executions as used
             from unnest($1::uuid[]) as u(id) cross join (select date_trunc('hour', clock_timestamp(), 'UTC') as hour) n
             left join tenants t on t.id = u.id left join tenant_hours h on h.tenant_id = u.id and h.hour = n.hour
             where coalesce(t.max_executions_per_hour, $2) > 0 order by u.id",
        )
        .bind(asked.keys().copied().collect::<Vec<_>>())
        .bind(default)
        .fetch_all(&mut *tx)
        .await?;
        let Some(first) = found.first() else { return Ok(Self::default()) };
        let mut hours = Self { hour: first.try_get("hour")?, quotas: HashMap::with_capacity(found.len()) };
        let (mut new, mut scarce) = (Vec::new(), Vec::new());
        for row in &found {
            let (tenant, used): (Uuid, Option<i64>) = (row.try_get("id")?, row.try_get("used")?);
            let quota = Quota { most: row.try_get("most")?, used: used.unwrap_or(0) };
            if used.is_none() {
                new.push(tenant);
            }
            if quota.room() / PLENTY < asked.get(&tenant).copied().unwrap_or(0) {
                scarce.push(tenant);
            }
            hours.quotas.insert(tenant, quota);
        }
        hours.begin(tx, &new).await?;
        for (tenant, used) in hours.lock(tx, &scarce).await? {
            hours.quotas.entry(tenant).and_modify(|quota| quota.used = used);
        }
        Ok(hours)
    }

    /// Makes the rows of tenants that begin their hour.
    async fn begin(&self, tx: &mut PgConnection, tenants: &[Uuid]) -> Result<()> {
        if tenants.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "insert into tenant_hours (tenant_id, hour, executions) select u.id, $2, 0 from unnest($1::uuid[]) as u(id)
             order by u.id on conflict do nothing",
        )
        .bind(tenants)
        .bind(self.hour)
        .execute(tx)
        .await?;
        Ok(())
    }

    /// Locks the rows of tenants, in one order for all, and reads what they have used.
    async fn lock(&self, tx: &mut PgConnection, tenants: &[Uuid]) -> Result<Vec<(Uuid, i64)>> {
        if tenants.is_empty() {
            return Ok(Vec::new());
        }
        let used = sqlx::query_as(
            "select tenant_id, executions from tenant_hours where tenant_id = any($1) and hour = $2 order by tenant_id for update",
        );
        Ok(used.bind(tenants).bind(self.hour).fetch_all(tx).await?)
    }

    /// What a tenant may still begin; `None` where it has no quota.
    pub(super) fn room(&self, tenant: Uuid) -> Option<i64> {
        self.quotas.get(&tenant).map(Quota::room)
    }

    /// Counts what is begun, one tenant each.
    ///
    /// # Errors
    /// [`StoreError::Outrun`] where others have used meanwhile what was left: nothing of the transaction may stand.
    pub(super) async fn count(&self, tx: &mut PgConnection, begun: impl Iterator<Item = Uuid>) -> Result<()> {
        let counts = per_tenant(begun.filter(|tenant| self.quotas.contains_key(tenant)));
        if counts.is_empty() {
            return Ok(());
        }
        let tenants: Vec<Uuid> = counts.keys().copied().collect();
        if tenants.len() > 1 {
            // An update locks in no order.
            self.lock(tx, &tenants).await?;
        }
        let most: Vec<i64> = tenants.iter().filter_map(|tenant| Some(self.quotas.get(tenant)?.most)).collect();
        let counted = sqlx::query(
            "update tenant_hours h set executions = h.executions + u.more
             from unnest($1::uuid[], $2::bigint[], $3::bigint[]) as u(id, more, most)
             where h.tenant_id = u.id and h.hour = $4 and h.executions + u.more <= u.most",
        )
        .bind(&tenants)
        .bind(counts.into_values().collect::<Vec<_>>())
        .bind(most)
        .bind(self.hour)
        .execute(tx)
        .await?;
        if counted.rows_affected() < tenants.len() as u64 { Err(StoreError::Outrun) } else { Ok(()) }
    }
}

impl PgStore {
    pub(super) async fn try_set_aside(&self, tenant: Uuid, wanted: i64, default: i64) -> Result<SetAside> {
        let mut tx = self.begin().await?;
        let hours = Hours::of(&mut tx, &BTreeMap::from([(tenant, wanted)]), default).await?;
        let granted = hours.room(tenant).map_or(wanted, |room| room.min(wanted));
        let taken = usize::try_from(granted).unwrap_or(0);
        hours.count(&mut tx, std::iter::repeat_n(tenant, taken)).await?;
        let now = super::clock(&mut tx).await?;
        commit(tx).await?;
        let hour = if hours.quotas.is_empty() { now } else { hours.hour };
        Ok(SetAside::of(granted, hour, now))
    }
}
