//! The connections that are open: who they belong to, how many there may be, and
//! when they end.
//!
//! gRPC core owns a connection's descriptor and tells nobody when it closes it. So
//! we keep a duplicate that is watched: the kernel reports on it when both ends have
//! hung up. It is never read, and written to once at the end.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{send, MsgFlags};

use super::listener::Peer;

/// HTTP/2 GOAWAY (RFC 9113 §6.8) with the highest stream number and no error: open
/// another connection for your next call, and finish here what you have begun.
const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];
/// By then gRPC core has sent its SETTINGS, which must come first (§3.4).
const SETTLED: Duration = Duration::from_millis(50);

/// How many connections may be open.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub connections: usize,
    pub connections_per_uid: usize,
}

/// The peers of connections by gRPC core's descriptor, for the handlers.
///
/// gRPC core names a call's peer `fd:N`. An entry stays when its connection ends,
/// since a call may come to its handler after its caller has hung up, and nobody
/// shall call anonymously; it goes when N is used again. A call that is still waiting
/// for a thread then is told to be the newer connection's.
#[derive(Clone, Debug, Default)]
pub struct Peers(Arc<Mutex<HashMap<RawFd, Peer>>>);

impl Peers {
    /// The peer of a call, from gRPC core's name for it.
    pub fn of(&self, name: &str) -> Option<Peer> {
        let descriptor = name.strip_prefix("fd:")?.parse().ok()?;
        self.lock().get(&descriptor).copied()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RawFd, Peer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Connection {
    uid: u32,
    watched: OwnedFd,
    accepted: Instant,
    seen_off: bool,
}

/// All open connections by number; a number is never used twice.
#[derive(Debug)]
pub struct Connections {
    limits: Limits,
    open: HashMap<u64, Connection>,
    per_uid: HashMap<u32, usize>,
    peers: Peers,
    next: u64,
}

impl Connections {
    /// Numbers count from `first`.
    pub fn new(limits: Limits, peers: Peers, first: u64) -> Self {
        let (open, per_uid) = (HashMap::new(), HashMap::new());
        Connections { limits, open, per_uid, peers, next: first }
    }

    pub fn len(&self) -> usize {
        self.open.len()
    }

    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether no further connection may be accepted for now.
    pub fn is_full(&self) -> bool {
        self.open.len() >= self.limits.connections
    }

    /// Whether one more connection of this user is too many.
    pub fn is_full_for(&self, uid: u32) -> bool {
        self.per_uid.get(&uid).is_some_and(|open| *open >= self.limits.connections_per_uid)
    }

    /// The number that the next connection gets.
    pub fn next_number(&self) -> u64 {
        self.next
    }

    /// Counts a connection that gRPC core is about to get under `descriptor`:
    /// before, since its first call may come at once and wants its peer.
    pub fn add(&mut self, descriptor: RawFd, watched: OwnedFd, peer: Peer) {
        let number = self.next;
        self.next = self.next.saturating_add(1);
        self.peers.lock().insert(descriptor, peer);
        let open = self.per_uid.entry(peer.uid).or_insert(0);
        *open = open.saturating_add(1);
        self.open.insert(
            number,
            Connection { uid: peer.uid, watched, accepted: Instant::now(), seen_off: false },
        );
    }

    /// Tells the client of each connection, once, to go elsewhere; those too young to
    /// be told yet are told at a later call.
    ///
    /// gRPC core would say the same when it is shut down, but it then fails every
    /// call that crosses it on the way; its other occasion, a connection's age, comes
    /// all the time and fails a call now and then as well. Said by ourselves, it
    /// leaves gRPC core answering until the client has closed the connection. The
    /// frame is one write, and gRPC core's replies are one each; only a client that
    /// lets its socket fill up may get it in the middle of a reply, and breaks off.
    ///
    /// Answers whether all have been told.
    pub fn see_off(&mut self) -> bool {
        for connection in self.open.values_mut().filter(|connection| !connection.seen_off) {
            if connection.accepted.elapsed() >= SETTLED {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                let told = send(connection.watched.as_raw_fd(), &GOAWAY, flags);
                connection.seen_off = told != Err(Errno::EAGAIN);
            }
        }
        self.open.values().all(|connection| connection.seen_off)
    }

    /// Forgets a connection that has ended and gives back what it was watched by.
    pub fn remove(&mut self, number: u64) -> Option<OwnedFd> {
        let connection = self.open.remove(&number)?;
        if let Some(open) = self.per_uid.get_mut(&connection.uid) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                self.per_uid.remove(&connection.uid);
            }
        }
        Some(connection.watched)
    }
}
