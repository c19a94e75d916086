-- Tenants as things of their own. One that tokens name and that has no row here works by the deployment's defaults.
create table tenants (
    id uuid primary key,
    -- In lower case.
    name text not null,
    description text not null default '',
    -- Quotas. Null: the deployment's default. 0: none.
    max_jobs bigint check (max_jobs >= 0),
    max_executions_per_hour bigint check (max_executions_per_hour >= 0),
    max_concurrent integer check (max_concurrent >= 0),
    max_log_bytes bigint check (max_log_bytes >= 0),
    max_result_bytes bigint check (max_result_bytes >= 0),
    -- How many turns it has, where another has one.
    weight integer not null default 1 check (weight between 1 and 1000),
    -- JSON: what bounds what it may do.
    settings text not null default '{}',
    suspended_at timestamptz,
    suspend_reason text not null default '',
    version bigint not null default 1,
    created_at timestamptz not null default clock_timestamp(),
    -- Null: made by a migration.
    created_by uuid,
    updated_at timestamptz not null default clock_timestamp(),
    constraint tenants_name unique (name)
);

-- Those that are there already may do what they could.
insert into tenants (id, name, settings)
select t.id, case when t.id = '00000000-0000-0000-0000-000000000001' then 'default' else t.id::text end, '{"allowShell":true}'
from (
    select tenant_id as id from scheduled_jobs
    union select tenant_id from api_keys
    union select tenant_id from users
    union select tenant_id from secrets
    union select tenant_id from agents
    union select tenant_id from tenant_limits
) t where t.id is not null;
insert into tenants (id, name) values ('00000000-0000-0000-0000-000000000001', 'default') on conflict do nothing;

-- Coordinators of the version before read tenant_limits until they are replaced; nothing writes it any more.
update tenants t set max_concurrent = l.max_concurrent from tenant_limits l where l.tenant_id = t.id;

-- Executions of a tenant by the hour, where it has a quota: those that were made, and those that a coordinator has set aside to make.
create table tenant_hours (
    tenant_id uuid not null,
    hour timestamptz not null,
    executions bigint not null,
    primary key (tenant_id, hour)
) with (fillfactor = 50);

-- Since when its tenant is suspended, so that nobody who has the job's row has to look further.
alter table scheduled_jobs add column tenant_suspended_at timestamptz;
drop index scheduled_jobs_due;
create index scheduled_jobs_due on scheduled_jobs (next_execution_at) where status = 'active' and tenant_suspended_at is null;
