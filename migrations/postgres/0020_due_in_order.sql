-- What is due at one instant has an order of its own, and is read in it: without the id in the index each round would read and sort all that is due then.
drop index live_executions_scheduled;
create index live_executions_scheduled on live_executions (run_at, id) where state = 0;
