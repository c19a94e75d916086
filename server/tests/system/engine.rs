use std::path::Path;

use sqlx::{Connection, PgConnection};
use uuid::Uuid;

/// The variable that names the PostgreSQL of the tests.
pub(crate) const VARIABLE: &str = "ORRERY_TEST_DATABASE_URL";

/// The user that servers log in as, whose password is its name.
const OWNER: &str = "orrery_tests";

/// Makes that user, once; the tests of the store do the same. Where somebody else has made the roles that servers take, only an
/// administrator can let another user take them (from PostgreSQL 16 on).
const MAKE_OWNER: &str = "begin; select pg_advisory_xact_lock(7253);
    do $$ declare r text; begin
        if not exists (select 1 from pg_roles where rolname = 'OWNER') then
            create role OWNER login noinherit createrole password 'OWNER';
        end if;
        for r in select quote_ident(rolname) from pg_roles
            where rolname in ('orrery_api', 'orrery_engine', 'orrery_identity', 'orrery_audit')
                and not pg_has_role('OWNER', oid, 'MEMBER')
                    and current_setting('server_version_num')::integer >= 160000
        loop execute format('grant %s to OWNER', r); end loop;
    end $$; commit";

/// What keeps the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

/// A database of one test's own.
pub(crate) struct Database {
    /// As DATABASE_URL takes it.
    pub(crate) url: String,
    /// What is dropped at the end: the address of the server, and the name.
    made: Option<(String, String)>,
}

impl Database {
    pub(crate) async fn new(engine: Engine, directory: &Path) -> Self {
        match engine {
            Engine::Sqlite => Self { url: format!("sqlite:{}", directory.join("orrery.db").display()), made: None },
            Engine::Postgres => Self::on_postgres().await,
        }
    }

    async fn on_postgres() -> Self {
        let server = std::env::var(VARIABLE).unwrap_or_else(|_| {
            panic!(
                "{VARIABLE} is not set. This test needs a PostgreSQL: run it with `scripts/with-servers.sh cargo test ...`, \
                 or set the variable to postgres://USER:PASSWORD@HOST:PORT/DATABASE of a user who may create databases"
            )
        });
        let name = format!("orrery_{}", Uuid::new_v4().simple());
        let (base, _) = server.rsplit_once('/').expect("postgres://USER@HOST:PORT/DATABASE");
        let (scheme, rest) = base.split_once("://").expect("postgres://USER@HOST:PORT/DATABASE");
        let place = rest.split_once('@').map_or(rest, |(_, place)| place);
        // Its owner is no superuser, and so passes by no policy.
        execute(&server, MAKE_OWNER.replace("OWNER", OWNER)).await;
        let url = format!("{scheme}://{OWNER}:{OWNER}@{place}/{name}");
        execute(&server, format!("create database {name} owner {OWNER}")).await;
        // Who inherits nothing has not even what the owner of a database has of its first schema.
        execute(&format!("{base}/{name}"), format!("alter schema public owner to {OWNER}")).await;
        Self { url, made: Some((server, name)) }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let Some((server, name)) = self.made.take() else { return };
        // This thread belongs to a runtime, in which nothing may block.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(execute(&server, format!("drop database if exists {name} with (force)")));
        });
        if dropped.join().is_err() {
            eprintln!("a database of this test is left");
        }
    }
}

async fn execute(server: &str, statement: String) {
    let mut connection = PgConnection::connect(server).await.expect("the PostgreSQL of the tests answers");
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

/// Makes a test of each engine from an `async fn(World)`.
macro_rules! on_each_engine {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::world::World::new(crate::engine::Engine::Sqlite).await).await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::world::World::new(crate::engine::Engine::Postgres).await).await;
            })*
        }
    };
}
