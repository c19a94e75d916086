//! Calls URLs: one exchange for each hop of redirects, each checked by the egress policy before it is made.

mod answer;
mod clients;
mod hop;
#[cfg(test)]
mod tests;

use std::error::Error as _;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use orrery_proto::v1::ErrorType;
use orrery_sdk::config::HttpConfig;
use orrery_sdk::executor::{Context, Executor, Outcome, Task};
use orrery_sdk::secret::Redactor;

use self::answer::Answer;
use self::clients::Clients;
use self::hop::Hop;
use super::{ExecutorSettings, invalid, stopped};
use crate::egress::{Lookup, Policy, Refused, RuleError, Rules, SystemLookup};

/// The most redirects that are followed.
const MOST_REDIRECTS: usize = 10;

/// Calls URLs.
pub(super) struct Http {
    clients: Clients,
    policy: Policy,
    max_result_bytes: usize,
}

/// Why there is no answer.
enum Failed {
    /// The policy does not allow the call; or, after a redirect from this host, the next one.
    Refused {
        from: Option<String>,
        why: Refused,
    },
    TooManyRedirects,
    Client(String),
    Http(reqwest::Error),
}

impl From<reqwest::Error> for Failed {
    fn from(error: reqwest::Error) -> Self {
        Self::Http(error)
    }
}

impl Http {
    pub(super) fn new(settings: &ExecutorSettings) -> Self {
        Self::asking(settings, Arc::new(SystemLookup))
    }

    /// One that asks `lookup` for the addresses of names.
    fn asking(settings: &ExecutorSettings, lookup: Arc<dyn Lookup>) -> Self {
        Self {
            clients: Clients::new(settings.user_agent.clone(), lookup),
            policy: settings.egress.clone(),
            max_result_bytes: settings.max_result_bytes,
        }
    }

    /// Follows redirects to the answer at their end.
    async fn exchange(
        &self,
        mut hop: Hop,
        (lease, closed): (&Rules, &Rules),
        redactor: Option<&Redactor>,
    ) -> Result<Answer, Failed> {
        let mut from = None;
        for _ in 0..=MOST_REDIRECTS {
            let reach = self.policy.reach(lease, hop.port()).without(closed, hop.port());
            reach.check(hop.url()).map_err(|why| Failed::Refused { from: from.clone(), why })?;
            let client = self.clients.of(reach).map_err(Failed::Client)?;
            let response = match client.execute(hop.request()).await {
                Ok(response) => response,
                Err(error) => return Err(failed(from, error)),
            };
            let here = hop.url().host_str().unwrap_or_default().to_owned();
            match hop.next(response.status(), response.headers()) {
                Some(next) => (hop, from) = (next, Some(here)),
                None => return Ok(Answer::read(response, self.max_result_bytes, redactor).await?),
            }
        }
        Err(Failed::TooManyRedirects)
    }
}

#[async_trait]
impl Executor for Http {
    async fn run(&self, task: Task, context: Context) -> Outcome {
        let config = match HttpConfig::parse(&task.config.text) {
            Ok(config) => config,
            Err(problems) => return invalid(&problems),
        };
        let hop = match Hop::first(&config, &task) {
            Ok(hop) => hop,
            Err((field, message)) => return invalid(&[(field, message)]),
        };
        let lease = opened_by(&task);
        let closed = match task.egress_deny.iter().map(|text| text.parse()).collect::<Result<Rules, RuleError>>() {
            Ok(closed) => closed,
            Err(error) => return invalid(&[("the tenant's egressDeny".to_owned(), error.to_string())]),
        };
        let limit = Duration::from_millis(config.timeout);
        let exchange = tokio::time::timeout(limit, self.exchange(hop, (&lease, &closed), context.redactor()));
        tokio::select! {
            biased;
            // The exchange is dropped, and its connection with it.
            reason = context.stopped() => stopped(reason, &task),
            answer = exchange => match answer {
                Ok(Ok(answer)) => answer::outcome(&answer, &config, self.max_result_bytes),
                Ok(Err(failed)) => outcome_of(failed),
                Err(_) => {
                    let message = format!("no complete response within {} ms (config.timeout)", config.timeout);
                    Outcome::failure(ErrorType::Timeout, message)
                }
            }
        }
    }
}

/// What the lease opens. A rule that this agent cannot read opens nothing.
fn opened_by(task: &Task) -> Rules {
    let read = |text: &String| {
        let rule = text.parse();
        if let Err(error) = &rule {
            tracing::warn!(%error, execution = task.execution_id, "a rule of the lease is left out");
        }
        rule.ok()
    };
    task.egress_allow.iter().filter_map(read).collect()
}

/// What a client failed with; where it was that the policy left it no address, that.
fn failed(from: Option<String>, error: reqwest::Error) -> Failed {
    let mut cause = error.source();
    while let Some(next) = cause {
        if let Some(why) = next.downcast_ref::<Refused>() {
            return Failed::Refused { from, why: why.clone() };
        }
        cause = next.source();
    }
    Failed::Http(error)
}

fn outcome_of(failed: Failed) -> Outcome {
    match failed {
        Failed::Refused { from: None, why } => invalid(&[("config.url".to_owned(), why.to_string())]),
        Failed::Refused { from: Some(from), why } => {
            invalid(&[("config.url".to_owned(), format!("{from} redirects to where jobs may not go: {why}"))])
        }
        Failed::TooManyRedirects => {
            Outcome::failure(ErrorType::UserError, format!("more than {MOST_REDIRECTS} redirects"))
        }
        Failed::Client(error) => Outcome::failure(ErrorType::SystemError, format!("the HTTP client: {error}")),
        Failed::Http(error) => failure(error),
    }
}

fn failure(error: reqwest::Error) -> Outcome {
    let error_type = match &error {
        error if error.is_timeout() => ErrorType::Timeout,
        error if error.is_builder() => ErrorType::ValidationError,
        _ => ErrorType::NetworkError,
    };
    Outcome::failure(error_type, chain(error))
}

/// The error with its causes, without the URL, which may hold secrets.
fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let _ = write!(text, ": {next}");
        cause = next.source();
    }
    text
}
