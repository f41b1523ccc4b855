//! Published files: nothing half, nothing lost, nothing overwritten.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ccnp_eventlog::error::Error;
use ccnp_eventlog::log::payload::hex;
use common::read;
use common::server::{Server, SERVER, TDX};
use grpcio::RpcStatusCode as Code;
use nix::sys::signal::Signal;
use sha2::{Digest, Sha256};

fn refusal(outcome: Result<PathBuf, Error>) -> (Code, String) {
    match outcome {
        Err(Error::Call { status }) => (status.code(), status.message().to_owned()),
        other => panic!("not a status: {other:?}"),
    }
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != ".lock").collect()
}

#[test]
fn equal_requests_share_one_file_that_never_changes() {
    let server = Server::start(&[]);
    let first = server.get(TDX, 2, 3).unwrap();
    let written = fs::metadata(&first).unwrap().modified().unwrap();
    for (start, count) in [(2, 3), (2, 3)] {
        assert_eq!(server.get(TDX, start, count).unwrap(), first);
    }
    assert_eq!(server.get(TDX, 0, 26).unwrap(), server.get(TDX, 1, 0).unwrap());
    assert_eq!(fs::metadata(&first).unwrap().modified().unwrap(), written);
    assert_eq!(names(&server.output()).len(), 4, "two slices, two files each");
}

#[test]
fn a_slice_that_somebody_deleted_is_written_again() {
    let server = Server::start(&[]);
    let path = server.get(TDX, 1, 2).unwrap();
    let content = read(&path);
    for deleted in [path.clone(), path.with_extension("bin"), path.clone()] {
        fs::remove_file(&deleted).unwrap();
        assert_eq!(server.get(TDX, 1, 2).unwrap(), path);
        assert!(deleted.exists());
        // Also once the server has had the time to believe in them.
        std::thread::sleep(Duration::from_millis(250));
        assert_eq!(server.get(TDX, 1, 2).unwrap(), path);
    }
    assert_eq!(read(&path), content);
}

#[test]
fn of_more_slices_than_are_kept_the_one_served_longest_ago_goes_first() {
    let mut server = Server::start(&["--keep", "3"]);
    let [a, b, c] = [1, 2, 3].map(|start| server.get(TDX, start, 1).unwrap());
    server.get(TDX, 1, 1).unwrap();
    let d = server.get(TDX, 4, 1).unwrap();
    assert!(!b.exists() && !b.with_extension("bin").exists());
    assert!([&a, &c, &d].iter().all(|path| path.exists()));
    assert!(server.get(TDX, 2, 1).unwrap() == b && b.exists(), "and it comes back");

    // The next server takes them over, and what was served last with them.
    server.get(TDX, 4, 1).unwrap();
    server.signal(Signal::SIGTERM);
    server.wait();
    server.run(&["--keep", "1"]);
    assert!(names(&server.output()).len() == 2 && d.exists(), "{:?}", names(&server.output()));
}

#[test]
fn the_path_can_be_opened_from_anywhere() {
    let mut server = Server::stopped();
    let mut command = server.command(&["--output-dir", "below/here"]);
    server.adopt(command.current_dir(server.folder.path()).spawn().unwrap());
    server.until("the server answers", || server.get(TDX, 1, 1).is_ok());
    let path = server.get(TDX, 1, 1).unwrap();
    assert!(path.is_absolute() && path.is_file(), "{}", path.display());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(path.parent().unwrap()), 0o2750);
    assert_eq!(mode(&server.path("below")) & 0o111, 0o111, "the way there is open");
}

/// Slices from before the directory was given to its group are published anew.
#[test]
fn slices_of_another_group_are_not_taken_over() {
    use std::os::unix::fs::{chown, MetadataExt};
    const GROUP: u32 = 4242;
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: only root can give a directory to a group");
        return;
    }
    let mut server = Server::start(&[]);
    let path = server.get(TDX, 1, 1).unwrap();
    server.signal(Signal::SIGTERM);
    server.wait();
    chown(server.output(), None, Some(GROUP)).unwrap();
    fs::set_permissions(server.output(), fs::Permissions::from_mode(0o2750)).unwrap();
    server.run(&[]);
    assert_eq!(server.get(TDX, 1, 1).unwrap(), path);
    assert_eq!(fs::metadata(&path).unwrap().gid(), GROUP);
}

#[test]
fn nothing_at_a_slices_name_is_overwritten() {
    let server = Server::start(&[]);
    let path = server.get(TDX, 1, 1).unwrap();
    let precious = server.path("precious");
    fs::write(&precious, "precious").unwrap();
    for target in [path.clone(), path.with_extension("bin")] {
        fs::remove_file(&target).unwrap();
        symlink(&precious, &target).unwrap();
        let (code, text) = refusal(server.get(TDX, 1, 1));
        assert_eq!(code, Code::FAILED_PRECONDITION);
        assert!(text.contains(&format!("{} was not published by this server", target.display())));
        assert_eq!(read(&precious), b"precious");

        fs::remove_file(&target).unwrap();
        fs::write(&target, "somebody else's").unwrap();
        // A file of that name satisfies a request that was answered before; a new
        // server looks into it.
        let mut second = Server::stopped();
        let output = server.path("other");
        fs::create_dir_all(&output).unwrap();
        fs::write(output.join(target.file_name().unwrap()), "somebody else's").unwrap();
        second.run(&["--output-dir", output.to_str().unwrap()]);
        assert_eq!(refusal(second.get(TDX, 1, 1)).0, Code::FAILED_PRECONDITION);
        assert_eq!(read(&output.join(target.file_name().unwrap())), b"somebody else's");
        fs::remove_dir_all(&output).unwrap();
        fs::remove_file(&target).unwrap();
        server.get(TDX, 1, 1).unwrap();
    }
}

#[test]
fn a_missing_or_readonly_directory_is_named() {
    let mut server = Server::start(&[]);
    fs::remove_dir_all(server.output()).unwrap();
    let (code, text) = refusal(server.get(TDX, 1, 1));
    assert_eq!(code, Code::FAILED_PRECONDITION);
    assert!(text.contains(server.output().to_str().unwrap()), "{text}");
    fs::create_dir(server.output()).unwrap();
    assert!(server.get(TDX, 1, 1).is_ok(), "mended without a restart");
    server.signal(Signal::SIGKILL);
    server.wait();

    // Nobody, not even root, creates files in /proc.
    let child = server.command(&["--output-dir", "/proc/published"]).spawn().unwrap();
    server.adopt(child);
    assert_eq!(server.wait().code(), Some(73));
    assert!(server.log().contains("output directory /proc/published"), "{}", server.log());
}

/// What a slice was refused for is not evicted as if it were one.
#[test]
fn a_foreign_file_outlives_the_slices_beside_it() {
    let server = Server::start(&["--keep", "1"]);
    let path = server.get(TDX, 1, 1).unwrap();
    server.get(TDX, 2, 1).unwrap();
    assert!(!path.exists(), "evicted");
    fs::write(&path, "precious").unwrap();
    assert_eq!(refusal(server.get(TDX, 1, 1)).0, Code::FAILED_PRECONDITION);
    for start in 3..6 {
        server.get(TDX, start, 1).unwrap();
    }
    assert_eq!(read(&path), b"precious");
}

/// A file system of a few pages, which needs root and a mount namespace.
#[test]
fn a_full_disk_is_said_and_leaves_nothing_half() {
    let mut server = Server::stopped();
    let full = server.path("full");
    fs::create_dir(&full).unwrap();
    let prepared = server.command(&["--output-dir", full.to_str().unwrap()]);
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--propagation", "private", "sh", "-c"]);
    unshare.arg(r#"mount -t tmpfs -o size=16k tmpfs "$1" && shift && exec "$@""#).arg("sh");
    unshare.arg(&full).arg(SERVER).args(prepared.get_args());
    unshare.envs(prepared.get_envs().filter_map(|(key, value)| Some((key, value?))));
    if !Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|s| s.success()) {
        eprintln!("SKIPPED: no mount namespace without root");
        return;
    }
    let log = fs::File::options().create(true).append(true).open(server.path("log")).unwrap();
    server.adopt(unshare.stderr(log).spawn().unwrap());
    let answers = |server: &Server| server.get(TDX, 1, 1);
    server.until("the server answers", || answers(&server).is_ok());
    let (code, text) = refusal(server.get(TDX, 0, 0));
    assert_eq!(code, Code::RESOURCE_EXHAUSTED, "{text}");
    assert!(text.contains("No space left on device"), "{text}");
    let seen = PathBuf::from(format!("/proc/{}/root{}", server.pid(), full.display()));
    assert!(names(&seen).iter().all(|name| !name.starts_with(".tmp-")), "{:?}", names(&seen));
    let (jsons, bins): (Vec<_>, Vec<_>) =
        names(&seen).into_iter().partition(|name| name.ends_with(".json"));
    assert_eq!(jsons.len(), bins.len(), "no half of a pair: {jsons:?} {bins:?}");
    assert!(answers(&server).is_ok(), "the slice that fits is still served");
}

#[test]
fn a_second_server_for_the_same_directory_names_the_first() {
    let server = Server::start(&[]);
    let mut second = Server::stopped();
    let output = server.output();
    let child = second.command(&["--output-dir", output.to_str().unwrap()]).spawn().unwrap();
    second.adopt(child);
    assert_eq!(second.wait().code(), Some(69));
    assert!(second.log().contains(&format!("process {}", server.pid())), "{}", second.log());
}

#[test]
fn what_is_not_ours_in_the_directory_is_left_alone() {
    let mut server = Server::stopped();
    fs::create_dir(server.output()).unwrap();
    let foreign = [
        "notes.json",
        "tdx-paas-1-2-short.json",
        "tdx-paas-x-2-0123456789abcdef.bin",
        "tdx-paas-1-2-0123456789abcdef.json",
    ];
    for name in &foreign[..3] {
        fs::write(server.output().join(name), "mine").unwrap();
    }
    symlink("/nowhere", server.output().join(foreign[3])).unwrap();
    server.run(&["--keep", "1"]);
    for start in 1..6 {
        server.get(TDX, start, 1).unwrap();
    }
    let left = names(&server.output());
    assert!(foreign.iter().all(|name| left.contains(*name)), "{left:?}");
    assert_eq!(left.len(), foreign.len() + 2);
}

/// Killed again and again while it publishes, the server leaves under final names
/// only files whose content is what their name says; and the next one sweeps the
/// rest.
#[test]
fn kill_nine_in_the_middle_of_publishing_leaves_nothing_half() {
    let mut server = Server::stopped();
    let log = server.path("large");
    fs::write(&log, common::large_log(1 << 20)).unwrap();
    for round in 0..20 {
        server.run(&["--ccel", log.to_str().unwrap()]);
        assert!(names(&server.output()).iter().all(|name| !name.starts_with(".tmp-")), "swept");
        let socket = server.socket();
        let caller = std::thread::spawn(move || {
            (1..50)
                .take_while(|count| common::server::get(&socket, TDX, *count, 1000 + count).is_ok())
                .count()
        });
        server.until("something is being published", || {
            names(&server.output()).iter().any(|name| name.starts_with(".tmp-"))
                || caller.is_finished()
        });
        std::thread::sleep(Duration::from_micros(round * 700));
        server.signal(Signal::SIGKILL);
        server.wait();
        caller.join().unwrap();
        for name in names(&server.output()) {
            let Some(stem) = name.strip_suffix(".json") else { continue };
            let path = server.output().join(&name);
            let hash = hex(&Sha256::digest(read(&path))[..8]);
            assert!(stem.ends_with(&hash), "{name} is not what it says");
            assert!(path.with_extension("bin").is_file(), "{name} has no .bin");
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        }
    }
}
