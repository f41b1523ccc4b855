//! Eventlog/GetEventlog: request → path of a published slice.

use std::collections::HashMap;
use std::fmt;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use grpcio::{RpcContext, RpcStatus, ServiceBuilder, UnarySink};

use super::connections::Peers;
use super::listener::Peer;
use crate::error::{Error, Malformed, Result};
use crate::json::{self, View};
use crate::log::slice::{OutOfReach, Range};
use crate::log::warning::warnings;
use crate::log::{End, Log, Registers, Slice};
use crate::publish::Publisher;
use crate::rpc::eventlog::{GetEventlogReply, GetEventlogRequest, CATEGORY, LEVEL};
use crate::rpc::GET_EVENTLOG;
use crate::source::{self, Identity, Source};

/// Where the three logs are.
#[derive(Clone, Debug)]
pub struct Sources {
    pub ccel: Source,
    pub tpm: Source,
    pub container: Source,
}

/// The service behind all threads of the server.
#[derive(Debug)]
pub struct Eventlog {
    publisher: Publisher,
    ccel: Shelf,
    tpm: Shelf,
    container: Shelf,
    begun: AtomicU64,
    answered: AtomicU64,
}

/// How many calls there have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calls {
    pub begun: u64,
    /// Whatever the answer was.
    pub answered: u64,
}

impl Calls {
    pub fn under_way(self) -> bool {
        self.begun != self.answered
    }
}

const RTMRS: View = View::Firmware(Registers::Rtmr);
const PCRS: View = View::Firmware(Registers::Pcr);
/// The container log serves both worlds.
const CONTAINER_RTMR: View = View::Containers(Registers::Rtmr);
const CONTAINER_PCR: View = View::Containers(Registers::Pcr);

impl Eventlog {
    pub fn new(sources: Sources, publisher: Publisher) -> Self {
        Eventlog {
            publisher,
            ccel: Shelf::new(sources.ccel, Registers::Rtmr),
            tpm: Shelf::new(sources.tpm, Registers::Pcr),
            container: Shelf::new(sources.container, Registers::Rtmr),
            begun: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        }
    }

    /// Publishes the slice that is asked for, or finds it published.
    pub fn get(&self, request: &GetEventlogRequest) -> Result<PathBuf> {
        let level = request.eventlog_level.enum_value();
        let category = request.eventlog_category.enum_value();
        let (shelf, name, view) = match (level, category) {
            (Ok(LEVEL::PAAS), Ok(CATEGORY::TDX_EVENTLOG)) => (&self.ccel, "tdx-paas", RTMRS),
            (Ok(LEVEL::PAAS), Ok(CATEGORY::TPM_EVENTLOG)) => (&self.tpm, "tpm-paas", PCRS),
            (Ok(LEVEL::SAAS), Ok(CATEGORY::TDX_EVENTLOG)) => {
                (&self.container, "tdx-saas", CONTAINER_RTMR)
            }
            (Ok(LEVEL::SAAS), Ok(CATEGORY::TPM_EVENTLOG)) => {
                (&self.container, "tpm-saas", CONTAINER_PCR)
            }
            (Err(_), _) | (_, Err(_)) => return Err(Error::InvalidRequest),
        };
        let range = Range::new(request.start_position, request.count)?;
        shelf.get(name, view, range, &self.publisher).map_err(|error| match (view, error) {
            (View::Containers(_), Error::NoLog { path }) => Error::NoContainerLog { path },
            (_, error) => error,
        })
    }

    /// Reads the logs that are there, so that the first client does not wait for it.
    pub fn read_logs(&self) {
        for shelf in [&self.ccel, &self.tpm, &self.container] {
            match shelf.parsed() {
                Ok(_) | Err(Error::NoLog { .. }) => {}
                Err(error) => ::log::warn!("{error}"),
            }
        }
    }

    /// The last thing before the process ends.
    pub fn leave_order(&self) {
        self.publisher.leave_order();
    }

    /// What this machine has, in a line, as far as it was read: this is for the main
    /// loop, which must not wait for a file.
    pub fn known(&self) -> String {
        let shelves = [("TDX", &self.ccel), ("TPM", &self.tpm), ("container", &self.container)];
        shelves.map(|(name, shelf)| format!("{name} {}", shelf.known())).join(", ")
    }

    pub fn calls(&self) -> Calls {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Calls { answered: count(&self.answered), begun: count(&self.begun) }
    }

    /// The gRPC service; every call is logged with who made it.
    pub fn register(self: Arc<Self>, builder: ServiceBuilder, peers: Peers) -> ServiceBuilder {
        builder.add_unary_handler(&GET_EVENTLOG, move |context, request, sink| {
            // Now, since the caller may hang up and its descriptor be used again.
            let peer = peers.of(&context.peer()).unwrap_or(Peer::UNKNOWN);
            self.begun.fetch_add(1, Ordering::Relaxed);
            let outcome = answer(|| self.get(&request));
            self.answered.fetch_add(1, Ordering::Relaxed);
            log_call(peer, &request, &outcome);
            reply(
                &context,
                sink,
                outcome.map(|path| GetEventlogReply {
                    eventlog_data_loc: path.to_string_lossy().into_owned(),
                    ..Default::default()
                }),
            );
        })
    }
}

/// One log: its file, and what was read of it last.
#[derive(Debug)]
struct Shelf {
    source: Source,
    registers: Registers,
    read: RwLock<Option<Read>>,
}

/// What became of reading a file that was in one state.
#[derive(Debug)]
struct Read {
    path: PathBuf,
    identity: Identity,
    outcome: std::result::Result<Arc<Parsed>, Malformed>,
}

/// A log, and where its slices were published.
#[derive(Debug)]
struct Parsed {
    path: PathBuf,
    log: Log<Box<[u8]>>,
    answers: RwLock<HashMap<(&'static str, Range), PathBuf>>,
}

/// Beyond this many different requests the answers are looked up anew: each costs
/// a rendering and no correctness.
const MOST_ANSWERS: usize = 4096;

impl Shelf {
    fn new(source: Source, registers: Registers) -> Self {
        Shelf { source, registers, read: RwLock::new(None) }
    }

    fn get(
        &self,
        name: &'static str,
        view: View,
        range: Range,
        publisher: &Publisher,
    ) -> Result<PathBuf> {
        let parsed = self.parsed()?;
        if let Some(path) = shared(&parsed.answers).get(&(name, range)) {
            if publisher.serve_again(path) {
                return Ok(path.clone());
            }
        }
        let slice = Slice::of(&parsed.log, range).map_err(|reason| match reason {
            OutOfReach::Request(error) => error,
            OutOfReach::Log(malformed) => Error::Malformed { path: parsed.path.clone(), malformed },
        })?;
        let prefix = format!("{name}-{}-{}", slice.first(), slice.count());
        let render = |to: &mut dyn std::io::Write| {
            json::write(&slice, view, to).map_err(std::io::Error::from)
        };
        let path = publisher.publish(&prefix, render, &slice.bytes())?;
        let mut answers = alone(&parsed.answers);
        if answers.len() >= MOST_ANSWERS {
            answers.clear();
        }
        answers.insert((name, range), path.clone());
        Ok(path)
    }

    /// The log as its file is now: what was parsed last, where the file is still
    /// that one.
    fn parsed(&self) -> Result<Arc<Parsed>> {
        let (path, identity) = self.source.locate().inspect_err(|_| *alone(&self.read) = None)?;
        if let Some(read) = shared(&self.read).as_ref().filter(|read| read.is_of(path, identity)) {
            return read.parsed();
        }
        // One thread reads, and the others wait for what it finds.
        let mut slot = alone(&self.read);
        if let Some(read) = slot.as_ref().filter(|read| read.is_of(path, identity)) {
            return read.parsed();
        }
        *slot = None;
        let (bytes, identity) = source::read(path)?;
        let outcome = Log::parse(bytes).map(|log| {
            // The file's mapping is given back here: only events are kept.
            let log = log.detach();
            report(path, &log, self.registers);
            Arc::new(Parsed { path: path.to_owned(), log, answers: RwLock::default() })
        });
        slot.insert(Read { path: path.to_owned(), identity, outcome }).parsed()
    }

    fn known(&self) -> String {
        // A thread that reads a file right now holds the lock: then it is not known.
        let Ok(read) = self.read.try_read() else { return "being read".to_owned() };
        match read.as_ref().map(|read| &read.outcome) {
            None => "none".to_owned(),
            Some(Err(malformed)) => format!("unreadable ({malformed})"),
            Some(Ok(parsed)) => match parsed.log.end() {
                End::Broken(malformed) => {
                    format!(
                        "{} events, then broken at offset {}",
                        parsed.log.len(),
                        malformed.offset
                    )
                }
                _ => format!("{} events", parsed.log.len()),
            },
        }
    }
}

impl Read {
    fn is_of(&self, path: &Path, identity: Identity) -> bool {
        self.identity == identity && self.path == path
    }

    fn parsed(&self) -> Result<Arc<Parsed>> {
        let malformed = |malformed: &Malformed| Error::Malformed {
            path: self.path.clone(),
            malformed: *malformed,
        };
        self.outcome.as_ref().map(Arc::clone).map_err(malformed)
    }
}

/// Logs what was read of a file, once for each of its states.
fn report(path: &Path, log: &Log<Box<[u8]>>, registers: Registers) {
    let path = path.display();
    ::log::info!("{path}: {} events", log.len());
    if let End::Broken(malformed) = log.end() {
        ::log::warn!("{path}: {malformed}");
    }
    if ::log::log_enabled!(::log::Level::Debug) {
        for warning in warnings(log, registers) {
            ::log::debug!("{path}: {warning}");
        }
    }
}

/// Locks that guard caches: a holder that panicked never leaves one half-changed.
/// Warm calls share them, since a thread that waits for another costs more than all
/// else that such a call does.
fn shared<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn alone<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a handler so that a bug in it costs one call and not the server: a panic
/// that reached gRPC core's thread would end the process.
pub fn answer<T>(handler: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(handler)).unwrap_or(Err(Error::Panicked))
}

/// Sends a handler's outcome to the client.
pub fn reply<T: 'static>(context: &RpcContext<'_>, sink: UnarySink<T>, outcome: Result<T>) {
    let sent = match outcome {
        Ok(reply) => sink.success(reply),
        Err(error) => sink.fail(RpcStatus::from(&error)),
    };
    context.spawn(async move {
        // A client that hung up meanwhile does not want the reply.
        if let Err(error) = sent.await {
            ::log::debug!("a reply could not be sent: {error}");
        }
    });
}

fn log_call(peer: Peer, request: &GetEventlogRequest, outcome: &Result<PathBuf>) {
    let level = if outcome.is_ok() { ::log::Level::Info } else { ::log::Level::Warn };
    let Peer { pid, uid, gid } = peer;
    let outcome: &dyn fmt::Display = match outcome {
        Ok(path) => &path.display(),
        // The text on the wire is fixed and leaves this out.
        Err(error @ Error::CountPastEnd { events }) => &format!("{error}: {events} events"),
        Err(error) => error,
    };
    ::log::log!(
        level,
        "GetEventlog level {} category {} start_position {} count {} by uid {uid} pid {pid} \
         gid {gid}: {outcome}",
        request.eventlog_level.value(),
        request.eventlog_category.value(),
        request.start_position,
        request.count,
    );
}
