-- Keys of before are known by their SHA-256; those made from now on by an HMAC-SHA-256 under the pepper of this id.
alter table api_keys add column pepper_id blob;
alter table api_keys add column created_by blob;
alter table api_keys add column last_used_at integer;
create index api_keys_listed on api_keys (tenant_id, id desc);

-- People who sign in with a password.
create table users (
    -- UUIDv7 of the moment it was made: lists go by it.
    id blob primary key not null,
    tenant_id blob not null,
    -- In lower case.
    name text not null,
    display_name text not null,
    -- argon2id in the PHC string format, with its salt and cost.
    password_hash text not null,
    -- JSON array of names.
    roles text not null,
    created_by blob,
    created_at integer not null,
    updated_at integer not null,
    last_login_at integer,
    disabled_at integer,
    unique (tenant_id, name)
);
create index users_listed on users (tenant_id, id desc);

-- From a login to its end: the family of the refresh tokens that follow one another.
create table user_sessions (
    id blob primary key not null,
    tenant_id blob not null,
    user_id blob not null references users (id) on delete cascade,
    address text not null,
    created_at integer not null,
    expires_at integer not null,
    ended_at integer,
    -- logout, reuse, password or disabled.
    end_reason text,
    check ((ended_at is null) = (end_reason is null))
);
create index user_sessions_of_user on user_sessions (user_id) where ended_at is null;
create index user_sessions_over on user_sessions (expires_at);

-- Each is good once. Used ones are kept as long as their session, so that one that comes again is known as stolen.
create table refresh_tokens (
    -- SHA-256 of 256 random bits.
    hash blob primary key not null,
    tenant_id blob not null,
    session_id blob not null references user_sessions (id) on delete cascade,
    created_at integer not null,
    used_at integer
);
create index refresh_tokens_of_session on refresh_tokens (session_id);
