//! What the process says about itself: metrics for Prometheus, logs, and traces for OpenTelemetry.

mod busiest;
mod exposition;
mod instruments;
pub mod logging;
mod metrics;
pub mod names;
mod operations;
mod otlp;
mod process;
mod trace_context;

pub use exposition::serve_metrics;
pub use logging::{LogArgs, LogFormat, LogGuard};
pub use metrics::{Ended, Gauges, Metrics};
pub use operations::OperationsLayer;
pub use process::Usage;
pub use trace_context::{current_traceparent, set_parent};
