//! What the OpenAPI document says of values beyond their types: their bounds, what must be sent, and what is always answered. The server
//! checks the same in `server/src/api`; a test sends it what lies just outside.

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto};
use serde_json::{Map, Value, json};

/// The fields of a definition, and of its retries, with their bounds.
fn of_field(name: &str) -> Option<Value> {
    Some(match name {
        "name" => json!({"minLength": 1, "maxLength": 200}),
        "description" => json!({"maxLength": 10_000}),
        "timeout" => json!({"minimum": 1, "maximum": 604_800}),
        "maxConcurrent" | "concurrencyLimit" | "misfireMaxCount" => json!({"minimum": 0, "maximum": 100_000}),
        "concurrencyKey" => json!({"maxLength": 200}),
        "priority" => json!({"minimum": -1000, "maximum": 1000}),
        "maxExecutions" => json!({"minimum": 1}),
        "intervalMs" => json!({"minimum": 100}),
        "misfireGraceSeconds" => json!({"minimum": 0, "maximum": 604_800}),
        "startDeadlineSeconds" => json!({"minimum": 1, "maximum": 31_622_400}),
        "misfireMaxLatenessSeconds" => json!({"minimum": 0, "maximum": 31_622_400}),
        "idempotencyKey" => json!({"maxLength": 200}),
        "maxRetries" => json!({"minimum": 0, "maximum": 100}),
        "retryDelayMs" | "maxRetryDelayMs" => json!({"minimum": 0, "maximum": 86_400_000}),
        "jobs" => json!({"minItems": 1, "maxItems": 1000}),
        "ttlSeconds" => json!({"minimum": 0, "maximum": 86_400}),
        "triggers" => json!({"minItems": 1, "maxItems": 10_000}),
        _ => return None,
    })
}

/// The bounds of the fields of requests; what is always there in answers.
pub(crate) fn of_schemas(schemas: &mut Map<String, Value>, files: &[&FileDescriptorProto]) {
    for (name, schema) in schemas {
        let is_sent = name.ends_with("Request") || name == "RetryConfig";
        if is_sent {
            schema["additionalProperties"] = json!(false);
            for (field, property) in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
                merge(property, of_field(field));
            }
        } else if let Some(message) = files.iter().flat_map(|f| &f.message_type).find(|m| m.name() == name) {
            let always: Vec<&str> = always(message).collect();
            if !always.is_empty() {
                schema["required"] = json!(always);
            }
        }
    }
}

/// The fields that an answer has whatever their value.
fn always(message: &DescriptorProto) -> impl Iterator<Item = &str> {
    let may_lack = |field: &FieldDescriptorProto| {
        let is_one = field.label() != Label::Repeated;
        // What an enum has not been set to is left out.
        field.proto3_optional() || (is_one && matches!(field.r#type(), Type::Message | Type::Enum))
    };
    message.field.iter().filter(move |field| !may_lack(field)).map(FieldDescriptorProto::json_name)
}

/// The bounds of a parameter in a path or a query. `path` is the call's.
pub(crate) fn of_parameter(path: &str, parameter: &mut Value) {
    let name = parameter.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let is_in_path = parameter.get("in").and_then(Value::as_str) == Some("path");
    let most = if path.ends_with("/logs") { 10_000 } else { 1000 };
    let bounds = match name.as_str() {
        "pageSize" | "count" => json!({"minimum": 0, "maximum": most}),
        "jobId" => json!({"format": "uuid"}),
        "expression" => {
            parameter["required"] = json!(true);
            json!({"minLength": 1})
        }
        // The name of a queue.
        "name" if is_in_path => json!({"minLength": 1, "maxLength": 100}),
        _ if is_in_path => json!({"format": "uuid"}),
        _ => return,
    };
    merge(&mut parameter["schema"], Some(bounds));
}

fn merge(into: &mut Value, more: Option<Value>) {
    if let (Some(into), Some(Value::Object(more))) = (into.as_object_mut(), more) {
        into.extend(more);
    }
}
