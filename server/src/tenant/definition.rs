//! What is wrong with a tenant that somebody wants. Pure.

use orrery_agent::egress::Rule;

use super::{MOST_WEIGHT, Quotas, Tenant};
use crate::edge::Networks;
use crate::error::FieldProblem;

/// The most characters of a name.
const NAME: usize = 200;
const DESCRIPTION: usize = 10_000;
/// The most entries of a list.
const ENTRIES: usize = 200;

/// Everything that is wrong with a tenant, in the order of its fields.
pub fn problems(tenant: &Tenant) -> Vec<FieldProblem> {
    let mut problems = Vec::new();
    let mut add = |code, field: &str, message: String| {
        problems.push(FieldProblem { field: field.to_owned(), code, message });
    };
    let is_good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._@+-".contains(c);
    if tenant.name.is_empty() || tenant.name.len() > NAME || !tenant.name.chars().all(is_good) {
        add("INVALID_NAME", "name", format!("give 1 to {NAME} of a-z, 0-9 and . _ @ + -"));
    }
    if tenant.description.chars().count() > DESCRIPTION {
        add("INVALID_DESCRIPTION", "description", format!("give at most {DESCRIPTION} characters"));
    }
    if !(1..=MOST_WEIGHT).contains(&tenant.weight) {
        add("INVALID_WEIGHT", "weight", format!("must be from 1 to {MOST_WEIGHT}, not {}", tenant.weight));
    }
    for (field, value) in named(&tenant.quotas) {
        if value.is_some_and(|value| value < 0) {
            add("INVALID_QUOTA", &format!("quotas.{field}"), "give 0 for no limit, or leave it out".to_owned());
        }
    }
    let settings = &tenant.settings;
    let network = |text: &str| Networks::of([text]).err().map(|error| error.to_string());
    let rule = |text: &str| text.parse::<Rule>().err().map(|error| error.to_string());
    lists("ipAllow", &settings.ip_allow, network, &mut add);
    lists("egressAllow", &settings.egress_allow, rule, &mut add);
    lists("egressDeny", &settings.egress_deny, rule, &mut add);
    problems
}

fn named(quotas: &Quotas) -> [(&'static str, Option<i64>); 5] {
    [
        ("maxJobs", quotas.max_jobs),
        ("maxExecutionsPerHour", quotas.max_executions_per_hour),
        ("maxConcurrent", quotas.max_concurrent.map(i64::from)),
        ("maxLogBytes", quotas.max_log_bytes),
        ("maxResultBytes", quotas.max_result_bytes),
    ]
}

fn lists(
    field: &str,
    entries: &[String],
    problem: impl Fn(&str) -> Option<String>,
    add: &mut impl FnMut(&'static str, &str, String),
) {
    const CODE: &str = "INVALID_SETTING";
    if entries.len() > ENTRIES {
        add(CODE, &format!("settings.{field}"), format!("give at most {ENTRIES} entries"));
    }
    for (index, entry) in entries.iter().enumerate() {
        if let Some(message) = problem(entry) {
            add(CODE, &format!("settings.{field}[{index}]"), message);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn what_is_wrong_names_its_field() {
        let good = Tenant { name: "acme".into(), ..Tenant::unnamed(Uuid::nil()) };
        assert_eq!(problems(&good), []);
        let wrong = |change: &dyn Fn(&mut Tenant)| {
            let mut tenant = good.clone();
            change(&mut tenant);
            let found = problems(&tenant);
            assert_eq!(found.len(), 1, "{found:?}");
            (found[0].field.clone(), found[0].code)
        };
        let is = |field: &str, code| (field.to_owned(), code);
        assert_eq!(wrong(&|t| t.name = String::new()), is("name", "INVALID_NAME"));
        assert_eq!(wrong(&|t| t.name = "Acme".into()), is("name", "INVALID_NAME"));
        assert_eq!(wrong(&|t| t.description = "x".repeat(10_001)), is("description", "INVALID_DESCRIPTION"));
        assert_eq!(wrong(&|t| t.weight = 0), is("weight", "INVALID_WEIGHT"));
        assert_eq!(wrong(&|t| t.quotas.max_concurrent = Some(-1)), is("quotas.maxConcurrent", "INVALID_QUOTA"));
        let list = |text: &str| vec!["10.0.0.0/8".to_owned(), text.to_owned()];
        assert_eq!(wrong(&|t| t.settings.ip_allow = list("10.0.0.1/8")), is("settings.ipAllow[1]", "INVALID_SETTING"));
        assert_eq!(wrong(&|t| t.settings.egress_allow = list("*")), is("settings.egressAllow[1]", "INVALID_SETTING"));
        assert_eq!(wrong(&|t| t.settings.egress_deny = list("a:0")), is("settings.egressDeny[1]", "INVALID_SETTING"));
    }
}
