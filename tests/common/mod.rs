//! What several tests need: fixtures, the corpus, a server of one's own.
#![allow(dead_code)]

pub mod adjusted;
pub mod disk;
pub mod fuse;
pub mod plugin;
pub mod replay;
pub mod runtime;
pub mod server;
pub mod tdx_guest;

use std::fs;
use std::path::{Path, PathBuf};

use ccnp_eventlog::log::write::{write_event, write_spec_id};
use ccnp_eventlog::log::{algorithm, event_type, Digest};

/// A file of `tests/data`.
pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// A CCEL in the shape of a TDX guest's, written by our own encoder.
pub fn ccel() -> PathBuf {
    data("tdx-guest.ccel.bin")
}

/// The log of a measured boot of our own virtual machine.
pub fn tpm_log() -> PathBuf {
    data("vm-debian13.tpm.bin")
}

/// The collection of real logs, which is not ours to publish: beside the checkout
/// or where `CCNP_EVENTLOG_CORPUS` says. `None`, said aloud, where it is missing.
pub fn corpus() -> Option<PathBuf> {
    shared("corpus", "CCNP_EVENTLOG_CORPUS")
}

/// Sessions that the real runtime had with plugins, frame by frame.
pub fn nri_captures() -> Option<PathBuf> {
    shared("nri-captures", "CCNP_EVENTLOG_NRI_CAPTURES")
}

fn shared(name: &str, variable: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(name);
    let path = std::env::var_os(variable).map_or(beside, PathBuf::from);
    if path.is_dir() {
        return Some(path);
    }
    eprintln!("SKIPPED: no {name} at {} ({variable} names another)", path.display());
    None
}

pub fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A CCEL of about this many bytes, all of them events.
pub fn large_log(bytes: usize) -> Vec<u8> {
    let mut log = Vec::new();
    write_spec_id(&mut log, 1, &[(algorithm::SHA384, 48)], b"").unwrap();
    while log.len() < bytes {
        let number = log.len().to_le_bytes();
        let digests = [Digest { algorithm: algorithm::SHA384, bytes: &[7; 48] }];
        write_event(&mut log, 3, event_type::EV_IPL, &digests, &number.repeat(12)).unwrap();
    }
    log
}

/// The rows of a table with a header line and tabs, as maps.
pub fn table(path: &Path) -> Vec<std::collections::HashMap<String, String>> {
    let text = String::from_utf8(read(path)).expect("a table is text");
    let mut lines = text.lines();
    let keys: Vec<&str> = lines.next().expect("a header line").split('\t').collect();
    let row = |line: &str| {
        let cells = line.split('\t').map(str::to_owned);
        keys.iter().map(|key| key.to_string()).zip(cells).collect()
    };
    lines.map(row).collect()
}
