//! The gRPC methods and the messages that they carry.

use grpcio::{Marshaller, Method, MethodType};
use protobuf::Message;

pub use crate::messages::{eventlog, health, reflection, reflection_v1alpha};
use eventlog::{GetEventlogReply, GetEventlogRequest};
use health::{HealthCheckRequest, HealthCheckResponse};
use reflection::{ServerReflectionRequest, ServerReflectionResponse};

const fn method<Request, Reply>(ty: MethodType, name: &'static str) -> Method<Request, Reply>
where
    Request: Message,
    Reply: Message,
{
    Method {
        ty,
        name,
        req_mar: Marshaller { ser: grpcio::pb_ser, de: grpcio::pb_de },
        resp_mar: Marshaller { ser: grpcio::pb_ser, de: grpcio::pb_de },
    }
}

pub const GET_EVENTLOG: Method<GetEventlogRequest, GetEventlogReply> =
    method(MethodType::Unary, "/Eventlog/GetEventlog");

pub const HEALTH_CHECK: Method<HealthCheckRequest, HealthCheckResponse> =
    method(MethodType::Unary, "/grpc.health.v1.Health/Check");

pub const HEALTH_WATCH: Method<HealthCheckRequest, HealthCheckResponse> =
    method(MethodType::ServerStreaming, "/grpc.health.v1.Health/Watch");

pub const REFLECTION: Method<ServerReflectionRequest, ServerReflectionResponse> =
    method(MethodType::Duplex, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");

/// The same messages on the wire under the name that older clients call.
pub const REFLECTION_V1ALPHA: Method<ServerReflectionRequest, ServerReflectionResponse> =
    method(MethodType::Duplex, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo");
