//! grpc.health.v1.Health: whether the server answers, until it drains.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use futures_util::{Sink, SinkExt};
use grpcio::{
    RpcContext, RpcStatus, RpcStatusCode, ServerStreamingSink, ServiceBuilder, WriteFlags,
};

use crate::rpc::health::health_check_response::ServingStatus;
use crate::rpc::health::{HealthCheckRequest, HealthCheckResponse};
use crate::rpc::{HEALTH_CHECK, HEALTH_WATCH};

/// The services that can be asked for; the empty name is the server as a whole.
const SERVICES: [&str; 2] = ["", "Eventlog"];

/// Serving from the start; draining once and for good.
#[derive(Debug, Default)]
pub struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    draining: bool,
    /// Who waits for the drain, each under a number of its own.
    watchers: HashMap<u64, Waker>,
    next: u64,
}

impl Health {
    /// Tells everybody who asks or watches that the server no longer serves.
    pub fn drain(&self) {
        let watchers = {
            let mut state = self.state();
            state.draining = true;
            std::mem::take(&mut state.watchers)
        };
        for (_, watcher) in watchers {
            watcher.wake();
        }
    }

    /// How many calls of Watch are under way.
    pub fn watchers(&self) -> usize {
        self.state().watchers.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self, service: &str) -> ServingStatus {
        match (SERVICES.contains(&service), self.state().draining) {
            (false, _) => ServingStatus::SERVICE_UNKNOWN,
            (true, false) => ServingStatus::SERVING,
            (true, true) => ServingStatus::NOT_SERVING,
        }
    }

    pub fn register(self: Arc<Self>, builder: ServiceBuilder) -> ServiceBuilder {
        let health = Arc::clone(&self);
        builder
            .add_unary_handler(&HEALTH_CHECK, move |context, request: HealthCheckRequest, sink| {
                let sent = match self.status(&request.service) {
                    ServingStatus::SERVICE_UNKNOWN => sink.fail(RpcStatus::with_message(
                        RpcStatusCode::NOT_FOUND,
                        format!("unknown service; known are {SERVICES:?}"),
                    )),
                    status => sink.success(response(status)),
                };
                context.spawn(async move {
                    let _ = sent.await;
                });
            })
            .add_server_streaming_handler(&HEALTH_WATCH, move |context, request, sink| {
                watch(Arc::clone(&health), context, request, sink);
            })
    }
}

/// Sends the status now and when the drain begins, which is the only change there
/// is, and then ends the call: a call without end would hold up the shutdown.
fn watch(
    health: Arc<Health>,
    context: RpcContext<'_>,
    request: HealthCheckRequest,
    mut sink: ServerStreamingSink<HealthCheckResponse>,
) {
    context.spawn(async move {
        let mut last = health.status(&request.service);
        if sink.send((response(last), WriteFlags::default())).await.is_err() {
            return;
        }
        if Watching::new(&health).until_drain(&mut sink).await.is_err() {
            return;
        }
        let now = health.status(&request.service);
        if std::mem::replace(&mut last, now) != now {
            let _ = sink.send((response(now), WriteFlags::default())).await;
        }
        let _ = sink.close().await;
    });
}

/// A place among the watchers, given back when the call ends.
struct Watching<'h> {
    health: &'h Health,
    number: u64,
}

impl<'h> Watching<'h> {
    fn new(health: &'h Health) -> Self {
        let mut state = health.state();
        let number = state.next;
        state.next = state.next.wrapping_add(1);
        Watching { health, number }
    }

    /// Waits for the drain, or for the client to go away: polling the sink is what
    /// learns of that.
    async fn until_drain(
        &self,
        sink: &mut ServerStreamingSink<HealthCheckResponse>,
    ) -> grpcio::Result<()> {
        poll_fn(|context| {
            {
                let mut state = self.health.state();
                if state.draining {
                    return Poll::Ready(Ok(()));
                }
                state.watchers.insert(self.number, context.waker().clone());
            }
            match Pin::new(&mut *sink).poll_flush(context) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
            }
        })
        .await
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.health.state().watchers.remove(&self.number);
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into(), ..Default::default() }
}
