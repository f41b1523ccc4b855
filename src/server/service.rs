//! Eventlog/GetEventlog: request → path of a published slice.

use std::collections::HashMap;
use std::fmt;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use grpcio::{RpcContext, RpcStatus, ServiceBuilder, UnarySink};

use super::connections::Peers;
use super::listener::Peer;
use crate::error::{Error, Result};
use crate::json;
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
    /// One file, seen through either category: RTMR names or PCR names.
    container: [Shelf; 2],
    calls: AtomicU64,
}

impl Eventlog {
    pub fn new(sources: Sources, publisher: Publisher) -> Self {
        let Sources { ccel, tpm, container } = sources;
        Eventlog {
            publisher,
            ccel: Shelf::new("tdx-paas", Registers::Rtmr, ccel),
            tpm: Shelf::new("tpm-paas", Registers::Pcr, tpm),
            container: [
                Shelf::new("tdx-saas", Registers::Rtmr, container.clone()),
                Shelf::new("tpm-saas", Registers::Pcr, container),
            ],
            calls: AtomicU64::new(0),
        }
    }

    /// Publishes the slice that is asked for, or finds it published.
    pub fn get(&self, request: &GetEventlogRequest) -> Result<PathBuf> {
        let level = request.eventlog_level.enum_value();
        let category = request.eventlog_category.enum_value();
        let [container_tdx, container_tpm] = &self.container;
        let shelf = match (level, category) {
            (Ok(LEVEL::PAAS), Ok(CATEGORY::TDX_EVENTLOG)) => &self.ccel,
            (Ok(LEVEL::PAAS), Ok(CATEGORY::TPM_EVENTLOG)) => &self.tpm,
            (Ok(LEVEL::SAAS), Ok(CATEGORY::TDX_EVENTLOG)) => container_tdx,
            (Ok(LEVEL::SAAS), Ok(CATEGORY::TPM_EVENTLOG)) => container_tpm,
            (Err(_), _) | (_, Err(_)) => return Err(Error::InvalidRequest),
        };
        shelf.get(Range::new(request.start_position, request.count)?, &self.publisher)
    }

    /// Reads every log that is there and was not read yet, so that the first client
    /// does not wait for it, and says in a line what this machine has.
    pub fn survey(&self) -> String {
        let [container, _] = &self.container;
        let shelves = [("TDX", &self.ccel), ("TPM", &self.tpm), ("container", container)];
        let words = shelves.map(|(name, shelf)| match shelf.parsed() {
            Ok(parsed) => format!("{name} {} events", parsed.log.len()),
            Err(Error::NoLog { .. }) => format!("no {name} log"),
            Err(error) => format!("{name} log unreadable ({error})"),
        });
        words.join(", ")
    }

    /// How many calls were answered, whatever the answer.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// The gRPC service; every call is logged with who made it.
    pub fn register(self: Arc<Self>, builder: ServiceBuilder, peers: Peers) -> ServiceBuilder {
        builder.add_unary_handler(&GET_EVENTLOG, move |context, request, sink| {
            let outcome = answer(|| self.get(&request));
            self.calls.fetch_add(1, Ordering::Relaxed);
            log_call(&peers, &context, &request, &outcome);
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
    /// How its slices' names begin.
    name: &'static str,
    registers: Registers,
    source: Source,
    parsed: Mutex<Option<Arc<Parsed>>>,
}

/// A log as the file was in one state.
#[derive(Debug)]
struct Parsed {
    path: PathBuf,
    identity: Identity,
    log: Log<Box<[u8]>>,
    answers: Mutex<HashMap<Range, PathBuf>>,
}

/// Beyond this many different requests the answers are looked up anew: each costs
/// a rendering and no correctness.
const MOST_ANSWERS: usize = 4096;

impl Shelf {
    fn new(name: &'static str, registers: Registers, source: Source) -> Self {
        Shelf { name, registers, source, parsed: Mutex::new(None) }
    }

    fn get(&self, range: Range, publisher: &Publisher) -> Result<PathBuf> {
        let parsed = self.parsed()?;
        if let Some(path) = locked(&parsed.answers).get(&range) {
            if publisher.serve_again(path) {
                return Ok(path.clone());
            }
        }
        let slice = Slice::of(&parsed.log, range).map_err(|reason| match reason {
            OutOfReach::Request(error) => error,
            OutOfReach::Log(malformed) => Error::Malformed { path: parsed.path.clone(), malformed },
        })?;
        let prefix = format!("{}-{}-{}", self.name, slice.first(), slice.count());
        let render = |to: &mut dyn std::io::Write| {
            json::write(&slice, self.registers, to).map_err(std::io::Error::from)
        };
        let path = publisher.publish(&prefix, render, &slice.bytes())?;
        let mut answers = locked(&parsed.answers);
        if answers.len() >= MOST_ANSWERS {
            answers.clear();
        }
        answers.insert(range, path.clone());
        Ok(path)
    }

    /// The log as its file is now: what was parsed last, where the file is still
    /// that one.
    fn parsed(&self) -> Result<Arc<Parsed>> {
        let (path, identity) = self.source.locate()?;
        // Held while reading, so that one thread reads and the others wait for it.
        let mut parsed = locked(&self.parsed);
        if let Some(parsed) = parsed.as_ref() {
            if parsed.path == path && parsed.identity == identity {
                return Ok(Arc::clone(parsed));
            }
        }
        let (bytes, identity) = source::read(path)?;
        let malformed = |malformed| Error::Malformed { path: path.to_owned(), malformed };
        // The file's mapping is given back here: only events are kept.
        let log = Log::parse(bytes).map_err(malformed)?.detach();
        self.report(path, &log);
        let answers = Mutex::default();
        let fresh = Arc::new(Parsed { path: path.to_owned(), identity, log, answers });
        *parsed = Some(Arc::clone(&fresh));
        Ok(fresh)
    }

    fn report(&self, path: &Path, log: &Log<Box<[u8]>>) {
        let path = path.display();
        ::log::info!("{path}: {} events", log.len());
        if let End::Broken(malformed) = log.end() {
            ::log::warn!("{path}: {malformed}");
        }
        for warning in warnings(log, self.registers) {
            ::log::debug!("{path}: {warning}");
        }
    }
}

/// A lock whose holder panicked guards a cache, and a cache is never half-changed
/// here.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

fn log_call(
    peers: &Peers,
    context: &RpcContext<'_>,
    request: &GetEventlogRequest,
    outcome: &Result<PathBuf>,
) {
    let level = if outcome.is_ok() { ::log::Level::Info } else { ::log::Level::Warn };
    if !::log::log_enabled!(level) {
        return;
    }
    let Peer { pid, uid, gid } = peers.of(&context.peer()).unwrap_or(Peer::GONE);
    let outcome: &dyn fmt::Display = match outcome {
        Ok(path) => &path.display(),
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
