//! `scheduler:stats:{tenantId}:{date}`: the totals of whole days.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{Caches, Read};
use crate::store::{Stats, StoreError};

/// The life of what can change no more.
const OVER: Duration = Duration::from_secs(24 * 3600);
/// The life of what changes all the time.
const UNDER_WAY: Duration = Duration::from_secs(2);
/// How long after its end a day is over: clocks and late words of agents are behind.
const MARGIN: TimeDelta = TimeDelta::minutes(10);
/// The most days that one change concerns; before them retention has made an end.
const DAYS: usize = 400;

fn key(tenant: Uuid, day: NaiveDate) -> String {
    format!("scheduler:stats:{tenant}:{day}")
}

/// The day that a range is, if it is one.
pub(crate) fn whole_day(from: DateTime<Utc>, to: DateTime<Utc>) -> Option<NaiveDate> {
    (from.time() == NaiveTime::MIN && to - from == TimeDelta::days(1)).then(|| from.date_naive())
}

impl Caches {
    /// The totals of a tenant in a range: from the cache, where the range is a day.
    ///
    /// # Errors
    /// The store's.
    pub async fn stats(&self, tenant: Uuid, from: DateTime<Utc>, to: DateTime<Utc>) -> Result<Stats, StoreError> {
        let Some(day) = whole_day(from, to) else {
            return self.inner.store.stats(tenant, None, from, to).await;
        };
        let read = async {
            // Before the totals, so that what comes due meanwhile is seen to come.
            let is_over = self.is_over(tenant, to).await?;
            let value = self.inner.store.stats(tenant, None, from, to).await?;
            let life = if is_over && value.pending + value.running == 0 { OVER } else { UNDER_WAY };
            Ok(Some(Read { value, life }))
        };
        let found = self.through("stats", &key(tenant, day), |_: &Stats| true, read).await?;
        Ok(found.unwrap_or_default())
    }

    /// Whether no fire of before `end` is still to be made: it has passed, and the planner is not behind it.
    async fn is_over(&self, tenant: Uuid, end: DateTime<Utc>) -> Result<bool, StoreError> {
        if self.inner.entries.is_none() || self.inner.store.now().await? < end + MARGIN {
            return Ok(false);
        }
        let next = self.inner.store.counts(Some(tenant)).await?.next_fire;
        Ok(next.is_none_or(|next| next >= end))
    }

    /// Something has been written into the past of a tenant: the days from `from` to `to` are counted anew.
    pub async fn forget_days(&self, tenant: Uuid, from: DateTime<Utc>, to: DateTime<Utc>) {
        let Some(entries) = &self.inner.entries else { return };
        let first = from.date_naive();
        let back = std::iter::successors(Some(to.date_naive()), NaiveDate::pred_opt);
        let keys: Vec<String> = back.take_while(|day| *day >= first).take(DAYS).map(|day| key(tenant, day)).collect();
        if entries.clear(&keys, "").await.is_err() {
            self.distrust().await;
        }
    }
}
