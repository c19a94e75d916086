//! Random series of calls, on both engines and on a plain model of them. After each call all three must have answered the same, and now and
//! then all that they hold is compared. The state machine itself is modelled beside it (`execution/model.rs`); here it is about what stores
//! do: what they pick, count, take back and refuse.
//!
//! ORRERY_CASES sets how many series are tried; ORRERY_SEED repeats a run. What fails is shrunk and printed with its seed.

mod calls;
mod engine;
mod plain;

use orrery_server::store::DynStore;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use self::calls::{Call, Shared, calls};
use self::engine::Engine;
use self::plain::Plain;
use crate::engines;

const CASES: u32 = 16;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Tables that a series leaves rows in. Lanes stay: stores keep them in memory.
const TABLES: &str = "live_executions, job_executions, scheduled_jobs, secrets, secret_versions, job_versions, agent_sessions, fire_omissions, \
                      idempotency_keys";

/// Makes every call on the model and on both engines.
async fn compare(calls: &[Call], postgres: &DynStore) -> Result<(), TestCaseError> {
    let sqlite = engines::sqlite().await;
    let shared = Shared::new(postgres.now().await.unwrap());
    let mut plain = Plain::new(shared.clone());
    let mut engines = [Engine::new(postgres.clone(), &shared).await, Engine::new(sqlite.store.clone(), &shared).await];
    for (n, call) in calls.iter().enumerate() {
        let wanted = plain.call(n, call);
        for engine in &mut engines {
            let answer = engine.call(n, call).await;
            same(engine, n, call, &wanted, &answer)?;
        }
        if n % 6 == 5 || n + 1 == calls.len() {
            let wanted = plain.all();
            for engine in &mut engines {
                let all = engine.all().await;
                same(engine, n, call, &wanted, &all)?;
            }
        }
    }
    Ok(())
}

fn same(engine: &Engine, n: usize, call: &Call, wanted: &str, is: &str) -> Result<(), TestCaseError> {
    if wanted == is {
        return Ok(());
    }
    Err(TestCaseError::fail(format!("call {n}, {call:?}:\nmodel    {wanted}\n{:8} {is}", engine.name())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn any_series_of_calls_keeps_to_the_model() {
    let seed = number("ORRERY_SEED").unwrap_or_else(rand::random);
    let cases = number("ORRERY_CASES").map_or(CASES, |n| n as u32);
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases, max_shrink_iters: 150, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let (postgres, schema) = engines::schema().await;
    let store: DynStore = std::sync::Arc::new(postgres.clone());
    let result = runner.run(&calls(), |calls| {
        let series = async {
            wipe(&schema, &format!("truncate {TABLES}")).await;
            compare(&calls, &store).await
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(series))
    });
    match result {
        Ok(()) => {}
        // What matters last: a long report is cut at its beginning.
        Err(TestError::Fail(why, calls)) => panic!("{calls:#?}\nORRERY_SEED={seed} ORRERY_CASES={cases}: {why}"),
        Err(TestError::Abort(why)) => panic!("ORRERY_SEED={seed} ORRERY_CASES={cases}: {why}"),
    }
    postgres.close().await;
    wipe("public", &format!("drop schema {schema} cascade")).await;
}

async fn wipe(schema: &str, statement: &str) {
    let mut raw = PgConnection::connect(&engines::database_url()).await.unwrap();
    sqlx::query("select set_config('search_path', $1, false)").bind(schema).execute(&mut raw).await.unwrap();
    sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&mut raw).await.unwrap();
    raw.close().await.unwrap();
}
