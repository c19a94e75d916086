-- Whose the lines are, so that row-level security tells without a look at the execution. Those of versions before this one have no tenant:
-- whoever sees their execution sees them. The roles, and the policies of all tables, are made by the program each time it migrates, so that
-- a table of a later migration has them too: server/src/store/postgres/tables.rs.
alter table execution_logs add column tenant_id uuid;
