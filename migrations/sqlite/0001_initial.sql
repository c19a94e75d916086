-- The tables of a single coordinator. Ids are the 16 bytes of a UUID (so that their order is that of time), instants are microseconds
-- since 1970 in UTC, JSON is text, untouched. The layout is PostgreSQL's, without partitions.

create table lanes (
    id integer primary key,
    tenant_id blob not null,
    queue text not null,
    executor text not null,
    -- A JSON object with its keys in order, so that equal selectors are equal texts.
    selector text not null,
    unique (tenant_id, queue, executor, selector)
);

create table scheduled_jobs (
    id blob primary key not null,
    tenant_id blob not null,
    name text not null,
    -- SQLite folds the case of ASCII only; this column is folded by the program.
    name_folded text not null,
    description text not null,
    cron_expression text,
    timezone text not null default 'UTC',
    job_type text not null,
    config text not null,
    retry_config text not null,
    timeout_seconds integer,
    max_concurrent integer not null default 1,
    status text not null default 'active',
    priority integer not null default 0,
    start_date integer,
    end_date integer,
    max_executions integer,
    execution_count integer not null default 0,
    created_by blob not null,
    tags text not null default '[]',
    created_at integer not null,
    updated_at integer not null,
    last_execution_at integer,
    -- The cursor: the next instant that no execution has been made for.
    next_execution_at integer,
    version integer not null,
    queue text not null,
    overlap text not null,
    halted_at integer,
    deleted_at integer,
    lane_id integer not null references lanes (id),
    -- The whole definition; the columns above that repeat it are for filters and for people.
    spec text not null
);
create unique index scheduled_jobs_name on scheduled_jobs (tenant_id, name) where deleted_at is null;
create index scheduled_jobs_cursor on scheduled_jobs (next_execution_at) where status = 'active' and deleted_at is null;
create index scheduled_jobs_tenant on scheduled_jobs (tenant_id, id) where deleted_at is null;

create table job_versions (
    job_id blob not null references scheduled_jobs (id),
    version integer not null,
    spec text not null,
    created_at integer not null,
    primary key (job_id, version)
);

create table live_executions (
    id blob primary key not null,
    tenant_id blob not null,
    job_id blob not null references scheduled_jobs (id),
    trigger_type text not null,
    triggered_by blob,
    lane_id integer not null references lanes (id),
    queue text not null,
    priority integer not null,
    scheduled_at integer not null,
    run_at integer not null,
    created_at integer not null,
    state text not null check (state in ('scheduled', 'pending', 'leased', 'running')),
    attempt integer not null default 0,
    epoch integer not null default 0,
    losses integer not null default 0,
    job_version integer not null default 0,
    progress integer not null default 0,
    attempts text not null default '[]',
    parameters text,
    cancel_requested_at integer,
    cancel_reason text,
    retry_of blob,
    traceparent text,
    session_id blob,
    worker_name text,
    granted_at integer,
    started_at integer,
    deadline integer
);
create index live_executions_due on live_executions (run_at, id) where state = 'scheduled';
create index live_executions_waiting on live_executions (lane_id, priority desc, run_at, id) where state = 'pending';
create index live_executions_job on live_executions (job_id, state);
create index live_executions_tenant on live_executions (tenant_id, id);
create index live_executions_session on live_executions (session_id) where session_id is not null;
create index live_executions_deadline on live_executions (deadline) where deadline is not null;

create table job_executions (
    id blob primary key not null,
    execution_id text generated always as (
        lower(substr(hex(id), 1, 8) || '-' || substr(hex(id), 9, 4) || '-' || substr(hex(id), 13, 4) || '-'
            || substr(hex(id), 17, 4) || '-' || substr(hex(id), 21))
    ) virtual,
    tenant_id blob not null,
    job_id blob not null,
    trigger_type text not null,
    triggered_by blob,
    lane_id integer not null,
    queue text not null,
    priority integer not null,
    status text not null check (status in ('completed', 'failed', 'cancelled')),
    progress integer not null,
    scheduled_at integer not null,
    run_at integer not null,
    created_at integer not null,
    started_at integer,
    completed_at integer not null,
    duration_ms integer,
    result text,
    error_type text,
    error_message text not null,
    error_stack text not null,
    retry_count integer not null,
    -- The agent's session.
    worker_id blob,
    worker_name text not null,
    memory_peak_mb real,
    cpu_time_ms integer,
    attempt integer not null,
    epoch integer not null,
    losses integer not null,
    job_version integer not null,
    attempts text not null,
    parameters text,
    cancel_requested_at integer,
    cancel_reason text,
    retry_of blob,
    traceparent text
);
create index job_executions_job on job_executions (job_id, id);
create index job_executions_tenant on job_executions (tenant_id, id);
create index job_executions_status on job_executions (tenant_id, status, id);
create index job_executions_scheduled on job_executions (tenant_id, scheduled_at);

create table execution_logs (
    execution_id blob not null,
    sequence integer not null,
    epoch integer not null,
    attempt integer not null,
    stream text not null,
    at integer not null,
    text text not null,
    primary key (execution_id, sequence)
) without rowid;

-- What the logs of an execution take up.
create table execution_log_sizes (
    execution_id blob primary key not null,
    bytes integer not null,
    full integer not null default 0
);

create table fire_omissions (
    id blob primary key not null,
    tenant_id blob not null,
    job_id blob not null,
    created_at integer not null,
    reason text not null,
    from_at integer not null,
    to_at integer not null,
    count integer not null,
    detail text not null
);
create index fire_omissions_job on fire_omissions (job_id, id);
create index fire_omissions_tenant on fire_omissions (tenant_id, from_at);
create index fire_omissions_age on fire_omissions (created_at);

create table agent_sessions (
    id blob primary key not null,
    tenant_id blob,
    name text not null,
    version text not null,
    labels text not null,
    queues text not null,
    executors text not null,
    slots integer not null,
    coordinator_id blob not null,
    address text not null,
    attachment integer not null,
    attached integer not null,
    draining integer not null,
    opened_at integer not null,
    renewed_at integer not null,
    expires_at integer not null
);
create index agent_sessions_expiry on agent_sessions (expires_at);

create table coordinators (
    id blob primary key not null,
    version text not null,
    address text not null,
    started_at integer not null,
    last_seen_at integer not null,
    clock_offset_ms real not null,
    sessions integer not null
);

create table api_keys (
    id blob primary key not null,
    tenant_id blob,
    name text not null,
    prefix text not null,
    hash blob not null unique,
    permissions text not null,
    expires_at integer,
    revoked_at integer,
    created_at integer not null
);

create table idempotency_keys (
    tenant_id blob not null,
    -- What the key made: job or execution.
    scope text not null,
    key text not null,
    request_hash blob not null,
    target_id blob not null,
    created_at integer not null,
    primary key (tenant_id, scope, key)
) without rowid;
create index idempotency_keys_age on idempotency_keys (created_at);

create table scheduler_locks (
    lock_key text primary key not null,
    locked_by text not null,
    locked_at integer not null,
    expires_at integer not null,
    metadata text
);

create table scheduler_metrics (
    coordinator_id blob not null,
    at integer not null,
    sample text not null,
    primary key (at, coordinator_id)
) without rowid;
