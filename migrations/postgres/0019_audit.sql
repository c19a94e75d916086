-- What was done, by whom. Entries are written in the transaction of what they tell of, and never changed; which role may do what with them
-- stands in server/src/store/postgres/tables.rs.
create table audit_entries (
    -- Nil: the deployment itself.
    tenant_id uuid not null,
    id uuid not null,
    at timestamptz not null,
    actor_kind text not null,
    actor_id uuid not null,
    actor_name text not null,
    -- resource:verb.
    action text not null,
    resource_type text not null,
    resource_id text not null,
    resource_name text not null,
    address text not null,
    request_id text not null,
    -- changed or denied.
    outcome text not null,
    -- JSON, as texts: what is sealed must come back to the last byte.
    before text,
    after text,
    primary key (tenant_id, id)
);
create index audit_entries_resource on audit_entries (tenant_id, resource_id, id);
create index audit_entries_actor on audit_entries (tenant_id, actor_id, id);

-- Entries that wait to be sealed.
create table audit_unsealed (
    tenant_id uuid not null,
    id uuid not null,
    primary key (tenant_id, id)
);

-- The chain of each tenant: every seal holds the hashes of some entries and of the seal before it.
create table audit_seals (
    tenant_id uuid not null,
    -- From 1, without gaps.
    sequence bigint not null,
    sealed_at timestamptz not null,
    -- The entries in their order: 16 bytes of id, 32 of SHA-256, each.
    entries bytea not null,
    first_id uuid not null,
    last_id uuid not null,
    -- The newest instant among them, for retention.
    last_at timestamptz not null,
    previous bytea not null,
    hash bytea not null,
    primary key (tenant_id, sequence)
);
create index audit_seals_ids on audit_seals (tenant_id, last_id);

-- Signed: where the chain ends (head), and up to where retention has dropped it (checkpoint).
create table audit_heads (
    tenant_id uuid not null,
    kind text not null,
    sequence bigint not null,
    hash bytea not null,
    -- How many there are up to here.
    entries bigint not null,
    at timestamptz not null,
    public_key bytea not null,
    signature bytea not null,
    primary key (tenant_id, kind)
);

-- Up to which seal the audit service has a copy.
create table audit_copies (
    tenant_id uuid primary key,
    sequence bigint not null,
    copied_at timestamptz not null
);
