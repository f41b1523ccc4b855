//! A warm GetEventlog against a health check of the same server, in one run.
//!
//! Machines are noisy, so what counts is the ratio: the two are called in turn, a
//! slice of time each, and each pair of slices gives one ratio. The median is the
//! result. `cargo bench --bench warm`

#[path = "../tests/common/mod.rs"]
mod common;

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ccnp_eventlog::rpc::health::HealthCheckRequest;
use ccnp_eventlog::rpc::{GET_EVENTLOG, HEALTH_CHECK};
use common::server::{request, Server, TDX};
use grpcio::{CallOption, ChannelBuilder, Client, Environment};

const SLICE: Duration = Duration::from_millis(500);
const PAIRS: usize = 9;

#[derive(Clone, Copy)]
enum Call {
    Health,
    GetEventlog,
}

fn main() {
    let server = Server::start(&[]);
    println!("connections  health/s  GetEventlog/s  ratio (median of {PAIRS} pairs)");
    for connections in [1, 16, 64] {
        let clients = connect(&server.socket(), connections);
        run(&clients, Call::GetEventlog);
        let mut pairs: Vec<(f64, f64)> = (0..PAIRS)
            .map(|_| (run(&clients, Call::Health), run(&clients, Call::GetEventlog)))
            .collect();
        pairs.sort_by(|a, b| (a.1 / a.0).total_cmp(&(b.1 / b.0)));
        let (health, get) = pairs[PAIRS / 2];
        println!("{connections:>11}  {health:>8.0}  {get:>13.0}  {:.2}", get / health);
    }
}

fn connect(socket: &Path, connections: usize) -> Vec<Client> {
    let environment = Arc::new(Environment::new(1));
    let client = |_| {
        let channel = ChannelBuilder::new(Arc::clone(&environment))
            .use_local_subchannel_pool(true)
            .connect(&format!("unix:{}", socket.display()));
        Client::new(channel)
    };
    (0..connections).map(client).collect()
}

/// Calls per second, each client calling as fast as it is answered.
fn run(clients: &[Client], call: Call) -> f64 {
    let begin = Instant::now();
    let calls: u32 = thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter()
            .map(|client| {
                scope.spawn(move || {
                    let mut calls = 0;
                    while begin.elapsed() < SLICE {
                        make(client, call);
                        calls += 1;
                    }
                    calls
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    f64::from(calls) / begin.elapsed().as_secs_f64()
}

fn make(client: &Client, call: Call) {
    let options = CallOption::default();
    match call {
        Call::Health => {
            client.unary_call(&HEALTH_CHECK, &HealthCheckRequest::new(), options).map(drop)
        }
        Call::GetEventlog => {
            client.unary_call(&GET_EVENTLOG, &request(TDX, 2, 5), options).map(drop)
        }
    }
    .unwrap();
}
