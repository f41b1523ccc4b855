//! From start to stop: signals, restarts, systemd's notifications.

mod common;

use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ccnp_eventlog::client::call;
use ccnp_eventlog::error::Error;
use ccnp_eventlog::rpc::health::health_check_response::ServingStatus;
use ccnp_eventlog::rpc::health::HealthCheckRequest;
use ccnp_eventlog::rpc::{GET_EVENTLOG, HEALTH_WATCH};
use common::server::{activated, get, request, Server, PATIENCE, TDX};
use grpcio::{CallOption, ChannelBuilder, Client, Environment};
use nix::sys::signal::Signal;

/// A socket that stands for systemd's /run/systemd/notify.
struct Notifications {
    socket: UnixDatagram,
    path: String,
}

impl Notifications {
    fn listen(server: &Server) -> Notifications {
        let path = server.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Notifications { socket, path: path.to_str().unwrap().to_owned() }
    }

    /// The next message that contains `words`.
    fn next(&self, words: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            let length = self.socket.recv(&mut buffer).unwrap_or_else(|e| panic!("{words}: {e}"));
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if message.contains(words) {
                return message;
            }
        }
    }
}

#[test]
fn systemd_is_told_the_truth() {
    let mut server = Server::stopped();
    let notifications = Notifications::listen(&server);
    let mut command = server.command(&[]);
    command.env("NOTIFY_SOCKET", &notifications.path).env("WATCHDOG_USEC", "400000");
    server.adopt(command.spawn().unwrap());
    let ready = notifications.next("READY=1");
    assert!(
        ready.contains("STATUS=Serving: TDX 26 events, TPM 24 events, container none; "),
        "{ready}"
    );
    assert!(server.get(TDX, 0, 0).is_ok(), "ready means that it answers");
    for _ in 0..3 {
        notifications.next("WATCHDOG=1");
    }
    notifications.next("1 accepted, 0 refused; calls answered: 1");
    server.signal(Signal::SIGTERM);
    notifications.next("STOPPING=1");
    assert!(server.wait().success());
}

#[test]
fn a_server_that_hangs_no_longer_feeds_the_watchdog() {
    let mut server = Server::stopped();
    let notifications = Notifications::listen(&server);
    let mut command = server.command(&[]);
    command.env("NOTIFY_SOCKET", &notifications.path).env("WATCHDOG_USEC", "200000");
    server.adopt(command.spawn().unwrap());
    notifications.next("WATCHDOG=1");
    server.signal(Signal::SIGSTOP);
    notifications.socket.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
    let mut buffer = [0; 4096];
    while notifications.socket.recv(&mut buffer).is_ok() {}
    server.signal(Signal::SIGCONT);
    notifications.next("WATCHDOG=1");
}

/// journald knows the time itself, and the priority from the number in front.
#[test]
fn lines_for_the_journal_carry_their_priority_and_no_time() {
    use std::os::unix::fs::MetadataExt;
    let mut server = Server::stopped();
    let mut command = server.command(&[]);
    let journal = std::fs::metadata(server.path("log")).unwrap();
    command.env("JOURNAL_STREAM", format!("{}:{}", journal.dev(), journal.ino()));
    server.adopt(command.spawn().unwrap());
    server.until("the server answers", || server.get(TDX, 0, 0).is_ok());
    assert!(server.get(TDX, 99, 0).is_err());
    server.until("the refusal is logged", || server.log().contains("<4>GetEventlog level 0"));
    for line in server.log().lines() {
        assert!(line.starts_with("<6>") || line.starts_with("<4>GetEventlog"), "{line}");
    }
}

#[test]
fn the_server_exits_when_nobody_is_connected_and_not_before() {
    let mut server = Server::stopped();
    let notifications = Notifications::listen(&server);
    let mut command = server.command(&["--idle-exit", "1"]);
    command.env("NOTIFY_SOCKET", &notifications.path);
    server.adopt(command.spawn().unwrap());
    notifications.next("READY=1");
    let connection = UnixStream::connect(server.socket()).unwrap();
    std::thread::sleep(Duration::from_millis(2500));
    assert!(!server.has_exited(), "a connection is open");
    let closed = Instant::now();
    drop(connection);
    notifications.next("STOPPING=1");
    assert!(closed.elapsed() > Duration::from_millis(950), "{:?}", closed.elapsed());
    assert!(server.wait().success());
    assert!(!server.socket().exists(), "its own socket goes with it");
}

/// A call that is under way when SIGTERM comes gets its answer. The log is a large
/// one, so that publishing it takes a while.
#[test]
fn a_call_under_way_is_answered_though_the_server_is_told_to_stop() {
    let mut server = Server::stopped();
    let log = server.path("large");
    std::fs::write(&log, common::large_log(15 << 20)).unwrap();
    server.run(&["--ccel", log.to_str().unwrap()]);
    let socket = server.socket();
    let caller = std::thread::spawn(move || get(&socket, TDX, 0, 0));
    let temporary = |server: &Server| {
        let entries = std::fs::read_dir(server.output()).unwrap();
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(".tmp-"))
    };
    server.until("the slice is being written", || temporary(&server));
    let told = Instant::now();
    server.signal(Signal::SIGTERM);
    let path = caller.join().unwrap().expect("the call was accepted and is answered");
    assert!(path.is_file());
    assert!(server.wait().success());
    assert!(told.elapsed() < Duration::from_secs(30), "{:?}", told.elapsed());
}

#[test]
fn watchers_of_health_learn_of_the_drain_and_do_not_hold_it_up() {
    use futures_util::StreamExt;
    let mut server = Server::start(&[]);
    let channel = ChannelBuilder::new(Arc::new(Environment::new(1)))
        .connect(&format!("unix:{}", server.socket().display()));
    let request = HealthCheckRequest::new();
    let client = Client::new(channel);
    let mut updates =
        client.server_streaming(&HEALTH_WATCH, &request, CallOption::default()).unwrap();
    let mut next = || {
        let reply = futures_executor::block_on(updates.next());
        reply.map(|reply| reply.unwrap().status.enum_value().unwrap())
    };
    assert_eq!(next(), Some(ServingStatus::SERVING));
    let told = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(next(), Some(ServingStatus::NOT_SERVING));
    assert_eq!(next(), None);
    assert!(server.wait().success());
    assert!(told.elapsed() < Duration::from_secs(5), "{:?}", told.elapsed());
}

/// Clients that say nothing, or hold a call open for ever, and a second signal.
#[test]
fn nobody_holds_up_the_stop_for_more_than_five_seconds() {
    use ccnp_eventlog::rpc::REFLECTION;
    let mut server = Server::start(&[]);
    let _silent = UnixStream::connect(server.socket()).unwrap();
    let channel = ChannelBuilder::new(Arc::new(Environment::new(1)))
        .connect(&format!("unix:{}", server.socket().display()));
    let client = Client::new(channel);
    let _open = client.duplex_streaming(&REFLECTION, CallOption::default()).unwrap();
    assert!(server.get(TDX, 1, 1).is_ok());
    let told = Instant::now();
    server.signal(Signal::SIGTERM);
    std::thread::sleep(Duration::from_millis(200));
    server.signal(Signal::SIGTERM);
    assert!(server.wait().success());
    assert!(told.elapsed() < Duration::from_secs(5), "{:?}", told.elapsed());
}

/// One socket, as systemd keeps it, a hundred servers one after the other, and
/// clients that do not try again: one with a connection for each call, and one that
/// calls over a lasting connection.
#[test]
fn a_hundred_restarts_under_one_socket_fail_no_call() {
    let mut server = Server::stopped();
    let listener = UnixListener::bind(server.socket()).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let path = server.socket();
    let client = |lasting: bool| {
        let (stop, socket) = (Arc::clone(&stop), path.clone());
        let answered = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&answered);
        let thread = std::thread::spawn(move || -> Result<(), Error> {
            let channel = ChannelBuilder::new(Arc::new(Environment::new(1)))
                .use_local_subchannel_pool(true)
                .connect(&format!("unix:{}", socket.display()));
            let client = Client::new(channel);
            while !stop.load(Ordering::Relaxed) {
                let request = request(TDX, 2, 5);
                let options = CallOption::default().timeout(PATIENCE);
                match lasting {
                    true => client
                        .unary_call(&GET_EVENTLOG, &request, options)
                        .map_err(Error::CallFailed)?,
                    false => call(&socket, &GET_EVENTLOG, &request, PATIENCE)?,
                };
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        (thread, answered)
    };
    server.adopt(activated(&server, &listener, "grpc", &[]));
    let clients = [client(false), client(true)];
    for restart in 0..100 {
        let answered = || clients.each_ref().map(|(_, answered)| answered.load(Ordering::Relaxed));
        let failed = || clients.iter().any(|(thread, _)| thread.is_finished());
        let [a, b] = answered();
        server.until("both clients are answered", || {
            failed() || answered()[0] > a + 3 && answered()[1] > b + 3
        });
        if failed() {
            break;
        }
        let told = Instant::now();
        server.signal(Signal::SIGTERM);
        assert!(server.wait().success(), "restart {restart}\n{}", server.log());
        assert!(told.elapsed() < Duration::from_secs(3), "a client was cut off\n{}", server.log());
        server.adopt(activated(&server, &listener, "grpc", &[]));
    }
    stop.store(true, Ordering::Relaxed);
    for (thread, _) in clients {
        thread.join().unwrap().unwrap_or_else(|error| panic!("{error}\n{}", server.log()));
    }
    assert!(server.socket().exists(), "systemd's socket is still there");
}
