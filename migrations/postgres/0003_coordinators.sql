-- What a coordinator says of itself beside its address: which build it is, the leases that its agents hold, and whether it shuts down.
alter table coordinators
    add column build text not null default '',
    add column leases bigint not null default 0,
    add column draining boolean not null default false;
