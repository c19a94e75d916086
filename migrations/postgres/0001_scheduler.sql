-- The scheduler's tables. Live executions stand in one small, hot table; what is over stands in history, by month of its id, which is
-- dropped by the month and never deleted from.

create table scheduled_jobs (
    id uuid primary key,
    name varchar(200) not null,
    description text,
    cron_expression varchar(100),
    timezone varchar(64) not null default 'UTC',
    job_type varchar(50) not null,
    config jsonb not null default '{}',
    retry_config jsonb,
    -- Null: the job names none.
    timeout_seconds integer default 300,
    -- 0: no limit.
    max_concurrent integer not null default 1,
    status varchar(20) not null default 'active' check (status in ('active', 'paused', 'inactive')),
    priority integer not null default 0,
    start_date timestamptz,
    end_date timestamptz,
    max_executions bigint,
    execution_count bigint not null default 0,
    tenant_id uuid not null,
    created_by uuid not null,
    tags jsonb not null default '[]',
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    last_execution_at timestamptz,
    -- The cursor: the next instant that no execution has been made for.
    next_execution_at timestamptz,
    version bigint not null default 1,
    queue text not null,
    overlap text not null,
    halted_at timestamptz,
    deleted_at timestamptz,
    -- The definition as it is read back; the columns above are for people and filters. Text, so that no digit or escape is lost.
    spec text not null
);

create index scheduled_jobs_due on scheduled_jobs (next_execution_at) where status = 'active';
create unique index scheduled_jobs_name on scheduled_jobs (tenant_id, name) where deleted_at is null;
create index scheduled_jobs_listed on scheduled_jobs (tenant_id, id) where deleted_at is null;
create index scheduled_jobs_deleted on scheduled_jobs (deleted_at) where deleted_at is not null;

-- Every definition that a job ever had. Rows never change.
create table job_versions (
    job_id uuid not null,
    version bigint not null,
    tenant_id uuid not null,
    spec text not null,
    created_at timestamptz not null,
    created_by uuid not null,
    primary key (job_id, version)
);

-- Where executions wait: those of one lane can be taken by the same agents. Rows never change.
create table lanes (
    id bigint generated always as identity primary key,
    tenant_id uuid not null,
    queue text not null,
    executor text not null,
    -- Labels as canonical JSON.
    selector text not null,
    -- SHA-256 of all of it, for names may be longer than an index takes.
    key bytea not null unique
);
create index lanes_tenant on lanes (tenant_id);

-- Executions that are not over. Rows are small and change a few times each; a change that touches no index stays in its page, so
-- `started_at` tells a running execution from a leased one, and deadlines have no index.
create table live_executions (
    id uuid primary key,
    tenant_id uuid not null,
    job_id uuid not null,
    lane_id bigint not null,
    epoch bigint not null default 0,
    job_version bigint not null default 0,
    scheduled_at timestamptz not null,
    run_at timestamptz not null,
    created_at timestamptz not null,
    granted_at timestamptz,
    started_at timestamptz,
    deadline timestamptz,
    cancel_requested_at timestamptz,
    priority integer not null,
    attempt integer not null default 0,
    losses integer not null default 0,
    -- 0: scheduled, 1: pending, 2: leased, running once started_at is set.
    state smallint not null check (state between 0 and 2),
    -- 1: scheduled, 2: manual, 3: retry.
    trigger_type smallint not null,
    progress smallint not null default 0,
    session_id uuid,
    triggered_by uuid,
    retry_of uuid,
    queue text not null,
    worker_name text,
    cancel_reason text,
    traceparent text,
    -- JSON as it came.
    parameters text,
    -- JSON list of ended attempts; null where there is none.
    attempts text,
    check ((state = 2) = (session_id is not null))
) with (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_analyze_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 0
);

create index live_executions_pending on live_executions (lane_id, priority desc, run_at, id) where state = 1;
create index live_executions_scheduled on live_executions (run_at) where state = 0;
-- Planned fires of a job: its next one, and those to take back.
create index live_executions_planned on live_executions (job_id, run_at) where state = 0;
create index live_executions_session on live_executions (session_id) where session_id is not null;
create index live_executions_leased_job on live_executions (job_id) where session_id is not null;
-- Serves "of a job" (its tenant is always known) and "of a tenant".
create index live_executions_job on live_executions (tenant_id, job_id);

-- Finished executions.
create table job_executions (
    id uuid primary key,
    job_id uuid not null,
    execution_id text not null generated always as (id::text) stored,
    trigger_type varchar(20) not null,
    triggered_by uuid,
    status varchar(20) not null,
    progress smallint not null default 0,
    scheduled_at timestamptz not null,
    started_at timestamptz,
    completed_at timestamptz not null,
    duration_ms bigint,
    result jsonb,
    error_message text,
    error_stack text,
    retry_count integer not null default 0,
    -- The agent's session.
    worker_id uuid,
    memory_peak_mb double precision,
    cpu_time_ms bigint,
    tenant_id uuid not null,
    created_at timestamptz not null,
    error_type varchar(40),
    attempts jsonb,
    parameters jsonb,
    epoch bigint not null,
    attempt integer not null,
    losses integer not null,
    queue text not null,
    lane_id bigint not null,
    priority integer not null,
    job_version bigint not null,
    retry_of uuid,
    worker_name text,
    run_at timestamptz not null,
    cancel_requested_at timestamptz,
    cancel_reason text,
    traceparent text,
    -- Whether its scheduled instant is not the one in its id: somebody asked for it to run later.
    delayed boolean not null default false
) partition by range (id);

create table job_executions_default partition of job_executions default;
create index job_executions_tenant on job_executions (tenant_id, id desc);
create index job_executions_job on job_executions (job_id, id desc);
create index job_executions_status on job_executions (status, tenant_id, id desc);
create index job_executions_delayed on job_executions (tenant_id, scheduled_at) where delayed;

create table execution_logs (
    execution_id uuid not null,
    sequence bigint not null,
    epoch bigint not null,
    at timestamptz not null,
    attempt integer not null,
    -- 1: stdout, 2: stderr, 3: system.
    stream smallint not null,
    text text not null,
    primary key (execution_id, sequence)
) partition by range (execution_id);
create table execution_logs_default partition of execution_logs default;

-- How much an execution has printed, so that a budget needs no sum over its lines.
create table execution_log_sizes (
    execution_id uuid primary key,
    bytes bigint not null default 0,
    -- Whether the budget has been passed, and said.
    cut boolean not null default false
) partition by range (execution_id);
create table execution_log_sizes_default partition of execution_log_sizes default;

-- Fires that did not happen, and why.
create table fire_omissions (
    id uuid primary key,
    tenant_id uuid not null,
    job_id uuid not null,
    reason text not null,
    from_at timestamptz not null,
    to_at timestamptz not null,
    count bigint not null,
    detail text not null,
    created_at timestamptz not null
);
create index fire_omissions_job on fire_omissions (tenant_id, job_id, id desc);
create index fire_omissions_from on fire_omissions (tenant_id, from_at);
create index fire_omissions_created on fire_omissions (created_at);

-- Agents' sessions. Heartbeats touch no index.
create table agent_sessions (
    id uuid primary key,
    -- Null: it serves all tenants.
    tenant_id uuid,
    name text not null,
    version text not null,
    -- JSON.
    labels text not null,
    queues text[] not null,
    executors text[] not null,
    slots integer not null,
    coordinator_id uuid not null,
    address text not null,
    attachment bigint not null,
    attached boolean not null,
    draining boolean not null default false,
    opened_at timestamptz not null,
    renewed_at timestamptz not null,
    expires_at timestamptz not null
) with (fillfactor = 50);

create table coordinators (
    id uuid primary key,
    version text not null,
    address text not null,
    started_at timestamptz not null,
    last_seen_at timestamptz not null,
    clock_offset_ms double precision not null,
    sessions bigint not null
) with (fillfactor = 50);

create table api_keys (
    id uuid primary key,
    tenant_id uuid,
    name text not null,
    prefix text not null,
    hash bytea not null unique,
    permissions text[] not null,
    expires_at timestamptz,
    created_at timestamptz not null,
    revoked_at timestamptz
);

create table idempotency_keys (
    tenant_id uuid not null,
    -- job or execution.
    kind text not null,
    key text not null,
    request_hash bytea not null,
    target_id uuid not null,
    created_at timestamptz not null,
    primary key (tenant_id, kind, key)
);
create index idempotency_keys_created on idempotency_keys (created_at);

create table scheduler_locks (
    lock_key text primary key,
    locked_by text not null,
    locked_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz not null,
    metadata jsonb
);

create table scheduler_metrics (
    coordinator_id uuid not null,
    at timestamptz not null,
    sample jsonb not null,
    primary key (coordinator_id, at)
);
create index scheduler_metrics_at on scheduler_metrics (at);
