-- Every change of state writes an entry into each index of a live execution, so there are as few as can be: one serves a job's live executions and,
-- since nulls stand apart, its leases. The leases of a queue or tenant are counted from all leases, which are as many as agents have slots.
drop index live_executions_leased;
drop index live_executions_job;
create index live_executions_job on live_executions (tenant_id, job_id, session_id);
