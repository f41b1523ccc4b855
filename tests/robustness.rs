//! A server that bears bugs of its own and clients of any kind.

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ccnp_eventlog::client::call;
use ccnp_eventlog::error::{Error, Result};
use ccnp_eventlog::rpc::eventlog::GetEventlogRequest;
use ccnp_eventlog::rpc::reflection::server_reflection_request::Message_request;
use ccnp_eventlog::rpc::reflection::ServerReflectionRequest;
use ccnp_eventlog::rpc::{GET_EVENTLOG, REFLECTION};
use ccnp_eventlog::server::service::{answer, reply};
use common::server::{Server, PATIENCE, TDX};
use grpcio::{
    CallOption, ChannelBuilder, Client, Environment, RpcStatusCode as Code, ServerBuilder,
    ServerCredentials, ServiceBuilder, WriteFlags,
};

/// The way a handler's outcome takes, with a handler that panics: the client is
/// told, and the next call is answered.
#[test]
fn a_handler_that_panics_answers_internal_and_the_server_lives() {
    let folder = tempfile::TempDir::new().unwrap();
    let socket = folder.path().join("socket");
    let environment = Arc::new(Environment::new(1));
    let service = ServiceBuilder::new()
        .add_unary_handler(&GET_EVENTLOG, |context, request: GetEventlogRequest, sink| {
            let outcome: Result<_> = answer(|| {
                assert!(request.count > 0, "this is the bug");
                Ok(Default::default())
            });
            reply(&context, sink, outcome);
        })
        .build();
    let mut server = ServerBuilder::new(environment).register_service(service).build().unwrap();
    let address = format!("unix:{}", socket.display());
    server.add_listening_port(address, ServerCredentials::insecure()).unwrap();
    server.start();
    let with_count = |count| {
        let request = GetEventlogRequest { count, ..Default::default() };
        call(&socket, &GET_EVENTLOG, &request, PATIENCE)
    };
    for _ in 0..3 {
        match with_count(0) {
            Err(Error::Call { status }) => assert_eq!(status.code(), Code::INTERNAL),
            other => panic!("{other:?}"),
        }
        assert!(with_count(1).is_ok());
    }
}

fn open_descriptors(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count()
}

/// Connections that say nothing, nonsense, or half a sentence, and go.
#[test]
fn clients_that_do_not_speak_grpc_do_no_harm() {
    let server = Server::start(&[]);
    server.get(TDX, 1, 1).unwrap();
    server.until("the first client is gone", || open_descriptors(&server) <= 16);
    let before = open_descriptors(&server);
    for words in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM", &[0xff; 4096]] {
        for _ in 0..50 {
            let mut stream = UnixStream::connect(server.socket()).unwrap();
            // It may be cut off before all is said.
            let _ = stream.write_all(words);
        }
    }
    assert!(server.get(TDX, 1, 1).is_ok());
    server.until("no descriptor is left over", || open_descriptors(&server) <= before);
}

/// gRPC core ends a connection that talks nonsense, though we hold a duplicate.
#[test]
fn a_connection_that_talks_nonsense_is_ended() {
    let server = Server::start(&[]);
    let mut stream = UnixStream::connect(server.socket()).unwrap();
    stream.write_all(&[b'x'; 64]).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the end of the connection");
}

#[test]
fn a_request_beyond_the_limit_is_refused() {
    let server = Server::start(&[]);
    let channel = ChannelBuilder::new(Arc::new(Environment::new(1)))
        .connect(&format!("unix:{}", server.socket().display()));
    let client = Client::new(channel);
    let (mut sink, mut replies) =
        client.duplex_streaming(&REFLECTION, CallOption::default()).unwrap();
    let request = ServerReflectionRequest {
        message_request: Some(Message_request::FileByFilename("x".repeat(1 << 20))),
        ..Default::default()
    };
    use futures_util::{SinkExt, StreamExt};
    let status = futures_executor::block_on(async {
        let _ = sink.send((request, WriteFlags::default())).await;
        replies.next().await
    });
    match status {
        Some(Err(grpcio::Error::RpcFailure(status))) => {
            assert_eq!(status.code(), Code::RESOURCE_EXHAUSTED);
        }
        other => panic!("{other:?}"),
    }
    assert!(server.get(TDX, 1, 1).is_ok());
}

/// Of more calls than one connection may have under way, the rest wait.
#[test]
fn calls_at_once_on_one_connection_are_limited() {
    use ccnp_eventlog::rpc::health::HealthCheckRequest;
    use ccnp_eventlog::rpc::HEALTH_WATCH;
    use futures_util::{FutureExt, StreamExt};
    let server = Server::start(&[]);
    let channel = ChannelBuilder::new(Arc::new(Environment::new(1)))
        .use_local_subchannel_pool(true)
        .connect(&format!("unix:{}", server.socket().display()));
    let client = Client::new(channel);
    let watch = |_| {
        let request = HealthCheckRequest::new();
        client.server_streaming(&HEALTH_WATCH, &request, CallOption::default()).unwrap()
    };
    let mut watches: Vec<_> = (0..130).map(watch).collect();
    let mut answered = 0;
    let mut look = || {
        answered += watches.iter_mut().filter_map(|w| w.next().now_or_never()).count();
        answered
    };
    server.until("as many as may are answered", || look() >= 100);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(look(), 100);
}

/// Out of descriptors, the server neither spins nor dies, and goes on when it has
/// some again.
#[test]
fn running_out_of_descriptors_is_borne() {
    let mut server = Server::stopped();
    let prepared = server.command(&[]);
    let mut shell = std::process::Command::new("sh");
    shell.arg("-c").arg(r#"ulimit -n 40; exec "$0""#).arg(common::server::SERVER);
    shell.env_clear().envs(prepared.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let log = std::fs::File::create(server.path("log")).unwrap();
    server.adopt(shell.stderr(log).spawn().unwrap());
    server.until("the server answers", || server.get(TDX, 1, 1).is_ok());
    let held: Vec<_> = (0..60).map(|_| UnixStream::connect(server.socket()).unwrap()).collect();
    // In accept, or in the duplicate that is watched: an odd or even number decides it.
    server.until("it has run out", || server.log().contains("Too many open files"));
    let ticks = |server: &Server| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = ticks(&server);
    std::thread::sleep(Duration::from_secs(2));
    // A loop that spins uses some two hundred ticks of a hundredth of a second.
    assert!(ticks(&server) - before < 50, "{} ticks", ticks(&server) - before);
    drop(held);
    server.until("the server answers again", || server.get(TDX, 1, 1).is_ok());
}

/// Watchers that come and go leave nothing behind.
#[test]
fn health_watchers_that_go_away_are_forgotten() {
    use ccnp_eventlog::rpc::health::HealthCheckRequest;
    use ccnp_eventlog::rpc::HEALTH_WATCH;
    use ccnp_eventlog::server::health::Health;
    use futures_util::StreamExt;
    let folder = tempfile::TempDir::new().unwrap();
    let address = format!("unix:{}", folder.path().join("socket").display());
    let health = Arc::new(Health::default());
    let service = Arc::clone(&health).register(ServiceBuilder::new()).build();
    let mut server = ServerBuilder::new(Arc::new(Environment::new(1)))
        .register_service(service)
        .build()
        .unwrap();
    server.add_listening_port(&address, ServerCredentials::insecure()).unwrap();
    server.start();
    let channel = ChannelBuilder::new(Arc::new(Environment::new(1))).connect(&address);
    let client = Client::new(channel);
    let watch = || {
        let request = HealthCheckRequest::new();
        let mut updates =
            client.server_streaming(&HEALTH_WATCH, &request, CallOption::default()).unwrap();
        assert!(futures_executor::block_on(updates.next()).unwrap().is_ok());
        updates
    };
    let wait_for = |watchers: usize| {
        let begin = Instant::now();
        while health.watchers() != watchers {
            assert!(begin.elapsed() < PATIENCE, "{} watchers", health.watchers());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let held: Vec<_> = (0..20).map(|_| watch()).collect();
    wait_for(20);
    drop(held);
    wait_for(0);
}
