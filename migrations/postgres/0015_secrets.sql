-- Secrets of tenants, encrypted (AES-256-GCM) under a data key each, which is encrypted under a key that the database never sees.

-- The keys that anything here is encrypted under, without the keys. What each of them makes of a known text proves that a coordinator has
-- the same one. Of no tenant: every coordinator asks it at its start.
create table secret_keys (
    id text primary key,
    proof bytea not null,
    created_at timestamptz not null default clock_timestamp()
);

create table secrets (
    tenant_id uuid not null,
    name text not null,
    -- The newest. It never falls, not even where a name is deleted and given again, so that no version is ever two values.
    version bigint not null,
    -- Where the value was a sensitive field of this job's config: it goes with the job.
    job_id uuid references scheduled_jobs (id) on delete cascade,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    updated_by uuid not null,
    deleted_at timestamptz,
    primary key (tenant_id, name)
);

create index secrets_of_job on secrets (job_id) where job_id is not null;

create table secret_versions (
    tenant_id uuid not null,
    name text not null,
    version bigint not null,
    key_id text not null references secret_keys (id),
    -- Nonce (12 bytes), ciphertext, tag (16 bytes); so is the next. Tenant, name and version are associated data of both.
    wrapped_key bytea not null,
    ciphertext bytea not null,
    created_at timestamptz not null,
    created_by uuid not null,
    primary key (tenant_id, name, version),
    foreign key (tenant_id, name) references secrets (tenant_id, name) on delete cascade
);

create index secret_versions_key on secret_versions (key_id);
