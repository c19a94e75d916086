//! PostgreSQL keeps tenants apart by itself: whatever statement comes, whoever wrote it.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use orrery_proto::v1::{Delivery, ExecutionStatus, LogStream};
use orrery_server::error::Error;
use orrery_server::execution::Execution;
use orrery_server::job::Job;
use orrery_server::store::postgres::{PgOptions, PgStore};
use orrery_server::store::*;
use sqlx::{AssertSqlSafe, PgConnection, Row};
use tracing_subscriber::fmt::MakeWriter;
use uuid::Uuid;

use crate::engines::{drop_schema, owners_url, raw, schema, url_of};
use crate::support::*;

const API: &str = "orrery_api";
const ENGINE: &str = "orrery_engine";
const IDENTITY: &str = "orrery_identity";
const AUDIT: &str = "orrery_audit";

async fn run(connection: &mut PgConnection, statement: &str) -> sqlx::Result<u64> {
    Ok(sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await?.rows_affected())
}

/// The code of the error that a statement ends with.
async fn refused(connection: &mut PgConnection, statement: &str) -> String {
    let error = run(connection, statement).await.expect_err(statement);
    error.as_database_error().and_then(|db| db.code()).unwrap_or_default().into_owned()
}

/// Takes a role, as the store's connections do, and binds what follows to a tenant.
async fn become_role(connection: &mut PgConnection, role: &str, tenant: Option<Uuid>) {
    run(connection, &format!("reset role; set role {role}")).await.unwrap();
    let tenant = tenant.map(|tenant| tenant.to_string()).unwrap_or_default();
    sqlx::query("select set_config('orrery.tenant', $1, false)").bind(tenant).execute(connection).await.unwrap();
}

/// The tables of the schema that a role may read, partitions left out.
async fn readable(connection: &mut PgConnection, schema: &str, role: &str) -> Vec<String> {
    sqlx::query_scalar(
        "select relname::text from pg_class where relnamespace = $1::regnamespace and relkind in ('r', 'p') and not relispartition
            and has_table_privilege($2, oid, 'select') order by 1",
    )
    .bind(schema)
    .bind(role)
    .fetch_all(connection)
    .await
    .unwrap()
}

/// Rows of a table, by tenant: nil where there is none.
async fn rows_of(connection: &mut PgConnection, table: &str) -> BTreeMap<Uuid, i64> {
    let has_tenant =
        "select exists (select 1 from pg_attribute where attrelid = $1::regclass and attname = 'tenant_id')";
    let has_tenant: bool = sqlx::query_scalar(has_tenant).bind(table).fetch_one(&mut *connection).await.unwrap();
    let tenant = match table {
        "tenants" => "id",
        _ if has_tenant => "tenant_id",
        _ => "null::uuid",
    };
    let count = format!("select {tenant} as tenant, count(*) as rows from {table} group by 1");
    let found = sqlx::query(AssertSqlSafe(count)).fetch_all(connection).await.unwrap();
    let tenant = |row: &sqlx::postgres::PgRow| row.get::<Option<Uuid>, _>("tenant").unwrap_or_default();
    found.iter().map(|row| (tenant(row), row.get("rows"))).collect()
}

/// Something of each tenant in every table that a caller or an agent can fill.
async fn fill(store: &DynStore) {
    let mut jobs = Vec::new();
    for tenant in [TENANT, OTHER_TENANT] {
        let mut job = job_of(tenant, spec("a"));
        job.spec.delivery = Delivery::AtMostOnce;
        let keyed = NewJob { job, idempotency: key("k", 1) };
        jobs.push(store.create_jobs(vec![keyed], None).await.unwrap().remove(0));
    }
    for job in &jobs {
        let (session, running) = printed(store, job).await;
        apply(store, &running, finished(&running, report(ExecutionStatus::Completed))).await.unwrap();
        store.close_session(session.id, session.attachment).await.unwrap();
    }
    crate::totals::add_up(store).await;
    for job in &jobs {
        // What may run once only is a dead letter when its agent is lost.
        let (session, _) = printed(store, job).await;
        kill(store, &session).await;
        store.reap(MINUTE, 100).await.unwrap();
    }
    for job in &jobs {
        let tenant = job.tenant_id;
        triggers(store, job, 1).await;
        store.open_session(&NewSession { tenant_id: Some(tenant), ..agent("agent") }, MINUTE).await.unwrap();
        store.set_queue_limit(tenant, "default", 5, USER).await.unwrap();
        limit_tenant(store, tenant, Some(5)).await;
        let omission = omission("PAUSED", job.created_at);
        let change = |job: &Job, _: DateTime<Utc>| {
            Ok(JobChange { job: job.clone(), unplan: false, cancel: None, omission: Some(omission.clone()) })
        };
        store.change_job(tenant, job.id, &change).await.unwrap();
        crate::roles::filled(store, tenant).await;
        crate::keys::key_of(store, tenant, tenant.as_bytes()[15]).await;
        crate::audit::recorded(store, tenant, 0..2).await;
        crate::seals::seal_all(store).await;
        crate::audit::recorded(store, tenant, 2..4).await;
    }
    store.open_session(&NewSession { tenant_id: None, ..agent("shared") }, MINUTE).await.unwrap();
}

/// A fresh execution of a job that runs on a session of its own, and has printed a line.
async fn printed(store: &DynStore, job: &Job) -> (Session, Execution) {
    let agent = NewSession { tenant_id: Some(job.tenant_id), ..agent("agent") };
    let session = store.open_session(&agent, MINUTE).await.unwrap();
    let granted = leased(store, job, &session).await;
    let running = apply(store, &granted, started(&granted)).await.unwrap();
    let line = LogLine {
        execution_id: running.id,
        sequence: 1,
        epoch: running.epoch,
        attempt: 1,
        stream: LogStream::Stdout,
        at: running.created_at,
        text: format!("printed for {}", job.tenant_id),
    };
    store.append_logs(Some(job.tenant_id), vec![line], 1 << 20).await.unwrap();
    (session, running)
}

/// Every table of the schema that is not the list of migrations. A table of a migration to come that nobody has named fails here.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_table_is_isolated() {
    let (pg, schema) = schema().await;
    let mut raw = raw(&schema).await;
    let found = sqlx::query(
        "select c.relname::text as name, c.relrowsecurity and c.relforcerowsecurity as forced, c.relispartition as is_partition,
            exists (select 1 from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped) as of_tenants,
            array(select distinct coalesce(r.rolname, 'public')::text from aclexplode(c.relacl) a
                left join pg_roles r on r.oid = a.grantee where a.grantee <> c.relowner) as reached_by,
            array(select pg_get_expr(p.polqual, p.polrelid) from pg_policy p, pg_roles r
                where p.polrelid = c.oid and r.oid = any(p.polroles) and r.rolname = 'orrery_api') as seen_by_callers,
            exists (select 1 from pg_policy p where p.polrelid = c.oid and 0 = any(p.polroles)) as for_everybody
         from pg_class c where c.relnamespace = $1::regnamespace and c.relkind in ('r', 'p') and c.relname <> '_sqlx_migrations'",
    )
    .bind(&schema)
    .fetch_all(&mut raw)
    .await
    .unwrap();
    assert!(found.len() > 20, "{}", found.len());
    let mut wrong = Vec::new();
    for row in &found {
        let name: String = row.get("name");
        let reached: Vec<String> = row.get("reached_by");
        let sights: Vec<String> = row.get("seen_by_callers");
        let of_tenants: bool = row.get("of_tenants");
        if reached.is_empty() {
            wrong.push(format!("{name} is in no list: name it in server/src/store/postgres/tables.rs"));
        }
        if let Some(other) = reached.iter().find(|role| ![API, ENGINE, IDENTITY, AUDIT].contains(&role.as_str())) {
            wrong.push(format!("{name} can be reached by {other}"));
        }
        if !row.get::<bool, _>("forced") {
            wrong.push(format!("row-level security is not forced on {name}"));
        }
        if row.get("for_everybody") {
            wrong.push(format!("{name} has a policy for everybody"));
        }
        let reached_by_callers = reached.iter().any(|role| role == API);
        if row.get("is_partition") && reached_by_callers {
            wrong.push(format!("callers reach the partition {name} beside its table"));
        }
        if of_tenants && reached_by_callers && sights.is_empty() {
            wrong.push(format!("{name} has no policy for callers"));
        }
        let is_bound = |sight: &String| sight.contains("orrery.tenant") || sight == "(tenant_id IS NULL)";
        if (of_tenants || name == "tenants") && !sights.iter().all(is_bound) {
            wrong.push(format!("callers see more of {name} than their tenant's: {sights:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    drop_schema(&pg, &schema).await;
}

/// What a caller's statement could be made to say makes no difference.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn straight_sql_sees_its_tenant_and_no_other() {
    let (pg, schema) = schema().await;
    let store: DynStore = Arc::new(pg.clone());
    fill(&store).await;
    let mut raw = raw(&schema).await;
    let tables = readable(&mut raw, &schema, API).await;
    assert!(tables.len() > 12 && tables.contains(&"live_executions".to_owned()), "{tables:?}");
    let mut all = BTreeMap::new();
    for table in &tables {
        let rows = rows_of(&mut raw, table).await;
        all.insert(table.clone(), rows);
    }
    let filled = |rows: &BTreeMap<Uuid, _>| rows.contains_key(&TENANT) && rows.contains_key(&OTHER_TENANT);
    assert!(all.values().filter(|rows| filled(rows)).count() > 12, "there is little to see: {all:?}");
    become_role(&mut raw, API, None).await;
    for table in &tables {
        let rows = rows_of(&mut raw, table).await;
        let shared = rows.keys().all(|tenant| tenant.is_nil() && table == "agent_sessions");
        assert!(shared, "unbound, {table} shows {rows:?}");
    }
    for tenant in [TENANT, OTHER_TENANT] {
        become_role(&mut raw, API, Some(tenant)).await;
        for (table, rows) in &all {
            let mut own = rows.clone();
            own.retain(|of, _| *of == tenant || of.is_nil());
            assert_eq!(rows_of(&mut raw, table).await, own, "{table} for {tenant}");
        }
    }
    // Bound to one tenant, nothing of the other can be changed, taken, made or given away.
    become_role(&mut raw, API, Some(TENANT)).await;
    for (table, _) in all.iter().filter(|(_, rows)| filled(rows)) {
        let is_written = table.starts_with("audit_");
        if is_written || ["execution_logs", "tenants"].contains(&table.as_str()) {
            assert_eq!(refused(&mut raw, &format!("delete from {table}")).await, "42501");
            let change = match table.as_str() {
                "tenants" => "update tenants set weight = 9".to_owned(),
                table => format!("update {table} set tenant_id = tenant_id"),
            };
            assert_eq!(refused(&mut raw, &change).await, "42501");
            continue;
        }
        let theirs = format!("where tenant_id = '{OTHER_TENANT}'");
        let touched = run(&mut raw, &format!("update {table} set tenant_id = tenant_id {theirs}")).await.unwrap();
        assert_eq!(touched, 0, "{table}");
        let give = format!("update {table} set tenant_id = '{OTHER_TENANT}' where tenant_id = '{TENANT}'");
        assert_eq!(refused(&mut raw, &give).await, "42501", "{table}");
        if table != "agent_sessions" {
            assert_eq!(run(&mut raw, &format!("delete from {table} {theirs}")).await.unwrap(), 0, "{table}");
        }
    }
    let make = format!(
        "insert into queue_limits (tenant_id, name, max_concurrent, updated_by) values ('{OTHER_TENANT}', 'q', 1, '{USER}')"
    );
    assert_eq!(refused(&mut raw, &make).await, "42501");
    // Nor is there a way around the policies.
    assert_eq!(refused(&mut raw, "set row_security = off; select * from scheduled_jobs").await, "42501");
    for statement in [
        "alter table scheduled_jobs disable row level security",
        "drop policy api on scheduled_jobs",
        "alter role orrery_api bypassrls",
        "truncate scheduled_jobs",
        "select * from job_executions_default",
        "select * from coordinators",
        "copy scheduled_jobs to program 'true'",
    ] {
        assert_eq!(refused(&mut raw, statement).await, "42501", "{statement}");
    }
    drop_schema(&pg, &schema).await;
}

/// Coordinators' own batches see the queue of all tenants, and nothing of who callers are; what knows callers sees nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_role_sees_what_it_is_for() {
    let (pg, schema) = schema().await;
    let store: DynStore = Arc::new(pg.clone());
    fill(&store).await;
    let mut raw = raw(&schema).await;
    become_role(&mut raw, ENGINE, None).await;
    assert_eq!(rows_of(&mut raw, "live_executions").await.len(), 2);
    assert_eq!(refused(&mut raw, "select * from api_keys").await, "42501");
    become_role(&mut raw, IDENTITY, None).await;
    assert_eq!(rows_of(&mut raw, "api_keys").await.len(), 2);
    for role in [IDENTITY, AUDIT] {
        become_role(&mut raw, role, None).await;
        for table in ["scheduled_jobs", "job_executions", "execution_logs", "agent_sessions"] {
            assert_eq!(refused(&mut raw, &format!("select * from {table}")).await, "42501", "{role}: {table}");
        }
    }
    drop_schema(&pg, &schema).await;
}

/// Whoever does something can write it down, and nobody can take it back: not who does it, and not who seals it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_changes_what_was_written_down() {
    let (pg, schema) = schema().await;
    let store: DynStore = Arc::new(pg.clone());
    fill(&store).await;
    let mut raw = raw(&schema).await;
    for (role, tenant) in [(API, Some(TENANT)), (ENGINE, None), (IDENTITY, None)] {
        become_role(&mut raw, role, tenant).await;
        for statement in [
            "update audit_entries set actor_name = 'nobody'",
            "delete from audit_entries",
            "truncate audit_entries",
            "update audit_unsealed set id = id",
            "delete from audit_unsealed",
            "insert into audit_seals select * from audit_seals",
            "update audit_heads set sequence = 0",
            "delete from audit_seals",
            "drop table audit_entries",
        ] {
            assert_eq!(refused(&mut raw, statement).await, "42501", "{role}: {statement}");
        }
    }
    // Who only writes does not read either.
    become_role(&mut raw, ENGINE, None).await;
    assert_eq!(refused(&mut raw, "select action from audit_entries").await, "42501");
    become_role(&mut raw, AUDIT, None).await;
    for statement in
        ["update audit_entries set action = ''", "update audit_seals set hash = ''", "truncate audit_seals"]
    {
        assert_eq!(refused(&mut raw, statement).await, "42501", "{statement}");
    }
    assert_eq!(rows_of(&mut raw, "audit_entries").await.len(), 2);
    drop_schema(&pg, &schema).await;
}

/// What fails at its very end leaves no entry, and what cannot be written down is not done.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_change_and_its_entry_are_there_together_or_not_at_all() {
    let (pg, schema) = schema().await;
    let store: DynStore = Arc::new(pg.clone());
    let mut raw = raw(&schema).await;
    let create = async || {
        let new = new_job(job_of(TENANT, spec("a")));
        crate::audit::as_anna(store.create_jobs(vec![new], None)).await
    };
    let count = async |raw: &mut PgConnection| -> (i64, i64) {
        let counts = "select (select count(*) from scheduled_jobs), (select count(*) from audit_entries)";
        sqlx::query_as(counts).fetch_one(raw).await.unwrap()
    };
    let fails = "create function fails() returns trigger language plpgsql as $$ begin raise exception 'at the very end'; end $$;
        create constraint trigger fails after insert on scheduled_jobs deferrable initially deferred
            for each row execute function fails()";
    run(&mut raw, fails).await.unwrap();
    create().await.unwrap_err();
    assert_eq!(count(&mut raw).await, (0, 0));
    run(&mut raw, "drop trigger fails on scheduled_jobs; revoke insert on audit_unsealed from orrery_api")
        .await
        .unwrap();
    create().await.unwrap_err();
    assert_eq!(count(&mut raw).await, (0, 0));
    run(&mut raw, "grant insert on audit_unsealed to orrery_api").await.unwrap();
    create().await.unwrap();
    assert_eq!(count(&mut raw).await, (1, 1));
    drop_schema(&pg, &schema).await;
}

/// Lines of before the tenant stood beside them are their execution's.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn lines_of_older_versions_are_their_executions() {
    let (pg, schema) = schema().await;
    let store: DynStore = Arc::new(pg.clone());
    fill(&store).await;
    run(&mut raw(&schema).await, "update execution_logs set tenant_id = null").await.unwrap();
    let mut seen = 0;
    for tenant in [TENANT, OTHER_TENANT] {
        for execution in executions_of(&store, tenant).await {
            for asking in [TENANT, OTHER_TENANT] {
                let lines = store.logs(asking, execution, 0, 100).await.unwrap();
                assert!(asking == tenant || lines.is_empty());
                seen += lines.len();
            }
        }
    }
    assert_eq!(seen, 4);
    drop_schema(&pg, &schema).await;
}

async fn executions_of(store: &DynStore, tenant: Uuid) -> Vec<Uuid> {
    let page = Page { after: None, limit: 100 };
    let found = store.executions(tenant, &ExecutionFilter::default(), &page).await.unwrap();
    found.into_iter().map(|execution| execution.id).collect()
}

/// What is logged on this thread.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Said {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Calls of two tenants in turns on one connection, many of which fail, are dropped half-way or run out of time.
///
/// On one thread, so that all that is logged is heard: a connection that came back bound would be closed, and that is said.
#[tokio::test]
async fn a_connection_carries_no_tenant_over() {
    let (pg, schema) = schema().await;
    let store: DynStore = Arc::new(pg.clone());
    fill(&store).await;
    let jobs = BTreeMap::from([
        (TENANT, job_named(&store, TENANT).await),
        (OTHER_TENANT, job_named(&store, OTHER_TENANT).await),
    ]);
    let options = PgOptions {
        schema: Some(schema.clone()),
        max_connections: 2,
        application_name: format!("one {schema}"),
        ..PgOptions::new(owners_url().await)
    };
    let one_pg = PgStore::connect(options).await.unwrap();
    let one: DynStore = Arc::new(one_pg.clone());
    let said = Said::default();
    let subscriber = tracing_subscriber::fmt().with_writer(said.clone()).with_ansi(false).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let mut looking = raw(&schema).await;
    let tenants = [TENANT, OTHER_TENANT];
    for turn in 0..120 {
        let (tenant, other) = (tenants[turn % 2], tenants[(turn + 1) % 2]);
        match turn / 2 % 4 {
            // Dropped wherever it is.
            0 => {
                let mut call = Box::pin(one.set_queue_limit(tenant, "default", 7, USER));
                for _ in 0..turn / 8 {
                    if futures_util::poll!(call.as_mut()).is_ready() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
            // Out of time, on a lock that somebody holds.
            1 => {
                run(&mut looking, "begin; select 1 from scheduled_jobs for update").await.unwrap();
                let change = |job: &Job, _: DateTime<Utc>| {
                    Ok(JobChange { job: job.clone(), unplan: false, cancel: None, omission: None })
                };
                let call = one.change_job(tenant, jobs[&tenant], &change);
                assert!(tokio::time::timeout(Duration::from_millis(20), call).await.is_err());
                run(&mut looking, "rollback").await.unwrap();
            }
            // Refused by the database, in the middle of the transaction, and by the caller.
            2 => {
                let twice = vec![new_job(job_of(tenant, spec("a")))];
                assert!(matches!(one.create_jobs(twice, None).await, Err(StoreError::NameTaken { .. })));
                let trigger = trigger_of(&job_of_id(tenant, jobs[&tenant]));
                let refused = one.trigger(vec![trigger], &|_, _, _| Err(Error::job_not_found(Uuid::nil()))).await;
                assert!(matches!(refused, Err(StoreError::TriggerRefused { .. })), "{refused:?}");
            }
            // Of something that is the other's.
            _ => {
                let done = one.change_job(tenant, jobs[&other], &|_, _| unreachable!("it is not seen")).await;
                assert!(matches!(done, Err(StoreError::NotFound)), "{done:?}");
            }
        }
        // Whoever comes next on the connection sees their own, and what they write is theirs.
        assert!(one.job(other, jobs[&tenant]).await.unwrap().is_none());
        assert_eq!(one.job(other, jobs[&other]).await.unwrap().map(|job| job.tenant_id), Some(other));
        let limit = 10 + i32::try_from(turn).unwrap();
        one.set_queue_limit(other, "default", limit, USER).await.unwrap();
        let stored: i32 = sqlx::query_scalar("select max_concurrent from queue_limits where tenant_id = $1")
            .bind(other)
            .fetch_one(&mut looking)
            .await
            .unwrap();
        assert_eq!(stored, limit);
    }
    one_pg.close().await;
    let said = String::from_utf8(said.0.lock().unwrap().clone()).unwrap();
    assert!(!said.contains("bound to a tenant"), "{said}");
    drop_schema(&pg, &schema).await;
}

async fn job_named(store: &DynStore, tenant: Uuid) -> Uuid {
    store.jobs(tenant, &JobFilter::default(), &Page { after: None, limit: 10 }).await.unwrap()[0].id
}

fn job_of_id(tenant: Uuid, id: Uuid) -> Job {
    Job { id, ..job_of(tenant, spec("a")) }
}

/// A user who owns a schema, and may do nothing beside that.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_not_make_roles_is_told_what_to_do() {
    // So that the roles are there.
    let (pg, first) = schema().await;
    let (schema, user) = (format!("test_{}", Uuid::new_v4().simple()), format!("plain_{}", Uuid::new_v4().simple()));
    let mut administrator = raw("public").await;
    let make = format!("create role {user} login password '{user}'; create schema {schema} authorization {user}");
    run(&mut administrator, &make).await.unwrap();
    let options = || PgOptions { schema: Some(schema.clone()), ..PgOptions::new(url_of(&user)) };
    // `create schema if not exists` asks for the right to make one even where there is nothing to make.
    run(
        &mut administrator,
        &format!("do $$ begin execute format('grant create on database %I to {user}', current_database()); end $$"),
    )
    .await
    .unwrap();
    let store = PgStore::connect(options()).await.unwrap();
    let Err(StoreError::Unusable(told)) = store.migrate().await else { panic!("it is not told") };
    let (_, statements) = told.split_once("as a superuser run once: ").unwrap_or_else(|| panic!("{told}"));
    assert_eq!(statements, format!("grant {API}, {ENGINE}, {IDENTITY}, {AUDIT} to {user};"));

    run(&mut administrator, statements).await.unwrap();
    store.migrate().await.unwrap();
    let dynamic: DynStore = Arc::new(store.clone());
    let job = job(&dynamic, "a").await;
    trigger(&dynamic, &job).await;
    drop_schema(&store, &schema).await;
    let gone = format!(
        "do $$ begin execute format('revoke all on database %I from {user}', current_database()); end $$; drop role {user}"
    );
    run(&mut administrator, &gone).await.unwrap();
    drop_schema(&pg, &first).await;
}

/// Tables that are isolated already are not touched again: a coordinator that starts holds nobody up.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_start_locks_no_table() {
    let (pg, schema) = schema().await;
    let mut holding = raw(&schema).await;
    run(&mut holding, "begin; lock table live_executions, scheduled_jobs, api_keys in row exclusive mode")
        .await
        .unwrap();
    let second = crate::engines::connect(&schema).await;
    tokio::time::timeout(Duration::from_secs(30), second.migrate()).await.expect("it waits for nobody").unwrap();
    run(&mut holding, "rollback").await.unwrap();
    // What somebody has changed by hand is put right.
    run(
        &mut holding,
        "alter table api_keys no force row level security; create policy mine on lanes to public using (true)",
    )
    .await
    .unwrap();
    run(&mut holding, &format!("grant select on api_keys to {ENGINE}")).await.unwrap();
    second.migrate().await.unwrap();
    let right = "select (select relforcerowsecurity from pg_class where oid = 'api_keys'::regclass)
        and not has_table_privilege('orrery_engine', 'api_keys', 'select')
        and not exists (select 1 from pg_policy where polname = 'mine' and polrelid = 'lanes'::regclass)";
    assert!(sqlx::query_scalar::<_, bool>(right).fetch_one(&mut holding).await.unwrap());
    second.close().await;
    drop_schema(&pg, &schema).await;
}
