//! `orrery status`: the scheduler's state.

use chrono::Utc;
use orrery_proto::v1::{Coordinator, GetStatusRequest};

use super::Context;
use super::exit::Failure;
use super::output::{distance, duration, instant, instant_and_distance};

/// Shows it.
pub(super) async fn run(context: &Context) -> Result<(), Failure> {
    let out = &context.out;
    let status = context.client.get_status(GetStatusRequest {}).await?;
    if out.json {
        return Ok(out.json(&status)?);
    }
    // How far instants are away is told by the database's clock, which decides.
    let now = status.now.and_then(|now| now.instant()).unwrap_or_else(Utc::now);
    out.fields(&[
        ("State", status.state.clone()),
        ("Version", status.version.clone()),
        ("Store", status.store.clone()),
        ("Time", instant(status.now)),
        ("Uptime", duration(Some(status.uptime_seconds.saturating_mul(1000)))),
        ("Active jobs", status.active_jobs.to_string()),
        ("Pending", status.pending_executions.to_string()),
        ("Running", status.running_executions.to_string()),
        ("Agents", status.workers.to_string()),
        ("Next fire", instant_and_distance(status.next_fire_at, now)),
    ])?;
    if status.coordinators.is_empty() {
        return Ok(());
    }
    let rows: Vec<Vec<String>> = status
        .coordinators
        .iter()
        .map(|coordinator| {
            vec![
                coordinator.id.clone(),
                coordinator.address.clone(),
                version(coordinator),
                coordinator.workers.to_string(),
                coordinator.leases.to_string(),
                distance(coordinator.started_at, now),
                distance(coordinator.last_seen_at, now),
                format!("{:+.1}ms", coordinator.clock_offset_ms),
            ]
        })
        .collect();
    out.line("")?;
    Ok(out.table(&["COORDINATOR", "ADDRESS", "VERSION", "AGENTS", "LEASES", "STARTED", "SEEN", "CLOCK"], &rows)?)
}

fn version(coordinator: &Coordinator) -> String {
    let build = if coordinator.build.is_empty() { String::new() } else { format!(" ({})", coordinator.build) };
    let draining = if coordinator.draining { ", draining" } else { "" };
    format!("{}{build}{draining}", coordinator.version)
}
