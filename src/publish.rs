//! A slice → two files, `NAME.json` and `NAME.bin`, under a name that their
//! content decides.
//!
//! Content decides the name, so a path that was once answered never changes under
//! its reader and equal requests share one file. A file is written under a
//! temporary name, made durable, and only then renamed: whoever is killed or runs
//! out of disk on the way leaves nothing half under a final name. Nothing that
//! stands at a final name is ever overwritten.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::{renameat2, RenameFlags};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::lock::{self, Lock, NotLocked};
use crate::log::payload::hex;

/// Readable by root and the group that the directory hands down.
const FILE_MODE: u32 = 0o640;
/// With the setgid bit, so that files belong to the directory's group: giving
/// them to it by hand would take a capability.
const DIRECTORY_MODE: u32 = 0o2750;
const SETGID: u32 = 0o2000;
const LOCK: &str = ".lock";
const TEMPORARY: &str = ".tmp-";
const NEVER: u64 = 0;
const SETTLED: Duration = Duration::from_millis(100);
/// 16 hexadecimal digits of SHA-256 in a file's name.
const HASH_BYTES: usize = 8;

/// The one writer of an output directory.
#[derive(Debug)]
pub struct Publisher {
    directory: PathBuf,
    /// Its device and inode.
    identity: (u64, u64),
    /// How many slices are kept.
    keep: usize,
    kept: RwLock<Kept>,
    temporary: AtomicU64,
    /// Held as long as we live; the kernel frees it when we do not.
    _lock: Lock,
}

/// The published slices by name.
#[derive(Debug, Default)]
struct Kept {
    served: HashMap<String, Served>,
    turn: AtomicU64,
}

#[derive(Debug)]
struct Served {
    /// The turn at which the slice was served last.
    turn: AtomicU64,
    /// The directory's time of change with which both files were last seen to
    /// stand: as long as it stays, nobody has deleted any.
    seen: AtomicU64,
}

impl Kept {
    fn next_turn(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    fn add(&mut self, name: &str) {
        let served = Served { turn: self.next_turn().into(), seen: NEVER.into() };
        self.served.insert(name.to_owned(), served);
    }

    /// The slice, now served last; `None` where it is not kept.
    fn serve(&self, name: &str) -> Option<&Served> {
        let served = self.served.get(name)?;
        served.turn.store(self.next_turn(), Ordering::Relaxed);
        Some(served)
    }

    fn take_oldest_beyond(&mut self, keep: usize) -> Option<String> {
        if self.served.len() <= keep {
            return None;
        }
        let turn = |(_, served): &(&String, &Served)| served.turn.load(Ordering::Relaxed);
        let oldest = self.served.iter().min_by_key(turn)?.0.clone();
        self.served.remove(&oldest);
        Some(oldest)
    }
}

impl Publisher {
    /// Takes possession of `directory`: creates it where it is missing, locks it
    /// against a second server, sweeps what a dead one left half-written, and
    /// takes over the slices it published.
    pub fn open(directory: &Path, keep: usize) -> Result<Publisher> {
        let failed = |source| Error::OutputDir { path: directory.to_owned(), source };
        create(directory).map_err(failed)?;
        // Clients have another working directory.
        let directory = &fs::canonicalize(directory).map_err(failed)?;
        let lock = lock(directory)?;
        let directory_metadata = fs::metadata(directory).map_err(failed)?;
        let hands_down_group = directory_metadata.mode() & SETGID != 0;
        let mut slices = Vec::new();
        for entry in fs::read_dir(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let file_name = entry.file_name();
            let Some(name) = file_name.to_str() else { continue };
            if name.starts_with(TEMPORARY) && entry.file_type().is_ok_and(|kind| kind.is_file()) {
                fs::remove_file(entry.path()).map_err(failed)?;
            } else if let Some(slice) = slice_name(name) {
                let Ok(metadata) = entry.metadata() else { continue };
                if !metadata.is_file() {
                    continue;
                }
                // Published when the directory was another group's, or nobody's yet.
                if hands_down_group && metadata.gid() != directory_metadata.gid() {
                    fs::remove_file(entry.path()).map_err(failed)?;
                    continue;
                }
                slices.push((metadata.modified().unwrap_or(UNIX_EPOCH), slice.to_owned()));
            }
        }
        slices.sort();
        let mut kept = Kept::default();
        for (_, slice) in &slices {
            kept.add(slice);
        }
        let publisher = Publisher {
            directory: directory.to_owned(),
            identity: (directory_metadata.dev(), directory_metadata.ino()),
            keep,
            kept: RwLock::new(kept),
            temporary: AtomicU64::new(0),
            _lock: lock,
        };
        publisher.evict(&mut publisher.kept());
        Ok(publisher)
    }

    /// Publishes a slice and answers with the path of its JSON.
    ///
    /// `prefix` is the part of the name that says what the slice is of; `json`
    /// writes the JSON, and `bin` is the slice's own bytes in pieces.
    pub fn publish(
        &self,
        prefix: &str,
        json: impl FnOnce(&mut dyn Write) -> io::Result<()>,
        bin: &[&[u8]],
    ) -> Result<PathBuf> {
        let failed = |source| self.failed(source);
        let mut json_file = Temporary::create(self).map_err(failed)?;
        json(&mut json_file).map_err(failed)?;
        let mut bin_file = Temporary::create(self).map_err(failed)?;
        for piece in bin {
            bin_file.write_all(piece).map_err(failed)?;
        }
        // Both are whole and on the disk before either has a final name.
        bin_file.finish().map_err(failed)?;
        json_file.finish().map_err(failed)?;
        let name = format!("{prefix}-{}", json_file.hash());
        let path = self.path(&name, "json");
        // Nobody evicts the one while the other gets its name.
        let mut kept = self.kept();
        // The path that is answered comes last: where it stands, the other does.
        let renamed =
            bin_file.rename(&self.path(&name, "bin")).and_then(|()| json_file.rename(&path));
        if let Err(error) = renamed {
            // What stands there is not ours to evict either.
            kept.served.remove(&name);
            return Err(error);
        }
        kept.add(&name);
        self.evict(&mut kept);
        Ok(path)
    }

    /// Notes that a published slice is served again; `false` where somebody
    /// deleted it.
    pub fn serve_again(&self, path: &Path) -> bool {
        let Some(name) = path.file_stem().and_then(|name| name.to_str()) else { return false };
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        // Counted first, so that nobody evicts what is then seen to stand.
        let Some(served) = kept.serve(name) else { return false };
        let changed = self.time_of_change();
        if changed != NEVER && changed == served.seen.load(Ordering::Relaxed) {
            return true;
        }
        let stands = |ending| {
            fs::symlink_metadata(self.path(name, ending)).is_ok_and(|metadata| metadata.is_file())
        };
        if stands("json") && stands("bin") {
            served.seen.store(changed, Ordering::Relaxed);
            return true;
        }
        // Whoever publishes it again counts it again.
        false
    }

    /// When a file last came to the directory or left it, in nanoseconds; [`NEVER`]
    /// where that tells nothing: it is another directory by now, or the change is so
    /// recent that the clock, which ticks in milliseconds, would not show the next.
    fn time_of_change(&self) -> u64 {
        let Ok(metadata) = fs::metadata(&self.directory) else { return NEVER };
        let Ok(modified) = metadata.modified() else { return NEVER };
        let settled = modified.elapsed().is_ok_and(|age| age > SETTLED);
        match modified.duration_since(UNIX_EPOCH).map(|time| u64::try_from(time.as_nanos())) {
            Ok(Ok(time)) if settled && (metadata.dev(), metadata.ino()) == self.identity => time,
            _ => NEVER,
        }
    }

    /// Removes slices beyond the bound, the one that was served longest ago first.
    fn evict(&self, kept: &mut Kept) {
        while let Some(name) = kept.take_oldest_beyond(self.keep) {
            for ending in ["json", "bin"] {
                let path = self.path(&name, ending);
                // We publish files, so anything else is not ours.
                if fs::symlink_metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
                    continue;
                }
                match fs::remove_file(&path) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => ::log::warn!("cannot remove {}: {error}", path.display()),
                }
            }
        }
    }

    fn path(&self, name: &str, ending: &str) -> PathBuf {
        self.directory.join(format!("{name}.{ending}"))
    }

    /// A panic elsewhere leaves at worst one slice uncounted, which the next start
    /// finds again: no reason to stop serving.
    fn kept(&self) -> RwLockWriteGuard<'_, Kept> {
        self.kept.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, source: io::Error) -> Error {
        let path = self.directory.clone();
        match source.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::ReadOnlyFilesystem => Error::OutputDir { path, source },
            _ => Error::Publish { path, source },
        }
    }

    /// Leaves the slices' times of change in the order in which they were served,
    /// which is how the next server learns of it. Said and not left to a drop: a
    /// thread of gRPC's may hold us until the process is gone.
    pub fn leave_order(&self) {
        let kept = self.kept();
        let mut names: Vec<_> = kept.served.iter().collect();
        names.sort_by_key(|(_, served)| served.turn.load(Ordering::Relaxed));
        let mut time = SystemTime::now();
        for (name, _) in names.into_iter().rev() {
            time = time.checked_sub(Duration::from_millis(1)).unwrap_or(time);
            // Whatever fails here costs the order, and no slice.
            let _ = File::open(self.path(name, "json")).and_then(|file| file.set_modified(time));
        }
    }
}

fn create(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        fs::create_dir_all(parent)?;
    }
    DirBuilder::new().mode(DIRECTORY_MODE).create(directory)?;
    // The umask took part in the mode above.
    fs::set_permissions(directory, Permissions::from_mode(DIRECTORY_MODE))
}

/// Temporary files may be swept only by who is alone in the directory.
fn lock(directory: &Path) -> Result<Lock> {
    let path = directory.to_owned();
    lock::take(&directory.join(LOCK)).map_err(|error| match error {
        NotLocked::Held(holder) => Error::OutputDirInUse { path, holder },
        NotLocked::Failed(source) => Error::OutputDir { path, source },
    })
}

/// The name without its ending, where it is one that [`Publisher::publish`] gives:
/// `<tdx|tpm>-<paas|saas>-<first>-<count>-<16 hexadecimal digits>`.
fn slice_name(file_name: &str) -> Option<&str> {
    let name = file_name.strip_suffix(".json").or_else(|| file_name.strip_suffix(".bin"))?;
    let parts: Vec<&str> = name.split('-').collect();
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    match parts.as_slice() {
        ["tdx" | "tpm", "paas" | "saas", first, count, hash]
            if number(first)
                && number(count)
                && hash.len() == HASH_BYTES.saturating_mul(2)
                && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) =>
        {
            Some(name)
        }
        _ => None,
    }
}

/// A file on its way to a final name. Dropped before it has one, it is removed.
struct Temporary {
    path: PathBuf,
    writer: BufWriter<File>,
    hash: Sha256,
}

impl Temporary {
    fn create(publisher: &Publisher) -> io::Result<Temporary> {
        let number = publisher.temporary.fetch_add(1, Ordering::Relaxed);
        let path = publisher.directory.join(format!("{TEMPORARY}{}-{number}", std::process::id()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(&path)?;
        // The unit's umask is 0077, and the group is to read.
        let temporary = Temporary { path, writer: BufWriter::new(file), hash: Sha256::new() };
        temporary.writer.get_ref().set_permissions(Permissions::from_mode(FILE_MODE))?;
        Ok(temporary)
    }

    fn hash(&self) -> String {
        let digest = self.hash.clone().finalize();
        hex(digest.get(..HASH_BYTES).unwrap_or_default())
    }

    /// Makes what was written durable.
    fn finish(&mut self) -> io::Result<()> {
        self.writer.flush()?;
        self.writer.get_ref().sync_all()
    }

    /// Gives the file its final name. Where a file of that name and content stands
    /// already, that one is kept; anything else there is somebody else's.
    fn rename(self, to: &Path) -> Result<()> {
        let failed = |source| Error::Publish { path: to.to_owned(), source };
        match renameat2(None, &self.path, None, to, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => Ok(()),
            Err(nix::errno::Errno::EEXIST) if is_copy(&self.path, to).unwrap_or(false) => Ok(()),
            Err(nix::errno::Errno::EEXIST) => Err(Error::Foreign { path: to.to_owned() }),
            Err(error) => Err(failed(error.into())),
        }
    }
}

impl Write for Temporary {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.writer.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Drop for Temporary {
    /// After a successful rename there is nothing of this name any more.
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether `other` is a regular file with the same bytes; a symlink is not.
fn is_copy(path: &Path, other: &Path) -> io::Result<bool> {
    let mut other = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(other)?;
    let metadata = other.metadata()?;
    if !metadata.is_file() || metadata.len() != fs::metadata(path)?.len() {
        return Ok(false);
    }
    let mut ours = File::open(path)?;
    let (mut left, mut right) = ([0; 8192], [0; 8192]);
    loop {
        let read = ours.read(&mut left)?;
        let (Some(left), Some(right)) = (left.get(..read), right.get_mut(..read)) else {
            return Ok(false);
        };
        if read == 0 {
            return Ok(true);
        }
        other.read_exact(right)?;
        if left != right {
            return Ok(false);
        }
    }
}
