//! Where the socket comes from: systemd, or ourselves.

mod common;

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};

use common::server::{activated, activated_with, Server, PATIENCE, SERVER, TDX};
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

/// More connections than allowed: those of one user beyond its share are closed,
/// and when all places are taken the next wait in the backlog.
#[test]
fn connections_are_limited_and_places_come_free_again() {
    let server = Server::start(&["--max-connections-per-uid", "4"]);
    // The connection that saw the server start ends in its own time.
    server.until("one is refused", || {
        let held: Vec<_> = (0..6).map(|_| UnixStream::connect(server.socket()).unwrap()).collect();
        server.until("the server has looked at them", || {
            server.log().contains("refused") || server.get(TDX, 0, 0).is_ok()
        });
        drop(held);
        server.log().contains("it has 4 already")
    });
    server.until("places are free again", || server.get(TDX, 0, 0).is_ok());

    let server = Server::start(&["--max-connections", "2"]);
    let held: Vec<_> = (0..2).map(|_| UnixStream::connect(server.socket()).unwrap()).collect();
    let waiting = {
        let socket = server.socket();
        std::thread::spawn(move || common::server::get(&socket, TDX, 0, 0))
    };
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(!waiting.is_finished(), "it waits for a place");
    drop(held);
    server.until("the waiting client is answered", || waiting.is_finished());
    assert!(waiting.join().unwrap().is_ok());
    let _ = PATIENCE;
}
