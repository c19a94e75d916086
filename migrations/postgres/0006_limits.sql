-- Limits on what runs at once, by key, queue and tenant. What runs is counted from live leases.

-- Empty: no key.
alter table live_executions add column concurrency_key text not null default '';
alter table live_executions add column key_limit integer not null default 0;

-- Leases of a job, of a queue of a tenant, and of a tenant.
create index live_executions_leased on live_executions (tenant_id, job_id, queue) where session_id is not null;
drop index live_executions_leased_job;
create index live_executions_leased_key on live_executions (tenant_id, concurrency_key)
    where session_id is not null and concurrency_key <> '';
-- The smallest limit of a key.
create index live_executions_key_limit on live_executions (tenant_id, concurrency_key, key_limit)
    where state > 0 and concurrency_key <> '';
-- What waits by what limits it, so that a job or key at its limit is passed over as a whole, however much of it waits.
create index live_executions_grouped on live_executions (lane_id, job_id, concurrency_key, priority desc, run_at, id) where state = 1;

create table queue_limits (
    tenant_id uuid not null,
    name text not null,
    max_concurrent integer not null check (max_concurrent > 0),
    updated_at timestamptz not null default clock_timestamp(),
    updated_by uuid not null,
    primary key (tenant_id, name)
);

-- Overrides the deployment's default; 0: no limit.
create table tenant_limits (
    tenant_id uuid primary key,
    max_concurrent integer not null check (max_concurrent >= 0),
    updated_at timestamptz not null default clock_timestamp(),
    updated_by uuid not null
);
