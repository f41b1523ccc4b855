//! What systemd and a service say to each other: descriptors (sd_listen_fds(3)),
//! notifications and watchdog (sd_notify(3)), the signal to stop, the journal
//! (sd-daemon(3), sd_journal_send(3)). Nothing else in the project knows of it, and all
//! of it is quiet where there is no systemd.

use std::env;
use std::io::Write;
use std::os::fd::{IntoRawFd, RawFd};
use std::path::Path;
use std::time::Duration;

use libsystemd::activation::{receive_descriptors_with_names, IsType};
use libsystemd::daemon::{self, NotifyState};
pub use libsystemd::logging::Priority;
use libsystemd::logging::{journal_send, SD_JOURNAL_SOCK_PATH};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::error::{Error, Result};

/// The name that the socket unit gives the descriptor (FileDescriptorName=).
const SOCKET_NAME: &str = "grpc";

/// The listening socket that systemd passes in, `None` where it passes nothing.
///
/// Whatever else it passes is an error that names what came: a server that went
/// on would listen on a socket that nobody knows. Clears the environment, so it
/// is called once, before any thread is started.
pub fn listening_socket() -> Result<Option<RawFd>> {
    let Ok(announced) = env::var("LISTEN_FDS") else { return Ok(None) };
    let recipient = env::var("LISTEN_PID").unwrap_or_default();
    let ourselves = std::process::id().to_string();
    if recipient != ourselves {
        return Err(Error::Activation(format!(
            "LISTEN_PID is {recipient:?}, but this is process {ourselves}: the descriptors are \
             another process's; the unit must start eventlog-server itself, not through a shell"
        )));
    }
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let expected = |what: String| {
        Error::Activation(format!(
            "expected one unix socket named {SOCKET_NAME:?} (FileDescriptorName={SOCKET_NAME}), \
             got {what}"
        ))
    };
    let mut descriptors = receive_descriptors_with_names(true)
        .map_err(|error| Error::Activation(error.to_string()))?;
    match (announced.as_str(), descriptors.pop()) {
        ("1", Some((descriptor, name))) if name == SOCKET_NAME && descriptor.is_unix() => {
            Ok(Some(descriptor.into_raw_fd()))
        }
        ("1", Some((descriptor, name))) if name == SOCKET_NAME => {
            Err(expected(format!("{descriptor:?} of that name")))
        }
        _ => Err(expected(format!("{announced} descriptors named {names:?}"))),
    }
}

/// Tells systemd that the service can answer.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status.to_owned())]);
}

/// Sets the line that `systemctl status` shows.
pub fn status(status: &str) {
    notify(&[NotifyState::Status(status.to_owned())]);
}

/// Tells systemd that the service is about to exit, so that a connection that
/// comes now starts the next instance instead of waiting for this one.
pub fn stopping(status: &str) {
    notify(&[NotifyState::Stopping, NotifyState::Status(status.to_owned())]);
}

/// Tells systemd that the main loop still runs.
pub fn watchdog_ping() {
    notify(&[NotifyState::Watchdog]);
}

/// How often systemd expects a ping at the latest, halved as sd_watchdog_enabled(3)
/// advises; `None` where the unit has no watchdog.
pub fn watchdog_interval() -> Option<Duration> {
    daemon::watchdog_enabled(false)?.checked_div(2)
}

fn notify(states: &[NotifyState]) {
    if let Err(error) = daemon::notify(false, states) {
        log::debug!("cannot notify systemd: {error}");
    }
}

/// Takes SIGTERM and SIGINT out of the ordinary course, for the main
/// loop to read. Called before any thread is started: threads inherit the mask.
pub fn take_signals() -> Result<SignalFd> {
    let failed = |call| move |error: Errno| Error::System { call, source: error.into() };
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().map_err(failed("pthread_sigmask"))?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(failed("signalfd"))
}

/// Sends log lines to standard error: with journald's priorities where that is the
/// journal, which has its own clock, and with the level in words elsewhere.
pub fn log_to_stderr(filter: &str) {
    let to_journal = libsystemd::logging::connected_to_journal();
    env_logger::Builder::new()
        .parse_filters(filter)
        .format(move |line, record| match to_journal {
            true => writeln!(line, "<{}>{}", priority(record.level()), record.args()),
            false => writeln!(line, "{}: {}", word(record.level()), record.args()),
        })
        .init();
    grpcio::redirect_log();
}

/// Whether there is a journal to write entries to.
pub fn has_journal() -> bool {
    Path::new(SD_JOURNAL_SOCK_PATH).exists()
}

/// Writes a journal entry with fields of its own. Waits while journald is behind.
pub fn write_to_journal(priority: Priority, message: &str, fields: &[(&str, String)]) {
    let fields = fields.iter().map(|(name, value)| (*name, value.as_str()));
    if let Err(error) = journal_send(priority, message, fields) {
        log::debug!("cannot write to the journal: {error}");
    }
}

fn priority(level: log::Level) -> u8 {
    match level {
        log::Level::Error => 3,
        log::Level::Warn => 4,
        log::Level::Info => 6,
        log::Level::Debug | log::Level::Trace => 7,
    }
}

fn word(level: log::Level) -> &'static str {
    match level {
        log::Level::Error => "error",
        log::Level::Warn => "warning",
        log::Level::Info => "info",
        log::Level::Debug | log::Level::Trace => "debug",
    }
}
