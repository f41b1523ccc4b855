//! Where bytes come from: mapped where nobody can change them, read otherwise.

mod common;

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::time::Duration;

use ccnp_eventlog::source::{self, Bytes};
use common::server::{Server, TDX};
use common::{ccel, read};
use tempfile::TempDir;

#[test]
fn a_regular_file_is_mapped_and_one_that_is_being_written_is_read() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log");
    fs::copy(ccel(), &path).unwrap();
    let (bytes, before) = source::read(&path).unwrap();
    assert!(matches!(bytes, Bytes::Mapped { .. }), "{}: no lease here?", path.display());
    assert_eq!(bytes.as_ref(), read(&ccel()));
    drop(bytes);

    let writer = OpenOptions::new().append(true).open(&path).unwrap();
    let (bytes, now) = source::read(&path).unwrap();
    assert!(matches!(bytes, Bytes::Read { .. }), "its writer can truncate it");
    assert_eq!(bytes.as_ref(), read(&ccel()));
    assert_eq!(now, before, "opening a file is no change");
    drop(writer);
}

/// The kernel keeps whoever wants to truncate the file waiting while it is mapped.
#[test]
fn a_mapped_file_cannot_be_truncated() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log");
    fs::copy(ccel(), &path).unwrap();
    let (bytes, _) = source::read(&path).unwrap();
    assert!(matches!(bytes, Bytes::Mapped { .. }));
    let truncating = std::thread::spawn({
        let path = path.clone();
        move || OpenOptions::new().write(true).truncate(true).open(path).unwrap()
    });
    std::thread::sleep(Duration::from_millis(300));
    assert!(!truncating.is_finished());
    assert_eq!(bytes.as_ref(), read(&ccel()));
    drop(bytes);
    truncating.join().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
}

/// As securityfs does, procfs says size 0 and has bytes all the same.
#[test]
fn a_file_of_size_zero_is_read_to_its_end() {
    let path = Path::new("/proc/self/status");
    assert_eq!(fs::metadata(path).unwrap().len(), 0);
    let (bytes, _) = source::read(path).unwrap();
    assert!(matches!(bytes, Bytes::Read { .. }));
    assert!(bytes.as_ref().starts_with(b"Name:"));
}

/// What the process has read so far, in bytes (proc(5)); sockets do not count.
fn bytes_read(server: &Server) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", server.pid())).unwrap();
    io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

#[test]
fn a_warm_request_reads_nothing() {
    let mut server = Server::stopped();
    // Open for writing, so that the server reads it instead of mapping it.
    let path = server.path("log-file");
    fs::copy(ccel(), &path).unwrap();
    let _writer = OpenOptions::new().append(true).open(&path).unwrap();
    server.run(&["--ccel", path.to_str().unwrap()]);
    server.get(TDX, 1, 5).unwrap();
    let before = bytes_read(&server);
    for _ in 0..50 {
        server.get(TDX, 1, 5).unwrap();
    }
    let read = bytes_read(&server) - before;
    assert!(read < fs::metadata(&path).unwrap().len(), "{read} bytes for 50 calls");
}
