use std::path::{Path, PathBuf};

use orrery_sdk::client::{Client, ClientOptions};
use tempfile::TempDir;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::engine::{Database, Engine};
use crate::process::Process;
use crate::rest::Rest;
use crate::token::{SECRET, token};
use crate::wait::{SOON, until_true};

/// Held for writing by tests that measure or that load the machine.
static MACHINE: RwLock<()> = RwLock::const_new(());

/// Kept, never read: what it holds is the turn.
#[allow(dead_code)]
enum Turn {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// Everything of one test: its directory, its database and its turn on the machine. Processes are dropped before it.
pub(crate) struct World {
    engine: Engine,
    database: Database,
    directory: TempDir,
    /// By how much the wall clocks of the processes to start are off.
    clock_offset: Option<String>,
    _turn: Turn,
}

/// A coordinator, alone or with an agent inside.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) http: String,
    pub(crate) grpc: String,
    pub(crate) metrics: String,
    bearer: Option<String>,
}

/// A coordinator and an agent, in one process or in two.
pub(crate) struct System {
    pub(crate) server: Server,
    _agent: Option<Process>,
}

impl std::ops::Deref for System {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

/// Listeners on ports that the system chooses, on this host only.
const FREE_PORTS: [&str; 6] = ["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0"];

impl World {
    pub(crate) async fn new(engine: Engine) -> Self {
        let turn = Turn::Shared(MACHINE.read().await);
        Self::in_turn(engine, turn).await
    }

    /// A world beside which no other test runs.
    pub(crate) async fn alone(engine: Engine) -> Self {
        let turn = Turn::Alone(MACHINE.write().await);
        Self::in_turn(engine, turn).await
    }

    async fn in_turn(engine: Engine, turn: Turn) -> Self {
        let directory = tempfile::Builder::new().prefix("orrery-system-").tempdir().unwrap();
        let database = Database::new(engine, directory.path()).await;
        Self { engine, database, directory, clock_offset: None, _turn: turn }
    }

    /// The smallest whole system: `orrery dev` on SQLite, a server and an agent on PostgreSQL.
    pub(crate) async fn system(&self) -> System {
        match self.engine {
            Engine::Sqlite => System { server: self.dev(&["--no-demo"]).await, _agent: None },
            Engine::Postgres => {
                let server = self.server(&[]).await;
                let agent = self.agent("a", &[&server], &[]).await;
                System { server, _agent: Some(agent) }
            }
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn is_sqlite(&self) -> bool {
        self.engine == Engine::Sqlite
    }

    /// All that the database holds, as a backup of it would; nothing where it is a file of the directory.
    pub(crate) fn dump(&self) -> Vec<u8> {
        if self.is_sqlite() {
            return Vec::new();
        }
        let program = crate::private_postgres::programs().join("pg_dump");
        let dumped = std::process::Command::new(program)
            .args(["--enable-row-security", "--dbname", self.database_url()])
            .output()
            .unwrap();
        assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
        assert!(dumped.stdout.len() > 1000);
        dumped.stdout
    }

    pub(crate) fn database_url(&self) -> &str {
        &self.database.url
    }

    /// `orrery` with these arguments.
    pub(crate) fn orrery(&self, name: &str, args: &[&str], environment: &[(&str, &str)]) -> Process {
        match &self.clock_offset {
            Some(offset) => Process::orrery_off(offset, name, self.directory.path(), args, environment),
            None => Process::orrery(name, self.directory.path(), args, environment),
        }
    }

    /// What is started from now on has a wall clock that is off by so much, such as `+1h`.
    pub(crate) fn set_clock_offset(&mut self, offset: &str) {
        self.clock_offset = Some(offset.to_owned());
    }

    /// `orrery dev` in this world's directory, serving.
    pub(crate) async fn dev(&self, args: &[&str]) -> Server {
        let process = self.orrery("dev", &[&["dev"], &FREE_PORTS[..], args].concat(), &[]);
        let server = Server::ready(process, None).await;
        server.has_agent("dev").await;
        server
    }

    /// `orrery server` on this world's database, serving.
    pub(crate) async fn server(&self, environment: &[(&str, &str)]) -> Server {
        let process = self.start_server(environment);
        Server::ready(process, Some(token())).await
    }

    /// The same, not yet serving.
    pub(crate) fn start_server(&self, environment: &[(&str, &str)]) -> Process {
        let own = [
            ("DATABASE_URL", self.database_url()),
            ("ORRERY_JWT_SECRET", SECRET),
            ("ORRERY_ALLOW_SHELL", "true"),
            ("MAX_EXECUTIONS_PER_HOUR", "0"),
            ("ORRERY_HTTP", "127.0.0.1:0"),
            ("ORRERY_GRPC", "127.0.0.1:0"),
            ("ORRERY_METRICS", "127.0.0.1:0"),
        ];
        self.orrery("server", &["server"], &[&own, environment].concat())
    }

    /// `orrery agent`, connected to the first of these.
    pub(crate) async fn agent(&self, name: &str, servers: &[&Server], args: &[&str]) -> Process {
        let agent = self.start_agent(name, servers, args, &token());
        servers[0].has_agent(name).await;
        agent
    }

    /// The same, not yet connected.
    pub(crate) fn start_agent(&self, name: &str, servers: &[&Server], args: &[&str], token: &str) -> Process {
        let addresses: Vec<&str> = servers.iter().map(|server| server.grpc.as_str()).collect();
        self.start_agent_to(name, &addresses.join(","), args, token)
    }

    /// The same, to addresses separated by commas, in their order.
    pub(crate) fn start_agent_to(&self, name: &str, addresses: &str, args: &[&str], token: &str) -> Process {
        let data = self.path(&format!("agent-{name}"));
        let environment = [
            ("ORRERY_COORDINATOR", addresses.to_owned()),
            ("ORRERY_TOKEN", token.to_owned()),
            ("ORRERY_AGENT_NAME", name.to_owned()),
            ("ORRERY_AGENT_DATA_DIR", data.display().to_string()),
            ("ORRERY_KEEP_ORDER", "true".to_owned()),
            // What jobs call is on this host.
            ("ORRERY_EGRESS_ALLOW", "127.0.0.0/8".to_owned()),
        ];
        let environment: Vec<(&str, &str)> = environment.iter().map(|(k, v)| (*k, v.as_str())).collect();
        self.orrery(&format!("agent-{name}"), &[&["agent"], args].concat(), &environment)
    }
}

impl Server {
    /// Waits for its ready line.
    pub(crate) async fn ready(mut process: Process, bearer: Option<String>) -> Self {
        let line = process.line("ready ", SOON).await;
        let address = |name: &str| {
            let found = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            format!("http://{}", found.unwrap_or_else(|| panic!("no {name} in {line:?}")))
        };
        let (http, grpc, metrics) = (address("http"), address("grpc"), address("metrics"));
        Self { process, http, grpc, metrics, bearer }
    }

    pub(crate) fn rest(&self) -> Rest {
        Rest::new(&self.http, self.bearer.clone())
    }

    pub(crate) fn client(&self) -> Client {
        let options =
            ClientOptions { endpoint: self.grpc.clone(), api_key: self.bearer.clone(), ..ClientOptions::default() };
        Client::connect(&options).unwrap()
    }

    /// Waits until an agent of this name is attached.
    pub(crate) async fn has_agent(&self, name: &str) {
        let rest = self.rest();
        until_true(&format!("agent {name} is connected"), SOON, async || {
            rest.workers().await.iter().any(|w| w["name"] == name && w["state"] == "connected")
        })
        .await;
    }
}
