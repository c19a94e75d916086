-- Roles that tenants make. The built-in ones stand in the program.
create table roles (
    tenant_id uuid not null,
    name text not null,
    description text not null,
    permissions text[] not null,
    created_by uuid not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    constraint roles_name primary key (tenant_id, name)
);

-- Who has which role, for the whole tenant or for jobs with a tag. A role may be a built-in one, so that it is no foreign key.
create table role_bindings (
    -- UUIDv7 of the moment it was made: lists go by it.
    id uuid primary key,
    tenant_id uuid not null,
    role text not null,
    -- user or key. Users of identity providers have no row here.
    principal_kind text not null,
    principal_id uuid not null,
    -- Empty: the whole tenant.
    tag text not null,
    created_by uuid not null,
    created_at timestamptz not null,
    constraint role_bindings_once unique (tenant_id, principal_kind, principal_id, role, tag)
);
create index role_bindings_listed on role_bindings (tenant_id, id desc);
create index role_bindings_of_role on role_bindings (tenant_id, role);
