//! A short cut of the harness, with fixed seeds: some faults, for some seconds each. `make chaos` does all of it.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use orrery_chaos::scenario::{self, Options};
use orrery_chaos::table::{Row, table};
use orrery_chaos::world::Programs;
use orrery_chaos::{faults, mutants};

/// Beside this program: the tests are run once all programs are built.
fn programs() -> Programs {
    let chaos = PathBuf::from(env!("CARGO_BIN_EXE_orrery-chaos"));
    let beside = |name: &str| {
        let program = chaos.with_file_name(name);
        assert!(program.exists(), "{} is missing: cargo build --workspace --bins", program.display());
        program
    };
    Programs { orrery: beside("orrery"), agent: beside("orrery-agent"), chaos: chaos.clone() }
}

/// One after the other: a scenario has the machine to itself, but for the other tests. What is measured is of no account beside those.
async fn hold(names: &[&str]) {
    let directory = tempfile::Builder::new().prefix("orrery-chaos-").tempdir_in("/tmp").unwrap();
    open_to_all(directory.path());
    let options = Options {
        programs: programs(),
        seed: 20,
        lasting: Duration::from_secs(8),
        ttl: Duration::from_secs(5),
        directory: directory.path().to_owned(),
        strict: false,
    };
    let mut rows = Vec::new();
    for fault in faults::all().iter().filter(|fault| names.contains(&fault.name())) {
        rows.push(Box::pin(scenario::run(fault.as_ref(), &options)).await);
    }
    assert_eq!(rows.len(), names.len());
    if !rows.iter().all(Row::is_good) {
        panic!("{}\nkept: {}\n{rows:#?}", table(&rows), directory.keep().display());
    }
    let injections: Vec<u64> = rows.iter().map(|row| row.injections).collect();
    assert!(injections.iter().all(|count| *count > 0), "nothing was broken: {}", table(&rows));
}

fn open_to_all(directory: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_hold_holds_while_things_break() {
    hold(&["coordinator-kill", "agent-kill", "commit-cut"]).await;
}

/// `make mutants` finds every text that it is to change.
#[test]
fn each_bug_that_is_planted_has_its_place() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let wrong = mutants::misplaced(&root).unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(mutants::list(&root).unwrap().len() >= 15);
}
