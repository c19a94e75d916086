-- What is cached outside of the database carries the generation that was true when it was read. The next one begins where a cache could not
-- be told of a change.
create table cache_generation (
    id boolean primary key default true check (id),
    generation bigint not null
);
insert into cache_generation (generation) values (1);

create index scheduler_locks_expired on scheduler_locks (expires_at);
