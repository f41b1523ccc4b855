//! One writer at a time: a lock file that says who holds it.
//!
//! flock(2) and no file that merely exists: the kernel frees it when its holder
//! dies, so nobody has to guess whether a lock is stale.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Held as long as it lives; the file stays.
pub type Lock = Flock<File>;

#[derive(Debug)]
pub enum NotLocked {
    /// Somebody else holds it: the words that the holder left.
    Held(String),
    Failed(io::Error),
}

/// Takes the lock at `path` or says at once who has it.
pub fn take(path: &Path) -> Result<Lock, NotLocked> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(NotLocked::Failed)?;
    let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => file,
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            return Err(NotLocked::Held(holder.trim().to_owned()));
        }
        Err((_, error)) => return Err(NotLocked::Failed(error.into())),
    };
    file.set_len(0).map_err(NotLocked::Failed)?;
    writeln!(file, "process {}", std::process::id()).map_err(NotLocked::Failed)?;
    Ok(file)
}
