//! The paths of the API, read from its own document: which methods a path has, and which parameters a call takes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::http::{Method, Uri};
use orrery_proto::rest;
use serde::Deserialize;

use super::internal;

#[derive(Default, Deserialize)]
struct Document {
    paths: BTreeMap<String, BTreeMap<String, Operation>>,
    components: Components,
}

#[derive(Default, Deserialize)]
struct Components {
    schemas: BTreeMap<String, Schema>,
}

#[derive(Deserialize)]
struct Operation {
    #[serde(default)]
    parameters: Vec<Parameter>,
}

#[derive(Deserialize)]
struct Parameter {
    name: String,
    #[serde(rename = "in")]
    place: String,
    schema: Schema,
}

#[derive(Deserialize)]
struct Schema {
    #[serde(rename = "$ref")]
    reference: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    format: Option<String>,
    #[serde(rename = "enum")]
    values: Option<Vec<String>>,
}

/// An unreadable document would be a fault of the build, which a test finds.
static DOCUMENT: LazyLock<Document> = LazyLock::new(|| serde_json::from_str(orrery_proto::OPENAPI).unwrap_or_default());

/// The methods of a path, in capitals; none where there is no such path.
pub(super) fn methods(path: &str) -> Vec<String> {
    let mut methods: Vec<String> =
        matching(path).flat_map(|(_, methods)| methods.keys()).map(|m| m.to_uppercase()).collect();
    methods.sort_unstable();
    methods.dedup();
    methods
}

/// The gRPC path of the call that a REST request is, by the routes that serve it; `None` where no call is begun by it.
pub(crate) fn called(method: &Method, path: &str) -> Option<&'static str> {
    if internal::is_internal(path) {
        let uri = path.parse().ok()?;
        let call = internal::Call::of(method, &uri).ok()?;
        return rest::called(call.method.as_str(), &call.path);
    }
    rest::called(served_as(method).as_str(), path)
}

/// Whatever GET answers, HEAD answers without the body, which the server leaves out.
pub(super) fn served_as(method: &Method) -> &Method {
    if *method == Method::HEAD { &Method::GET } else { method }
}

/// A call without the parameters that are empty: clients that build a query from a form send those that nobody filled in.
///
/// Probes take none: whatever stands there is meant to get round a cache.
pub(super) fn given(uri: Uri) -> Uri {
    if matches!(uri.path(), "/health" | "/ready") && uri.query().is_some() {
        return uri.path().parse().unwrap_or(uri);
    }
    let is_given = |pair: &&str| pair.split_once('=').is_some_and(|(_, value)| !value.is_empty());
    let Some(query) = uri.query().filter(|query| !query.split('&').all(|pair| is_given(&pair))) else { return uri };
    let kept: Vec<&str> = query.split('&').filter(is_given).collect();
    let target = if kept.is_empty() { uri.path().to_owned() } else { format!("{}?{}", uri.path(), kept.join("&")) };
    target.parse().unwrap_or(uri)
}

/// The first parameter that is in a query twice.
pub(super) fn repeated_parameter(uri: &Uri) -> Option<String> {
    let names = uri.query()?.split('&').map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name));
    let mut seen: Vec<&str> = Vec::new();
    for name in names {
        if seen.contains(&name) {
            return Some(decoded(name).into_owned());
        }
        seen.push(name);
    }
    None
}

/// The first parameter in a query whose value does not fit its type.
pub(super) fn wrong_parameter(method: &str, uri: &Uri) -> Option<String> {
    // A path that is spelled out, such as /executions/stats, goes before one with a variable.
    let (_, methods) = matching(uri.path()).min_by_key(|(path, _)| path.matches('{').count())?;
    let operation = methods.get(&method.to_lowercase())?;
    let pairs = uri.query()?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    for (name, value) in pairs {
        let known = operation.parameters.iter().find(|p| p.place == "query" && p.name == name);
        if known.is_some_and(|parameter| !fits(&parameter.schema, &decoded(value))) {
            return Some(name.to_owned());
        }
    }
    None
}

fn matching(path: &str) -> impl Iterator<Item = (&'static String, &'static BTreeMap<String, Operation>)> {
    DOCUMENT.paths.iter().filter(move |(template, _)| {
        let (mut wanted, mut given) = (template.split('/'), path.split('/'));
        loop {
            match (wanted.next(), given.next()) {
                (None, None) => return true,
                (Some(w), Some(g)) if w == g || (w.starts_with('{') && !g.is_empty()) => {}
                _ => return false,
            }
        }
    })
}

fn fits(schema: &Schema, value: &str) -> bool {
    if let Some(name) = schema.reference.as_deref().and_then(|r| r.rsplit('/').next()) {
        return DOCUMENT.components.schemas.get(name).is_none_or(|schema| fits(schema, value));
    }
    match (schema.kind.as_deref(), schema.format.as_deref(), &schema.values) {
        (_, _, Some(values)) => values.iter().any(|known| known == value),
        (Some("integer"), Some("int32"), _) => value.parse::<i32>().is_ok(),
        (Some("integer"), _, _) => value.parse::<i64>().is_ok(),
        (Some("number"), _, _) => value.parse::<f64>().is_ok(),
        (Some("boolean"), _, _) => matches!(value, "true" | "false"),
        (_, Some("date-time"), _) => chrono::DateTime::parse_from_rfc3339(value).is_ok(),
        _ => true,
    }
}

/// Enough of decoding for what can be a number, an instant or a name.
fn decoded(value: &str) -> Cow<'_, str> {
    if !value.contains(['%', '+']) {
        return Cow::Borrowed(value);
    }
    let value = value.replace('+', " ");
    Cow::Owned(value.replace("%3A", ":").replace("%3a", ":").replace("%2B", "+").replace("%2b", "+"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_methods() {
        assert_eq!(methods("/api/v1/scheduler/jobs"), ["GET", "POST"]);
        assert_eq!(methods("/api/v1/scheduler/jobs/1"), ["DELETE", "GET", "PUT"]);
        assert_eq!(methods("/api/v1/scheduler/jobs/1/trigger"), ["POST"]);
        assert_eq!(methods("/api/v1/scheduler/jobs/"), [""; 0]);
        assert_eq!(methods("/nothing"), [""; 0]);
    }

    #[test]
    fn what_is_empty_is_not_given() {
        let given = |target: &str| given(target.parse().unwrap()).to_string();
        assert_eq!(given("/x?status=&name=a&&tag&pageSize=5"), "/x?name=a&pageSize=5");
        assert_eq!(given("/x?status=&tag"), "/x");
        assert_eq!(given("/health?t=17"), "/health");
        for same in ["/x", "/x?a=b%20c&a=="] {
            assert_eq!(given(same), same);
        }
    }

    #[test]
    fn a_repeated_parameter_is_found() {
        let repeated = |target: &str| repeated_parameter(&target.parse().unwrap());
        assert_eq!(repeated("/x?a=1&b=2&a=3").as_deref(), Some("a"));
        assert_eq!(repeated("/x?a=1&b=1"), None);
        assert_eq!(repeated("/x"), None);
    }

    #[test]
    fn a_wrong_parameter_is_found() {
        let wrong = |target: &str| wrong_parameter("GET", &target.parse().unwrap());
        assert_eq!(wrong("/api/v1/scheduler/jobs?name=x&pageSize=abc").as_deref(), Some("pageSize"));
        assert_eq!(wrong("/api/v1/scheduler/jobs?status=bogus").as_deref(), Some("status"));
        assert_eq!(wrong("/api/v1/scheduler/jobs?status=active&pageSize=5"), None);
        assert_eq!(wrong("/api/v1/scheduler/executions?from=yesterday").as_deref(), Some("from"));
        assert_eq!(wrong("/api/v1/scheduler/executions?from=2026-01-01T00%3A00:00%2B02:00"), None);
        assert_eq!(wrong("/api/v1/scheduler/executions/stats?to=x").as_deref(), Some("to"));
    }
}
