-- What is cached outside of the database carries the generation that was true when it was read. The next one begins where a cache could not
-- be told of a change.
create table cache_generation (
    id integer primary key not null check (id = 1),
    generation integer not null
);
insert into cache_generation (id, generation) values (1, 1);

create index scheduler_locks_expired on scheduler_locks (expires_at);
