//! The systemd units, as systemd itself judges them.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

const ANALYZE: &str = "systemd-analyze";
const INSTALLED: &str = "/usr/sbin/eventlog-server";

/// The units with the server's path as it is before installation; `None`, said
/// aloud, without systemd's tools.
fn units() -> Option<TempDir> {
    if Command::new(ANALYZE).arg("--version").output().is_err() {
        eprintln!("SKIPPED: no {ANALYZE} on this machine");
        return None;
    }
    let folder = TempDir::new().unwrap();
    for unit in ["ccnp-eventlog.socket", "ccnp-eventlog.service"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(unit);
        let text = fs::read_to_string(path).unwrap();
        let text = text.replace(INSTALLED, env!("CARGO_BIN_EXE_eventlog-server"));
        fs::write(folder.path().join(unit), text).unwrap();
    }
    Some(folder)
}

fn analyze(folder: &TempDir, arguments: &[&str]) -> (bool, String) {
    let unit = |name| folder.path().join(name);
    let mut command = Command::new(ANALYZE);
    command.args(arguments).arg(unit("ccnp-eventlog.service"));
    if arguments[0] == "verify" {
        command.arg(unit("ccnp-eventlog.socket"));
    }
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn the_units_are_valid() {
    let Some(folder) = units() else { return };
    assert_eq!(analyze(&folder, &["verify", "--man=no"]), (true, String::new()));
}

/// In tenths: 10 is an exposure of 1.0.
#[test]
fn the_service_is_exposed_to_one_tenth_at_the_most() {
    let Some(folder) = units() else { return };
    let (safe, said) = analyze(&folder, &["security", "--offline=true", "--threshold=10"]);
    assert!(safe, "{said}");
}
