-- When an execution must have begun (microseconds); null where it may wait for ever.
alter table live_executions add column start_by integer;
create index live_executions_start_by on live_executions (start_by) where start_by is not null and state = 'pending' and attempt = 0;
