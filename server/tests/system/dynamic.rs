use std::collections::{BTreeSet, HashSet};

use http::uri::PathAndQuery;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

/// A client that knows nothing but what the server tells of itself, or what the contract says.
#[derive(Clone)]
pub(crate) struct DynamicClient {
    channel: Channel,
    pool: DescriptorPool,
    bearer: Option<String>,
}

impl DynamicClient {
    /// Asks the server for its services and all that they are made of.
    pub(crate) async fn reflect(address: &str) -> Self {
        let channel = Channel::from_shared(address.to_owned()).unwrap().connect().await.unwrap();
        let mut reflection = ServerReflectionClient::new(channel.clone());
        let list = ask(&mut reflection, MessageRequest::ListServices(String::new())).await;
        let Some(MessageResponse::ListServicesResponse(list)) = list.message_response else { panic!("{list:?}") };
        let mut files = HashSet::new();
        let mut pool = DescriptorPool::new();
        for service in list.service {
            let answer = ask(&mut reflection, MessageRequest::FileContainingSymbol(service.name)).await;
            add(&mut reflection, &mut pool, &mut files, answer).await;
        }
        Self { channel, pool, bearer: None }
    }

    /// A client of all that the contract holds.
    pub(crate) async fn described(address: &str, bearer: String) -> Self {
        let channel = Channel::from_shared(address.to_owned()).unwrap().connect().await.unwrap();
        let pool = DescriptorPool::decode(orrery_proto::DESCRIPTORS).unwrap();
        Self { channel, pool, bearer: Some(bearer) }
    }

    /// The same for another caller.
    pub(crate) fn with(&self, bearer: String) -> Self {
        Self { bearer: Some(bearer), ..self.clone() }
    }

    pub(crate) fn pool(&self) -> &DescriptorPool {
        &self.pool
    }

    /// The methods of Orrery's services, but those that only agents call.
    pub(crate) fn methods(&self) -> BTreeSet<String> {
        let ours = self.pool.services().filter(|s| s.package_name() == "orrery.v1" && s.name() != "AgentService");
        ours.flat_map(|s| s.methods().map(|m| m.name().to_owned()).collect::<Vec<_>>()).collect()
    }

    /// Calls a method with a request in text format. All that it answers; a stream is read to its end.
    pub(crate) async fn call(&self, method: &str, request: &str) -> Result<Vec<DynamicMessage>, Status> {
        let method = self.pool.services().flat_map(|s| s.methods().collect::<Vec<_>>()).find(|m| m.name() == method);
        let method = method.unwrap();
        let message = DynamicMessage::parse_text_format(method.input(), request).unwrap();
        self.call_with(&method, message).await
    }

    /// The same with a message.
    pub(crate) async fn call_with(
        &self,
        method: &MethodDescriptor,
        message: DynamicMessage,
    ) -> Result<Vec<DynamicMessage>, Status> {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.unwrap();
        let path: PathAndQuery = path(method).parse().unwrap();
        let codec = DynamicCodec(method.output());
        let mut request = Request::new(message);
        if let Some(bearer) = &self.bearer {
            request.metadata_mut().insert("authorization", format!("Bearer {bearer}").parse().unwrap());
        }
        if !method.is_server_streaming() {
            return Ok(vec![grpc.unary(request, path, codec).await?.into_inner()]);
        }
        let mut stream = grpc.server_streaming(request, path, codec).await?.into_inner();
        let mut all = Vec::new();
        while let Some(message) = stream.message().await? {
            all.push(message);
        }
        Ok(all)
    }
}

/// The `code` of the error's details, as the documentation names it.
pub(crate) fn code_of(status: &Status) -> String {
    orrery_sdk::Error::from(status.clone()).code().to_owned()
}

/// The text of a field.
pub(crate) fn text(message: &DynamicMessage, field: &str) -> String {
    message.get_field_by_name(field).unwrap().as_str().unwrap().to_owned()
}

fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

type Reflection = ServerReflectionClient<Channel>;

async fn ask(reflection: &mut Reflection, message: MessageRequest) -> ServerReflectionResponse {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    let answers = reflection.server_reflection_info(tokio_stream::once(request)).await.unwrap();
    answers.into_inner().message().await.unwrap().unwrap()
}

/// Adds the files of an answer, after those that they import.
async fn add(
    reflection: &mut Reflection,
    pool: &mut DescriptorPool,
    known: &mut HashSet<String>,
    answer: ServerReflectionResponse,
) {
    let Some(MessageResponse::FileDescriptorResponse(found)) = answer.message_response else { panic!("{answer:?}") };
    for bytes in found.file_descriptor_proto {
        let file = prost_reflect::prost_types::FileDescriptorProto::decode(bytes.as_slice()).unwrap();
        if !known.insert(file.name().to_owned()) {
            continue;
        }
        for import in &file.dependency {
            let answer = ask(reflection, MessageRequest::FileByFilename(import.clone())).await;
            Box::pin(add(reflection, pool, known, answer)).await;
        }
        pool.decode_file_descriptor_proto(bytes.as_slice()).unwrap();
    }
}

/// Reads answers by their descriptor.
#[derive(Clone)]
struct DynamicCodec(MessageDescriptor);

impl Codec for DynamicCodec {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for DynamicCodec {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, message: DynamicMessage, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.encode(to).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for DynamicCodec {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        let message = DynamicMessage::decode(self.0.clone(), from);
        message.map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
