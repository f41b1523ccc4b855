//! The connections that are open: who they belong to, how many there may be, and
//! when they end.
//!
//! gRPC core owns a connection's descriptor and tells nobody when it closes it. So
//! we keep a duplicate that is never read or written, only watched: the kernel
//! reports on it when either end hangs up.

use std::collections::HashMap;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::listener::Peer;

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
/// shall call anonymously; it goes when N is used again.
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
        self.open.insert(number, Connection { uid: peer.uid, watched });
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
