-- Agents with certificates of their own, and the tokens by which they come to them.
create table agent_join_tokens (
    id blob primary key not null,
    -- Null: for an agent that serves all tenants.
    tenant_id blob,
    -- SHA-256 of the token; the token itself is known to whoever asked for it.
    hash blob not null unique,
    name text not null,
    -- JSON: the only queues that the agent may serve; any where empty.
    queues text not null,
    labels text not null,
    created_by blob not null,
    created_at integer not null,
    expires_at integer not null,
    used_at integer
);
create index agent_join_tokens_age on agent_join_tokens (expires_at);

create table agents (
    id blob primary key not null,
    tenant_id blob,
    name text not null,
    queues text not null,
    labels text not null,
    created_by blob not null,
    token_id blob not null,
    -- Of the newest certificate, in hexadecimal.
    serial text not null,
    enrolled_at integer not null,
    renewed_at integer not null,
    certificate_expires_at integer not null,
    revoked_at integer,
    revoked_by blob
);
create index agents_tenant on agents (tenant_id, id);

-- Null: the session of an agent that is known by an API key or a token.
alter table agent_sessions add column agent_id blob;
