//! Keeps a stream to some coordinator: one attempt after the other, each at the next address, with growing delays between them.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::time::Duration;

use orrery_proto::v1::agent_service_client::AgentServiceClient;
use orrery_proto::v1::{AgentMessage, Register, Registered, coordinator_message};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, error, warn};

use crate::endpoint::{Authorized, Credential};
use crate::worker::backoff::Backoff;
use crate::worker::link::{Coordinators, Established, Refusal, Stream, establish};

/// Where every coordinator refuses the worker itself, only a person can mend it: no need to hurry.
const LASTING: Duration = Duration::from_secs(10);

/// What came of waiting.
pub(in crate::worker) enum Event {
    /// The delay before the next attempt is over.
    Due,
    Registered(Box<Registration>),
    /// What has come since, at least one.
    Messages(Vec<coordinator_message::Kind>),
    Lost,
}

/// A registration that a coordinator has answered.
pub(in crate::worker) struct Registration {
    pub(super) registered: Registered,
    /// The session that it asked to resume.
    pub(super) asked: String,
    pub(super) sent_at: Instant,
    pub(super) client: AgentServiceClient<Authorized>,
}

type Establishing = Pin<Box<dyn Future<Output = Result<Established, Refusal>> + Send>>;

enum Link {
    Down { retry_at: Instant },
    Connecting { asked: String, attempt: Establishing },
    Up(Box<Stream>),
}

/// The way to the coordinators.
pub(in crate::worker) struct Connection {
    coordinators: Coordinators,
    credential: Credential,
    backoff: Backoff,
    link: Link,
    /// Which coordinator is next, or is the one of now.
    turn: usize,
    /// Lasting refusals in a row.
    refused: usize,
    /// What each coordinator said last: only news is worth a warning.
    last: BTreeMap<usize, Refusal>,
    /// The end of an earlier stream.
    parting: Option<AbortOnDropHandle<()>>,
}

impl Connection {
    pub(in crate::worker) fn new(coordinators: Coordinators, credential: Credential, backoff: Backoff) -> Self {
        let link = Link::Down { retry_at: Instant::now() };
        Self { coordinators, credential, backoff, link, turn: 0, refused: 0, last: BTreeMap::new(), parting: None }
    }

    /// Whether an attempt can start now.
    pub(super) fn is_due(&self) -> bool {
        matches!(self.link, Link::Down { retry_at } if Instant::now() >= retry_at)
    }

    pub(super) fn start(&mut self, register: Register) {
        let asked = register.session_id.clone();
        debug!(coordinator = self.coordinators.name(self.turn), session = asked, "connecting");
        let attempt = establish(self.coordinators.clone(), self.turn, self.credential.clone(), register);
        self.link = Link::Connecting { asked, attempt: Box::pin(attempt) };
    }

    /// Whether an attempt is under way that would resume another session than this.
    pub(super) fn claims_other_than(&self, session: Option<&str>) -> bool {
        matches!(&self.link, Link::Connecting { asked, .. } if !asked.is_empty() && Some(asked.as_str()) != session)
    }

    /// Gives up the attempt under way; the next may start at once.
    pub(super) fn abandon(&mut self) {
        self.link = Link::Down { retry_at: Instant::now() };
    }

    /// Leaves the stream for the next coordinator: at once where that was asked for, after a delay otherwise.
    pub(super) fn leave(&mut self, at_once: bool) {
        self.turn += 1;
        let delay = if at_once { Duration::ZERO } else { self.backoff.next(rand::random()) };
        self.link = Link::Down { retry_at: Instant::now() + delay };
    }

    /// The stream works: the next failure is a first one.
    pub(super) fn proven(&mut self) {
        self.backoff.reset();
        self.last.clear();
    }

    /// Waits for what happens next. Cancel safe.
    pub(super) async fn next(&mut self, outbox: &mut VecDeque<AgentMessage>) -> Event {
        match &mut self.link {
            Link::Down { retry_at } => {
                sleep_until(*retry_at).await;
                Event::Due
            }
            Link::Connecting { asked, attempt } => match attempt.await {
                Ok(Established { stream, registered, sent_at, client }) => {
                    let asked = std::mem::take(asked);
                    self.link = Link::Up(Box::new(stream));
                    self.refused = 0;
                    Event::Registered(Box::new(Registration { registered, asked, sent_at, client }))
                }
                Err(refusal) => {
                    self.failed(refusal);
                    Event::Lost
                }
            },
            Link::Up(stream) => match stream.exchange(outbox).await {
                Ok(kinds) => Event::Messages(kinds),
                Err(refusal) => {
                    self.failed(refusal);
                    Event::Lost
                }
            },
        }
    }

    /// Notes a failure and sets the next attempt, at the next coordinator.
    fn failed(&mut self, refusal: Refusal) {
        let coordinator = self.coordinators.name(self.turn);
        self.refused = if refusal.lasting { self.refused + 1 } else { 0 };
        let mut delay = self.backoff.next(rand::random());
        if self.refused >= self.coordinators.count() {
            delay = LASTING + LASTING.mul_f64(rand::random::<f64>() / 2.0);
        }
        let news = self.is_news(&refusal);
        let Refusal { code, message: reason, lasting } = &refusal;
        if !news {
            debug!(coordinator, code, reason, "still no session");
        } else if *lasting {
            error!(coordinator, code, reason, "the coordinator refuses this worker; trying again from time to time");
        } else {
            warn!(coordinator, code, reason, "no session with the coordinator; trying the next");
        }
        self.turn += 1;
        self.link = Link::Down { retry_at: Instant::now() + delay };
    }

    /// Whether the coordinator of now has not said just this before; notes it.
    fn is_news(&mut self, refusal: &Refusal) -> bool {
        self.last.insert(self.turn % self.coordinators.count(), refusal.clone()).as_ref() != Some(refusal)
    }

    /// Sends what is left and ends the stream, if there is one. Whether all of it went.
    pub(super) async fn finish(self, outbox: VecDeque<AgentMessage>, patience: Duration) -> bool {
        match self.link {
            Link::Up(stream) => stream.finish(outbox, patience).await,
            _ => false,
        }
    }

    /// The same apart; an attempt at the same coordinator may start at once.
    pub(super) fn part(&mut self, outbox: VecDeque<AgentMessage>, patience: Duration) {
        let link = std::mem::replace(&mut self.link, Link::Down { retry_at: Instant::now() });
        if let Link::Up(stream) = link {
            let finish = async move {
                stream.finish(outbox, patience).await;
            };
            self.parting = Some(AbortOnDropHandle::new(tokio::spawn(finish)));
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;
    use crate::endpoint::endpoint;
    use crate::tls::ClientTls;

    fn connection(addresses: &[&str]) -> Connection {
        let endpoint = |uri: &&str| endpoint(uri, Duration::from_secs(1), &ClientTls::default()).expect("an address");
        let coordinators = Coordinators::Endpoints(addresses.iter().map(endpoint).collect(), ClientTls::default());
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        Connection::new(coordinators, Credential::default(), backoff)
    }

    fn delay(connection: &Connection) -> Duration {
        match connection.link {
            Link::Down { retry_at } => retry_at.saturating_duration_since(Instant::now()),
            _ => Duration::ZERO,
        }
    }

    #[tokio::test]
    async fn a_worker_that_all_refuse_does_not_hurry() {
        let mut connection = connection(&["http://a:1", "http://b:1"]);
        connection.failed(Status::unauthenticated("no such key").into());
        assert!(delay(&connection) <= Duration::from_millis(100), "the other may take it");
        connection.failed(Status::unauthenticated("no such key").into());
        assert!(delay(&connection) > Duration::from_secs(9));
        connection.failed(Status::unavailable("gone").into());
        assert!(delay(&connection) <= Duration::from_millis(400));
        assert_eq!(connection.turn, 3);
    }

    #[tokio::test]
    async fn what_each_coordinator_says_again_and_again_is_no_news() {
        let mut connection = connection(&["http://a:1", "http://b:1"]);
        let (down, refused) = (Status::unavailable("gone").into(), Status::unauthenticated("no such key").into());
        let mut hear = |turn: usize, refusal| {
            connection.turn = turn;
            connection.is_news(refusal)
        };
        assert!(hear(0, &down) && hear(1, &refused));
        assert!(!hear(2, &down) && !hear(3, &refused));
        assert!(hear(4, &refused) && !hear(6, &refused));
        connection.proven();
        assert!(connection.is_news(&refused));
    }

    #[tokio::test]
    async fn an_attempt_for_a_session_that_is_over_is_given_up() {
        let mut connection = connection(&["http://a:1"]);
        connection.start(Register { session_id: "s1".into(), ..Register::default() });
        assert!(!connection.claims_other_than(Some("s1")));
        assert!(connection.claims_other_than(None));
        connection.abandon();
        assert!(connection.is_due());
    }
}
