//! Logs on standard error: text for people, JSON for machines; and the spans that go to a collector.

use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{Filtered, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use super::otlp;

/// What is logged, and how.
#[derive(Clone, Debug, Args)]
pub struct LogArgs {
    /// error, warn, info, debug or trace; or directives such as `info,sqlx=debug`. RUST_LOG wins where it is set.
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    pub log_level: String,
    /// Text for people, or JSON, one object a line.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    #[error(
        "{0:?} is no log level: say error, warn, info, debug or trace, or directives such as info,sqlx=debug ({1})"
    )]
    Level(String, String),
    #[error("traces cannot be sent to {0:?}: {1}")]
    Endpoint(String, String),
    #[error("traces need the asynchronous runtime to be running first")]
    NoRuntime,
    #[error("logging is set up already")]
    Twice,
}

/// Sends the last spans when it is dropped: keep it until the end of the process.
#[derive(Debug)]
#[must_use = "the last spans are sent when it is dropped"]
pub struct LogGuard {
    provider: Option<SdkTracerProvider>,
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        if let Some(provider) = &self.provider {
            otlp::flush(provider);
        }
    }
}

/// Sets up logging for the whole process, and traces where OTEL_EXPORTER_OTLP_ENDPOINT is set: then it must run inside the runtime.
///
/// # Errors
/// Where the level or the collector's address cannot be read, or it was done before.
pub fn init(args: &LogArgs) -> Result<LogGuard, LoggingError> {
    let of_rust = std::env::var("RUST_LOG").ok().filter(|text| !text.trim().is_empty());
    let filter = filter(of_rust.as_deref(), &args.log_level)?;
    let to = std::io::stderr;
    let lines = match args.log_format {
        LogFormat::Text => {
            let coloured = to().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
            tracing_subscriber::fmt::layer().with_ansi(coloured).with_writer(to).boxed()
        }
        LogFormat::Json => tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .with_writer(to)
            .boxed(),
    };
    let provider = otlp::provider()?;
    let spans = provider
        .as_ref()
        .map(|provider| exported(tracing_opentelemetry::layer().with_tracer(provider.tracer("orrery"))));
    tracing_subscriber::registry()
        .with(spans)
        .with(lines.with_filter(filter))
        .try_init()
        .map_err(|_| LoggingError::Twice)?;
    Ok(LogGuard { provider })
}

/// A bare level means ours: what we build on talks at `info` at most, unless a directive asks for more.
fn filter(rust_log: Option<&str>, log_level: &str) -> Result<EnvFilter, LoggingError> {
    let text = rust_log.unwrap_or(log_level).trim();
    let directives = match text.to_ascii_lowercase().as_str() {
        "" => "info".to_owned(),
        level @ ("debug" | "trace") if rust_log.is_none() => format!("info,orrery={level}"),
        _ => text.to_owned(),
    };
    EnvFilter::try_new(directives).map_err(|error| LoggingError::Level(text.to_owned(), error.to_string()))
}

/// The spans that are worth sending, whatever the level of the logs. Those of the transport must not go: the exporter uses it, and each
/// batch would bring about the next.
pub(super) fn exported<L, S>(layer: L) -> Filtered<L, Targets, S>
where
    L: Layer<S>,
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    let transport = ["h2", "hyper", "hyper_util", "tonic", "tower", "rustls", "reqwest", "opentelemetry"];
    let targets = Targets::new().with_default(LevelFilter::INFO);
    layer.with_filter(transport.into_iter().fold(targets, |targets, name| targets.with_target(name, LevelFilter::OFF)))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        log: LogArgs,
    }

    fn shown(rust_log: Option<&str>, level: &str) -> Result<String, LoggingError> {
        Ok(filter(rust_log, level)?.to_string())
    }

    #[test]
    fn a_level_is_of_our_own_code() -> Result<(), LoggingError> {
        assert_eq!(shown(None, "warn")?, "warn");
        assert_eq!(shown(None, "")?, "info");
        assert_eq!(shown(None, "DEBUG")?, "orrery=debug,info");
        assert_eq!(shown(Some("debug"), "warn")?, "debug");
        assert_eq!(shown(None, "info,sqlx=debug")?, "sqlx=debug,info");
        Ok(())
    }

    #[test]
    fn what_is_no_level_is_refused() {
        let message = shown(None, "orrery=loud").map_err(|error| error.to_string());
        assert!(message.is_err_and(|text| text.contains("orrery=loud") && text.contains("debug")));
    }

    #[test]
    fn flags_are_read() -> Result<(), clap::Error> {
        let program = Program::try_parse_from(["orrery", "--log-format", "json", "--log-level", "warn"])?;
        assert_eq!((program.log.log_format, program.log.log_level.as_str()), (LogFormat::Json, "warn"));
        Ok(())
    }
}
