//! Lists of executions, live ones and history in one.

use std::collections::BTreeMap;

use orrery_proto::v1::{ExecutionStatus, TriggerType};
use sqlx::{PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use super::partitions::floor_id;
use super::planner::sorting;
use super::rows::{self, armed, done_columns, live_columns};
use crate::execution::Execution;
use crate::store::{ExecutionFilter, Page, Result};

/// Which executions a query looks through. An id is never younger than its scheduled instant, and nearly all have that very instant in it.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    /// By the range of ids that the range of instants is.
    ById,
    /// With older ids: the few that somebody asked to run later. An index finds them by their scheduled instant.
    Delayed,
}

/// Executions from one database, newest first.
pub(super) async fn listed(
    connection: &mut PgConnection,
    tenant: Uuid,
    filter: &ExecutionFilter,
    page: &Page,
) -> Result<Vec<Execution>> {
    let limit = usize::try_from(page.limit).unwrap_or(0);
    let list = List { tenant, filter, page };
    let mut found = list.part(connection, Part::ById).await?;
    // All of these are older than all of those.
    if filter.from.is_some() && found.len() < limit {
        found.extend(list.part(connection, Part::Delayed).await?);
    }
    found.truncate(limit);
    Ok(found)
}

struct List<'a> {
    tenant: Uuid,
    filter: &'a ExecutionFilter,
    page: &'a Page,
}

impl List<'_> {
    /// Up to a page of live ones and a page of finished ones, newest first.
    async fn part(&self, connection: &mut PgConnection, part: Part) -> Result<Vec<Execution>> {
        let mut found: BTreeMap<Uuid, Execution> = BTreeMap::new();
        if part == Part::Delayed {
            sorting(connection, "on").await?;
        }
        // Live first: one that moves to history meanwhile is then read twice rather than not at all.
        if let Some(mut query) = self.live(part) {
            for row in query.build().fetch_all(&mut *connection).await? {
                let execution = rows::live(&row)?;
                found.insert(execution.id, execution);
            }
        }
        if let Some(mut query) = self.done(part) {
            if part == Part::ById {
                // The planner takes what row-level security and the query ask for several things, and few rows to be left: it would read the whole
                // range by the primary key, once for each status and trigger, and sort.
                sorting(connection, "off").await?;
            }
            for row in query.build().fetch_all(connection).await? {
                let execution = rows::done(&row)?;
                found.insert(execution.id, execution);
            }
        }
        Ok(found.into_values().rev().collect())
    }

    /// `None` where the filter asks for finished ones only.
    fn live(&self, part: Part) -> Option<QueryBuilder<Postgres>> {
        let states = match self.filter.status {
            None => "",
            Some(ExecutionStatus::Pending) => " and e.state < 2",
            // Those with a session have an index.
            Some(ExecutionStatus::Running) => " and e.state = 2 and e.session_id is not null",
            Some(_) => return None,
        };
        // The page first, and then its jobs: the planner takes what row-level security asks of both tables for two things, and believes that
        // few rows are left of a join, so that it would make all of it and sort it.
        let mut query = QueryBuilder::new(concat!(
            "select ",
            live_columns!(),
            " from (select e.* from live_executions e where e.tenant_id = "
        ));
        query.push_bind(self.tenant).push(states);
        // Fires that are planned ahead and not yet due.
        query.push(concat!(" and not (e.state = 0 and e.attempt = 0 and e.trigger_type = 1) and not ", armed!()));
        if let Some(job) = self.filter.job {
            query.push(" and e.job_id = ").push_bind(job);
        }
        if let Some(jobs) = &self.filter.jobs {
            query.push(" and e.job_id = any(").push_bind(jobs.clone()).push(")");
        }
        if let Some(trigger) = self.filter.trigger {
            query.push(" and e.trigger_type = ").push_bind(rows::trigger_number(trigger));
        }
        if part == Part::Delayed {
            // Found first: in the order of ids, all that is live would be looked through for the few.
            query
                .push(" and e.id = any(array(select id from live_executions where tenant_id = ")
                .push_bind(self.tenant);
            query.push(" and trigger_type <> 1 and scheduled_at > created_at");
            self.push_range(&mut query, "", part);
            query.push("))");
        }
        self.push_range(&mut query, "e.", part);
        query.push(" order by e.id desc limit ").push_bind(self.page.limit.max(0));
        query.push(") e join scheduled_jobs j on j.id = e.job_id order by e.id desc");
        Some(query)
    }

    /// `None` where the filter asks for live ones only.
    fn done(&self, part: Part) -> Option<QueryBuilder<Postgres>> {
        let (statuses, triggers) = self.kinds()?;
        let mut query = QueryBuilder::new(concat!("select ", done_columns!(), " from ("));
        match part {
            Part::ById => self.push_merged(&mut query, statuses, triggers),
            Part::Delayed => {
                // Found first: in the order of ids, all of history would be looked through for the few.
                query.push("select id from (select id from job_executions where delayed and tenant_id = ");
                query.push_bind(self.tenant);
                query.push(" and status = any(").push_bind(statuses).push(")");
                query.push(" and trigger_type = any(").push_bind(triggers).push(")");
                if let Some(job) = self.filter.job {
                    query.push(" and job_id = ").push_bind(job);
                }
                if let Some(jobs) = &self.filter.jobs {
                    query.push(" and job_id = any(").push_bind(jobs.clone()).push(")");
                }
                self.push_range(&mut query, "", part);
                query.push(" offset 0) d order by id desc limit ").push_bind(self.page.limit.max(0));
            }
        }
        query.push(
            ") found cross join lateral (select * from job_executions d where d.id = found.id limit 1) h
             left join scheduled_jobs j on j.id = h.job_id order by h.id desc",
        );
        Some(query)
    }

    /// Ids by the merge of a range of an index for each status and trigger, from each of which the first rows are enough. The pairs are
    /// compared, and not each for itself, so that the order asked for is that of the index, and of none that would have to pass over
    /// what is not wanted.
    fn push_merged(
        &self,
        query: &mut QueryBuilder<Postgres>,
        statuses: Vec<&'static str>,
        triggers: Vec<&'static str>,
    ) {
        query.push("select u.id from unnest(").push_bind(statuses).push("::text[], ").push_bind(triggers);
        query.push("::text[]) as k(status, trigger_type)");
        if let Some(jobs) = &self.filter.jobs {
            query.push(" cross join unnest(").push_bind(jobs.clone()).push("::uuid[]) as m(job_id)");
        }
        query.push(" cross join lateral (select id from job_executions where status = k.status");
        if self.filter.jobs.is_some() {
            query.push(" and job_id = m.job_id");
        }
        if let Some(job) = self.filter.job {
            query.push(" and job_id = ").push_bind(job);
        }
        if self.filter.job.is_some() || self.filter.jobs.is_some() {
            // Not by the index of the tenant: that of the job is the narrower one.
            query.push(" and (tenant_id = ").push_bind(self.tenant).push(") is true");
        } else {
            query.push(" and tenant_id = ").push_bind(self.tenant);
        }
        let (first, end) = self.ids();
        query.push(" and (trigger_type, id) >= (k.trigger_type, ").push_bind(first);
        query.push(") and (trigger_type, id) < (k.trigger_type, ").push_bind(end).push(")");
        // For the planner, to leave months out.
        query.push(" and id >= ").push_bind(first).push(" and id < ").push_bind(end);
        self.push_instants(query, "");
        let limit = self.page.limit.max(0);
        query.push(" order by trigger_type desc, id desc limit ").push_bind(limit);
        query.push(") u order by u.id desc limit ").push_bind(limit);
    }

    /// The ids of the page and of the range of instants: from the first, to before the second.
    fn ids(&self) -> (Uuid, Uuid) {
        let first = self.filter.from.map_or(Uuid::nil(), floor_id);
        let end = self.filter.to.map(|to| floor_id(to + chrono::Duration::milliseconds(1)));
        (first, end.into_iter().chain(self.page.after).min().unwrap_or(Uuid::max()))
    }

    /// The pairs of status and trigger that are asked for, as two columns; `None` where nothing that is over is.
    fn kinds(&self) -> Option<(Vec<&'static str>, Vec<&'static str>)> {
        const OVER: [ExecutionStatus; 3] =
            [ExecutionStatus::Completed, ExecutionStatus::Failed, ExecutionStatus::Cancelled];
        const TRIGGERS: [TriggerType; 3] = [TriggerType::Scheduled, TriggerType::Manual, TriggerType::Retry];
        let statuses = OVER.into_iter().filter(|status| self.filter.status.is_none_or(|wanted| wanted == *status));
        let kinds: Vec<_> = statuses
            .flat_map(|status| TRIGGERS.into_iter().map(move |trigger| (status, trigger)))
            .filter(|(_, trigger)| self.filter.trigger.is_none_or(|wanted| wanted == *trigger))
            .map(|(status, trigger)| (status.as_json_str(), trigger.as_json_str()))
            .collect();
        (!kinds.is_empty()).then(|| kinds.into_iter().unzip())
    }

    /// The range of ids and of scheduled instants.
    fn push_range(&self, query: &mut QueryBuilder<Postgres>, table: &'static str, part: Part) {
        let (first, end) = self.ids();
        let (from, end) = if part == Part::ById { (first, end) } else { (Uuid::nil(), end.min(first)) };
        query.push(" and ").push(table).push("id >= ").push_bind(from);
        query.push(" and ").push(table).push("id < ").push_bind(end);
        self.push_instants(query, table);
    }

    fn push_instants(&self, query: &mut QueryBuilder<Postgres>, table: &'static str) {
        if let Some(from) = self.filter.from {
            query.push(" and ").push(table).push("scheduled_at >= ").push_bind(from);
        }
        if let Some(to) = self.filter.to {
            query.push(" and ").push(table).push("scheduled_at < ").push_bind(to);
        }
    }
}
