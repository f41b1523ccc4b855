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

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{mpsc, Arc};
use std::thread;
use std::time::{Duration, Instant};

use grpcio::{ChannelBuilder, EnvBuilder, ServerBuilder, ServiceBuilder};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use self::connections::{Connections, Limits, Peers};
use self::health::Health;
use self::listener::Listener;
use self::reflection::Reflection;
use self::service::Eventlog;
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
/// After this time on one connection a client is told to open another (HTTP/2
/// GOAWAY, which gRPC clients follow without failing a call). It is how a server
/// that stops gets rid of lasting connections: gRPC core's own shutdown would fail
/// the calls that cross it on the way.
const CONNECTION_AGE: Duration = Duration::from_secs(1);
/// How long connections may take to end once we are told to stop: longer than
/// their age, and with [`SHUT_DOWN`] less than the 5 s that stopping may take.
const DRAIN: Duration = Duration::from_secs(4);
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

/// Takes SIGTERM and SIGINT out of the ordinary course, for [`Server::serve`] to
/// read. Called before any thread is started: threads inherit the mask.
pub fn take_signals() -> Result<SignalFd> {
    let failed = |call| move |error: Errno| Error::System { call, source: error.into() };
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().map_err(failed("pthread_sigmask"))?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(failed("signalfd"))
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
            .raw_cfg_int(c"grpc.max_connection_age_ms".into(), CONNECTION_AGE.as_millis() as i32)
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
        Ok(Server { grpc, health, eventlog, connections, settings, accepted: 0, refused: 0 })
    }

    /// What the server has to serve and how it is asked, in a line.
    pub fn status(&self) -> String {
        format!(
            "Serving: {}; {} connections open, {} accepted, {} refused, {} calls answered",
            self.eventlog.survey(),
            self.connections.len(),
            self.accepted,
            self.refused,
            self.eventlog.calls(),
        )
    }

    /// Serves connections of `listener` until told to stop, and then lets the calls
    /// under way finish. Connections that come from that moment on are the next
    /// instance's: they wait in the socket's backlog.
    pub fn serve(mut self, listener: Listener, signals: &SignalFd) -> Result<()> {
        let failed = |error: Errno| Error::System { call: "epoll", source: error.into() };
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed)?;
        let readable = |mark| EpollEvent::new(EpollFlags::EPOLLIN, mark);
        epoll.add(&listener, readable(LISTENER)).map_err(failed)?;
        epoll.add(signals, readable(SIGNALS)).map_err(failed)?;

        let mut listener = Some(listener);
        let mut listening = true;
        let mut rest: Option<Timer> = None;
        let mut watchdog = systemd::watchdog_interval().map(Timer::new);
        let mut idle = self.settings.idle_exit.map(Timer::new);
        let mut drain: Option<Timer> = None;
        let mut status = Timer::new(STATUS_EVERY);
        let mut told = self.status();
        let mut happened = false;
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let status_due = happened.then_some(&status);
            let timers = [&watchdog, &rest, &idle, &drain].map(Option::as_ref);
            let ready = match epoll.wait(&mut events, soonest(timers, status_due)) {
                Err(Errno::EINTR) => 0,
                ready => ready.map_err(failed)?,
            };
            let mut stop = None;
            for event in events.iter().take(ready) {
                happened = true;
                match event.data() {
                    LISTENER => {
                        rest = listener.as_ref().and_then(|socket| self.accept(&epoll, socket));
                    }
                    SIGNALS => {
                        let _ = signals.read_signal();
                        stop = Some("told to stop");
                    }
                    connection => {
                        if let Some(watched) = self.connections.remove(connection) {
                            // gRPC core still has its descriptor of the same socket,
                            // so closing ours would not end the watch.
                            let _ = epoll.delete(watched);
                        }
                    }
                }
            }
            if watchdog.as_mut().is_some_and(Timer::is_due) {
                systemd::watchdog_ping();
            }
            if let Some(idle) = &mut idle {
                if !self.connections.is_empty() {
                    idle.restart();
                } else if idle.is_due() {
                    stop = Some("idle");
                }
            }
            if let (Some(reason), Some(socket)) = (stop, listener.take_if(|_| stop.is_some())) {
                // systemd keeps the socket open, so it would stay in the set.
                epoll.delete(&socket).map_err(failed)?;
                drop(socket);
                self.begin_to_stop(reason);
                drain = Some(Timer::new(DRAIN));
            }
            if drain.is_some_and(|drain| drain.is_over() || self.connections.is_empty()) {
                break;
            }
            if happened && status.is_due() && drain.is_none() {
                let now = self.status();
                if now != told {
                    systemd::status(&now);
                    told = now;
                }
                happened = false;
            }
            rest = rest.filter(|rest| !rest.is_over());
            let listen = rest.is_none() && !self.connections.is_full();
            if let (Some(socket), true) = (&listener, listen != listening) {
                let interest = if listen { EpollFlags::EPOLLIN } else { EpollFlags::empty() };
                epoll.modify(socket, &mut EpollEvent::new(interest, LISTENER)).map_err(failed)?;
                listening = listen;
            }
        }
        self.shut_down();
        Ok(())
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
                    log::error!("cannot accept a connection: {error}");
                    return Some(Timer::new(REST));
                }
            };
            if self.connections.is_full_for(peer.uid) {
                self.refused = self.refused.saturating_add(1);
                log::warn!(
                    "refused a connection of uid {}, pid {}: it has {} already",
                    peer.uid,
                    peer.pid,
                    self.settings.limits.connections_per_uid,
                );
                continue;
            }
            let mark = self.connections.next_number();
            let hung_up = EpollEvent::new(EpollFlags::EPOLLRDHUP, mark);
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
                    log::error!("cannot watch a connection: {error}");
                    return Some(Timer::new(REST));
                }
            }
        }
        None
    }

    /// Tells systemd and the watchers of our health.
    fn begin_to_stop(&self, reason: &str) {
        let status = format!("Stopping ({reason}); {} connections open", self.connections.len());
        log::info!("{status}");
        systemd::stopping(&status);
        self.health.drain();
    }

    /// Ends gRPC core's work; calls that still run are cancelled.
    fn shut_down(&mut self) {
        let shutdown = self.grpc.shutdown();
        let (done, finished) = mpsc::channel();
        thread::spawn(move || {
            let _ = futures_executor::block_on(shutdown);
            let _ = done.send(());
        });
        if !self.connections.is_empty() {
            log::warn!("{} connections are cut off", self.connections.len());
            self.grpc.cancel_all_calls();
        }
        let _ = finished.recv_timeout(SHUT_DOWN);
    }
}

/// Something that falls due again and again.
#[derive(Clone, Copy, Debug)]
struct Timer {
    every: Duration,
    last: Instant,
}

impl Timer {
    fn new(every: Duration) -> Self {
        Timer { every, last: Instant::now() }
    }

    fn restart(&mut self) {
        self.last = Instant::now();
    }

    fn left(&self) -> Duration {
        self.every.saturating_sub(self.last.elapsed())
    }

    fn is_over(&self) -> bool {
        self.left().is_zero()
    }

    /// Whether the time has come; then it begins anew.
    fn is_due(&mut self) -> bool {
        let due = self.is_over();
        if due {
            self.restart();
        }
        due
    }
}

/// How long epoll may wait: until the first of the timers, a millisecond more so
/// that it is over then, or for ever where there is none.
fn soonest<'t, const N: usize>(
    timers: [Option<&'t Timer>; N],
    one_more: Option<&'t Timer>,
) -> EpollTimeout {
    let left = timers.into_iter().chain([one_more]).flatten().map(Timer::left).min();
    left.map_or(EpollTimeout::NONE, |left| {
        let left = left.saturating_add(Duration::from_millis(1));
        EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
    })
}
