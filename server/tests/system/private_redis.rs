use std::net::TcpListener;
use std::process::Command;

use redis::FromRedisValue;
use redis::aio::MultiplexedConnection;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::Process;
use crate::wait::{SOON, until};

/// A Redis of one test's own, which it kills, stops and empties as it likes.
pub(crate) struct PrivateRedis {
    directory: TempDir,
    port: u16,
    password: &'static str,
    running: Option<Process>,
}

impl PrivateRedis {
    /// Chooses its port; it does not run yet.
    pub(crate) fn prepared() -> Self {
        let directory = tempfile::Builder::new().prefix("orrery-redis-").tempdir().unwrap();
        // Below those that the system gives out by itself, and apart from those of PostgreSQL.
        let first = 10_000 + u16::try_from(std::process::id() % 9_000).unwrap();
        let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
        let port = (first..20_000).find(free).expect("a free port");
        Self { directory, port, password: "h7Tq2Lx9Vb4", running: None }
    }

    pub(crate) async fn started() -> Self {
        let mut redis = Self::prepared();
        redis.start().await;
        redis
    }

    /// As REDIS_URL takes it.
    pub(crate) fn url(&self) -> String {
        format!("redis://:{}@127.0.0.1:{}", self.password, self.port)
    }

    pub(crate) fn password(&self) -> &'static str {
        self.password
    }

    /// Starts it, empty, and waits until it answers.
    pub(crate) async fn start(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--save", "", "--appendonly", "no"]);
        command.args(["--requirepass", self.password, "--dir"]).arg(self.directory.path());
        self.running = Some(Process::start("redis", self.directory.path(), command));
        until("Redis answers", SOON, async || self.connection().await).await;
    }

    pub(crate) fn kill(&mut self) {
        self.running.take().unwrap().kill();
    }

    /// Stalls it: connections stay, and nothing answers.
    pub(crate) fn stall(&self) {
        self.running.as_ref().unwrap().signal(Signal::STOP);
    }

    pub(crate) fn go_on(&self) {
        self.running.as_ref().unwrap().signal(Signal::CONT);
    }

    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &[&str]) -> T {
        let mut connection = self.connection().await.expect("Redis answers");
        let mut asked = redis::cmd(command[0]);
        for argument in &command[1..] {
            asked.arg(argument);
        }
        asked.query_async(&mut connection).await.unwrap()
    }

    async fn connection(&self) -> Option<MultiplexedConnection> {
        let client = redis::Client::open(self.url()).unwrap();
        client.get_multiplexed_async_connection().await.ok()
    }
}
