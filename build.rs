//! Compiles `proto/` once into everything that follows from it: messages, gRPC services, their proto3 JSON, the REST routes and the
//! OpenAPI document. Nothing else in the workspace describes the contract.

#[path = "build/calls.rs"]
mod calls;
#[path = "build/comments.rs"]
mod comments;
#[path = "build/json.rs"]
mod json;
#[path = "build/limits.rs"]
mod limits;
#[path = "build/openapi.rs"]
mod openapi;

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost_types::{EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};
use rest_over_grpc::build::{DescriptorOptions, Generator, OpenApiInfo, ServiceDefinition};

const PACKAGE: &str = ".orrery.v1";
const FILES: &[&str] = &[
    "orrery/v1/json.proto",
    "orrery/v1/job.proto",
    "orrery/v1/execution.proto",
    "orrery/v1/dead_letter.proto",
    "orrery/v1/scheduler.proto",
    "orrery/v1/enrolment.proto",
    "orrery/v1/secret.proto",
    "orrery/v1/agent.proto",
    "orrery/v1/audit.proto",
    "orrery/v1/auth.proto",
    "orrery/v1/key.proto",
    "orrery/v1/user.proto",
    "orrery/v1/tenant.proto",
    "orrery/v1/role.proto",
];
/// Messages that hold a secret. Their `Debug` is written by hand in `proto/secrets.rs`, without it.
const SECRET: &[&str] = &[
    ".orrery.v1.LoginRequest",
    ".orrery.v1.SignedIn",
    ".orrery.v1.RefreshRequest",
    ".orrery.v1.LogoutRequest",
    ".orrery.v1.ChangePasswordRequest",
    ".orrery.v1.CreateKeyResponse",
    ".orrery.v1.CreateUserRequest",
    ".orrery.v1.ResetPasswordRequest",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true);
    for file in FILES {
        compiler.open_file(file)?;
    }
    let encoded = compiler.encode_file_descriptor_set();
    let files = compiler.file_descriptor_set();
    fs::write(out.join("descriptors.bin"), &encoded)?;

    messages(files.clone())?;
    json_of_messages(&encoded, &files, &out)?;
    rest(&encoded, &files, &out)?;
    Ok(())
}

/// Messages and gRPC services. `Json` and `Timestamp` are written by hand in `proto/`, since their JSON is.
fn messages(files: FileDescriptorSet) -> Result<(), Box<dyn Error>> {
    tonic_prost_build::configure()
        .compile_well_known_types(true)
        .extern_path(".google.protobuf.Timestamp", "crate::Timestamp")
        .extern_path(".orrery.v1.Json", "crate::Json")
        .skip_debug(SECRET)
        .build_transport(true)
        .codec_path("crate::LeanCodec")
        // Written by hand in `proto/`, since theirs would show secrets.
        .skip_debug([".orrery.v1.PutSecretRequest", ".orrery.v1.Work", ".orrery.v1.Lease"])
        .compile_fds(files)?;
    Ok(())
}

/// The proto3 JSON of messages by pbjson, but for what the documented API writes otherwise.
fn json_of_messages(encoded: &[u8], files: &FileDescriptorSet, out: &Path) -> Result<(), Box<dyn Error>> {
    let enums: Vec<&EnumDescriptorProto> = own_files(files).flat_map(|file| &file.enum_type).collect();
    let excluded = enums.iter().map(|e| format!("{PACKAGE}.{}", e.name())).chain([format!("{PACKAGE}.Json")]);
    pbjson_build::Builder::new()
        .register_descriptors(encoded)?
        .exclude(excluded)
        .emit_fields()
        .extern_path(".google.protobuf.Timestamp", "crate::Timestamp")
        .extern_path(".orrery.v1.Json", "crate::Json")
        .build(&[PACKAGE])?;
    let path = out.join("orrery.v1.serde.rs");
    fs::write(&path, json::documented(&fs::read_to_string(&path)?))?;

    let mut source = String::new();
    for descriptor in enums {
        enum_serde(&mut source, descriptor)?;
    }
    fs::write(out.join("orrery.v1.enums.rs"), source)?;
    Ok(())
}

/// `JOB_STATUS_ACTIVE` of `JobStatus` is `"active"` in JSON.
fn json_name(descriptor: &EnumDescriptorProto, value: &str) -> String {
    let mut prefix = String::new();
    for c in descriptor.name().chars() {
        if c.is_ascii_uppercase() && !prefix.is_empty() {
            prefix.push('_');
        }
        prefix.push(c.to_ascii_uppercase());
    }
    prefix.push('_');
    let name = value.strip_prefix(&prefix).unwrap_or(value).to_ascii_lowercase();
    if descriptor.name() == "ErrorType" { name.to_ascii_uppercase() } else { name }
}

fn enum_serde(source: &mut String, descriptor: &EnumDescriptorProto) -> Result<(), Box<dyn Error>> {
    let values: Vec<(String, i32)> =
        descriptor.value.iter().map(|v| (json_name(descriptor, v.name()), v.number())).collect();
    writeln!(source, "enum_json!({}, [", descriptor.name())?;
    for (name, number) in values {
        writeln!(source, "    ({name:?}, {number}),")?;
    }
    writeln!(source, "]);")?;
    Ok(())
}

fn rest(encoded: &[u8], files: &FileDescriptorSet, out: &Path) -> Result<(), Box<dyn Error>> {
    let options = DescriptorOptions::new()
        .package(PACKAGE)
        .extern_path(".google.protobuf.Timestamp", "crate::Timestamp")
        .extern_path(".orrery.v1.Json", "crate::Json");
    let info = OpenApiInfo::new("Orrery", env!("CARGO_PKG_VERSION"));
    let services = ServiceDefinition::from_fds(encoded, &options)?;
    let names: Vec<String> = services.iter().map(|service| service.trait_name().to_owned()).collect();
    Generator::builder().emit_tonic_bridge(true).emit_openapi_spec(Some(info)).build().add_all(services).write(out)?;
    let transcoder = fs::read_to_string(out.join("transcoder.rest.rs"))?;
    fs::write(out.join("calls.rest.rs"), calls::source(&transcoder, &names)?)?;

    let path = fs::read_dir(out)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().ends_with(".openapi.json") && !path.ends_with("openapi.json"))
        .ok_or("the generator wrote no OpenAPI document")?;
    let own: Vec<&FileDescriptorProto> = own_files(files).collect();
    let document = openapi::served(serde_json::from_slice(&fs::read(path)?)?, &own);
    fs::write(out.join("openapi.json"), serde_json::to_vec_pretty(&document)?)?;
    Ok(())
}

fn own_files(files: &FileDescriptorSet) -> impl Iterator<Item = &FileDescriptorProto> {
    files.file.iter().filter(|file| file.package() == "orrery.v1")
}
