//! A client of the server, as `eventlogctl` needs it: blocking, one call.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use grpcio::{CallOption, ChannelBuilder, Client, Environment, Method, RpcStatusCode};

use crate::error::{Error, Result};

/// Calls a method of the server that listens on `socket`, over a connection of its
/// own.
pub fn call<Request, Reply>(
    socket: &Path,
    method: &Method<Request, Reply>,
    request: &Request,
    timeout: Duration,
) -> Result<Reply>
where
    Reply: Unpin,
{
    let channel = ChannelBuilder::new(environment())
        .use_local_subchannel_pool(true)
        .connect(&format!("unix:{}", socket.display()));
    let options = CallOption::default().timeout(timeout);
    Client::new(channel).unary_call(method, request, options).map_err(|error| match error {
        grpcio::Error::RpcFailure(status) if status.code() == RpcStatusCode::UNAVAILABLE => {
            // Where nobody listens, the operating system's words are better than
            // gRPC core's.
            match UnixStream::connect(socket) {
                Err(source) => Error::Connect { path: socket.to_owned(), source },
                Ok(_) => Error::Call { status },
            }
        }
        grpcio::Error::RpcFailure(status) => Error::Call { status },
        error => Error::CallFailed(error),
    })
}

/// The thread that drives calls, for as long as the process lives: gRPC core closes
/// a dropped channel's connection only while one runs.
fn environment() -> Arc<Environment> {
    static ENVIRONMENT: OnceLock<Arc<Environment>> = OnceLock::new();
    Arc::clone(ENVIRONMENT.get_or_init(|| Arc::new(Environment::new(1))))
}
