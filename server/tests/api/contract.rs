//! The calls of the contract, and what each needs: by gRPC and by REST. One that is added is in all tests that go over them.

use std::collections::BTreeMap;

use orrery_proto::{DESCRIPTORS, OPENAPI};
use orrery_server::auth::{CALLS, Needs};
use prost_reflect::DescriptorPool;
use reqwest::Method;
use serde_json::Value;
use uuid::Uuid;

use crate::world::{Answer, World};

/// One call over one of its ways.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    /// `Service/Method`.
    pub(crate) call: String,
    pub(crate) needs: Needs,
    /// A path of REST, or of gRPC.
    pub(crate) path: String,
    /// `None`: gRPC.
    pub(crate) method: Option<Method>,
}

/// Every way of every call: all methods of all services, and all paths of all of those that REST has.
pub(crate) fn ways() -> Vec<Way> {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let services = pool.services().filter(|service| service.package_name() == "orrery.v1");
    let methods: Vec<_> = services.flat_map(|service| service.methods().collect::<Vec<_>>()).collect();
    let mut ways: Vec<Way> = methods
        .iter()
        .map(|method| {
            let call = format!("{}/{}", method.parent_service().name(), method.name());
            Way { needs: needs(&call), path: format!("/orrery.v1.{call}"), call, method: None }
        })
        .collect();
    let calls: BTreeMap<String, String> =
        ways.iter().map(|way| (way.call.split_once('/').unwrap().1.to_owned(), way.call.clone())).collect();
    assert_eq!(calls.len(), methods.len(), "two methods have one name, so that their routes cannot be told apart");
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            // A second path of a method has a number behind its name.
            let id = operation["operationId"].as_str().unwrap();
            let rpc = id.split('_').next().unwrap();
            let call = calls[rpc].clone();
            let method = Some(method.to_uppercase().parse().unwrap());
            ways.push(Way { needs: needs(&call), path: path.clone(), call, method });
        }
    }
    assert!(methods.len() > 60 && ways.len() > methods.len() + 50, "{} ways of {} calls", ways.len(), methods.len());
    ways
}

fn needs(call: &str) -> Needs {
    let (service, method) = call.split_once('/').unwrap();
    let calls = CALLS.iter().find(|(name, _)| *name == service).map(|(_, calls)| *calls).unwrap_or_default();
    let found = calls.iter().find(|(name, _)| *name == method);
    found.unwrap_or_else(|| panic!("{call} is not in the table of calls")).1
}

/// What a call was answered with: its HTTP status, or the status of gRPC, with the error's message.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) code: String,
    pub(crate) message: String,
}

impl Way {
    /// Makes the call with nothing in it but ids of nothing.
    pub(crate) async fn make(&self, world: &World, grpc: &reqwest::Client, bearer: Option<&str>) -> Told {
        let with = |request: reqwest::RequestBuilder| match bearer {
            Some(bearer) => request.bearer_auth(bearer),
            None => request,
        };
        let Some(method) = &self.method else { return self.make_grpc(with, world, grpc).await };
        let mut request = with(world.client.request(method.clone(), world.url(&self.filled())));
        if *method != Method::GET {
            request = request.body("{}");
        }
        let Answer { status, text, .. } = world.send(request).await;
        let body: Value = serde_json::from_str(&text).unwrap_or_default();
        let of = |name: &str| body["error"][name].as_str().unwrap_or_default().to_owned();
        Told { code: format!("{status} {}", of("code")).trim().to_owned(), message: of("message") }
    }

    async fn make_grpc(
        &self,
        with: impl Fn(reqwest::RequestBuilder) -> reqwest::RequestBuilder,
        world: &World,
        grpc: &reqwest::Client,
    ) -> Told {
        // One empty message. What streams is refused before its first one.
        let request = grpc.post(format!("http://{}{}", world.grpc, self.path));
        let request = with(request).header("content-type", "application/grpc").header("te", "trailers");
        let answer = request.body(vec![0; 5]).send().await.unwrap();
        // Where it went well, and where a stream has begun, the status comes behind the answer.
        match tonic::Status::from_header_map(answer.headers()) {
            None => Told { code: "OK".to_owned(), message: String::new() },
            Some(status) => {
                let error = orrery_sdk::Error::from(status.clone());
                let message = status.message().to_owned();
                Told { code: format!("{:?} {}", status.code(), error.code()).trim().to_owned(), message }
            }
        }
    }

    /// The path with ids in the place of its variables.
    fn filled(&self) -> String {
        let part = |part: &str| if part.starts_with('{') { Uuid::new_v4().to_string() } else { part.to_owned() };
        self.path.split('/').map(part).collect::<Vec<_>>().join("/")
    }

    pub(crate) fn name(&self) -> String {
        match &self.method {
            Some(method) => format!("{} ({method} {})", self.call, self.path),
            None => format!("{} (gRPC)", self.call),
        }
    }
}

/// A client of plain gRPC.
pub(crate) fn grpc() -> reqwest::Client {
    reqwest::Client::builder().http2_prior_knowledge().build().unwrap()
}
