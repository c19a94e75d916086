-- Lists of history and its statistics stay flat however long it is.

-- Two indexes serve all lists, by any filter: those of one status and trigger are one range of either, newest first, and a list is the merge
-- of the few ranges that it asks for. The id alone finds one execution.
drop index job_executions_tenant;
drop index job_executions_job;
drop index job_executions_status;
create index job_executions_tenant on job_executions (tenant_id, status, trigger_type, id);
create index job_executions_job on job_executions (job_id, status, trigger_type, id);

-- Totals by period: of a job, or of all jobs of a tenant (`job_id` is nil). What they count stands in `job_executions.counted`.
create table execution_tallies (
    tenant_id uuid not null,
    job_id uuid not null,
    -- Seconds that the period lasts, and its begin: a multiple of them.
    width integer not null,
    at timestamptz not null,
    completed bigint not null,
    failed bigint not null,
    cancelled bigint not null,
    timed_out bigint not null,
    retried bigint not null,
    -- Of those that started.
    total_ms bigint not null,
    max_ms bigint not null,
    -- Pairs of a bucket (16 bits) and how many durations fall into it (64 bits), by bucket.
    durations bytea not null,
    primary key (tenant_id, job_id, width, at)
) with (fillfactor = 70);
create index execution_tallies_at on execution_tallies (at);

-- What has been finished and is in no tally yet: written by the transaction that finishes it, by minute, and taken away by the one that
-- adds it up. No index: it is read whole, and is emptied every few seconds.
create table execution_tally_changes (
    tenant_id uuid not null,
    job_id uuid not null,
    at timestamptz not null,
    completed bigint not null,
    failed bigint not null,
    cancelled bigint not null,
    timed_out bigint not null,
    retried bigint not null,
    total_ms bigint not null,
    max_ms bigint not null,
    durations bytea not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

-- Whether the transaction that wrote the row has written its change. All rows of now have one, below. Coordinators of an older version
-- write none, while they still run: their rows are found by this, and added up.
alter table job_executions add column counted boolean not null default true;
alter table job_executions alter column counted set default false;
create index job_executions_uncounted on job_executions (tenant_id, id) where not counted;

insert into execution_tally_changes
select tenant_id, job_id, at, sum(completed), sum(failed), sum(cancelled), sum(timed_out), sum(retried), coalesce(sum(total_ms), 0),
    coalesce(max(max_ms), 0),
    coalesce(string_agg(int2send(bucket::smallint) || int8send(measured), ''::bytea order by bucket)
        filter (where bucket is not null), ''::bytea)
from (
    select tenant_id, job_id, at, bucket, count(*) filter (where status = 'completed') as completed,
        count(*) filter (where status = 'failed') as failed, count(*) filter (where status = 'cancelled') as cancelled,
        count(*) filter (where error_type = 'TIMEOUT') as timed_out, count(*) filter (where retry_count > 0) as retried,
        count(ms) as measured, sum(ms) as total_ms, max(ms) as max_ms
    from (
        select *, case when ms < 128 then greatest(ms, 0) else (e - 6) * 64 + (ms >> (e - 6)) end as bucket
        from (
            -- The exponent of the float is the highest bit that is set.
            select *, (((get_byte(f, 0) & 127) << 4) | (get_byte(f, 1) >> 4)) - 1023 as e
            from (
                select tenant_id, job_id, date_bin('1 minute', scheduled_at, 'epoch') as at, status, error_type, retry_count,
                    case when started_at is not null then duration_ms end as ms,
                    float8send(case when started_at is not null then duration_ms end) as f
                from job_executions
            ) r
        ) x
    ) b
    group by tenant_id, job_id, at, bucket
) g
group by tenant_id, job_id, at;

-- Live executions that somebody asked to run later, by when: their ids are older than their scheduled instants. A change of state does not
-- touch it.
create index live_executions_delayed on live_executions (tenant_id, scheduled_at) where trigger_type <> 1 and scheduled_at > created_at;
