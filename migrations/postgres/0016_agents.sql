-- Agents with certificates of their own, and the tokens by which they come to them.
create table agent_join_tokens (
    id uuid primary key,
    -- Null: for an agent that serves all tenants.
    tenant_id uuid,
    -- SHA-256 of the token; the token itself is known to whoever asked for it.
    hash bytea not null unique,
    name text not null,
    -- The only queues that the agent may serve; any where empty.
    queues text[] not null,
    -- JSON.
    labels text not null,
    created_by uuid not null,
    created_at timestamptz not null,
    expires_at timestamptz not null,
    used_at timestamptz
);
create index agent_join_tokens_age on agent_join_tokens (expires_at);

create table agents (
    id uuid primary key,
    tenant_id uuid,
    name text not null,
    queues text[] not null,
    labels text not null,
    created_by uuid not null,
    token_id uuid not null,
    -- Of the newest certificate, in hexadecimal.
    serial text not null,
    enrolled_at timestamptz not null,
    renewed_at timestamptz not null,
    certificate_expires_at timestamptz not null,
    revoked_at timestamptz,
    revoked_by uuid
);
create index agents_tenant on agents (tenant_id, id);

-- Null: the session of an agent that is known by an API key or a token.
alter table agent_sessions add column agent_id uuid;
