use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use crate::caller::Caller;
use crate::checks::{self, Findings, Invariant, Violation};
use crate::error::Result;
use crate::evidence::Evidence;
use crate::faults::{Fault, Figure, Notes, Stage};
use crate::table::Row;
use crate::watch::Watch;
use crate::workload::{self, Span};
use crate::world::{Config, Programs, World};

/// How long everything may take to be done once it is healed, beside two lives of a session.
const QUIET: Duration = Duration::from_secs(60);

/// How scenarios are run.
#[derive(Clone, Debug)]
pub struct Options {
    pub programs: Programs,
    pub seed: u64,
    /// How long each scenario's jobs fire.
    pub lasting: Duration,
    /// How long a session lives.
    pub ttl: Duration,
    /// Where the worlds are made.
    pub directory: PathBuf,
    /// Whether a figure that misses its goal is a violation.
    pub strict: bool,
}

/// Runs one fault against a world of its own, and looks at what is left.
pub async fn run(fault: &dyn Fault, options: &Options) -> Row {
    let began = Instant::now();
    let directory = options.directory.join(fault.name());
    let mut row = Row::new(fault.name(), fault.goal());
    match Box::pin(played(fault, options, &directory)).await {
        Ok((findings, figure, injections)) => {
            row.injections = injections;
            row.checks = findings.checks;
            row.violations = findings.violations;
            row.figure = figure.text;
            if !figure.met {
                row.missed = true;
                if options.strict {
                    let text = format!("{}, and the goal is: {}", row.figure, row.goal);
                    row.violations.push(Violation { invariant: Invariant::Goal, text });
                }
            }
        }
        Err(error) => row.broken = Some(error.to_string()),
    }
    row.seconds = began.elapsed().as_secs();
    if row.is_good() {
        let _ = fs::remove_dir_all(&directory);
    } else {
        let mut texts: Vec<String> =
            row.violations.iter().map(|v| format!("{:?}: {}\n", v.invariant, v.text)).collect();
        texts.extend(row.broken.clone());
        let _ = fs::write(directory.join("violations"), texts.concat());
        row.kept = Some(directory);
    }
    row
}

async fn played(fault: &dyn Fault, options: &Options, directory: &Path) -> Result<(Findings, Figure, u64)> {
    let mut config = Config::new(options.ttl);
    fault.configure(&mut config);
    let mut world = World::start(config, options.programs.clone(), directory).await?;
    let told = Box::pin(told(fault, options, &mut world)).await;
    world.stop().await;
    told
}

async fn told(fault: &dyn Fault, options: &Options, world: &mut World) -> Result<(Findings, Figure, u64)> {
    // One generator a scenario, so that one that is run alone makes the same choices.
    let mut rng = StdRng::seed_from_u64(options.seed);
    let watch = Watch::start(world.id);
    let mut plans = workload::plans(&mut rng);
    fault.shape(&mut plans, &world.config);
    fault.prepare(world).await?;
    let workload = workload::create(world, plans, options.lasting).await?;
    let caller = Caller::start(world, &workload, Duration::from_millis(500), options.seed)?;
    let mut notes = Notes::default();
    let mut stage = Stage { world, rng: &mut rng, until: deadline(&workload.span), notes: &mut notes };
    fault.inject(&mut stage).await?;
    world.heal().await?;
    sleep(until(&workload.span)).await;
    let answers = caller.finish().await;
    // A world that does not come to rest is as wrong as one that comes to the wrong one.
    if let Some(text) = workload.unrest(world, QUIET + world.config.ttl * 2).await? {
        let violations = vec![Violation { invariant: Invariant::I9, text }];
        let figure = Figure { text: "it did not come to rest".into(), met: false };
        return Ok((Findings { checks: 1, violations }, figure, notes.injections));
    }
    // What is to be dead may take a moment.
    sleep(Duration::from_millis(500)).await;
    let mut evidence = Evidence::gather(world, workload).await?;
    evidence.answers = answers;
    evidence.sightings = watch.sightings();
    evidence.outages = notes.outages;
    let mut findings = checks::all(&evidence, fault.promises())?;
    let wrong = notes.wrong.iter().map(|text| Violation { invariant: Invariant::I9, text: text.clone() });
    findings.violations.extend(wrong);
    let figure = fault.figure(&evidence, &notes);
    Ok((findings, figure, notes.injections))
}

fn until(span: &Span) -> Duration {
    (span.end - chrono::Utc::now()).to_std().unwrap_or_default()
}

fn deadline(span: &Span) -> Instant {
    Instant::now() + until(span)
}
