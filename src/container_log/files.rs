//! The file that is written, and those before it: names, and how one takes the
//! place of another.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::error::{Error, Result};
use crate::source;

/// Readable by root and the group that the directory hands down.
const FILE_MODE: u32 = 0o640;
const MOST_OLDER: usize = 8;
/// As many names are tried for an older file: as many files of one microsecond.
const MOST_NAMES: u32 = 1000;

/// Where the files are.
#[derive(Debug)]
pub struct Files {
    path: PathBuf,
    directory: PathBuf,
    /// `container`, `.log`.
    stem: String,
    ending: String,
}

/// The file that is written, known up to its last whole event.
#[derive(Debug)]
pub struct Current {
    file: File,
    length: u64,
    /// Behind `length` there may be parts of what could not be written.
    unfinished: bool,
    pub opened: SystemTime,
}

impl Files {
    pub fn new(path: &Path) -> Files {
        let text = |part: Option<&std::ffi::OsStr>| {
            part.map(|part| part.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let ending = match text(path.extension()).as_str() {
            "" => String::new(),
            extension => format!(".{extension}"),
        };
        Files { path: path.to_owned(), directory, stem: text(path.file_stem()), ending }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn failed(&self, source: io::Error) -> Error {
        Error::ContainerLog { path: self.path.clone(), source }
    }

    pub fn lock_path(&self) -> PathBuf {
        self.directory.join(format!(".{}{}.lock", self.stem, self.ending))
    }

    fn temporary_prefix(&self) -> String {
        format!(".{}{}.tmp-", self.stem, self.ending)
    }

    /// Opens the file for appending, `None` where there is none; and reads it.
    pub fn open(&self) -> Result<Option<(File, Vec<u8>)>> {
        let options = |options: &mut OpenOptions| {
            options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&self.path)
        };
        let mut file = match options(OpenOptions::new().read(true).append(true)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::EISDIR)) => {
                return Err(Error::NotAContainerLog { path: self.path.clone() })
            }
            Err(error) => return Err(self.failed(error)),
        };
        if !file.metadata().map_err(|error| self.failed(error))?.is_file() {
            return Err(Error::NotAContainerLog { path: self.path.clone() });
        }
        let content = read_bounded(&mut file).map_err(|error| self.failed(error))?;
        Ok(Some((file, content)))
    }

    /// The name that a file keeps once another takes its place: that of its opening, or
    /// one later than all others where the clock was set back, since the names sort
    /// the files. A file that got it in an earlier attempt keeps it.
    pub fn older_name(&self, file: &File, opened: SystemTime) -> Result<PathBuf> {
        let ours = file.metadata().map_err(|error| self.failed(error))?;
        let is_ours = |path: &PathBuf| {
            fs::symlink_metadata(path)
                .is_ok_and(|other| (other.dev(), other.ino()) == (ours.dev(), ours.ino()))
        };
        let older = self.older()?;
        if let Some(path) = older.iter().find(|path| is_ours(path)) {
            return Ok(path.clone());
        }
        let newest = older.last().and_then(|path| self.opening(path));
        let opened = newest.map_or(opened, |newest| opened.max(newest));
        for microseconds in 0..MOST_NAMES {
            let later = Duration::from_micros(microseconds.into());
            let time = opened.checked_add(later).unwrap_or(opened);
            let path = self.directory.join(self.older_file_name(time));
            match fs::symlink_metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path),
                Ok(_) => continue,
                Err(error) => return Err(self.failed(error)),
            }
        }
        Err(self.failed(io::ErrorKind::AlreadyExists.into()))
    }

    fn older_file_name(&self, opened: SystemTime) -> String {
        let time = humantime::format_rfc3339_micros(opened).to_string();
        format!("{}-{}{}", self.stem, time.replace(['-', ':'], ""), self.ending)
    }

    /// The time in an older file's name.
    fn opening(&self, path: &Path) -> Option<SystemTime> {
        let name = path.file_name()?.to_str()?;
        let time = name.strip_prefix(&self.stem)?.strip_prefix('-')?.strip_suffix(&self.ending)?;
        let (year, month, hour) = (time.get(..4)?, time.get(4..6)?, time.get(6..11)?);
        let (minute, second) = (time.get(11..13)?, time.get(13..)?);
        humantime::parse_rfc3339(&format!("{year}-{month}-{hour}:{minute}:{second}")).ok()
    }

    fn is_older_file_name(&self, name: &str) -> bool {
        let time = name
            .strip_prefix(&self.stem)
            .and_then(|rest| rest.strip_prefix('-'))
            .and_then(|rest| rest.strip_suffix(&self.ending));
        let fits = |(expected, byte): (u8, u8)| match expected {
            b'0' => byte.is_ascii_digit(),
            _ => byte == expected,
        };
        const SHAPE: &[u8; 23] = b"00000000T000000.000000Z";
        time.is_some_and(|time| {
            time.len() == SHAPE.len() && SHAPE.iter().copied().zip(time.bytes()).all(fits)
        })
    }

    /// The older files, oldest first.
    pub fn older(&self) -> Result<Vec<PathBuf>> {
        let mut older = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(|error| self.failed(error))? {
            let entry = entry.map_err(|error| self.failed(error))?;
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            if is_file && entry.file_name().to_str().is_some_and(|n| self.is_older_file_name(n)) {
                older.push(entry.path());
            }
        }
        older.sort();
        Ok(older)
    }

    /// Removes what a dead process left half-done: temporary files, and a second name
    /// of the file that is still being written.
    pub fn sweep(&self) -> Result<()> {
        for entry in fs::read_dir(&self.directory).map_err(|error| self.failed(error))? {
            let entry = entry.map_err(|error| self.failed(error))?;
            let temporary = |name: &str| name.starts_with(&self.temporary_prefix());
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            if is_file && entry.file_name().to_str().is_some_and(temporary) {
                fs::remove_file(entry.path()).map_err(|error| self.failed(error))?;
            }
        }
        let Ok(present) = fs::symlink_metadata(&self.path) else { return Ok(()) };
        for path in self.older()? {
            let same =
                |other: &fs::Metadata| (other.dev(), other.ino()) == (present.dev(), present.ino());
            if fs::symlink_metadata(&path).is_ok_and(|other| same(&other)) {
                fs::remove_file(&path).map_err(|error| self.failed(error))?;
            }
        }
        Ok(())
    }

    /// Removes the oldest files beyond the bound. Whatever fails here costs room, and
    /// no record.
    pub fn prune(&self) {
        let older = self.older().unwrap_or_default();
        for path in older.iter().take(older.len().saturating_sub(MOST_OLDER)) {
            match fs::remove_file(path) {
                Ok(()) => log::info!("removed {}: {MOST_OLDER} are kept", path.display()),
                Err(error) => log::warn!("cannot remove {}: {error}", path.display()),
            }
        }
    }

    /// Puts a new file of this content in place, so that there is never none and never
    /// one without its header. The one that stands there keeps the name `older`.
    pub fn replace(
        &self,
        content: &[u8],
        opened: SystemTime,
        older: Option<&Path>,
    ) -> Result<Current> {
        let temporary = Temporary {
            path: self.directory.join(format!("{}{}", self.temporary_prefix(), std::process::id())),
        };
        let place = || {
            let mut file = OpenOptions::new()
                .read(true)
                .append(true)
                .create_new(true)
                .mode(FILE_MODE)
                .open(&temporary.path)?;
            // Whatever the umask is.
            file.set_permissions(Permissions::from_mode(FILE_MODE))?;
            file.write_all(content)?;
            file.sync_all()?;
            match older {
                Some(older) => {
                    match fs::hard_link(&self.path, older) {
                        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                        linked => linked?,
                    }
                    fs::rename(&temporary.path, &self.path)?;
                }
                // Nothing is overwritten where nothing was seen.
                None => fs::hard_link(&temporary.path, &self.path)?,
            }
            File::open(&self.directory)?.sync_all()?;
            Ok(file)
        };
        let file = place().map_err(|error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::NotAContainerLog { path: self.path.clone() },
            _ => self.failed(error),
        })?;
        let length = u64::try_from(content.len()).unwrap_or(u64::MAX);
        Ok(Current { file, length, unfinished: false, opened })
    }
}

/// All of a file, and one byte more than a log may have where it has more.
pub fn read_bounded(file: &mut File) -> io::Result<Vec<u8>> {
    let limit = u64::try_from(source::LIMIT).unwrap_or(u64::MAX).saturating_add(1);
    let mut content = Vec::new();
    file.take(limit).read_to_end(&mut content)?;
    Ok(content)
}

impl Current {
    /// A file that an earlier process wrote, whole up to `length`. What that process
    /// wrote last may be in memory alone: it is made durable now.
    pub fn adopt(file: File, length: u64, opened: SystemTime) -> io::Result<Current> {
        file.set_len(length)?;
        file.sync_data()?;
        Ok(Current { file, length, unfinished: false, opened })
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    pub fn length(&self) -> u64 {
        self.length
    }

    /// What became of the file at `path`, which people can delete and truncate.
    pub fn state(&self, path: &Path) -> io::Result<State> {
        let found = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::Gone),
            found => found?,
        };
        let ours = self.file.metadata()?;
        Ok(match (found.dev(), found.ino()) == (ours.dev(), ours.ino()) {
            false => State::Another,
            true if self.unfinished || found.len() == self.length => State::AsLeft,
            true => State::Changed,
        })
    }

    /// Appends whole events and makes them durable, or leaves the file as it was.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.cut()?;
        self.unfinished = true;
        let written = self.file.write_all(bytes).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => {
                let more = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                self.length = self.length.saturating_add(more);
                self.unfinished = false;
                Ok(())
            }
            Err(error) => {
                // Where even this fails, the next append begins with it.
                let _ = self.cut();
                Err(error)
            }
        }
    }

    fn cut(&mut self) -> io::Result<()> {
        if self.unfinished {
            self.file.set_len(self.length)?;
            self.unfinished = false;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    AsLeft,
    /// Somebody else wrote to it or truncated it.
    Changed,
    Gone,
    /// Something else stands at its place.
    Another,
}

/// Removed when the work is done or has failed; after a rename there is nothing of
/// this name any more.
struct Temporary {
    path: PathBuf,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
