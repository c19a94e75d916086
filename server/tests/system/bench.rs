//! `orrery bench`: that it measures what it says, and leaves nothing behind. Never how fast this machine is.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use sqlx::{Connection, PgConnection};

use crate::engine::{Engine, VARIABLE};
use crate::process::{Process, is_alive};
use crate::wait::{SOON, until};
use crate::world::World;

/// Enough for a few small scenarios in a debug build beside other tests.
const LONG: Duration = Duration::from_secs(300);

/// The report of a run that must come to its end.
async fn report(mut bench: Process) -> Value {
    let status = bench.ended(LONG).await;
    assert!(status.success(), "{status}: {}", bench.stderr());
    serde_json::from_str(&bench.stdout()).unwrap()
}

fn figure(case: &Value, name: &str) -> f64 {
    let figure = &case["figures"][name];
    assert!(figure["unit"].is_string(), "{name}: {case:#}");
    figure["value"].as_f64().unwrap_or_else(|| panic!("{name} has no value: {case:#}"))
}

/// The databases on a server that a bench has made. Only one test here makes any on the server of the tests.
async fn databases(url: &str) -> Vec<String> {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let names = "select datname::text from pg_database where datname like 'orrery\\_bench\\_%'";
    let names = sqlx::query_scalar(names).fetch_all(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    names
}

fn children(parent: i32) -> Vec<i32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)) == Some(&parent.to_string())
    })
    .collect()
}

/// The directory of a world as the bench's own temporary directory, which another user may enter.
fn temporary(world: &World) -> String {
    fs::set_permissions(world.directory(), Permissions::from_mode(0o755)).unwrap();
    let directory = world.path("tmp");
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
    directory.display().to_string()
}

fn is_empty(directory: &str) -> bool {
    fs::read_dir(directory).unwrap().next().is_none()
}

#[tokio::test]
async fn throughput_is_measured_beside_the_raw_limit_and_an_interrupt_ends_it_all() {
    let world = World::new(Engine::Postgres).await;
    // It makes databases of its own.
    let url = &std::env::var(VARIABLE).unwrap();
    let temporary = temporary(&world);
    let environment = [("TMPDIR", temporary.as_str())];
    let given = ["--quick", "--json", "--database-url", url];
    let args = [&["bench", "throughput", "--executions", "600", "--agents", "2"], &given[..]].concat();
    let report = report(world.orrery("bench", &args, &environment)).await;

    assert_eq!(report["settings"]["database"], "given");
    assert!(report["machine"]["cores"].as_u64() > Some(0));
    assert!(report["versions"]["postgres"].as_str().unwrap().starts_with(|c: char| c.is_ascii_digit()));
    let scenario = &report["scenarios"][0];
    assert_eq!((&scenario["scenario"], &scenario["error"]), (&Value::from("throughput"), &Value::Null));
    let [postgres, secured, sqlite] = &scenario["cases"].as_array().unwrap()[..] else { panic!("{report:#}") };
    assert_eq!((&postgres["case"], &postgres["detail"]["executions"]), (&"postgres, 2 agents".into(), &600.into()));
    assert_eq!((&sqlite["case"], &sqlite["detail"]["executions"]), (&"sqlite, 1 agent".into(), &60.into()));
    assert_eq!(secured["case"], "postgres, 1 agent, mTLS");
    let of_without = figure(secured, "executions_per_second") / figure(secured, "executions_per_second_without");
    assert!((figure(secured, "of_without") / of_without - 1.0).abs() < 1e-9, "{secured:#}");
    let rate = figure(postgres, "executions_per_second");
    assert!(rate > 0.0 && figure(sqlite, "executions_per_second") > 0.0);
    let ratio = rate / figure(postgres, "raw_claim_complete_per_second");
    assert!((figure(postgres, "ratio") / ratio - 1.0).abs() < 1e-9, "{postgres:#}");
    for name in ["cpu_coordinator", "cpu_agents", "coordinator_memory_peak", "wal_per_execution", "disk_per_execution"]
    {
        assert!(figure(postgres, name) > 0.0, "{name}: {postgres:#}");
    }
    let of_rate = &postgres["figures"]["executions_per_second"];
    assert_eq!((&of_rate["goal"], &of_rate["met"]), (&">= 60000".into(), &(rate >= 60_000.0).into()));
    assert_eq!((databases(url).await, is_empty(&temporary)), (vec![], true));

    let mut bench = world.orrery("bench", &[&["bench", "soak"], &given[..]].concat(), &environment);
    bench.says("bench: soak", LONG).await;
    let started = until("a coordinator and a worker run", LONG, async || {
        Some(children(bench.pid())).filter(|children| children.len() >= 2)
    })
    .await;
    bench.signal(Signal::INT);
    assert_eq!(bench.ended(LONG).await.code(), Some(130));
    let report: Value = serde_json::from_str(&bench.stdout()).unwrap();
    assert_eq!(report["interrupted"], true);
    assert_eq!(report["scenarios"][0]["error"], "interrupted");
    until("nothing of it runs", SOON, async || (!started.iter().any(|pid| is_alive(*pid))).then_some(())).await;
    assert_eq!((databases(url).await, is_empty(&temporary)), (vec![], true));
}

#[tokio::test]
async fn without_a_database_it_starts_one_that_keeps_what_it_commits() {
    let world = World::new(Engine::Sqlite).await;
    let temporary = temporary(&world);
    let args = ["bench", "latency", "start", "--quick", "--triggers", "20", "--json"];
    let report = report(world.orrery("bench", &args, &[("TMPDIR", temporary.as_str())])).await;
    let settings = &report["settings"];
    assert_eq!(settings["database"], "private");
    for durable in ["fsync", "synchronous_commit", "full_page_writes"] {
        assert_eq!(settings["postgres"][durable], "on", "{settings:#}");
    }
    let [latency, start] = &report["scenarios"].as_array().unwrap()[..] else { panic!("{report:#}") };
    let latency = &latency["cases"][0];
    let [p50, p99, max] = ["p50", "p99", "max"].map(|of| figure(latency, &format!("trigger_to_start_{of}")));
    assert!(0.0 < p50 && p50 <= p99 && p99 <= max, "{latency:#}");
    assert!(figure(&start["cases"][0], "exec_to_healthy") > 0.0);
    assert!(is_empty(&temporary));
}

#[tokio::test]
async fn what_it_cannot_reach_is_said() {
    let world = World::new(Engine::Sqlite).await;
    let args = ["bench", "latency", "--quick", "--database-url", "postgres://nobody@127.0.0.1:1/none"];
    let mut bench = world.orrery("bench", &args, &[]);
    assert_eq!(bench.ended(LONG).await.code(), Some(1));
    assert!(bench.stderr().contains("error[NOT_MEASURED]"), "{}", bench.stderr());
}
