//! A client of the server, as `eventlogctl` needs it: blocking, one call.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use grpcio::{CallOption, ChannelBuilder, Client, Environment, Method};

use crate::error::{Error, Result};

/// Calls a method of the server that listens on `socket`.
///
/// Whether anybody listens is tried first, since the operating system's own words
/// for it are better than those of a failed call.
pub fn call<Request, Reply>(
    socket: &Path,
    method: &Method<Request, Reply>,
    request: &Request,
    timeout: Duration,
) -> Result<Reply>
where
    Reply: Unpin,
{
    let connect = |source| Error::Connect { path: socket.to_owned(), source };
    UnixStream::connect(socket).map_err(connect)?;
    let channel = ChannelBuilder::new(Arc::new(Environment::new(1)))
        .connect(&format!("unix:{}", socket.display()));
    let options = CallOption::default().timeout(timeout);
    Client::new(channel).unary_call(method, request, options).map_err(|error| match error {
        grpcio::Error::RpcFailure(status) => Error::Call { status },
        error => Error::CallFailed(error),
    })
}
