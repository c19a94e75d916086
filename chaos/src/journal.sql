-- What the harness knows of the tables, whatever the product says: every change of a row, in the transaction that makes it.
create schema chaos;

create table chaos.changes (
    id bigserial primary key,
    at timestamptz not null default clock_timestamp(),
    -- When the transaction began.
    began timestamptz not null default transaction_timestamp(),
    -- live, history, session
    source text not null,
    op text not null,
    execution uuid,
    job uuid,
    scheduled_at timestamptz,
    run_at timestamptz,
    trigger_type smallint,
    old_state smallint,
    new_state smallint,
    old_epoch bigint,
    new_epoch bigint,
    old_session uuid,
    new_session uuid,
    attempt integer,
    was_started boolean,
    is_started boolean,
    deadline timestamptz,
    status text,
    -- Of the session that held the row before.
    session_expires timestamptz,
    name text,
    coordinator uuid,
    attachment bigint
);

create function chaos.live() returns trigger language plpgsql security definer as $$
declare
    expires timestamptz;
begin
    if tg_op = 'INSERT' then
        insert into chaos.changes (source, op, execution, job, scheduled_at, run_at, trigger_type, new_state, new_epoch, new_session,
            attempt, is_started)
        values ('live', 'insert', new.id, new.job_id, new.scheduled_at, new.run_at, new.trigger_type, new.state, new.epoch,
            new.session_id, new.attempt, new.started_at is not null);
        return null;
    end if;
    if old.session_id is not null then
        select s.expires_at into expires from public.agent_sessions s where s.id = old.session_id;
    end if;
    if tg_op = 'DELETE' then
        insert into chaos.changes (source, op, execution, job, scheduled_at, run_at, trigger_type, old_state, old_epoch, old_session,
            attempt, was_started, deadline, session_expires)
        values ('live', 'delete', old.id, old.job_id, old.scheduled_at, old.run_at, old.trigger_type, old.state, old.epoch,
            old.session_id, old.attempt, old.started_at is not null, old.deadline, expires);
        return null;
    end if;
    if (old.state, old.epoch, old.session_id, old.started_at, old.attempt, old.run_at)
        is distinct from (new.state, new.epoch, new.session_id, new.started_at, new.attempt, new.run_at) then
        insert into chaos.changes (source, op, execution, job, scheduled_at, run_at, trigger_type, old_state, new_state, old_epoch,
            new_epoch, old_session, new_session, attempt, was_started, is_started, deadline, session_expires)
        values ('live', 'update', new.id, new.job_id, new.scheduled_at, new.run_at, new.trigger_type, old.state, new.state,
            old.epoch, new.epoch, old.session_id, new.session_id, new.attempt, old.started_at is not null,
            new.started_at is not null, coalesce(new.deadline, old.deadline), expires);
    end if;
    return null;
end $$;

create function chaos.history() returns trigger language plpgsql security definer as $$
begin
    insert into chaos.changes (source, op, execution, job, scheduled_at, run_at, new_epoch, new_session, attempt, status, session_expires)
    values ('history', lower(tg_op), coalesce(new.id, old.id), coalesce(new.job_id, old.job_id),
        coalesce(new.scheduled_at, old.scheduled_at), new.run_at, coalesce(new.epoch, old.epoch),
        coalesce(new.worker_id, old.worker_id), coalesce(new.attempt, old.attempt), coalesce(new.status, old.status),
        (select s.expires_at from public.agent_sessions s where s.id = new.worker_id));
    return null;
end $$;

create function chaos.session() returns trigger language plpgsql security definer as $$
begin
    if tg_op = 'UPDATE' and (old.attachment, old.attached) is not distinct from (new.attachment, new.attached) then
        return null;
    end if;
    insert into chaos.changes (source, op, new_session, name, coordinator, attachment, is_started, session_expires)
    values ('session', lower(tg_op), coalesce(new.id, old.id), coalesce(new.name, old.name),
        coalesce(new.coordinator_id, old.coordinator_id), coalesce(new.attachment, old.attachment),
        coalesce(new.attached, old.attached), coalesce(old.expires_at, new.expires_at));
    return null;
end $$;

create trigger chaos_live after insert or update or delete on public.live_executions for each row execute function chaos.live();
create trigger chaos_history after insert or update or delete on public.job_executions for each row execute function chaos.history();
create trigger chaos_session after insert or update or delete on public.agent_sessions for each row execute function chaos.session();
