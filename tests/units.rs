//! The systemd units, as systemd itself judges them.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

const ANALYZE: &str = "systemd-analyze";
const SERVICES: [&str; 2] = ["ccnp-eventlog.service", "ccnp-eventlog-nri.service"];
/// Programs as they are installed, and as they are before that.
const PROGRAMS: [(&str, &str); 2] = [
    ("/usr/sbin/eventlog-server", env!("CARGO_BIN_EXE_eventlog-server")),
    ("/usr/sbin/eventlog-nri", env!("CARGO_BIN_EXE_eventlog-nri")),
];

/// The units with the server's path as it is before installation; `None`, said
/// aloud, without systemd's tools.
fn units() -> Option<TempDir> {
    if Command::new(ANALYZE).arg("--version").output().is_err() {
        eprintln!("SKIPPED: no {ANALYZE} on this machine");
        return None;
    }
    let folder = TempDir::new().unwrap();
    for unit in ["ccnp-eventlog.socket"].iter().chain(&SERVICES) {
        let mut text = shipped(unit);
        for (installed, built) in PROGRAMS {
            text = text.replace(installed, built);
        }
        fs::write(folder.path().join(unit), text).unwrap();
    }
    Some(folder)
}

fn shipped(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(file)).unwrap()
}

fn analyze(folder: &TempDir, arguments: &[&str], units: &[&str]) -> (bool, String) {
    let mut command = Command::new(ANALYZE);
    command.args(arguments).args(units.iter().map(|unit| folder.path().join(unit)));
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn the_units_are_valid() {
    let Some(folder) = units() else { return };
    for units in [&SERVICES[..], &["ccnp-eventlog.socket"]] {
        assert_eq!(analyze(&folder, &["verify", "--man=no"], units), (true, String::new()));
    }
}

/// In tenths: 10 is an exposure of 1.0.
#[test]
fn the_services_are_exposed_to_one_tenth_at_the_most() {
    let Some(folder) = units() else { return };
    for service in SERVICES {
        let security = ["security", "--offline=true", "--threshold=10"];
        let (safe, said) = analyze(&folder, &security, &[service]);
        assert!(safe, "{service}: {said}");
    }
}

/// Also where they take back some of the hardening, to reach their device.
#[test]
fn the_services_that_extend_are_exposed_little_more() {
    let Some(folder) = units() else { return };
    let unit = shipped("ccnp-eventlog-nri.service");
    for change in ["extend-tpm.conf", "extend-tdx.conf"] {
        let unit = format!("{unit}{}", shipped(change));
        let unit = unit.replace(PROGRAMS[1].0, PROGRAMS[1].1);
        fs::write(folder.path().join("extending.service"), unit).unwrap();
        let security = ["security", "--offline=true", "--threshold=15"];
        let (safe, said) = analyze(&folder, &security, &["extending.service"]);
        assert!(safe, "{change}: {said}");
    }
}
