//! The plugin's life: connect, register, answer, listen, connect again.
//!
//! The runtime fails a container's creation where validation is late, dead or in
//! error. So a validation is answered before it is understood, by a thread that waits
//! for nothing but the socket; what it means is worked out behind the answer, and
//! another thread brings it to the disk. Configure and Synchronize alone are read
//! first, for what their answers repeat of them.

use std::env;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::signalfd::SignalFd;
use protobuf::Message;
use serde_json::{Map, Value};

use super::audit::Audit;
use super::session::{self, Call, Method, Received, Session};
use super::writer::{State, Ticket, Writer};
use crate::error::{Error, Result};
use crate::log::payload::printable_line;
use crate::messages::nri::ConfigureRequest;
use crate::record::Record;
use crate::systemd;

/// How long a runtime may be unable to take an answer; it has forgotten us by then.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);
/// What keeps time looks at it this often.
const TICK: Duration = Duration::from_secs(1);
/// Between attempts to connect: from the first to the last, doubling.
const FIRST_REST: Duration = Duration::from_millis(100);
const LAST_REST: Duration = Duration::from_secs(5);
/// After a session of this length the next attempt is a first one.
const HEALTHY: Duration = Duration::from_secs(30);
/// So many sessions ended right after we named our events: the runtime may not know
/// one of them, and is not told any more which.
const CUT_SHORT: u32 = 2;
/// How long a runtime waits for an answer if it does not say.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the runtime has, once we are told to stop, to make a call that we can
/// leave with. On a node where nothing happens nothing fails either.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);
/// What starts after us, the kubelet, should find us connected; but where there is no
/// runtime it must not wait for ever.
const WAIT_FOR_RUNTIME: Duration = Duration::from_secs(5);
/// What is left to write when we are told to stop.
const LAST_WORDS: Duration = Duration::from_secs(3);

#[derive(Clone, Debug)]
pub struct Settings {
    pub socket: PathBuf,
    /// Our name and index among the plugins.
    pub name: String,
    pub index: String,
    /// Reject a container rather than let it be created unlogged.
    pub fail_closed: bool,
}

pub struct Plugin {
    settings: Settings,
    audit: Audit,
    writer: Writer,
    /// The runtime that we are connected to, in words.
    runtime: Option<String>,
    request_timeout: Duration,
    /// Sessions in a row that ended right after we named our events.
    cut_short: u32,
    /// Handlers that panicked: bugs of ours, contained.
    panics: u64,
    ticked: Instant,
    status: String,
    begun: Instant,
    /// systemd was told that we are up.
    ready: bool,
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Told,
    Closed,
}

/// What there is to do.
enum Ready {
    Stop,
    Read,
    Nothing,
}

/// The connection that a runtime passes to the plugins it starts itself.
pub fn launched_by_runtime() -> Result<Option<UnixStream>> {
    let Ok(descriptor) = env::var("NRI_PLUGIN_SOCKET") else { return Ok(None) };
    let descriptor = descriptor.parse().map_err(|_| {
        Error::Activation(format!(
            "NRI_PLUGIN_SOCKET is {descriptor:?}: expected the number of a descriptor"
        ))
    })?;
    let failed = |source: io::Error| Error::System { call: "NRI_PLUGIN_SOCKET", source };
    // By way of standard input, which has an owner to borrow it from.
    nix::unistd::dup2(descriptor, 0).map_err(|error| failed(error.into()))?;
    let _ = nix::unistd::close(descriptor);
    let socket = io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
    Ok(Some(UnixStream::from(socket)))
}

impl Plugin {
    pub fn new(settings: Settings, audit: Audit, writer: Writer) -> Plugin {
        Plugin {
            settings,
            audit,
            writer,
            runtime: None,
            request_timeout: REQUEST_TIMEOUT,
            cut_short: 0,
            panics: 0,
            ticked: Instant::now(),
            status: String::new(),
            begun: Instant::now(),
            ready: false,
        }
    }

    /// Serves one runtime after the other until a signal comes.
    pub fn serve(mut self, signals: &SignalFd) -> Result<()> {
        let path = self.settings.socket.clone();
        let mut rest = FIRST_REST;
        let mut said = false;
        loop {
            let begun = Instant::now();
            match UnixStream::connect(&path) {
                Ok(socket) => {
                    said = false;
                    if self.session(socket, signals)? == End::Told {
                        break;
                    }
                }
                Err(error) => {
                    if !said {
                        let error = Error::Nri { path: path.clone(), source: error };
                        log::warn!("{error}");
                    }
                    said = true;
                }
            }
            if begun.elapsed() > HEALTHY {
                rest = FIRST_REST;
            }
            if self.rest(jittered(rest), signals)? == End::Told {
                break;
            }
            rest = rest.saturating_mul(2).min(LAST_REST);
        }
        self.finish();
        Ok(())
    }

    /// Serves the runtime that started us, until it closes the connection.
    pub fn serve_launched(mut self, socket: UnixStream, signals: &SignalFd) -> Result<()> {
        self.session(socket, signals)?;
        self.finish();
        Ok(())
    }

    /// Puts on record what an earlier run left open.
    pub fn go_on_from(&mut self, unfinished: &[Map<String, Value>]) {
        let records = self.audit.leave_unresolved(unfinished);
        self.writer.offer(records);
    }

    fn finish(mut self) {
        let records = self.audit.finish();
        self.writer.offer(records);
        systemd::stopping("Writing what is left");
        if !self.writer.finish(LAST_WORDS) {
            log::error!("stopped before everything was written");
        }
    }

    /// One connection, from registration to its end.
    fn session(&mut self, mut socket: UnixStream, signals: &SignalFd) -> Result<End> {
        let mut session = Session::default();
        let mut progress = Progress::default();
        let conversation = || self.converse(&mut socket, &mut session, &mut progress, signals);
        let end = match catch_unwind(AssertUnwindSafe(conversation)) {
            Err(_) => {
                self.panics = self.panics.saturating_add(1);
                End::Closed
            }
            Ok(Ok(end)) => end,
            Ok(Err(Error::Nri { source, .. })) => {
                log::warn!("the connection to the runtime ended: {source}");
                End::Closed
            }
            Ok(Err(error)) => return Err(error),
        };
        if progress.configured {
            let records = self.audit.disconnected();
            self.writer.offer(records);
        }
        self.runtime = None;
        // A runtime that does not know an event says so by closing the connection.
        if progress.synchronized {
            self.cut_short = 0;
        } else if progress.configured && end == End::Closed {
            self.cut_short = self.cut_short.saturating_add(1);
        }
        Ok(end)
    }

    fn converse(
        &mut self,
        socket: &mut UnixStream,
        session: &mut Session,
        progress: &mut Progress,
        signals: &SignalFd,
    ) -> Result<End> {
        let path = self.settings.socket.clone();
        let failed = |source| Error::Nri { path: path.clone(), source };
        socket.set_write_timeout(Some(SEND_TIMEOUT)).map_err(failed)?;
        let register = Session::register(&self.settings.name, &self.settings.index);
        socket.write_all(&register).map_err(failed)?;
        let mut buffer = vec![0; 64 << 10];
        let mut leave_by: Option<Instant> = None;
        loop {
            self.tick();
            match (wait(Some(socket), signals, leave_by.is_none(), TICK)?, leave_by) {
                (Ready::Stop, _) => {
                    systemd::status("Leaving with the runtime's next call");
                    leave_by = Instant::now().checked_add(LEAVE_WITHIN);
                    continue;
                }
                // Never with a call waiting, which may be a validation.
                (Ready::Nothing, Some(latest)) if Instant::now() >= latest => return Ok(End::Told),
                (Ready::Nothing, _) => continue,
                (Ready::Read, _) => {}
            }
            let read = socket.read(&mut buffer).map_err(failed)?;
            let bytes = buffer.get(..read).unwrap_or_default();
            if bytes.is_empty() {
                log::info!("the runtime closed the connection");
                return Ok(End::Closed);
            }
            let Ok(received) = session.receive(bytes) else {
                log::warn!("the runtime sent a frame longer than any is");
                return Ok(End::Closed);
            };
            for received in received {
                match received {
                    // A runtime notices that a plugin is gone when the answer to a call
                    // does not come. If that call is Validate, the creation fails; any
                    // other goes on without us, and so does what comes after it.
                    Received::Call(call) if leave_by.is_some() && call.may_be_left() => {
                        self.understand(&call);
                        return Ok(End::Told);
                    }
                    Received::Call(call) => self.take(&call, socket, progress).map_err(failed)?,
                    Received::Answer(bytes) => socket.write_all(&bytes).map_err(failed)?,
                    Received::Refused(reason) => {
                        log::error!(
                            "the runtime refused the plugin: {}; see --name and --index",
                            printable_line(&reason)
                        );
                        return Ok(End::Closed);
                    }
                }
            }
        }
    }

    /// Answers a call, then understands it; or the other way round where a container
    /// may not be created unlogged.
    fn take(
        &mut self,
        call: &Call,
        socket: &mut UnixStream,
        progress: &mut Progress,
    ) -> io::Result<()> {
        if call.method == Method::Validate && self.settings.fail_closed {
            let ticket = self.understand(call);
            let patience = self.request_timeout.checked_div(2).unwrap_or_default();
            let kept = ticket.is_some_and(|ticket| self.writer.wait(ticket, patience));
            return socket.write_all(&match kept {
                true => call.done(),
                false => call.reject("the container log cannot be written (--fail-closed)"),
            });
        }
        socket.write_all(&match call.method {
            Method::Configure => {
                progress.configured = true;
                call.subscribe(self.events(&call.payload))
            }
            Method::Synchronize => {
                progress.synchronized = true;
                call.synchronized()
            }
            _ => call.done(),
        })?;
        self.understand(call);
        Ok(())
    }

    fn events(&self, configure: &[u8]) -> i32 {
        let runtime = ConfigureRequest::parse_from_bytes(configure).unwrap_or_default();
        session::events(&runtime, self.cut_short >= CUT_SHORT)
    }

    /// Makes records of a call and hands them to the writer; `None` where that failed.
    fn understand(&mut self, call: &Call) -> Option<Ticket> {
        // The state is bookkeeping that a panic leaves incomplete, not unsound.
        match catch_unwind(AssertUnwindSafe(|| self.records(call))) {
            Ok(Ok(records)) => Some(self.writer.offer(records)),
            Ok(Err(_)) => {
                log::warn!("a message of the runtime could not be decoded: {:?}", call.method);
                let records = self.audit.undecodable();
                self.writer.offer(records);
                None
            }
            Err(_) => {
                self.panics = self.panics.saturating_add(1);
                let records = self.audit.undecodable();
                self.writer.offer(records);
                None
            }
        }
    }

    fn records(&mut self, call: &Call) -> protobuf::Result<Vec<Record>> {
        match call.method {
            Method::Configure => {
                Ok(self.configured(&ConfigureRequest::parse_from_bytes(&call.payload)?))
            }
            _ => self.audit.hear(call),
        }
    }

    fn configured(&mut self, request: &ConfigureRequest) -> Vec<Record> {
        let timeout = u64::try_from(request.request_timeout).ok().filter(|timeout| *timeout > 0);
        self.request_timeout = timeout.map_or(REQUEST_TIMEOUT, Duration::from_millis);
        let runtime = name(request);
        log::info!("connected to {runtime}");
        self.runtime = Some(runtime);
        self.audit.configured(request, session::validates(request))
    }

    fn rest(&mut self, time: Duration, signals: &SignalFd) -> Result<End> {
        let begun = Instant::now();
        loop {
            self.tick();
            let left = time.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Ok(End::Closed);
            }
            if let Ready::Stop = wait(None, signals, true, left.min(TICK))? {
                return Ok(End::Told);
            }
        }
    }

    /// Keeps the watchdog fed, the status true and the pending few.
    fn tick(&mut self) {
        if self.ticked.elapsed() < TICK && !self.status.is_empty() {
            return;
        }
        self.ticked = Instant::now();
        systemd::watchdog_ping();
        let records = self.audit.expire();
        if !records.is_empty() {
            self.writer.offer(records);
        }
        let runtime = match &self.runtime {
            Some(runtime) => format!("Watching {runtime}"),
            None => format!("Waiting for {}", self.settings.socket.display()),
        };
        let panics = match self.panics {
            0 => String::new(),
            panics => format!("; {panics} messages failed inside the plugin"),
        };
        let State { written, lost, queued, failing } = self.writer.state();
        let failing = failing.map_or(String::new(), |reason| format!("; {reason}"));
        let status = format!(
            "{runtime}; records: {written} written, {lost} lost, {queued} waiting{failing}{panics}"
        );
        if !self.ready && (self.runtime.is_some() || self.begun.elapsed() > WAIT_FOR_RUNTIME) {
            systemd::ready(&status);
            self.ready = true;
        }
        if status != self.status {
            systemd::status(&status);
            self.status = status;
        }
    }
}

/// A runtime in words, for people.
fn name(runtime: &ConfigureRequest) -> String {
    printable_line(&format!("{} {}", runtime.runtime_name, runtime.runtime_version))
}

/// How far a session came.
#[derive(Debug, Default)]
struct Progress {
    configured: bool,
    synchronized: bool,
}

/// Waits for the runtime, for a signal unless that has come, or for the time to pass.
fn wait(
    socket: Option<&UnixStream>,
    signals: &SignalFd,
    until_told: bool,
    time: Duration,
) -> Result<Ready> {
    let watch = |one| PollFd::new(one, PollFlags::POLLIN);
    let told = if until_told { PollFlags::POLLIN } else { PollFlags::empty() };
    let mut watched = vec![PollFd::new(signals.as_fd(), told)];
    watched.extend(socket.map(|socket| watch(socket.as_fd())));
    let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
    match poll(&mut watched, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(Error::System { call: "poll", source: error.into() }),
    }
    let ready = |at: usize| watched.get(at).is_some_and(|one| one.any().unwrap_or(false));
    Ok(match (ready(0), ready(1)) {
        (true, _) => Ready::Stop,
        (false, true) => Ready::Read,
        (false, false) => Ready::Nothing,
    })
}

/// A fifth more or less, so that the plugins of a node do not come back all at once.
fn jittered(time: Duration) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    let random = u32::try_from(RandomState::new().hash_one(()) >> 32).unwrap_or_default();
    time.mul_f64(0.8 + 0.4 * f64::from(random) / f64::from(u32::MAX))
}
