//! Where logs come from: a file on this machine, read once into bytes that
//! nobody can change any more.
//!
//! The kernel's own files cannot be mapped (ENODEV) and one of them reports size
//! 0, so they are read to their end into an anonymous map. Copies of them, which
//! container deployments place under /run/firmware, are regular files and are
//! mapped. Both are read-only from then on, and both end at [`LIMIT`].

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use memmap2::{Mmap, MmapMut};
use nix::sys::statfs::{
    fstatfs, FsType, BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC,
};

use crate::error::{Error, Result};

/// No firmware reserves more for a log than 1 MiB; the bound is what a request
/// can make us hold.
pub const LIMIT: usize = 16 << 20;

/// Chooses the signal of a lease; asm-generic/fcntl.h, and missing in libc.
const F_SETSIG: libc::c_int = 10;

/// What tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl From<&Metadata> for Identity {
    fn from(metadata: &Metadata) -> Self {
        Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// The places where one log can be.
#[derive(Clone, Debug)]
pub struct Source {
    /// Looked at in this order; the first that exists is the log.
    places: Vec<PathBuf>,
    /// The place that is named where none exists.
    usual: PathBuf,
}

impl Source {
    /// The CCEL of a TDX guest: a copy for containers, else the kernel's.
    pub fn ccel() -> Self {
        let kernel = PathBuf::from("/sys/firmware/acpi/tables/data/CCEL");
        let copy = PathBuf::from("/run/firmware/acpi/tables/data/CCEL");
        Source { places: vec![copy, kernel.clone()], usual: kernel }
    }

    /// The measured-boot log of the first TPM.
    pub fn tpm() -> Self {
        let [first, second] = ["tpm0", "tpm1"].map(|tpm| {
            PathBuf::from("/sys/kernel/security").join(tpm).join("binary_bios_measurements")
        });
        Source { places: vec![first.clone(), second], usual: first }
    }

    /// One file and no other.
    pub fn file(path: PathBuf) -> Self {
        Source { places: vec![path.clone()], usual: path }
    }

    /// Finds the log and tells its present state, without opening it.
    pub fn locate(&self) -> Result<(&Path, Identity)> {
        for path in &self.places {
            match std::fs::metadata(path) {
                Ok(metadata) => return Ok((path, Identity::from(&metadata))),
                Err(error) if is_absent(&error) => continue,
                Err(error) => return Err(Error::reading(path, error)),
            }
        }
        Err(Error::NoLog { path: self.usual.clone() })
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The bytes of a log file, however they were had.
#[derive(Debug)]
pub enum Bytes {
    /// A mapping of the file, and the open file whose lease keeps it whole.
    Mapped { map: Mmap, _leased: File },
    /// An anonymous map of which the first `length` bytes were read.
    Read { map: Mmap, length: usize },
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            Bytes::Mapped { map, .. } => map,
            Bytes::Read { map, length } => map.get(..*length).unwrap_or_default(),
        }
    }
}

/// Reads the file at `path`, at most [`LIMIT`] bytes of it.
pub fn read(path: &Path) -> Result<(Bytes, Identity)> {
    let failed = |error| Error::reading(path, error);
    let too_large = || Error::TooLarge { path: path.to_owned(), limit: LIMIT };
    // A FIFO at this path would otherwise hold the open until somebody writes.
    let file =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(failed(io::Error::other("it is not a regular file")));
    }
    let identity = Identity::from(&metadata);
    if metadata.len() > LIMIT as u64 {
        return Err(too_large());
    }
    if metadata.len() > 0 {
        if let Some(map) = map_under_lease(&file) {
            return Ok((Bytes::Mapped { map, _leased: file }, identity));
        }
    }
    let (map, length) = read_to_end(file).map_err(failed)?;
    if length > LIMIT {
        return Err(too_large());
    }
    Ok((Bytes::Read { map, length }, identity))
}

/// File systems whose files change through this kernel alone, so that its leases
/// hold: a host can truncate a file of virtiofs whatever our kernel promised.
const LOCAL: [FsType; 4] = [TMPFS_MAGIC, EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC];

/// Maps a file that nobody can change meanwhile, `None` where that cannot be had.
///
/// A mapped file that its owner truncates kills its reader with SIGBUS. A read
/// lease (fcntl(2), F_SETLEASE) rules that out: the kernel grants it only while
/// nobody has the file open for writing, and makes whoever opens or truncates it
/// later wait until we close it, or for /proc/sys/fs/lease-break-time: 45 s, where
/// a parse takes milliseconds. Other files are read instead: those of other owners,
/// on other file systems, or open for writing.
fn map_under_lease(file: &File) -> Option<Mmap> {
    if !fstatfs(file).is_ok_and(|system| LOCAL.contains(&system.filesystem_type())) {
        return None;
    }
    let descriptor = file.as_raw_fd();
    // SAFETY: both commands take an int and touch no memory of ours. SIGURG, which
    // is ignored by default, replaces SIGIO, which would end the process, as the
    // signal that tells us of a waiting writer; we do not need telling.
    let leased = unsafe {
        libc::fcntl(descriptor, F_SETSIG, libc::SIGURG) == 0
            && libc::fcntl(descriptor, libc::F_SETLEASE, libc::F_RDLCK) == 0
    };
    if !leased {
        return None;
    }
    // SAFETY: the bytes behind the map neither change nor vanish while it lives,
    // which is until the parse that follows is done: the lease just taken keeps
    // writers out for that time, `Bytes` drops the map, declared before the file,
    // first, and callers do not keep it.
    unsafe { Mmap::map(file) }.ok()
}

/// Reads until the end, since securityfs reports size 0 and sysfs gives 4096 bytes
/// at a time. One byte more than the limit tells a full file from a larger one.
fn read_to_end(mut file: File) -> io::Result<(Mmap, usize)> {
    let mut map = MmapMut::map_anon(LIMIT.saturating_add(1))?;
    let mut length = 0usize;
    while let Some(room) = map.get_mut(length..).filter(|room| !room.is_empty()) {
        match file.read(room) {
            Ok(0) => break,
            Ok(more) => length = length.saturating_add(more),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
    }
    Ok((map.make_read_only()?, length))
}
