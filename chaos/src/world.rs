use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use orrery_sdk::client::{Client, ClientOptions};
use rustix::process::Signal;
use sqlx::PgPool;
use tokio::process::Command;
use tokio::time::timeout;
use uuid::Uuid;

use crate::error::{Result, Tried, path, world};
use crate::journal;
use crate::postgres::Postgres;
use crate::process::{Process, Victim, bound};
use crate::proxy::{Link, Rule, Target};
use crate::redis::Redis;
use crate::token::{SECRET, token};
use crate::trap::Trap;
use crate::wait::until;

/// How long a program may take to start, on a machine that is busy.
pub const START: Duration = Duration::from_secs(60);

/// How long a program may take to end by SIGTERM.
const END: Duration = Duration::from_secs(60);

/// The variable that the processes of a world's jobs carry.
pub const MARK: &str = "ORRERY_CHAOS_WORLD";

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `orrery`
    pub orrery: PathBuf,
    /// `orrery-agent`
    pub agent: PathBuf,
    /// This harness, for the jobs' ledger.
    pub chaos: PathBuf,
}

/// How a world is made.
#[derive(Clone, Debug)]
pub struct Config {
    pub coordinators: usize,
    pub agents: usize,
    /// How long a session lives.
    pub ttl: Duration,
    /// Whether PostgreSQL waits for the disk.
    pub fsync: bool,
    /// Clocks that are off: the number of a coordinator or agent, and what `faketime` takes.
    pub skewed_coordinators: Vec<(usize, &'static str)>,
    pub skewed_agents: Vec<(usize, &'static str)>,
}

impl Config {
    /// The usual world.
    pub fn new(ttl: Duration) -> Self {
        Self { coordinators: 3, agents: 3, ttl, fsync: false, skewed_coordinators: vec![], skewed_agents: vec![] }
    }
}

/// A coordinator and all ways from and to it.
pub struct Coordinator {
    pub process: Option<Process>,
    pub victim: Victim,
    /// From each agent.
    pub from_agents: Vec<Link>,
    /// From the harness's clients.
    pub from_clients: Link,
    pub to_database: Link,
    pub to_redis: Link,
    pub trap: Arc<Trap>,
    skew: Option<&'static str>,
}

/// An agent.
pub struct Agent {
    pub process: Option<Process>,
    pub name: String,
    skew: Option<&'static str>,
}

/// A whole Orrery: its programs, its servers, and the proxies between all of them.
pub struct World {
    pub id: Uuid,
    pub config: Config,
    pub programs: Programs,
    pub directory: PathBuf,
    pub postgres: Postgres,
    pub redis: Redis,
    pub pool: PgPool,
    pub coordinators: Vec<Coordinator>,
    pub agents: Vec<Agent>,
    /// Whether this product uses Redis at all.
    pub has_redis: bool,
    token: String,
}

impl World {
    /// Starts everything in `directory`, which must not exist.
    ///
    /// # Errors
    /// Where something does not start.
    pub async fn start(config: Config, programs: Programs, directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory).tried(path("creating", directory))?;
        let mut postgres = Postgres::prepared(&directory.join("pg"), directory, config.fsync).await?;
        postgres.start().await?;
        let mut redis = Redis::prepared(directory);
        redis.start().await?;
        let pool = postgres.pool().await?;
        let has_redis = knows_redis(&programs.orrery).await?;
        let (coordinators, agents) = (Vec::new(), Vec::new());
        let (id, token, directory) = (Uuid::new_v4(), token()?, directory.to_owned());
        let mut world =
            Self { id, config, programs, directory, postgres, redis, pool, coordinators, agents, has_redis, token };
        world.populate().await?;
        Ok(world)
    }

    async fn populate(&mut self) -> Result<()> {
        for number in 0..self.config.coordinators {
            let coordinator = self.wired(number).await?;
            self.coordinators.push(coordinator);
            self.start_coordinator(number).await?;
            if number == 0 {
                // Once the first one has made the tables, and before anything is in them.
                journal::install(&self.pool).await?;
            }
        }
        for number in 0..self.config.agents {
            let skew = skew_of(&self.config.skewed_agents, number);
            self.agents.push(Agent { process: None, name: format!("agent-{number}"), skew });
            self.start_agent(number)?;
        }
        let all = i64::try_from(self.config.agents).unwrap_or(i64::MAX);
        until("all agents have a session", START, async || {
            let sessions: i64 =
                sqlx::query_scalar("select count(*) from agent_sessions where attached").fetch_one(&self.pool).await?;
            Ok((sessions >= all).then_some(()))
        })
        .await
    }

    /// A coordinator's links, before it runs.
    async fn wired(&self, number: usize) -> Result<Coordinator> {
        let victim = Victim::default();
        let trap = Arc::new(Trap::new(victim.clone()));
        let mut from_agents = Vec::with_capacity(self.config.agents);
        for _ in 0..self.config.agents {
            from_agents.push(Link::open(None, None).await?);
        }
        Ok(Coordinator {
            process: None,
            victim,
            from_agents,
            from_clients: Link::open(None, None).await?,
            to_database: Link::open(Some(Target::Unix(self.postgres.socket())), Some(trap.clone())).await?,
            to_redis: Link::open(Some(Target::Unix(self.redis.socket().into())), None).await?,
            trap,
            skew: skew_of(&self.config.skewed_coordinators, number),
        })
    }

    /// Starts a coordinator, and leads its links to it once it serves.
    ///
    /// # Errors
    /// Where it does not serve in time.
    pub async fn start_coordinator(&mut self, number: usize) -> Result<()> {
        self.begin_coordinator(number)?;
        self.finish_coordinator(number, START).await
    }

    /// Starts a coordinator without waiting for it.
    ///
    /// # Errors
    /// Where the system refuses to.
    pub fn begin_coordinator(&mut self, number: usize) -> Result<()> {
        let coordinator = &mut self.coordinators[number];
        let mut command = bound(&self.programs.orrery);
        clean(&mut command, coordinator.skew)?;
        let database = format!("postgres://postgres@{}/postgres?sslmode=disable", coordinator.to_database.address());
        let redis = format!("redis://{}", coordinator.to_redis.address());
        command.arg("server").current_dir(&self.directory);
        command.envs([
            ("DATABASE_URL", database.as_str()),
            ("REDIS_URL", redis.as_str()),
            ("ORRERY_JWT_SECRET", SECRET),
            ("ORRERY_ALLOW_SHELL", "true"),
            // The callers call as fast as they can.
            ("ORRERY_RATE_LIMIT_PER_MINUTE", "0"),
            ("ORRERY_HTTP", "127.0.0.1:0"),
            ("ORRERY_GRPC", "127.0.0.1:0"),
            ("ORRERY_METRICS", "127.0.0.1:0"),
            ("MAX_JOBS_PER_TENANT", "50000"),
            ("MAX_EXECUTIONS_PER_HOUR", "100000000"),
            ("ORRERY_SESSION_TTL_MS", &self.config.ttl.as_millis().to_string()),
        ]);
        let process = Process::start(&format!("coordinator-{number}"), &self.directory, command)?;
        coordinator.process = Some(process.exposed_by(&coordinator.victim));
        Ok(())
    }

    /// Waits until a coordinator that was started serves.
    ///
    /// # Errors
    /// Where it does not in time.
    pub async fn finish_coordinator(&mut self, number: usize, within: Duration) -> Result<()> {
        let coordinator = &mut self.coordinators[number];
        let process = coordinator.process.as_mut().ok_or_else(|| world("it was not started"))?;
        let line = process.line("ready ", within).await?;
        let address = line.split(' ').find_map(|word| word.strip_prefix("grpc=")?.parse().ok());
        let address = address.ok_or_else(|| world(format!("no address in {line:?}")))?;
        for link in coordinator.from_agents.iter().chain([&coordinator.from_clients]) {
            link.lead_to(Target::Tcp(address));
        }
        Ok(())
    }

    /// Starts an agent on the data that an earlier one of its name has left.
    ///
    /// # Errors
    /// Where the system refuses to.
    pub fn start_agent(&mut self, number: usize) -> Result<()> {
        let agent = &mut self.agents[number];
        let mut command = bound(&self.programs.agent);
        clean(&mut command, agent.skew)?;
        let count = self.coordinators.len();
        // Each begins with another coordinator.
        let nearest = (0..count).map(|n| &self.coordinators[(number + n) % count]);
        let addresses: Vec<String> = nearest.map(|c| c.from_agents[number].url()).collect();
        command.current_dir(&self.directory).envs([
            ("ORRERY_COORDINATOR", addresses.join(",")),
            ("ORRERY_TOKEN", self.token.clone()),
            ("ORRERY_AGENT_NAME", agent.name.clone()),
            ("ORRERY_AGENT_DATA_DIR", self.directory.join(&agent.name).display().to_string()),
            ("ORRERY_GRACE_SECONDS", "1".to_owned()),
            ("WORKER_CONCURRENCY", "10".to_owned()),
        ]);
        agent.process = Some(Process::start(&agent.name, &self.directory, command)?);
        Ok(())
    }

    /// SIGKILL to a coordinator.
    pub async fn kill_coordinator(&mut self, number: usize) {
        if let Some(process) = self.coordinators[number].process.take() {
            process.kill().await;
        }
    }

    /// SIGTERM to a coordinator. Whether it ended in time.
    pub async fn end_coordinator(&mut self, number: usize) -> bool {
        match self.coordinators[number].process.take() {
            Some(process) => process.end_by(Signal::TERM, END).await,
            None => true,
        }
    }

    /// SIGKILL to an agent.
    pub async fn kill_agent(&mut self, number: usize) {
        if let Some(process) = self.agents[number].process.take() {
            process.kill().await;
        }
    }

    /// SIGTERM to an agent. Whether it ended in time.
    pub async fn end_agent(&mut self, number: usize) -> bool {
        match self.agents[number].process.take() {
            Some(process) => process.end_by(Signal::TERM, END).await,
            None => true,
        }
    }

    /// All links, whatever they connect.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.coordinators
            .iter()
            .flat_map(|c| c.from_agents.iter().chain([&c.from_clients, &c.to_database, &c.to_redis]))
    }

    /// Undoes every fault: links pass, traps are off, what was frozen goes on, what was killed runs.
    ///
    /// # Errors
    /// Where something does not start.
    pub async fn heal(&mut self) -> Result<()> {
        self.links().for_each(|link| link.set(Rule::Pass));
        self.redis.signal(Signal::CONT);
        for number in 0..self.coordinators.len() {
            self.coordinators[number].trap.disarm();
            self.coordinators[number].victim.signal(Signal::CONT);
        }
        for agent in &self.agents {
            if let Some(process) = &agent.process {
                process.signal(Signal::CONT);
            }
        }
        for number in 0..self.coordinators.len() {
            let process = self.coordinators[number].process.as_mut();
            if process.is_none_or(Process::has_ended) {
                self.kill_coordinator(number).await;
                self.start_coordinator(number).await?;
            }
        }
        for number in 0..self.agents.len() {
            let process = self.agents[number].process.as_mut();
            if process.is_none_or(Process::has_ended) {
                self.kill_agent(number).await;
                self.start_agent(number)?;
            }
        }
        Ok(())
    }

    /// A client of one coordinator.
    ///
    /// # Errors
    /// Where its options cannot be used.
    pub fn client(&self, number: usize, patience: Duration) -> Result<Client> {
        let endpoint = self.coordinators[number].from_clients.url();
        let options = ClientOptions {
            endpoint,
            api_key: Some(self.token.clone()),
            timeout: patience,
            ..ClientOptions::default()
        };
        Ok(Client::connect(&options)?)
    }

    /// The token of agents and clients.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Ends everything.
    pub async fn stop(mut self) {
        for number in 0..self.agents.len() {
            self.kill_agent(number).await;
        }
        for number in 0..self.coordinators.len() {
            self.kill_coordinator(number).await;
        }
        let _ = timeout(Duration::from_secs(5), self.pool.close()).await;
        self.redis.kill().await;
        self.postgres.stop().await;
    }
}

fn skew_of(skewed: &[(usize, &'static str)], number: usize) -> Option<&'static str> {
    skewed.iter().find(|(n, _)| *n == number).map(|(_, skew)| *skew)
}

/// Nothing of the harness's environment but what programs need; and another clock, where one is asked for.
fn clean(command: &mut Command, skew: Option<&'static str>) -> Result<()> {
    command.env_clear();
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    if let Some(skew) = skew {
        command.env("LD_PRELOAD", faketime()?).env("FAKETIME", skew);
        command.env("DONT_FAKE_MONOTONIC", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
    Ok(())
}

/// The library that `faketime` preloads; by itself the program would put a process in between.
fn faketime() -> Result<PathBuf> {
    let hosts = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let found = hosts.map(|host| host.path().join("faketime/libfaketimeMT.so.1")).find(|library| library.exists());
    found.ok_or_else(|| world("clocks need faketime: run scripts/requirements.sh"))
}

async fn knows_redis(orrery: &Path) -> Result<bool> {
    let help = Command::new(orrery).args(["server", "--help"]).output().await.tried(|| "asking for help".into())?;
    Ok(String::from_utf8_lossy(&help.stdout).contains("REDIS_URL"))
}
