//! When a definition fires.

use chrono::{DateTime, Utc};
use orrery_proto::v1::{CreateJobRequest, DstGap, DstOverlap};

use super::problems::Problems;
use crate::api::timing;
use crate::job::{ScheduleKind, ScheduleSpec};

/// The longest interval, in milliseconds: ten years.
const MAX_INTERVAL_MS: i64 = 10 * 366 * 86_400_000;

/// The schedule, of which there must be exactly one.
pub(super) fn read(p: &mut Problems, request: &CreateJobRequest) -> ScheduleSpec {
    let timezone = if request.timezone.is_empty() { "UTC".to_owned() } else { request.timezone.clone() };
    let spec = ScheduleSpec {
        kind: kind(p, request),
        timezone,
        dst_gap: p.choice("dstGap", request.dst_gap, DstGap::Auto),
        dst_overlap: p.choice("dstOverlap", request.dst_overlap, DstOverlap::Auto),
    };
    check(p, &spec);
    spec
}

fn kind(p: &mut Problems, request: &CreateJobRequest) -> ScheduleKind {
    let given = [
        (!request.cron_expression.is_empty()).then_some("cronExpression"),
        request.interval_ms.map(|_| "intervalMs"),
        request.run_at.map(|_| "runAt"),
        request.manual.then_some("manual"),
    ];
    let given: Vec<&str> = given.into_iter().flatten().collect();
    match given.as_slice() {
        ["cronExpression"] => ScheduleKind::Cron(request.cron_expression.clone()),
        ["intervalMs"] => {
            let interval = request.interval_ms.unwrap_or_default();
            ScheduleKind::Every(p.within("INVALID_SCHEDULE", "intervalMs", interval, 100, MAX_INTERVAL_MS))
        }
        ["runAt"] => {
            p.instant("INVALID_SCHEDULE", "runAt", request.run_at).map_or(ScheduleKind::Manual, ScheduleKind::Once)
        }
        ["manual"] => ScheduleKind::Manual,
        [] => {
            let message = "is missing; give it, or intervalMs, runAt or manual instead";
            p.add("INVALID_CRON_EXPRESSION", "cronExpression", message);
            ScheduleKind::Manual
        }
        [first, ..] => {
            let message = format!("{} are given; give one of them only", given.join(" and "));
            p.add("INVALID_SCHEDULE", first, message);
            ScheduleKind::Manual
        }
    }
}

/// Both the expression and the zone may be wrong; both are said.
fn check(p: &mut Problems, spec: &ScheduleSpec) {
    let zone_is_known = spec.timezone.parse::<chrono_tz::Tz>().is_ok();
    if !zone_is_known {
        let message =
            format!("{:?} is not a known time zone; give an IANA name such as Europe/Berlin or UTC", spec.timezone);
        p.add("INVALID_TIMEZONE", "timezone", message);
    }
    let readable =
        ScheduleSpec { timezone: if zone_is_known { spec.timezone.clone() } else { "UTC".to_owned() }, ..spec.clone() };
    if let Err(error) = readable.parse(DateTime::<Utc>::UNIX_EPOCH) {
        let (code, field) = timing::blame(&error);
        p.add(code, field, error.to_string());
    }
}

/// The first and the last instant of a job.
pub(super) fn dates(p: &mut Problems, request: &CreateJobRequest) -> (Option<DateTime<Utc>>, Option<DateTime<Utc>>) {
    const CODE: &str = "INVALID_DATE_RANGE";
    let start = p.instant(CODE, "startDate", request.start_date);
    let end = p.instant(CODE, "endDate", request.end_date);
    if let (Some(start), Some(end)) = (start, end)
        && end < start
    {
        p.add(CODE, "endDate", "lies before startDate; give a later one");
    }
    (start, end)
}
