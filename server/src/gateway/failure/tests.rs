use super::*;
use crate::error::{Error, Kind};

fn call(target: &str, body: &str) -> Call {
    Call { method: Method::GET, uri: target.parse().unwrap(), body: Bytes::copy_from_slice(body.as_bytes()) }
}

#[test]
fn an_error_survives_its_way_through_a_status() {
    let mut error = Error::field("INVALID_TIMEZONE", "timezone", "is not: known").with("x", 5);
    error.kind = Kind::Invalid;
    let status = Status::from(error.clone());
    let written = Written {
        code: status.code() as i32,
        message: status.message().to_owned(),
        details: vec![rest_over_grpc::codegen_helpers::grpc_status_details(status.details())],
    };
    assert_eq!(super::error(&written, &call("/", "")), Told::from(error));
}

#[test]
fn the_field_that_cannot_be_read_is_named() {
    let body = "{\"name\": \"x\",\n \"maxConcurrent\": \"many\"}";
    let told = unreadable(
        "request did not match the expected message: invalid type: string \"many\", expected i32 at line 2 column 25",
        &call("/", body),
    );
    assert_eq!(told.code, "INVALID_ARGUMENT");
    assert_eq!(told.fields[0].field, "maxConcurrent");
    assert!(told.message.contains("line 2"), "{}", told.message);
}

#[test]
fn an_unknown_field_is_named_with_those_that_are_known() {
    let told = unreadable(
        "request did not match the expected message: unknown field `nmae`, expected one of `name`, `cron_expression`, `cronExpression` at line 1 column 7",
        &call("/", "{\"nmae\": 1}"),
    );
    assert_eq!(told.fields[0].field, "nmae");
    assert_eq!(told.fields[0].message, "unknown field `nmae` at line 1 column 7; known are name, cronExpression");
}

#[test]
fn broken_json_says_where() {
    let told = unreadable("invalid request body JSON: expected value at line 1 column 2", &call("/", "{x"));
    assert_eq!(told.message, "the body is not JSON: expected value at line 1 column 2");
}

#[test]
fn an_error_without_our_code_stays_inside() {
    let written = Written { code: Code::Internal as i32, message: "SELECT ...".into(), details: vec![] };
    let told = super::error(&written, &call("/", ""));
    assert_eq!(told.code, "INTERNAL_ERROR");
    assert!(!told.message.contains("SELECT"));
}
