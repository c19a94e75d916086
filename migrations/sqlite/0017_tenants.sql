-- Tenants as things of their own. One that tokens name and that has no row here works by the deployment's defaults.
create table tenants (
    id blob primary key not null,
    -- In lower case.
    name text not null unique,
    description text not null default '',
    -- Quotas. Null: the deployment's default. 0: none.
    max_jobs integer check (max_jobs >= 0),
    max_executions_per_hour integer check (max_executions_per_hour >= 0),
    max_concurrent integer check (max_concurrent >= 0),
    max_log_bytes integer check (max_log_bytes >= 0),
    max_result_bytes integer check (max_result_bytes >= 0),
    -- How many turns it has, where another has one.
    weight integer not null default 1 check (weight between 1 and 1000),
    -- JSON: what bounds what it may do.
    settings text not null default '{}',
    suspended_at integer,
    suspend_reason text not null default '',
    version integer not null default 1,
    created_at integer not null,
    -- Null: made by a migration.
    created_by blob,
    updated_at integer not null
);

-- Those that are there already may do what they could. Names are their ids, as these are written.
insert into tenants (id, name, settings, created_at, updated_at)
select t.id,
    case when t.id = x'00000000000000000000000000000001' then 'default' else lower(
        substr(hex(t.id), 1, 8) || '-' || substr(hex(t.id), 9, 4) || '-' || substr(hex(t.id), 13, 4) || '-' ||
        substr(hex(t.id), 17, 4) || '-' || substr(hex(t.id), 21)) end,
    '{"allowShell":true}', cast(unixepoch('subsec') * 1000000 as integer), cast(unixepoch('subsec') * 1000000 as integer)
from (
    select tenant_id as id from scheduled_jobs
    union select tenant_id from api_keys
    union select tenant_id from users
    union select tenant_id from secrets
    union select tenant_id from agents
    union select tenant_id from tenant_limits
) t where t.id is not null;
insert or ignore into tenants (id, name, created_at, updated_at) values (
    x'00000000000000000000000000000001', 'default',
    cast(unixepoch('subsec') * 1000000 as integer), cast(unixepoch('subsec') * 1000000 as integer)
);

update tenants set max_concurrent = (select l.max_concurrent from tenant_limits l where l.tenant_id = tenants.id);
drop table tenant_limits;

-- Executions of a tenant by the hour, where it has a quota: those that were made, and those that are set aside to be made.
create table tenant_hours (
    tenant_id blob not null,
    hour integer not null,
    executions integer not null,
    primary key (tenant_id, hour)
) without rowid;

-- Since when its tenant is suspended, so that nobody who has the job's row has to look further.
alter table scheduled_jobs add column tenant_suspended_at integer;
drop index scheduled_jobs_cursor;
create index scheduled_jobs_cursor on scheduled_jobs (next_execution_at)
    where status = 'active' and deleted_at is null and tenant_suspended_at is null;
