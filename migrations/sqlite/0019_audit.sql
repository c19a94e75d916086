-- What was done, by whom. Entries are written in the transaction of what they tell of, and never changed.
create table audit_entries (
    -- Nil: the deployment itself.
    tenant_id blob not null,
    id blob not null,
    at integer not null,
    actor_kind text not null,
    actor_id blob not null,
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
) without rowid;
create index audit_entries_resource on audit_entries (tenant_id, resource_id, id);
create index audit_entries_actor on audit_entries (tenant_id, actor_id, id);

-- Entries that wait to be sealed.
create table audit_unsealed (
    tenant_id blob not null,
    id blob not null,
    primary key (tenant_id, id)
) without rowid;

-- The chain of each tenant: every seal holds the hashes of some entries and of the seal before it.
create table audit_seals (
    tenant_id blob not null,
    -- From 1, without gaps.
    sequence integer not null,
    sealed_at integer not null,
    -- The entries in their order: 16 bytes of id, 32 of SHA-256, each.
    entries blob not null,
    first_id blob not null,
    last_id blob not null,
    -- The newest instant among them, for retention.
    last_at integer not null,
    previous blob not null,
    hash blob not null,
    primary key (tenant_id, sequence)
);
create index audit_seals_ids on audit_seals (tenant_id, last_id);

-- Signed: where the chain ends (head), and up to where retention has dropped it (checkpoint).
create table audit_heads (
    tenant_id blob not null,
    kind text not null,
    sequence integer not null,
    hash blob not null,
    -- How many there are up to here.
    entries integer not null,
    at integer not null,
    public_key blob not null,
    signature blob not null,
    primary key (tenant_id, kind)
);

-- Up to which seal the audit service has a copy.
create table audit_copies (
    tenant_id blob primary key not null,
    sequence integer not null,
    copied_at integer not null
);

-- SQLite has no roles: the tables themselves refuse what nobody does.
create trigger audit_entries_are_not_changed before update on audit_entries begin
    select raise(abort, 'audit entries are never changed');
end;
create trigger audit_entries_are_not_replaced before insert on audit_entries
when exists (select 1 from audit_entries where tenant_id = new.tenant_id and id = new.id) begin
    select raise(abort, 'audit entries are never changed');
end;
-- Retention says first, under a signature, how far it goes, and then drops what is older.
create trigger audit_entries_are_kept before delete on audit_entries
when old.at > coalesce((select at from audit_heads where tenant_id = old.tenant_id and kind = 'checkpoint'), -1) begin
    select raise(abort, 'audit entries are only dropped by retention');
end;
create trigger audit_seals_are_not_changed before update on audit_seals begin
    select raise(abort, 'audit seals are never changed');
end;
create trigger audit_seals_are_kept before delete on audit_seals
when old.sequence > coalesce((select sequence from audit_heads where tenant_id = old.tenant_id and kind = 'checkpoint'), -1) begin
    select raise(abort, 'audit seals are only dropped by retention');
end;
