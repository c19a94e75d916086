-- What waits in a lane is read in the order of live_executions_pending. This index begins as that one, and where it was believed to be the emptier of the
-- two, a claim read and sorted all of a lane by it. So it is for statements only that ask for jobs: no other one implies its condition.
drop index live_executions_grouped;
create index live_executions_grouped on live_executions (lane_id, job_id, concurrency_key, priority desc, late, run_at, id)
    where state = 1 and job_id is not null;
