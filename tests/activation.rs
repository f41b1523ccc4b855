//! Where the socket comes from: systemd, or ourselves.

mod common;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::server::{activated, activated_with, Server, SERVER, TDX};
use nix::sys::signal::Signal;

/// Waits for a server that must not start, and gives its exit status and words.
fn refused(server: &mut Server, child: Child) -> (i32, String) {
    server.adopt(child);
    let status = server.wait().code().unwrap();
    (status, server.log())
}

const EX_UNAVAILABLE: i32 = 69;
const EX_CONFIG: i32 = 78;

#[test]
fn one_socket_named_grpc_is_served() {
    let mut server = Server::stopped();
    let listener = UnixListener::bind(server.socket()).unwrap();
    server.adopt(activated(&server, &listener, "grpc", &[]));
    assert!(server.get(TDX, 0, 0).is_ok());
    server.signal(Signal::SIGTERM);
    assert!(server.wait().success());
    assert!(server.socket().exists(), "systemd's socket is not ours to remove");
}

/// The same with an activator that is not ours.
#[test]
fn systemd_socket_activate_starts_the_server_at_the_first_connection() {
    const ACTIVATOR: &str = "systemd-socket-activate";
    if Command::new(ACTIVATOR).arg("--version").output().is_err() {
        eprintln!("SKIPPED: no {ACTIVATOR} on this machine");
        return;
    }
    let mut server = Server::stopped();
    let prepared = server.command(&[]);
    let mut activator = Command::new(ACTIVATOR);
    activator.arg("--fdname=grpc").arg("-l").arg(server.socket());
    for (key, value) in prepared.get_envs() {
        let pair = format!("{}={}", key.display(), value.unwrap_or_default().display());
        activator.arg("-E").arg(pair);
    }
    let child = activator.arg(SERVER).stderr(Stdio::null()).spawn().unwrap();
    server.adopt(child);
    server.until("the activator listens", || server.socket().exists());
    assert!(server.get(TDX, 0, 0).is_ok());
}

#[test]
fn whatever_else_is_passed_in_is_named_and_refused() {
    let name = |server: &Server| UnixListener::bind(server.path("passed")).unwrap();
    for (fds, names, words) in [
        ("2", "grpc:http", r#"got 2 descriptors named "grpc:http""#),
        ("1", "http", r#"got 1 descriptors named "http""#),
        ("1", "", r#"got 1 descriptors named """#),
        ("0", "", r#"got 0 descriptors named """#),
    ] {
        let mut server = Server::stopped();
        let listener = name(&server);
        let child =
            activated_with(&server, &listener, &[("LISTEN_FDS", fds), ("LISTEN_FDNAMES", names)]);
        let (status, log) = refused(&mut server, child);
        assert_eq!(status, EX_CONFIG, "{fds} {names}: {log}");
        assert!(log.contains(words), "{log}");
    }
}

#[test]
fn descriptors_for_another_process_are_not_taken() {
    let mut server = Server::stopped();
    let listener = UnixListener::bind(server.socket()).unwrap();
    let child = activated_with(&server, &listener, &[("LISTEN_PID", "1")]);
    let (status, log) = refused(&mut server, child);
    assert_eq!(status, EX_CONFIG, "{log}");
    assert!(log.contains(r#"LISTEN_PID is "1", but this is process"#), "{log}");
}

#[test]
fn a_connection_is_not_a_listening_socket() {
    let mut server = Server::stopped();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let child = activated_with(&server, &ours, &[]);
    let (status, log) = refused(&mut server, child);
    assert_eq!(status, EX_CONFIG, "{log}");
    assert!(log.contains("Accept=no"), "{log}");
}

#[test]
fn a_live_servers_socket_is_never_stolen() {
    let server = Server::start(&[]);
    let mut second = Server::stopped();
    let socket = server.socket();
    let child = second.command(&["--socket", socket.to_str().unwrap()]).spawn().unwrap();
    let (status, log) = refused(&mut second, child);
    assert_eq!(status, EX_UNAVAILABLE, "{log}");
    assert!(log.contains("another server answers on this socket"), "{log}");
    assert!(server.get(TDX, 0, 0).is_ok());
}

#[test]
fn a_dead_servers_socket_is_replaced() {
    let mut server = Server::start(&[]);
    server.signal(Signal::SIGKILL);
    server.wait();
    assert!(server.socket().exists());
    server.run(&[]);
    assert!(server.get(TDX, 0, 0).is_ok());
}

/// Whoever removes a socket and binds it anew owns it.
#[test]
fn a_socket_that_another_server_has_bound_is_not_removed() {
    let mut first = Server::start(&[]);
    fs::remove_file(first.socket()).unwrap();
    let mut second = Server::stopped();
    let socket = first.socket();
    let child = second.command(&["--socket", socket.to_str().unwrap()]).spawn().unwrap();
    second.adopt(child);
    first.until("the second answers", || first.get(TDX, 1, 1).is_ok());
    first.signal(Signal::SIGTERM);
    assert!(first.wait().success());
    assert!(first.get(TDX, 1, 1).is_ok(), "the second server's");
}

#[test]
fn a_file_at_the_sockets_path_is_left_alone() {
    let mut server = Server::stopped();
    fs::write(server.socket(), "precious").unwrap();
    let child = server.command(&[]).spawn().unwrap();
    let (status, log) = refused(&mut server, child);
    assert_eq!(status, EX_CONFIG, "{log}");
    assert_eq!(fs::read(server.socket()).unwrap(), b"precious");
}

#[test]
fn wrong_flags_are_a_usage_error() {
    for arguments in [&["--threads", "0"][..], &["--keep", "many"], &["--no-such-flag"]] {
        let output = Command::new(SERVER).env_clear().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
    }
}

#[test]
fn every_flag_has_an_environment_variable() {
    let help = Command::new(SERVER).arg("-h").output().unwrap().stdout;
    let help = String::from_utf8(help).unwrap();
    let flags: Vec<&str> =
        help.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 2).collect();
    assert!(flags.len() >= 11, "{flags:?}");
    for flag in flags.iter().filter(|flag| !["--help", "--version"].contains(*flag)) {
        let variable = flag[2..].to_uppercase().replace('-', "_");
        let variable = format!("[env: CCNP_EVENTLOG_{variable}=]");
        assert!(help.contains(&variable), "{flag} has no {variable}");
    }
}

/// Connections of one user beyond its share are closed, whatever its other ones do
/// with the half of theirs; and places come free again.
#[test]
fn connections_of_one_user_are_limited() {
    let server = Server::start(&["--max-connections-per-uid", "4"]);
    let is_open = |mut stream: &UnixStream| {
        stream.set_nonblocking(true).unwrap();
        let mut bytes = [0; 1024];
        loop {
            match stream.read(&mut bytes) {
                Ok(0) => return false,
                Ok(_) => continue,
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
    };
    let connect = || UnixStream::connect(server.socket()).unwrap();
    // The connection that saw the server start ends in its own time.
    let mut held = Vec::new();
    server.until("four are open", || {
        held.retain(is_open);
        held.push(connect());
        server.log().contains("it has 4 already")
    });
    // A refusal comes as the end of the connection.
    server.until("the others are refused", || {
        held.retain(is_open);
        held.len() <= 4
    });
    let fifth = connect();
    server.until("the fifth is refused", || !is_open(&fifth));
    drop(held);
    server.until("places are free again", || server.get(TDX, 0, 0).is_ok());
}

/// One that is closed for writing is still a connection, and takes its place.
#[test]
fn half_closed_connections_count() {
    let server = Server::start(&["--max-connections-per-uid", "4"]);
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
    server.get(TDX, 1, 1).unwrap();
    let before = descriptors();
    let mut held = Vec::new();
    for _ in 0..12 {
        let mut stream = UnixStream::connect(server.socket()).unwrap();
        stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        // A client preface, and pings until their answers, which nobody reads, are
        // more than the socket holds.
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0";
        let pings = b"\0\0\x08\x06\0\0\0\0\0pingping".repeat(500);
        let mut written = stream.write(preface).unwrap_or(0);
        while let (true, Ok(more)) = (written < 3_000_000, stream.write(&pings)) {
            written += more;
        }
        let _ = stream.shutdown(Shutdown::Write);
        held.push(stream);
    }
    std::thread::sleep(Duration::from_secs(1));
    let now = descriptors();
    // Two descriptors a connection: gRPC core's, and ours that watches it.
    assert!(now <= before + 2 * 5, "{before} descriptors before, {now} now");
}

/// When all places are taken, the next client waits in the backlog.
#[test]
fn connections_beyond_the_limit_wait() {
    let server = Server::start(&["--max-connections", "2"]);
    let held: Vec<_> = (0..2).map(|_| UnixStream::connect(server.socket()).unwrap()).collect();
    let socket = server.socket();
    let waiting = std::thread::spawn(move || common::server::get(&socket, TDX, 0, 0));
    std::thread::sleep(Duration::from_millis(300));
    assert!(!waiting.is_finished(), "it waits for a place");
    drop(held);
    server.until("the waiting client is answered", || waiting.is_finished());
    assert!(waiting.join().unwrap().is_ok());
}
