//! gRPC over a unix socket: one loop that accepts, watches and keeps time, and a
//! pool of threads that answer.
//!
//! The loop is the main thread. It accepts connections, looks at who they are and
//! how many, hands them to gRPC core, notices when they end, feeds systemd's
//! watchdog, keeps the status line true and waits for the signal to stop. gRPC
//! core's threads, each with a completion queue of its own, run the handlers.

pub mod connections;
pub mod health;
pub mod listener;
pub mod reflection;
pub mod service;
mod timer;

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{mpsc, Arc};
use std::thread;
use std::time::Duration;

use grpcio::{ChannelBuilder, EnvBuilder, ServerBuilder, ServiceBuilder};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signalfd::SignalFd;

use self::connections::{Connections, Limits, Peers};
use self::health::Health;
use self::listener::{Listener, Peer};
use self::reflection::Reflection;
use self::service::Eventlog;
use self::timer::{soonest, Timer};
use crate::error::{Error, Result};
use crate::systemd;

/// The largest request by far is a reflection query of some hundred bytes.
const MOST_REQUEST_BYTES: i32 = 64 << 10;
/// Calls under way on one connection.
const MOST_STREAMS: i32 = 100;
/// How often a client may ping without data. Pings are pointless on a unix socket,
/// but gRPC core's five minutes would end connections of clients that do.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// How long accepting rests when the process or the machine is out of descriptors:
/// the listener stays readable all the while, and the loop would spin.
const REST: Duration = Duration::from_millis(100);
/// Connections accepted before the loop looks at what else has happened.
const MOST_ACCEPTED_AT_ONCE: usize = 16;
/// The status line follows what happens at this distance.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// What clients can make happen at will is warned of at this distance.
const COMPLAIN_EVERY: Duration = Duration::from_secs(1);
/// How long connections may take to end once we are told to stop: with [`SHUT_DOWN`]
/// less than the 5 s that stopping may take.
const DRAIN: Duration = Duration::from_secs(3);
/// How often they are seen off meanwhile, in milliseconds.
const SEE_OFF_EVERY: u8 = 50;
/// After so long without a call, clients that were seen off no longer use what they
/// have not closed.
const QUIET: Duration = Duration::from_millis(300);
const SHUT_DOWN: Duration = Duration::from_millis(500);

/// Marks in the epoll set; connections count on from the last.
const LISTENER: u64 = 0;
const SIGNALS: u64 = 1;
const FIRST_CONNECTION: u64 = 2;

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Threads that answer calls.
    pub threads: usize,
    pub limits: Limits,
    /// Exit after so long without a connection; `None`: never.
    pub idle_exit: Option<Duration>,
}

/// A running gRPC server that does not listen by itself.
pub struct Server {
    grpc: grpcio::Server,
    health: Arc<Health>,
    eventlog: Arc<Eventlog>,
    connections: Connections,
    settings: Settings,
    accepted: u64,
    refused: u64,
    complained: Option<Timer>,
}

impl Server {
    /// Starts the threads. From here on calls are answered, once there are
    /// connections for them to come in on.
    pub fn start(eventlog: Eventlog, settings: Settings) -> Result<Server> {
        let environment = EnvBuilder::new().cq_count(settings.threads).name_prefix("grpc-").build();
        let environment = Arc::new(environment);
        let arguments = ChannelBuilder::new(Arc::clone(&environment))
            .max_receive_message_len(MOST_REQUEST_BYTES)
            .max_concurrent_stream(MOST_STREAMS)
            .http2_min_recv_ping_interval_without_data(PING_INTERVAL)
            .build_args();
        let (eventlog, health, peers) =
            (Arc::new(eventlog), Arc::new(Health::default()), Peers::default());
        let service = Arc::clone(&eventlog).register(ServiceBuilder::new(), peers.clone());
        let service = Arc::clone(&health).register(service);
        let service = Arc::new(Reflection::new()).register(service);
        let mut grpc = ServerBuilder::new(environment)
            .channel_args(arguments)
            .register_service(service.build())
            .build()
            .map_err(Error::CallFailed)?;
        grpc.start();
        let connections = Connections::new(settings.limits, peers, FIRST_CONNECTION);
        Ok(Server {
            grpc,
            health,
            eventlog,
            connections,
            settings,
            accepted: 0,
            refused: 0,
            complained: None,
        })
    }

    /// What the server has to serve and how it is asked, in a line.
    pub fn status(&self) -> String {
        format!(
            "Serving: {}; connections: {} open, {} accepted, {} refused; calls answered: {}",
            self.eventlog.known(),
            self.connections.len(),
            self.accepted,
            self.refused,
            self.eventlog.calls().answered,
        )
    }

    /// Serves connections of `listener` until told to stop, and then lets the calls
    /// under way finish. Connections that come from that moment on are the next
    /// instance's: they wait in the socket's backlog.
    pub fn serve(mut self, listener: Listener, signals: &SignalFd) -> Result<()> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(epoll_failed)?;
        let readable = EpollEvent::new(EpollFlags::EPOLLIN, SIGNALS);
        epoll.add(signals, readable).map_err(epoll_failed)?;
        let mut gate = Gate::open(listener, &epoll)?;
        let reason = self.serve_until_told(&epoll, &mut gate)?;
        gate.close(&epoll)?;
        epoll.delete(signals).map_err(epoll_failed)?;

        let status = format!("Stopping ({reason}); connections open: {}", self.connections.len());
        log::info!("{status}");
        systemd::stopping(&status);
        self.health.drain();
        self.see_off_connections(&epoll)?;
        self.shut_down();
        Ok(())
    }

    /// Accepts, watches and keeps time; answers why it stopped.
    fn serve_until_told(&mut self, epoll: &Epoll, gate: &mut Gate) -> Result<&'static str> {
        let mut watchdog = systemd::watchdog_interval().map(Timer::new);
        let mut idle = self.settings.idle_exit.map(Timer::new);
        let mut status = StatusLine::new(self.status());
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let timers = [watchdog.as_ref(), idle.as_ref(), gate.rest.as_ref(), status.wait()];
            let wait = soonest(timers.into_iter().flatten());
            let was_empty = self.connections.is_empty();
            for event in wait_for(epoll, &mut events, wait)? {
                match event.data() {
                    LISTENER => gate.rest = self.accept(epoll, &gate.listener),
                    SIGNALS => return Ok("told to stop"),
                    connection => self.hang_up(epoll, connection),
                }
                status.stale = true;
            }
            if watchdog.as_mut().is_some_and(Timer::is_due) {
                systemd::watchdog_ping();
            }
            if let Some(idle) = &mut idle {
                if !was_empty || !self.connections.is_empty() {
                    idle.restart();
                } else if idle.is_due() {
                    return Ok("idle");
                }
            }
            gate.adjust(epoll, self.connections.is_full())?;
            // Calls over an open connection are no events of this loop.
            status.stale |= !self.connections.is_empty();
            status.tell(|| self.status());
        }
    }

    /// Tells clients to go elsewhere and waits until they have, or no longer call.
    /// systemd does not expect the watchdog's pings any more.
    fn see_off_connections(&mut self, epoll: &Epoll) -> Result<()> {
        let deadline = Timer::new(DRAIN);
        let mut quiet = Timer::new(QUIET);
        let mut calls = self.eventlog.calls();
        let mut events = [EpollEvent::empty(); 64];
        while !(self.connections.is_empty() || quiet.is_over() || deadline.is_over()) {
            let all_told = self.connections.see_off();
            let now = self.eventlog.calls();
            if !all_told || now != calls || now.under_way() {
                quiet.restart();
            }
            calls = now;
            for event in wait_for(epoll, &mut events, SEE_OFF_EVERY.into())? {
                self.hang_up(epoll, event.data());
            }
        }
        Ok(())
    }

    /// Forgets a connection that one of its ends has closed.
    fn hang_up(&mut self, epoll: &Epoll, connection: u64) {
        if let Some(watched) = self.connections.remove(connection) {
            // gRPC core may still have its descriptor of the same socket, so closing
            // ours alone would not end the watch.
            let _ = epoll.delete(watched);
        }
    }

    /// Accepts some of what waits, as far as the limits go; the rest stays in the
    /// backlog. Only some, since of a long backlog many have hung up again, and
    /// these must be seen off before they count against the living.
    /// Answers how long to leave the listener alone, where accepting fails.
    fn accept(&mut self, epoll: &Epoll, listener: &Listener) -> Option<Timer> {
        for _ in 0..MOST_ACCEPTED_AT_ONCE {
            if self.connections.is_full() {
                break;
            }
            let (stream, peer) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                // The client went away before its turn came.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    self.complain(format_args!("cannot accept a connection: {error}"));
                    return Some(Timer::new(REST));
                }
            };
            if self.connections.is_full_for(peer.uid) {
                self.refused = self.refused.saturating_add(1);
                let Peer { uid, pid, .. } = peer;
                let most = self.settings.limits.connections_per_uid;
                self.complain(format_args!(
                    "refused a connection of uid {uid}, pid {pid}: it has {most} already"
                ));
                continue;
            }
            let mark = self.connections.next_number();
            // The kernel always reports EPOLLHUP: both ends are closed. A client that
            // closes one half still has its connection, and its place.
            let hung_up = EpollEvent::new(EpollFlags::empty(), mark);
            let watched = stream.try_clone().and_then(|watched| {
                epoll.add(&watched, hung_up)?;
                Ok(watched)
            });
            match watched {
                Ok(watched) => {
                    self.connections.add(stream.as_raw_fd(), watched.into(), peer);
                    listener::hand_over(&mut self.grpc, stream);
                    self.accepted = self.accepted.saturating_add(1);
                }
                Err(error) => {
                    self.complain(format_args!("cannot watch a connection: {error}"));
                    return Some(Timer::new(REST));
                }
            }
        }
        None
    }

    /// Warns of what clients can make happen as often as they like, but not as often
    /// as it happens; the status line counts it.
    fn complain(&mut self, of: fmt::Arguments<'_>) {
        if self.complained.is_none_or(|complained| complained.is_over()) {
            log::warn!("{of}");
            self.complained = Some(Timer::new(COMPLAIN_EVERY));
        }
    }

    /// Ends gRPC core's work; calls that still run are cancelled.
    fn shut_down(&mut self) {
        let shutdown = self.grpc.shutdown();
        let (done, finished) = mpsc::channel();
        thread::spawn(move || {
            let _ = futures_executor::block_on(shutdown);
            let _ = done.send(());
        });
        if self.eventlog.calls().under_way() {
            log::warn!("calls under way are cancelled");
        }
        self.grpc.cancel_all_calls();
        let _ = finished.recv_timeout(SHUT_DOWN);
        self.eventlog.leave_order();
    }
}

/// The events that come within a time; none where a signal handler ran meanwhile.
fn wait_for<'e>(
    epoll: &Epoll,
    events: &'e mut [EpollEvent],
    time: EpollTimeout,
) -> Result<impl Iterator<Item = &'e EpollEvent>> {
    let ready = match epoll.wait(events, time) {
        Err(Errno::EINTR) => 0,
        ready => ready.map_err(epoll_failed)?,
    };
    Ok(events.iter().take(ready))
}

fn epoll_failed(error: Errno) -> Error {
    Error::System { call: "epoll", source: error.into() }
}

/// The listener in the epoll set, looked at or left alone.
struct Gate {
    listener: Listener,
    open: bool,
    /// Left alone for a while, because accepting failed.
    rest: Option<Timer>,
}

impl Gate {
    fn open(listener: Listener, epoll: &Epoll) -> Result<Gate> {
        let readable = EpollEvent::new(EpollFlags::EPOLLIN, LISTENER);
        epoll.add(&listener, readable).map_err(epoll_failed)?;
        Ok(Gate { listener, open: true, rest: None })
    }

    /// Looks at the listener exactly while there is room and it need not rest: it
    /// stays readable as long as connections wait.
    fn adjust(&mut self, epoll: &Epoll, full: bool) -> Result<()> {
        self.rest = self.rest.filter(|rest| !rest.is_over());
        let open = self.rest.is_none() && !full;
        if open != self.open {
            let interest = if open { EpollFlags::EPOLLIN } else { EpollFlags::empty() };
            let mut event = EpollEvent::new(interest, LISTENER);
            epoll.modify(&self.listener, &mut event).map_err(epoll_failed)?;
            self.open = open;
        }
        Ok(())
    }

    /// systemd has the socket open too, so closing ours would leave it in the set.
    fn close(self, epoll: &Epoll) -> Result<()> {
        epoll.delete(&self.listener).map_err(epoll_failed)
    }
}

/// What `systemctl status` shows, true to within [`STATUS_EVERY`].
struct StatusLine {
    told: String,
    every: Timer,
    /// Something has happened since.
    stale: bool,
}

impl StatusLine {
    fn new(told: String) -> Self {
        StatusLine { told, every: Timer::new(STATUS_EVERY), stale: false }
    }

    fn wait(&self) -> Option<&Timer> {
        self.stale.then_some(&self.every)
    }

    fn tell(&mut self, status: impl FnOnce() -> String) {
        if self.stale && self.every.is_due() {
            self.stale = false;
            let now = status();
            if now != self.told {
                systemd::status(&now);
                self.told = now;
            }
        }
    }
}
