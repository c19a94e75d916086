-- Executions that were given up because their agents were lost. They wait for somebody's decision.
create table dead_letters (
    execution_id blob primary key not null,
    -- UUIDv7 of the moment it was made: lists go by it.
    id blob not null unique,
    tenant_id blob not null,
    job_id blob not null,
    -- leases_lost or may_have_run.
    reason text not null,
    message text not null,
    losses integer not null,
    last_worker text not null,
    created_at integer not null,
    state text not null default 'open' check (state in ('open', 'discarded', 'released')),
    released_as blob,
    decided_by blob,
    decided_at integer,
    note text,
    check ((state = 'released') = (released_as is not null)),
    check ((state = 'open') = (decided_at is null))
);
create index dead_letters_listed on dead_letters (tenant_id, id desc);
create index dead_letters_job on dead_letters (tenant_id, job_id, id desc);
