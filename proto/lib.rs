//! The contract of Orrery. Everything here but [`Json`] and [`Timestamp`] is generated from `proto/` by `build.rs`.

mod codec;
mod debug;
mod json;
mod number;
mod secrets;
mod timestamp;

pub use codec::LeanCodec;
pub use json::Json;
pub use timestamp::Timestamp;

/// Messages and services of `orrery.v1`, with their JSON and REST routes.
#[allow(clippy::all, clippy::expect_used, clippy::unwrap_used, clippy::large_futures, unreachable_pub)]
pub mod v1 {
    use crate::enum_json::enum_json;

    include!(concat!(env!("OUT_DIR"), "/orrery.v1.rs"));
    include!(concat!(env!("OUT_DIR"), "/orrery.v1.serde.rs"));
    include!(concat!(env!("OUT_DIR"), "/orrery.v1.enums.rs"));
    include!(concat!(env!("OUT_DIR"), "/orrery.v1.rest.rs"));
}

/// Turns REST requests into calls of the services in [`v1`].
#[allow(clippy::all, rustdoc::redundant_explicit_links, unreachable_pub)]
pub mod rest {
    mod orrery {
        pub(super) use crate::v1;
    }
    include!(concat!(env!("OUT_DIR"), "/transcoder.rest.rs"));
    include!(concat!(env!("OUT_DIR"), "/calls.rest.rs"));
}

mod enum_json;

/// The encoded `FileDescriptorSet` of the contract, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The OpenAPI 3.1 document of the REST API, as JSON text.
pub const OPENAPI: &str = include_str!(concat!(env!("OUT_DIR"), "/openapi.json"));
