//! The unix socket that clients connect to: systemd's, or one of our own.
//!
//! gRPC core could listen by itself, but it then unlinks systemd's socket, or not,
//! depending on what libraries the machine had that built it. So it is only ever
//! handed connections that are already accepted.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{
    connect, getsockopt, socket, sockopt, AddressFamily, SockFlag, SockType, UnixAddr,
};
use nix::sys::stat::{umask, Mode};

use crate::error::{Error, Result};

/// Who is at the other end of a connection, as the kernel vouches for it
/// (SO_PEERCRED, unix(7)): the process that connected, at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
}

impl Peer {
    /// Stands for a peer that cannot be told, as that of a call over a socket that
    /// is not ours; -1 is nobody's number (credentials(7)).
    pub const UNKNOWN: Peer = Peer { pid: -1, uid: u32::MAX, gid: u32::MAX };
}

/// A listening unix socket.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    /// A socket that we bound ourselves and so have to remove: its path, and the
    /// device and inode by which we know that it still is ours.
    bound: Option<(PathBuf, (u64, u64))>,
}

impl Listener {
    /// Takes over the socket that systemd passed in.
    pub fn adopt(descriptor: RawFd) -> Result<Listener> {
        // SAFETY: the descriptor is systemd's gift to this process alone, open by
        // sd_listen_fds(3), and the environment that announced it is cleared, so
        // nobody else makes an owner of it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        match getsockopt(&descriptor, sockopt::AcceptConn) {
            Ok(true) => {}
            Ok(false) => {
                let what = "the descriptor is a connection, not a listening socket (Accept=no)";
                return Err(Error::Activation(what.to_owned()));
            }
            Err(error) => return Err(Error::Activation(error.to_string())),
        }
        Listener::new(descriptor.into(), None)
    }

    /// Binds a socket of our own, open to its owner and group.
    ///
    /// A socket on which somebody answers is never taken, a dead one is replaced,
    /// and anything else at the path is left alone.
    pub fn bind(path: &Path) -> Result<Listener> {
        let failed = |source| Error::Socket { path: path.to_owned(), source };
        match fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => {
                return Err(Error::NotASocket { path: path.to_owned() });
            }
            Ok(_) => match knock(path) {
                Err(Errno::ECONNREFUSED) => fs::remove_file(path).map_err(failed)?,
                // Not even its backlog has room: it is busy, or hangs.
                Ok(()) | Err(Errno::EAGAIN) => {
                    return Err(Error::SocketInUse { path: path.to_owned() });
                }
                Err(error) => return Err(failed(error.into())),
            },
            Err(_) => {
                if let Some(directory) = path.parent() {
                    fs::create_dir_all(directory).map_err(failed)?;
                }
            }
        }
        // The mode has to be right from the first moment: a client that gets in
        // before a chmod would stay in. No thread runs yet that could see this umask.
        let before = umask(Mode::from_bits_truncate(0o117));
        let socket = UnixListener::bind(path);
        umask(before);
        let socket = socket.map_err(failed)?;
        let node = fs::symlink_metadata(path).map_err(failed)?;
        Listener::new(socket, Some((path.to_owned(), (node.dev(), node.ino()))))
    }

    fn new(socket: UnixListener, bound: Option<(PathBuf, (u64, u64))>) -> Result<Listener> {
        let failed = |source| Error::System { call: "fcntl", source };
        socket.set_nonblocking(true).map_err(failed)?;
        Ok(Listener { socket, bound })
    }

    /// Takes the next connection, non-blocking as gRPC core requires it, together
    /// with its peer. [`io::ErrorKind::WouldBlock`] where none waits.
    pub fn accept(&self) -> io::Result<(UnixStream, Peer)> {
        let (stream, _) = self.socket.accept()?;
        stream.set_nonblocking(true)?;
        let credentials = getsockopt(&stream, sockopt::PeerCredentials)?;
        let peer = Peer { pid: credentials.pid(), uid: credentials.uid(), gid: credentials.gid() };
        Ok((stream, peer))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    /// systemd's socket stays where it is: connections wait in it for the next
    /// instance. So does one that another server has bound in our place.
    fn drop(&mut self) {
        let Some((path, identity)) = &self.bound else { return };
        if fs::symlink_metadata(path).is_ok_and(|node| (node.dev(), node.ino()) == *identity) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Tries whether anybody listens, without waiting for a place in the backlog.
fn knock(path: &Path) -> nix::Result<()> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)
}

/// Hands a connection to gRPC core, which closes it.
pub(super) fn hand_over(server: &mut grpcio::Server, stream: UnixStream) {
    // SAFETY: the descriptor is a connected stream socket and not blocking, as
    // `Listener::accept` made it, and `into_raw_fd` gives up our ownership, so
    // from here on gRPC core alone reads and closes it. The one frame that
    // `Connections::see_off` writes through a duplicate is part of the protocol
    // and touches no state of gRPC core's.
    unsafe { server.add_channel_from_fd(stream.into_raw_fd()) };
}
