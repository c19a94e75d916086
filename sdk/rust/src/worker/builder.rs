use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use orrery_proto::v1::Register;
use rand::seq::SliceRandom as _;
use tonic::transport::Channel;

use super::attempt::{GRACE, LONGEST_GRACE};
use super::backoff::Backoff;
use super::finished::Limits;
use super::journal::{FileJournal, Journal, NoJournal};
use super::link::Coordinators;
use super::logs::{Budget, Logs};
use super::output::{Desk, ProgressBoard};
use super::runner::{Parts, Workshop, connection::Connection};
use super::state::Terms;
use super::{Worker, WorkerError};
use crate::endpoint::{Credential, endpoint};
use crate::executor::Executor;
use crate::function::FunctionRegistry;
use crate::tls::ClientTls;

/// The version of the protocol that this SDK speaks.
const PROTOCOL: u32 = 1;
/// How long connecting to one coordinator may take before the next is tried.
const CONNECT: Duration = Duration::from_secs(2);
/// The name under which functions are leased.
const FUNCTION: &str = "function";

/// Describes a worker. All but the coordinators and something to run has a default.
#[must_use]
pub struct WorkerBuilder {
    endpoints: Vec<String>,
    keep_order: bool,
    channel: Option<Channel>,
    api_key: Option<String>,
    tls: ClientTls,
    name: String,
    version: String,
    labels: HashMap<String, String>,
    queues: Vec<String>,
    slots: u32,
    executors: BTreeMap<String, Arc<dyn Executor>>,
    functions: Option<FunctionRegistry>,
    journal: Arc<dyn Journal>,
    backoff: (Duration, Duration),
    timeout_cap: Option<Duration>,
    drain_timeout: Duration,
    flush_timeout: Duration,
    grace: Duration,
    resend_after: Duration,
    result_bytes: usize,
    budget: Budget,
}

impl Default for WorkerBuilder {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            keep_order: false,
            channel: None,
            api_key: None,
            tls: ClientTls::default(),
            name: std::env::var("HOSTNAME").unwrap_or_else(|_| "orrery-worker".into()),
            version: env!("CARGO_PKG_VERSION").into(),
            labels: HashMap::new(),
            queues: Vec::new(),
            slots: 10,
            executors: BTreeMap::new(),
            functions: None,
            journal: Arc::new(NoJournal),
            backoff: (Duration::from_millis(100), Duration::from_secs(10)),
            timeout_cap: None,
            drain_timeout: Duration::from_secs(30),
            flush_timeout: Duration::from_secs(5),
            grace: GRACE,
            resend_after: Duration::from_secs(10),
            result_bytes: 3 * 1024 * 1024,
            budget: Budget { attempt: 10 * 1024 * 1024, buffer: 1024 * 1024 },
        }
    }
}

impl WorkerBuilder {
    /// Adds a coordinator's address, such as `http://127.0.0.1:50051`. The first that answers is used; the list is gone round for ever,
    /// in an order of each worker's own, so that workers with the same list spread over it, and over what is left when one dies.
    pub fn endpoint(mut self, uri: impl Into<String>) -> Self {
        self.endpoints.push(uri.into());
        self
    }

    /// Adds several addresses.
    pub fn endpoints<I: IntoIterator<Item: Into<String>>>(mut self, uris: I) -> Self {
        self.endpoints.extend(uris.into_iter().map(Into::into));
        self
    }

    /// Goes round the addresses in the order in which they were added, such as the nearest first.
    pub fn keep_order(mut self) -> Self {
        self.keep_order = true;
        self
    }

    /// Uses a channel of the caller's instead of addresses, such as one in memory.
    pub fn channel(mut self, channel: Channel) -> Self {
        self.channel = Some(channel);
        self
    }

    /// Sent with every call as `authorization: Bearer KEY`.
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.api_key = Some(key.into());
        self
    }

    /// Whom to trust at `https` addresses, and the certificate to show there, if there is one. Streams that are up go on with the certificate
    /// that they began with; each new one shows the newest.
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.tls = tls;
        self
    }

    /// A name for people, unique or not; `$HOSTNAME` by default.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The worker's own version; the SDK's by default.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// Adds a label that jobs can select it by.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Adds a queue to serve; "default" where none is added.
    pub fn queue(mut self, name: impl Into<String>) -> Self {
        self.queues.push(name.into());
        self
    }

    /// How many executions it runs at once, from 1; 10 by default.
    pub fn slots(mut self, slots: u32) -> Self {
        self.slots = slots;
        self
    }

    /// Runs tasks of this name (http, command, shell, python, or function for those that are not registered) by an executor.
    pub fn executor(mut self, name: impl Into<String>, executor: Arc<dyn Executor>) -> Self {
        self.executors.insert(name.into(), executor);
        self
    }

    /// Runs the functions of a registry.
    pub fn functions(mut self, functions: FunctionRegistry) -> Self {
        self.functions = Some(functions);
        self
    }

    /// Keeps results in a journal until they are acknowledged. Without one they are kept in memory.
    pub fn journal(mut self, journal: Arc<dyn Journal>) -> Self {
        self.journal = journal;
        self
    }

    /// Keeps results in a [`FileJournal`] in this directory.
    ///
    /// # Errors
    /// [`WorkerError::Journal`] where it cannot be opened, or another process holds it.
    pub fn journal_in(self, directory: impl AsRef<Path>) -> Result<Self, WorkerError> {
        let journal = FileJournal::open(directory)?;
        Ok(self.journal(Arc::new(journal)))
    }

    /// The shortest and the longest delay between attempts to connect; 100 ms and 10 s by default.
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.backoff = (first, longest);
        self
    }

    /// No attempt may take longer than this, whatever its job says; no cap by default.
    pub fn timeout_cap(mut self, cap: Option<Duration>) -> Self {
        self.timeout_cap = cap;
        self
    }

    /// How long tasks may go on after a shutdown began, before they are stopped and told to be interrupted, so that they begin anew
    /// elsewhere; 30 s by default.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// How long to wait at the end of a shutdown for results to be acknowledged; 5 s by default.
    pub fn flush_timeout(mut self, timeout: Duration) -> Self {
        self.flush_timeout = timeout;
        self
    }

    /// How long a task may take to stop once it is told to, before it is aborted; 9 s by default, [`LONGEST_GRACE`](super::LONGEST_GRACE)
    /// at most: an attempt that has timed out is retried elsewhere when coordinators have waited 15 s for its report, of which up to
    /// [`AFTER_GRACE`](super::AFTER_GRACE) pass after the grace.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// After how long without acknowledgement a result is sent again; 10 s by default.
    pub fn resend_after(mut self, after: Duration) -> Self {
        self.resend_after = after;
        self
    }

    /// The largest result in bytes; 3 MiB by default, since a coordinator takes messages of 4 MiB. A larger one fails its attempt.
    pub fn max_result(mut self, bytes: usize) -> Self {
        self.result_bytes = bytes;
        self
    }

    /// How much output is kept in bytes: of one attempt in all (10 MiB), and of all attempts until it is stored (1 MiB).
    pub fn log_budget(mut self, attempt: u64, buffer: usize) -> Self {
        self.budget = Budget { attempt, buffer };
        self
    }

    /// The worker.
    ///
    /// # Errors
    /// [`WorkerError::Options`] for an address or key that cannot be used, [`WorkerError::Invalid`] where there is no coordinator, no slot or
    /// nothing to run.
    pub fn build(self) -> Result<Worker, WorkerError> {
        let coordinators = self.coordinators()?;
        if self.slots == 0 {
            return Err(WorkerError::Invalid("a worker needs at least one slot".into()));
        }
        if self.grace > LONGEST_GRACE {
            let (grace, longest) = (self.grace.as_secs_f64(), LONGEST_GRACE.as_secs());
            let why = "what stops later than that is retried elsewhere before it is gone";
            return Err(WorkerError::Invalid(format!(
                "a grace of {grace} s is too long: {longest} s at most, since {why}"
            )));
        }
        let (executors, advertised) = runnable(self.executors, self.functions);
        if executors.is_empty() {
            return Err(WorkerError::Invalid("a worker needs an executor or a function to run".into()));
        }
        let credential = Credential::new(self.api_key.as_deref())?;
        let register = Register {
            protocol_version: PROTOCOL,
            name: self.name,
            version: self.version,
            labels: self.labels,
            queues: if self.queues.is_empty() { vec!["default".into()] } else { self.queues },
            executors: advertised,
            slots: self.slots,
            session_id: String::new(),
            held: Vec::new(),
            continued: false,
        };
        let terms = Terms {
            slots: self.slots,
            drain_timeout: self.drain_timeout,
            flush_timeout: self.flush_timeout,
            resend_after: self.resend_after,
        };
        let workshop = Workshop {
            journal: self.journal.clone(),
            desk: Arc::new(Desk { logs: Arc::new(Logs::new(self.budget)), progress: ProgressBoard::default() }),
            limits: Limits { result_bytes: self.result_bytes },
        };
        let backoff = Backoff::new(self.backoff.0, self.backoff.1);
        let (timeout_cap, grace) = (self.timeout_cap, self.grace);
        let make = move |left| Parts {
            terms,
            register,
            executors,
            workshop,
            timeout_cap,
            grace,
            connection: Connection::new(coordinators, credential, backoff),
            left,
        };
        Ok(Worker { make: Box::new(make), journal: self.journal })
    }
}

impl WorkerBuilder {
    fn coordinators(&self) -> Result<Coordinators, WorkerError> {
        if let Some(channel) = &self.channel {
            return Ok(Coordinators::Channel(channel.clone()));
        }
        let mut all: Vec<_> =
            self.endpoints.iter().map(|uri| endpoint(uri, CONNECT, &self.tls)).collect::<Result<_, _>>()?;
        if all.is_empty() {
            return Err(WorkerError::Invalid("no coordinator is given".into()));
        }
        if !self.keep_order {
            all.shuffle(&mut rand::rng());
        }
        Ok(Coordinators::Endpoints(all, self.tls.clone()))
    }
}

type Executors = BTreeMap<String, Arc<dyn Executor>>;

/// What runs each leased name, and what to tell the coordinator of it: registered functions one by one, and `function:*` where an
/// executor stands behind them that takes any.
fn runnable(mut executors: Executors, functions: Option<FunctionRegistry>) -> (Executors, Vec<String>) {
    let fallback = executors.remove(FUNCTION);
    let mut advertised: Vec<String> = executors.keys().cloned().collect();
    let functions = functions.unwrap_or_default();
    advertised.extend(functions.names().map(|(module, name)| format!("{FUNCTION}:{module}#{name}")));
    if fallback.is_some() {
        advertised.push(format!("{FUNCTION}:*"));
    }
    if fallback.is_some() || functions.names().next().is_some() {
        executors.insert(FUNCTION.into(), Arc::new(functions.into_executor(fallback)));
    }
    (executors, advertised)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::{Context, Outcome, Task};
    use crate::function::FunctionError;

    struct Nothing;

    #[async_trait::async_trait]
    impl Executor for Nothing {
        async fn run(&self, _: Task, _: Context) -> Outcome {
            Outcome::success(orrery_proto::Json::new("null"))
        }
    }

    #[test]
    fn functions_are_advertised_one_by_one() {
        let mut functions = FunctionRegistry::new();
        functions.register("reports", "daily", |(): (), _| async { Ok::<_, FunctionError>(1) });
        let http: Executors = [("http".to_owned(), Arc::new(Nothing) as Arc<dyn Executor>)].into();
        let (executors, advertised) = runnable(http.clone(), Some(functions.clone()));
        assert_eq!(advertised, ["http", "function:reports#daily"]);
        assert!(executors.contains_key("function"));

        let mut any = http.clone();
        any.insert("function".into(), Arc::new(Nothing));
        assert_eq!(runnable(any, Some(functions)).1, ["http", "function:reports#daily", "function:*"]);
        assert_eq!(runnable(http, None).1, ["http"]);
    }

    #[test]
    fn each_worker_has_an_order_of_its_own() {
        let addresses: Vec<String> = (1..=6).map(|n| format!("http://10.0.0.{n}:1/")).collect();
        let order = |builder: WorkerBuilder| {
            let coordinators = builder.coordinators().expect("addresses");
            (0..6).map(|turn| coordinators.name(turn)).collect::<Vec<_>>()
        };
        let builder = || Worker::builder().endpoints(&addresses);
        assert_eq!(order(builder().keep_order()), addresses);
        // That one of six is never the first of 200 has a chance of one in 10^15.
        let orders: Vec<_> = (0..200).map(|_| order(builder())).collect();
        for address in &addresses {
            assert!(orders.iter().any(|order| order[0] == *address), "nobody begins at {address}");
        }
        let all = |mut order: Vec<String>| {
            order.sort();
            order
        };
        assert!(orders.into_iter().all(|order| all(order) == addresses));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let message = |builder: WorkerBuilder| builder.build().err().map(|e| e.to_string()).unwrap_or_default();
        assert_eq!(message(Worker::builder()), "no coordinator is given");
        let there = || Worker::builder().endpoint("http://127.0.0.1:1");
        assert_eq!(message(there()), "a worker needs an executor or a function to run");
        assert_eq!(message(there().slots(0)), "a worker needs at least one slot");
        let long = there().grace(Duration::from_secs(13));
        assert!(message(long).starts_with("a grace of 13 s is too long: 12 s at most"));
        assert!(message(Worker::builder().endpoint("ftp://x")).starts_with("INVALID_ENDPOINT"));
        assert_eq!(message(there().executor("http", Arc::new(Nothing))), "");
    }
}
