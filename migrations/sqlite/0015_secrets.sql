-- Secrets of tenants, encrypted (AES-256-GCM) under a data key each, which is encrypted under a key that the database never sees.

-- The keys that anything here is encrypted under, without the keys. What each of them makes of a known text proves that a coordinator has
-- the same one.
create table secret_keys (
    id text primary key not null,
    proof blob not null,
    created_at integer not null
) without rowid;

create table secrets (
    tenant_id blob not null,
    name text not null,
    -- The newest. It never falls, not even where a name is deleted and given again, so that no version is ever two values.
    version integer not null,
    -- Where the value was a sensitive field of this job's config: it goes with the job.
    job_id blob references scheduled_jobs (id) on delete cascade,
    created_at integer not null,
    updated_at integer not null,
    updated_by blob not null,
    deleted_at integer,
    primary key (tenant_id, name)
) without rowid;

create index secrets_of_job on secrets (job_id) where job_id is not null;

create table secret_versions (
    tenant_id blob not null,
    name text not null,
    version integer not null,
    key_id text not null references secret_keys (id),
    -- Nonce (12 bytes), ciphertext, tag (16 bytes); so is the next. Tenant, name and version are associated data of both.
    wrapped_key blob not null,
    ciphertext blob not null,
    created_at integer not null,
    created_by blob not null,
    primary key (tenant_id, name, version),
    foreign key (tenant_id, name) references secrets (tenant_id, name) on delete cascade
) without rowid;

create index secret_versions_key on secret_versions (key_id);
