//! gRPC server reflection, v1 and v1alpha: one handler under two names.
//!
//! grpcurl up to 1.8.7 asks v1alpha alone; later ones ask v1 first.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::{SinkExt, TryStreamExt};
use grpcio::{
    DuplexSink, Method, RequestStream, RpcContext, RpcStatusCode, ServiceBuilder, WriteFlags,
};
use protobuf::descriptor::{DescriptorProto, FileDescriptorProto};
use protobuf::Message;

use crate::rpc;
use crate::rpc::reflection::server_reflection_request::Message_request as Asked;
use crate::rpc::reflection::server_reflection_response::Message_response as Answer;
use crate::rpc::reflection::{
    ErrorResponse, FileDescriptorResponse, ListServiceResponse, ServerReflectionRequest,
    ServerReflectionResponse, ServiceResponse,
};

/// What this server consists of, by name.
#[derive(Debug, Default)]
pub struct Reflection {
    services: Vec<String>,
    /// Files and the symbols that they declare → the serialized file.
    files: BTreeMap<String, Arc<[u8]>>,
    symbols: BTreeMap<String, Arc<[u8]>>,
}

impl Reflection {
    pub fn new() -> Self {
        let mut reflection = Reflection::default();
        for file in [
            rpc::eventlog::file_descriptor(),
            rpc::health::file_descriptor(),
            rpc::reflection::file_descriptor(),
            rpc::reflection_v1alpha::file_descriptor(),
        ] {
            reflection.add(file.proto());
        }
        reflection.services.sort();
        reflection
    }

    fn add(&mut self, file: &FileDescriptorProto) {
        let serialized: Arc<[u8]> = match file.write_to_bytes() {
            Ok(bytes) => bytes.into(),
            // Every required field was set by the compiler that made it.
            Err(error) => return log::error!("{}: {error}", file.name()),
        };
        let mut symbols = Vec::new();
        for service in &file.service {
            let name = qualified(file.package(), service.name());
            symbols.extend(service.method.iter().map(|method| qualified(&name, method.name())));
            self.services.push(name.clone());
            symbols.push(name);
        }
        for message in &file.message_type {
            add_message(&mut symbols, file.package(), message);
        }
        symbols.extend(file.enum_type.iter().map(|e| qualified(file.package(), e.name())));
        self.symbols.extend(symbols.into_iter().map(|symbol| (symbol, Arc::clone(&serialized))));
        self.files.insert(file.name().to_owned(), serialized);
    }

    fn answer(&self, request: &ServerReflectionRequest) -> Answer {
        match &request.message_request {
            Some(Asked::ListServices(_)) => Answer::ListServicesResponse(ListServiceResponse {
                service: self.services.iter().map(|name| service(name)).collect(),
                ..Default::default()
            }),
            Some(Asked::FileByFilename(name)) => found(self.files.get(name), "file"),
            Some(Asked::FileContainingSymbol(symbol)) => found(self.symbols.get(symbol), "symbol"),
            Some(Asked::FileContainingExtension(_) | Asked::AllExtensionNumbersOfType(_)) => {
                error(RpcStatusCode::NOT_FOUND, "there are no extensions")
            }
            None => error(RpcStatusCode::INVALID_ARGUMENT, "nothing is asked for"),
        }
    }

    pub fn register(self: Arc<Self>, builder: ServiceBuilder) -> ServiceBuilder {
        let builder = register(Arc::clone(&self), builder, &rpc::REFLECTION);
        register(self, builder, &rpc::REFLECTION_V1ALPHA)
    }
}

fn register(
    reflection: Arc<Reflection>,
    builder: ServiceBuilder,
    method: &Method<ServerReflectionRequest, ServerReflectionResponse>,
) -> ServiceBuilder {
    builder.add_duplex_streaming_handler(method, move |context, requests, sink| {
        converse(Arc::clone(&reflection), context, requests, sink);
    })
}

fn converse(
    reflection: Arc<Reflection>,
    context: RpcContext<'_>,
    mut requests: RequestStream<ServerReflectionRequest>,
    mut sink: DuplexSink<ServerReflectionResponse>,
) {
    context.spawn(async move {
        while let Ok(Some(request)) = requests.try_next().await {
            let response = ServerReflectionResponse {
                valid_host: request.host.clone(),
                message_response: Some(reflection.answer(&request)),
                original_request: Some(request).into(),
                ..Default::default()
            };
            if sink.send((response, WriteFlags::default())).await.is_err() {
                return;
            }
        }
        let _ = sink.close().await;
    });
}

fn add_message(symbols: &mut Vec<String>, scope: &str, message: &DescriptorProto) {
    let name = qualified(scope, message.name());
    symbols.extend(message.enum_type.iter().map(|e| qualified(&name, e.name())));
    for nested in &message.nested_type {
        add_message(symbols, &name, nested);
    }
    symbols.push(name);
}

fn qualified(scope: &str, name: &str) -> String {
    match scope {
        "" => name.to_owned(),
        _ => format!("{scope}.{name}"),
    }
}

fn service(name: &str) -> ServiceResponse {
    ServiceResponse { name: name.to_owned(), ..Default::default() }
}

fn found(file: Option<&Arc<[u8]>>, what: &str) -> Answer {
    match file {
        Some(file) => Answer::FileDescriptorResponse(FileDescriptorResponse {
            file_descriptor_proto: vec![file.to_vec()],
            ..Default::default()
        }),
        None => error(RpcStatusCode::NOT_FOUND, &format!("no such {what}")),
    }
}

fn error(code: RpcStatusCode, message: &str) -> Answer {
    Answer::ErrorResponse(ErrorResponse {
        error_code: code.into(),
        error_message: message.to_owned(),
        ..Default::default()
    })
}
