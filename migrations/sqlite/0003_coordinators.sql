-- What a coordinator says of itself beside its address: which build it is, the leases that its agents hold, and whether it shuts down.
alter table coordinators add column build text not null default '';
alter table coordinators add column leases integer not null default 0;
alter table coordinators add column draining integer not null default 0;
