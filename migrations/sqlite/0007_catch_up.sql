-- Fires that came due late are caught up on: in their lane they stand behind what is on time, whatever their number. What is repeated or
-- was asked for by a person is never late.

alter table live_executions
    add column late integer not null generated always as (trigger_type = 'scheduled' and attempt = 0 and run_at > scheduled_at) virtual;

drop index live_executions_waiting;
create index live_executions_waiting on live_executions (lane_id, priority desc, late, run_at, id) where state = 'pending';

drop index live_executions_grouped;
create index live_executions_grouped on live_executions (lane_id, job_id, concurrency_key, priority desc, late, run_at, id)
    where state = 'pending';
