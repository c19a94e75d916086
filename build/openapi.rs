//! Makes the generated OpenAPI document say what is served: the JSON of numbers and enums, the errors, who may call, and what the comments
//! of the proto files explain.

use std::collections::{BTreeMap, BTreeSet};

use prost_types::{EnumDescriptorProto, FileDescriptorProto};
use serde_json::{Map, Value, json};

use super::comments::Comments;
use super::{json_name, limits};

const SCHEMAS: &str = "#/components/schemas/";
/// Calls that need no credentials.
const PUBLIC: [&str; 2] = ["/health", "/ready"];
/// Calls whose credentials are in their message.
const SIGNING_IN: [&str; 3] = ["/api/v1/auth/login", "/api/v1/auth/refresh", "/api/v1/auth/logout"];
/// Calls that take an `Idempotency-Key`.
const REPEATABLE: [&str; 5] = ["CreateJob", "BatchCreateJobs", "TriggerJob", "BatchTriggerJobs", "RetryExecution"];
/// Requests of which nothing can be left out, with the fields that must be there.
const REQUIRED: [(&str, &[&str]); 15] = [
    ("CreateJobRequest", &["name", "jobType", "config"]),
    ("UpdateJobRequest", &["name", "jobType", "config"]),
    ("BatchCreateJobsRequest", &["jobs"]),
    ("BatchTriggerJobsRequest", &["triggers"]),
    ("LoginRequest", &["name", "password"]),
    ("RefreshRequest", &["refreshToken"]),
    ("LogoutRequest", &["refreshToken"]),
    ("ChangePasswordRequest", &["currentPassword", "newPassword"]),
    ("CreateKeyRequest", &["name", "permissions"]),
    ("CreateUserRequest", &["name", "password"]),
    ("CreateRoleRequest", &["name", "permissions"]),
    ("UpdateRoleRequest", &["permissions"]),
    ("CreateRoleBindingRequest", &["role", "principalKind", "principalId"]),
    ("ResetPasswordRequest", &["password"]),
    ("Error", &["error", "timestamp", "path"]),
];

/// The document as it is served.
pub(crate) fn served(mut document: Value, files: &[&FileDescriptorProto]) -> Value {
    let comments = Comments::of(files.iter().copied());
    let enums: Vec<&EnumDescriptorProto> = files.iter().flat_map(|file| &file.enum_type).collect();
    rewrite(&mut document, &enums);
    short_names(&mut document);
    schemas(&mut document, files, &comments, &enums);
    let services = methods(files);
    let mut ids = BTreeSet::new();
    for (path, operations) in object(&mut document, "/paths") {
        for (method, operation) in operations.as_object_mut().into_iter().flatten() {
            describe(path, method, operation, &services, &comments);
            name_once(operation, &mut ids);
        }
    }
    head(&mut document, files, &comments);
    document
}

/// A method with two paths is two operations, whose names must differ.
fn name_once(operation: &mut Value, ids: &mut BTreeSet<String>) {
    let id = operation.get("operationId").and_then(Value::as_str).unwrap_or_default().to_owned();
    let named = (1..).map(|n| if n == 1 { id.clone() } else { format!("{id}_{n}") }).find(|id| !ids.contains(id));
    if let Some(id) = named {
        operation["operationId"] = json!(id);
        ids.insert(id);
    }
}

/// 64-bit integers are numbers, and enums have their names in JSON.
fn rewrite(value: &mut Value, enums: &[&EnumDescriptorProto]) {
    match value {
        Value::Object(map) => {
            let is_long = matches!(map.get("format").and_then(Value::as_str), Some("int64" | "uint64"));
            if is_long && map.get("type") == Some(&json!("string")) {
                map.insert("type".into(), json!("integer"));
            }
            if let Some(Value::Array(names)) = map.get_mut("enum") {
                rename_values(names, enums);
            }
            map.values_mut().for_each(|inner| rewrite(inner, enums));
        }
        Value::Array(items) => items.iter_mut().for_each(|inner| rewrite(inner, enums)),
        _ => {}
    }
}

fn rename_values(names: &mut Vec<Value>, enums: &[&EnumDescriptorProto]) {
    let owner = enums.iter().find(|e| names.iter().any(|n| e.value.iter().any(|v| Some(v.name()) == n.as_str())));
    if let Some(owner) = owner {
        names.retain(|name| !name.as_str().is_some_and(|n| n.ends_with("_UNSPECIFIED")));
        for name in names {
            *name = json!(json_name(owner, name.as_str().unwrap_or_default()));
        }
    }
}

/// `orrery.v1.Job` is `Job` in the document.
fn short_names(document: &mut Value) {
    let schemas = std::mem::take(object_mut(document, "/components/schemas"));
    let short = |name: &str| name.strip_prefix("orrery.v1.").unwrap_or(name).to_owned();
    *object_mut(document, "/components/schemas") =
        schemas.into_iter().filter(|(name, _)| name != "google.rpc.Status").map(|(n, s)| (short(&n), s)).collect();
    fn refs(value: &mut Value) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(target)) = map.get_mut("$ref") {
                    *target = target.replace("orrery.v1.", "").replace("google.rpc.Status", "Error");
                }
                map.values_mut().for_each(refs);
            }
            Value::Array(items) => items.iter_mut().for_each(refs),
            _ => {}
        }
    }
    refs(document);
}

fn schemas(document: &mut Value, files: &[&FileDescriptorProto], comments: &Comments, enums: &[&EnumDescriptorProto]) {
    let schemas = object_mut(document, "/components/schemas");
    schemas.insert("Json".into(), json!({"description": "Any JSON value, kept to the last digit."}));
    schemas.insert("Error".into(), error_schema());
    for (name, schema) in schemas.iter_mut() {
        if let Some(text) = enum_text(name, comments, enums).or_else(|| comments.get(name).map(ToOwned::to_owned)) {
            schema["description"] = json!(text);
        }
        for (field, property) in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
            let inherited = if name.ends_with("JobRequest") { comments.get(&format!("Job.{field}")) } else { None };
            if let Some(text) = comments.get(&format!("{name}.{field}")).or(inherited) {
                explain(property, text);
            }
        }
    }
    limits::of_schemas(schemas, files);
    for (name, fields) in REQUIRED {
        if let Some(schema) = schemas.get_mut(name) {
            schema["required"] = json!(fields);
        }
    }
    if let Some(schema) = schemas.get_mut("CreateJobRequest") {
        schema["example"] = example();
    }
}

/// A definition to try.
fn example() -> Value {
    json!({
        "name": "nightly-report",
        "cronExpression": "0 0 9 * * 1-5",
        "timezone": "Europe/Berlin",
        "jobType": "http",
        "config": {"url": "https://example.com/report", "method": "POST"},
        "retryConfig": {"maxRetries": 3, "retryDelayMs": 1000, "exponentialBackoff": true},
        "tags": ["reports"]
    })
}

/// Beside a `$ref` OpenAPI 3.1 allows a description.
fn explain(property: &mut Value, text: &str) {
    let Some(property) = property.as_object_mut() else { return };
    property.insert("description".into(), json!(text));
    if text.starts_with("Output only") && !text.contains("compared") {
        property.insert("readOnly".into(), json!(true));
    }
}

/// An enum's comment, and those of its values.
fn enum_text(name: &str, comments: &Comments, enums: &[&EnumDescriptorProto]) -> Option<String> {
    let descriptor = enums.iter().find(|descriptor| descriptor.name() == name)?;
    let mut lines: Vec<String> = comments.get(name).map(ToOwned::to_owned).into_iter().collect();
    for value in &descriptor.value {
        if let Some(text) = comments.get(&format!("{name}.{}", value.name())) {
            lines.push(format!("- `{}`: {text}", json_name(descriptor, value.name())));
        }
    }
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// Services by the names of their methods, and whether a method answers with a stream.
fn methods<'a>(files: &[&'a FileDescriptorProto]) -> BTreeMap<&'a str, (&'a str, bool)> {
    let services = files.iter().flat_map(|file| &file.service);
    services.flat_map(|s| s.method.iter().map(move |m| (m.name(), (s.name(), m.server_streaming())))).collect()
}

fn describe(
    path: &str,
    method: &str,
    operation: &mut Value,
    services: &BTreeMap<&str, (&str, bool)>,
    comments: &Comments,
) {
    let rpc = operation.get("operationId").and_then(Value::as_str).unwrap_or_default().to_owned();
    let Some((service, streams)) = services.get(rpc.as_str()).copied() else { return };
    operation["tags"] = json!([tag(service)]);
    if let Some(text) = comments.get(&format!("{service}.{rpc}")) {
        let summary = text.split_once(". ").map_or(text, |(first, _)| first).replace('\n', " ");
        operation["summary"] = json!(summary.trim_end_matches('.'));
        operation["description"] = json!(text);
    }
    parameters(path, operation, &rpc, comments);
    let has_body = operation.get("requestBody").is_some();
    if has_body && !REQUIRED.iter().any(|(name, _)| *name == format!("{rpc}Request")) {
        operation["requestBody"]["required"] = json!(false);
    }
    if streams {
        streamed(operation);
    }
    responses(path, method, operation, has_body);
    if PUBLIC.contains(&path) || SIGNING_IN.contains(&path) {
        operation["security"] = json!([]);
    }
}

fn parameters(path: &str, operation: &mut Value, rpc: &str, comments: &Comments) {
    let mut parameters = operation.get("parameters").and_then(Value::as_array).cloned().unwrap_or_default();
    for parameter in &mut parameters {
        limits::of_parameter(path, parameter);
        let name = parameter.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        if let Some(text) = comments.get(&format!("{rpc}Request.{}", camel(&name))) {
            parameter["description"] = json!(text);
        } else if path.contains(&format!("{{{name}}}")) {
            parameter["description"] = json!("UUID.");
        }
    }
    let mut header = |name: &str, text: &str| {
        let schema = json!({"type": "string"});
        parameters
            .push(json!({"in": "header", "name": name, "required": false, "schema": schema, "description": text}));
    };
    if REPEATABLE.contains(&rpc) {
        header(
            "Idempotency-Key",
            "Repeating a call with the same key within 24 hours answers with what the first call made.",
        );
    }
    if rpc == "UpdateJob" {
        header(
            "If-Match",
            "The `ETag` of the job as it was read; the call fails with VERSION_CONFLICT where it has changed since.",
        );
    }
    if !parameters.is_empty() {
        operation["parameters"] = json!(parameters);
    }
}

/// What a stream answers, by the `Accept` header.
fn streamed(operation: &mut Value) {
    let Some(content) = operation.pointer_mut("/responses/200/content").and_then(Value::as_object_mut) else { return };
    let array = content.remove("application/json").unwrap_or_default();
    let item = array.pointer("/schema/items").or_else(|| array.pointer("/schema")).cloned().unwrap_or_default();
    content.insert("text/event-stream".into(), json!({"schema": item}));
    content.insert("application/x-ndjson".into(), json!({"schema": item}));
    content.insert("application/json".into(), json!({"schema": {"type": "array", "items": item}}));
    operation["responses"]["200"]["description"] =
        json!("A stream: events with `Accept: text/event-stream`, lines with `application/x-ndjson`, else one array.");
}

fn responses(path: &str, method: &str, operation: &mut Value, has_body: bool) {
    let is_public = PUBLIC.contains(&path);
    let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) else { return };
    let answer = responses.get("200").cloned().unwrap_or_default();
    responses.remove("default");
    let mut codes: BTreeSet<&str> = BTreeSet::new();
    if is_public {
        // The same body says what is not well.
        responses.insert("503".into(), answer);
    } else {
        codes.extend(["400", "401", "403", "429", "500", "503"]);
    }
    if path.contains('{') {
        codes.insert("404");
    }
    if method != "get" && !is_public {
        codes.insert("409");
    }
    if has_body {
        codes.insert("413");
    }
    for code in codes {
        responses.insert(code.into(), json!({"$ref": format!("#/components/responses/{code}")}));
    }
}

fn head(document: &mut Value, files: &[&FileDescriptorProto], comments: &Comments) {
    let services = files.iter().flat_map(|file| &file.service).filter(|service| service.name() != "AgentService");
    let mut tags: Vec<(String, &str)> =
        services.map(|s| (tag(s.name()), comments.get(s.name()).unwrap_or_default())).collect();
    tags.sort_by_key(|(name, _)| (name != "Jobs", name.clone()));
    let tags: Vec<Value> =
        tags.into_iter().map(|(name, description)| json!({"name": name, "description": description})).collect();
    document["tags"] = json!(tags);
    document["info"]["description"] = json!(
        "Distributed job scheduler. Every call is also a gRPC method of the same name. Instants are RFC 3339 in UTC, ids are UUIDs."
    );
    document["servers"] = json!([{"url": "/"}]);
    document["security"] = json!([{"bearer": []}, {"apiKey": []}]);
    document["components"]["securitySchemes"] = json!({
        "bearer": {"type": "http", "scheme": "bearer", "description": "An API key (`ork_...`) or a JSON Web Token."},
        "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"}
    });
    let error = |description: &str| {
        let schema = json!({"$ref": format!("{SCHEMAS}Error")});
        json!({"description": description, "content": {"application/json": {"schema": schema}}})
    };
    document["components"]["responses"] = json!({
        "400": error("The request is not valid: INVALID_ARGUMENT, INVALID_CRON_EXPRESSION, INVALID_JOB_CONFIG and others. `details.fields` names the fields."),
        "401": error("UNAUTHENTICATED: credentials are missing or not valid."),
        "403": error("PERMISSION_DENIED: the caller may not do this. ADDRESS_NOT_ALLOWED: not from where it calls."),
        "404": error("JOB_NOT_FOUND, EXECUTION_NOT_FOUND, WORKER_NOT_FOUND: nothing of the caller's tenant has this id."),
        "409": error("The state does not allow it: JOB_NAME_TAKEN, VERSION_CONFLICT, JOB_ALREADY_RUNNING, JOB_INACTIVE, LOCK_ACQUISITION_FAILED and others."),
        "413": error("PAYLOAD_TOO_LARGE."),
        "429": error("QUOTA_EXCEEDED: the tenant has as much as it may. RATE_LIMITED: too many calls; TOO_MANY_ATTEMPTS: too many wrong credentials; `Retry-After` says when to try again."),
        "500": error("INTERNAL_ERROR: a fault of the server."),
        "503": error("DATABASE_UNAVAILABLE: try again.")
    });
}

fn error_schema() -> Value {
    json!({
        "type": "object",
        "description": "What every failed call answers.",
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message", "details"],
                "properties": {
                    "code": {"type": "string", "description": "Stable.", "examples": ["INVALID_CRON_EXPRESSION"]},
                    "message": {"type": "string", "description": "What is wrong and how to mend it."},
                    "details": {
                        "type": "object",
                        "description": "More, by code. `fields` has a message and `codes` a code for each field that is wrong."
                    }
                }
            },
            "timestamp": {"type": "string", "format": "date-time"},
            "path": {"type": "string"}
        }
    })
}

fn tag(service: &str) -> String {
    match service.trim_end_matches("Service") {
        "Job" => "Jobs".into(),
        "Execution" => "Executions".into(),
        other => other.into(),
    }
}

/// `job_id` is `jobId` in JSON.
fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |camel, word| {
        let (initial, rest) = word.split_at(word.len().min(1));
        camel + &initial.to_uppercase() + rest
    })
}

fn object_mut<'a>(document: &'a mut Value, pointer: &str) -> &'a mut Map<String, Value> {
    static MISSING: &str = "the generated document has no such object";
    document.pointer_mut(pointer).and_then(Value::as_object_mut).unwrap_or_else(|| panic!("{MISSING}: {pointer}"))
}

fn object<'a>(document: &'a mut Value, pointer: &str) -> impl Iterator<Item = (&'a String, &'a mut Value)> {
    object_mut(document, pointer).iter_mut()
}
