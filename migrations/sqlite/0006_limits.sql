-- Limits on what runs at once, by key, queue and tenant. What runs is counted from live leases.

-- Empty: no key.
alter table live_executions add column concurrency_key text not null default '';
alter table live_executions add column key_limit integer not null default 0;

-- Leases of a job, of a queue of a tenant, and of a tenant.
create index live_executions_leased on live_executions (tenant_id, job_id, queue) where session_id is not null;
create index live_executions_leased_key on live_executions (tenant_id, concurrency_key)
    where session_id is not null and concurrency_key <> '';
-- The smallest limit of a key.
create index live_executions_key_limit on live_executions (tenant_id, concurrency_key, key_limit)
    where state <> 'scheduled' and concurrency_key <> '';
-- What waits by what limits it, so that a job or key at its limit is passed over as a whole, however much of it waits.
create index live_executions_grouped on live_executions (lane_id, job_id, concurrency_key, priority desc, run_at, id)
    where state = 'pending';

create table queue_limits (
    tenant_id blob not null,
    name text not null,
    max_concurrent integer not null check (max_concurrent > 0),
    updated_at integer not null,
    updated_by blob not null,
    primary key (tenant_id, name)
) without rowid;

-- Overrides the deployment's default; 0: no limit.
create table tenant_limits (
    tenant_id blob primary key not null,
    max_concurrent integer not null check (max_concurrent >= 0),
    updated_at integer not null,
    updated_by blob not null
) without rowid;
