//! What systemd and a service say to each other: descriptors (sd_listen_fds(3)),
//! notifications and watchdog (sd_notify(3)), the signal to stop, the journal
//! (sd-daemon(3), sd_journal_send(3)). Nothing else in the project knows of it, and all
//! of it is quiet where there is no systemd.

use std::env;
use std::io::{self, Write};
use std::os::fd::{IntoRawFd, RawFd};
use std::path::Path;
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use env_logger::Target;
use libsystemd::activation::{receive_descriptors_with_names, IsType};
use libsystemd::daemon::{self, NotifyState};
pub use libsystemd::logging::Priority;
use libsystemd::logging::{journal_send, SD_JOURNAL_SOCK_PATH};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{fstat, makedev};

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
    log_to(filter, libsystemd::logging::connected_to_journal(), Target::Stderr);
}

/// The same for a program whose threads must not wait, not even for a journal that is
/// behind: lines go by a thread of their own, and what it cannot keep up with is
/// dropped and counted. Where standard error is /dev/null they go to the journal.
pub fn log_in_background(filter: &str) {
    let nowhere = fstat(STDERR).is_ok_and(|stderr| stderr.st_rdev == makedev(1, 3));
    let to_journal = libsystemd::logging::connected_to_journal() || nowhere;
    let (sender, lines) = sync_channel(MOST_LINES);
    let write = move || {
        // Signals are for the main thread.
        let _ = SigSet::all().thread_block();
        write_lines(&lines, nowhere);
    };
    match thread::Builder::new().name("log".to_owned()).spawn(write) {
        Ok(_) => {
            let mark = if to_journal { "<4>" } else { "warning: " };
            let background = Background { lines: sender.clone(), dropped: 0, mark };
            log_to(filter, to_journal, Target::Pipe(Box::new(background)));
            let _ = BACKGROUND.set(sender);
            std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
        }
        Err(_) => log_to(filter, to_journal, Target::Stderr),
    }
}

/// Waits until what was logged is out, for a moment at the most.
pub fn flush_log() {
    let Some(background) = BACKGROUND.get() else { return };
    let (done, is_done) = sync_channel(1);
    if background.try_send(Line::Flush(done)).is_ok() {
        let _ = is_done.recv_timeout(FLUSH_WITHIN);
    }
}

const STDERR: RawFd = 2;
/// Log lines on their way out.
const MOST_LINES: usize = 1024;
const FLUSH_WITHIN: Duration = Duration::from_secs(1);

static BACKGROUND: OnceLock<SyncSender<Line>> = OnceLock::new();

enum Line {
    Text(Vec<u8>),
    Flush(SyncSender<()>),
}

/// The end at which lines go in.
struct Background {
    lines: SyncSender<Line>,
    dropped: u64,
    /// What a warning begins with.
    mark: &'static str,
}

impl Write for Background {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.dropped > 0 {
            let said = format!("{}{} lines were dropped here\n", self.mark, self.dropped);
            if self.lines.try_send(Line::Text(said.into_bytes())).is_ok() {
                self.dropped = 0;
            }
        }
        if self.lines.try_send(Line::Text(line.to_owned())).is_err() {
            self.dropped = self.dropped.saturating_add(1);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_lines(lines: &Receiver<Line>, nowhere: bool) {
    for line in lines {
        match line {
            Line::Text(line) if nowhere => {
                let line = String::from_utf8_lossy(&line);
                let message = line.trim_end().get(3..).unwrap_or_default();
                let priority = match line.as_bytes().get(1) {
                    Some(b'3') => Priority::Error,
                    Some(b'4') => Priority::Warning,
                    _ => Priority::Info,
                };
                write_to_journal(priority, message, &[]);
            }
            Line::Text(line) => drop(io::stderr().write_all(&line)),
            Line::Flush(done) => drop(done.try_send(())),
        }
    }
}

fn log_to(filter: &str, to_journal: bool, target: Target) {
    env_logger::Builder::new()
        .parse_filters(filter)
        .target(target)
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
