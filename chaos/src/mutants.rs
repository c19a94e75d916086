//! The check of the checker: known bugs, each planted in a copy of the tree, and what of it is seen.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;
use tokio::time::Instant;

use crate::error::{Result, Tried, path, world};
use crate::faults::{self, Fault};
use crate::scenario::{self, Options};
use crate::table::aligned;
use crate::world::Programs;

/// How often a fault is tried, each time with another seed: a bug that needs a moment does not show each time.
const TRIES: u64 = 2;

/// A bug, and who is to see it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mutation {
    pub name: String,
    /// What is wrong with it.
    pub about: String,
    /// The faults that are to show it, in the order in which they are tried.
    #[serde(default)]
    pub faults: Vec<String>,
    /// Tests of the store that are to show it, by their names' beginnings: what it takes stands too rarely together in a world.
    #[serde(default)]
    pub tests: Vec<String>,
    /// The invariants that are to catch it; where a test does, those that it holds to.
    pub expected: Vec<String>,
    pub edit: Vec<Edit>,
}

/// One place that is changed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    pub file: PathBuf,
    /// What stands there exactly once.
    pub find: String,
    pub replace: String,
}

#[derive(Deserialize)]
struct List {
    mutation: Vec<Mutation>,
}

/// What became of one.
struct Outcome {
    name: String,
    caught: BTreeSet<String>,
    by: String,
    expected: BTreeSet<String>,
    seconds: u64,
}

impl Outcome {
    /// Whether it was caught by what was to catch it.
    fn is_caught(&self) -> bool {
        !self.caught.is_disjoint(&self.expected)
    }
}

/// All bugs that there are.
///
/// # Errors
/// Where the list cannot be read, or names a fault or an invariant that there is not.
pub fn list(root: &Path) -> Result<Vec<Mutation>> {
    let file = root.join("chaos/mutations.toml");
    let text = fs::read_to_string(&file).tried(path("reading", &file))?;
    let list: List = toml::from_str(&text).map_err(|error| world(format!("{}: {error}", file.display())))?;
    let known: BTreeSet<&str> = faults::all().iter().map(|fault| fault.name()).collect();
    for mutation in &list.mutation {
        if let Some(unknown) = mutation.faults.iter().find(|name| !known.contains(name.as_str())) {
            return Err(world(format!("{}: there is no fault {unknown:?}", mutation.name)));
        }
    }
    Ok(list.mutation)
}

/// Looks whether each text stands exactly once where it is to stand. Answers with what does not.
///
/// # Errors
/// Where the list or a file cannot be read.
pub fn misplaced(root: &Path) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for mutation in list(root)? {
        for edit in &mutation.edit {
            let found = fs::read_to_string(root.join(&edit.file)).map_or(0, |text| text.matches(&edit.find).count());
            if found != 1 {
                wrong.push(format!(
                    "{}: {} has the text {found} times: {:?}",
                    mutation.name,
                    edit.file.display(),
                    edit.find
                ));
            }
        }
    }
    Ok(wrong)
}

/// Plants each bug in a copy of the tree in `directory`, builds the programs, and runs the faults that are to show it. The table says
/// which was seen; the answer is whether all were.
///
/// # Errors
/// Where a bug cannot be planted or does not build.
pub async fn run(root: &Path, directory: &Path, only: &[String], chaos: &Path) -> Result<bool> {
    let wrong = misplaced(root)?;
    if !wrong.is_empty() {
        return Err(world(wrong.join("\n")));
    }
    let chosen: Vec<Mutation> = list(root)?.into_iter().filter(|m| only.is_empty() || only.contains(&m.name)).collect();
    let tree = directory.join("tree");
    copy(root, &tree).await?;
    eprintln!("building the copy ...");
    build(&tree).await?;
    let mut outcomes = Vec::new();
    for mutation in &chosen {
        eprintln!("{} ...", mutation.name);
        let outcome = Box::pin(planted(mutation, &tree, directory, chaos)).await?;
        eprintln!("{}", line(&outcome).join("  "));
        outcomes.push(outcome);
    }
    let head = ["bug", "caught by", "in", "expected", "s"].map(str::to_owned).to_vec();
    let rows = outcomes.iter().map(line);
    println!("\n{}", aligned(&std::iter::once(head).chain(rows).collect::<Vec<_>>()));
    Ok(outcomes.iter().all(Outcome::is_caught))
}

fn line(outcome: &Outcome) -> Vec<String> {
    let joined = |names: &BTreeSet<String>| names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let missed = if outcome.is_caught() { "" } else { "MISSED " };
    let (caught, expected) = (format!("{missed}{}", joined(&outcome.caught)), joined(&outcome.expected));
    vec![outcome.name.clone(), caught, outcome.by.clone(), expected, outcome.seconds.to_string()]
}

async fn planted(mutation: &Mutation, tree: &Path, directory: &Path, chaos: &Path) -> Result<Outcome> {
    let began = Instant::now();
    let mut before = Vec::new();
    for edit in &mutation.edit {
        let file = tree.join(&edit.file);
        let text = fs::read_to_string(&file).tried(path("reading", &file))?;
        fs::write(&file, text.replacen(&edit.find, &edit.replace, 1)).tried(path("writing", &file))?;
        before.push((file, text));
    }
    let built = build(tree).await;
    let seen = match &built {
        Ok(()) if !mutation.tests.is_empty() => tested(mutation, tree).await?,
        Ok(()) => Box::pin(shown(mutation, tree, directory, chaos)).await,
        Err(_) => (BTreeSet::new(), String::new()),
    };
    // The last edit of a file first, so that it is as it was.
    for (file, text) in before.into_iter().rev() {
        fs::write(&file, text).tried(path("writing", &file))?;
    }
    built.map_err(|error| world(format!("{}: {error}", mutation.name)))?;
    let (name, expected) = (mutation.name.clone(), mutation.expected.iter().cloned().collect());
    Ok(Outcome { name, caught: seen.0, by: seen.1, expected, seconds: began.elapsed().as_secs() })
}

/// The invariants that are violated, and in which fault.
async fn shown(mutation: &Mutation, tree: &Path, directory: &Path, chaos: &Path) -> (BTreeSet<String>, String) {
    let programs = tree.join("target/debug");
    let programs =
        Programs { orrery: programs.join("orrery"), agent: programs.join("orrery-agent"), chaos: chaos.to_owned() };
    let all = faults::all();
    let wanted = mutation.faults.iter().filter_map(|name| all.iter().find(|fault| fault.name() == name));
    let wanted: Vec<&Box<dyn Fault>> = wanted.collect();
    for seed in 1..=TRIES {
        for fault in &wanted {
            let options = Options {
                programs: programs.clone(),
                seed,
                lasting: Duration::from_secs(15),
                ttl: Duration::from_secs(4),
                directory: directory.join(format!("{}-{seed}", mutation.name)),
                strict: mutation.expected.iter().any(|name| name == "Goal"),
            };
            let row = Box::pin(scenario::run(fault.as_ref(), &options)).await;
            let _ = fs::remove_dir_all(&options.directory);
            if let Some(broken) = &row.broken {
                eprintln!("  {} could not go on: {broken:.300}", fault.name());
            }
            if let Some(first) = row.violations.first() {
                eprintln!("  {:?}: {:.300}", first.invariant, first.text);
                let caught = row.violations.iter().map(|violation| format!("{:?}", violation.invariant)).collect();
                return (caught, fault.name().to_owned());
            }
        }
    }
    (BTreeSet::new(), String::new())
}

/// What the tests hold to, where one of them fails.
async fn tested(mutation: &Mutation, tree: &Path) -> Result<(BTreeSet<String>, String)> {
    let mut test = Command::new(tree.join("scripts/with-servers.sh"));
    test.args(["cargo", "test", "--offline", "--quiet", "-p", "orrery-server", "--test", "store", "--"]);
    test.args(&mutation.tests).current_dir(tree);
    as_in_copy(&mut test, tree);
    let done = test.output().await.tried(|| "running the tests".into())?;
    let said = String::from_utf8_lossy(&done.stdout);
    if !said.contains("test result: ") {
        return Err(world(format!("the tests do not run: {}", String::from_utf8_lossy(&done.stderr))));
    }
    let failed = said.lines().find_map(|line| line.strip_prefix("thread '")?.split('\'').next());
    let failed = failed.or_else(|| said.lines().find_map(|line| line.strip_prefix("---- ")?.split(' ').next()));
    Ok(match failed {
        Some(name) if said.contains("test result: FAILED") => {
            (mutation.expected.iter().cloned().collect(), format!("test {name}"))
        }
        _ => (BTreeSet::new(), String::new()),
    })
}

/// Copies the sources, and what was built of other people's crates. What is there from before is brought up to date: only what differs is
/// written, so that its time says that it is new.
async fn copy(root: &Path, tree: &Path) -> Result<()> {
    let target = tree.join("target/debug");
    let is_new = !target.exists();
    fs::create_dir_all(&target).tried(path("creating", &target))?;
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output().await;
    let listed = listed.tried(|| "listing the tree".into())?;
    let names = String::from_utf8_lossy(&listed.stdout);
    for name in names.split('\0').filter(|name| !name.is_empty()) {
        let (from, to) = (root.join(name), tree.join(name));
        let Ok(text) = fs::read(&from) else { continue };
        if fs::read(&to).is_ok_and(|there| there == text) {
            continue;
        }
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).tried(path("creating", parent))?;
        }
        fs::copy(&from, &to).tried(path("copying to", &to))?;
    }
    if !is_new {
        return Ok(());
    }
    let script =
        r#"cd "$1" && tar -cf - --exclude='*orrery*' --exclude='deps/*.o' deps build .fingerprint | tar -xf - -C "$2""#;
    let built = root.join("target/debug");
    let done = Command::new("bash").args(["-c", script, "copy"]).arg(built).arg(&target).status().await;
    // Without them all is built anew.
    done.tried(|| "copying what was built".into()).map(drop)
}

fn as_in_copy(cargo: &mut Command, tree: &Path) {
    // Nobody looks for a line in them, and so they are built sooner.
    cargo.env("CARGO_TARGET_DIR", tree.join("target")).env("CARGO_PROFILE_DEV_DEBUG", "0");
}

async fn build(tree: &Path) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--offline", "--workspace", "--bins", "--quiet"]).current_dir(tree);
    as_in_copy(&mut cargo, tree);
    let done = cargo.output().await.tried(|| "running cargo".into())?;
    if !done.status.success() {
        return Err(world(format!("it does not build: {}", String::from_utf8_lossy(&done.stderr))));
    }
    Ok(())
}
