//! Every way to fail, with the path or offset it happened at.
//!
//! The wording is here and nowhere else; so are the two maps that the outside
//! sees, to a gRPC status and to an exit status of sysexits(3). Both are total:
//! a new variant does not compile until it has its place in them.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// What is wrong with the bytes of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// The firmware left no log: no bytes at all, or a blank log area.
    Empty,
    /// The first bytes are those of neither dialect.
    NotALog,
    /// The log ends inside an event's fixed fields.
    TruncatedHeader { left: usize },
    /// An event claims more data than there is.
    DataPastEnd { size: u32, left: usize },
    /// The Spec ID event ends inside its own fields.
    SpecIdPastEnd,
    /// The Spec ID event claims more algorithms than its data can hold.
    AlgorithmsPastEnd { count: u32 },
    /// The Spec ID event lists more algorithms than any TPM has banks.
    TooManyAlgorithms { count: u32 },
    /// The log ends inside an event's digests.
    DigestPastEnd { algorithm: u16 },
    /// A digest whose length nobody knows, so that the rest cannot be framed.
    UnknownAlgorithm { algorithm: u16 },
    /// Two digests of one bank in one event.
    DuplicateAlgorithm { algorithm: u16 },
}

/// A log that cannot be read any further than `offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Bytes from the start of the log.
    pub offset: usize,
    pub defect: Defect,
    /// How many events stand whole before it.
    pub readable_events: usize,
}

#[derive(Debug)]
pub enum Error {
    /// The request names a level or category that is none.
    InvalidRequest,
    /// A number below zero where only a position or a count makes sense.
    Negative {
        field: &'static str,
        value: i32,
    },
    StartPastEnd {
        start: usize,
        events: usize,
    },
    CountPastEnd {
        events: usize,
    },
    /// There is no such log on this machine.
    NoLog {
        path: PathBuf,
    },
    /// No plugin has written a container log yet.
    NoContainerLog {
        path: PathBuf,
    },
    NotReadable {
        path: PathBuf,
    },
    Read {
        path: PathBuf,
        source: io::Error,
    },
    TooLarge {
        path: PathBuf,
        limit: usize,
    },
    Malformed {
        path: PathBuf,
        malformed: Malformed,
    },
    /// The folder for published slices is missing, read-only or not ours.
    OutputDir {
        path: PathBuf,
        source: io::Error,
    },
    /// Something that this server did not publish stands at a slice's name.
    Foreign {
        path: PathBuf,
    },
    Publish {
        path: PathBuf,
        source: io::Error,
    },
    /// Another server publishes into the same folder.
    OutputDirInUse {
        path: PathBuf,
        holder: String,
    },
    /// systemd's environment passes something else than one socket named grpc.
    Activation(String),
    SocketInUse {
        path: PathBuf,
    },
    NotASocket {
        path: PathBuf,
    },
    Socket {
        path: PathBuf,
        source: io::Error,
    },
    /// A system call on which the program as a whole rests.
    System {
        call: &'static str,
        source: io::Error,
    },
    Connect {
        path: PathBuf,
        source: io::Error,
    },
    /// The container runtime's socket for plugins.
    Nri {
        path: PathBuf,
        source: io::Error,
    },
    Call {
        status: grpcio::RpcStatus,
    },
    CallFailed(grpcio::Error),
    NotServing,
    /// A published slice that is not what the server's documentation says.
    Unreadable {
        path: PathBuf,
        reason: String,
    },
    /// The container log cannot be written.
    ContainerLog {
        path: PathBuf,
        source: io::Error,
    },
    /// Another plugin writes this container log.
    ContainerLogInUse {
        path: PathBuf,
        holder: String,
    },
    /// Something that the plugin did not write stands where its log should.
    NotAContainerLog {
        path: PathBuf,
    },
    /// More records at once than a container log takes.
    BatchTooLarge {
        bytes: usize,
        limit: usize,
    },
    /// A live register cannot be read or extended.
    Register {
        register: String,
        path: PathBuf,
        source: io::Error,
    },
    /// The TPM refuses a command.
    Tpm {
        register: String,
        code: u32,
    },
    /// A handler panicked: a bug of ours, contained.
    Panicked,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Tells why a log could not be read: the one place that sorts a read's
    /// errors into the kinds that clients can tell apart.
    pub fn reading(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Error::NoLog { path },
            io::ErrorKind::PermissionDenied => Error::NotReadable { path },
            _ => Error::Read { path, source },
        }
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Defect::Empty => write!(f, "no event log: nothing was written to it"),
            Defect::NotALog => write!(f, "not an event log"),
            Defect::TruncatedHeader { left } => {
                write!(f, "truncated header: {left} bytes are left")
            }
            Defect::DataPastEnd { size, left } => {
                write!(f, "event data runs past the end: {size} bytes claimed, {left} left")
            }
            Defect::SpecIdPastEnd => write!(f, "the Spec ID event ends inside its own fields"),
            Defect::AlgorithmsPastEnd { count } => {
                write!(f, "algorithm list longer than event data: {count} algorithms claimed")
            }
            Defect::TooManyAlgorithms { count } => {
                write!(f, "the Spec ID event lists {count} algorithms, more than any TPM has")
            }
            Defect::DigestPastEnd { algorithm } => {
                write!(f, "digest of algorithm {algorithm:#06x} runs past the end")
            }
            Defect::UnknownAlgorithm { algorithm } => {
                write!(
                    f,
                    "digest of unknown algorithm {algorithm:#06x}, whose length is not declared"
                )
            }
            Defect::DuplicateAlgorithm { algorithm } => {
                write!(f, "two digests of algorithm {algorithm:#06x} in one event")
            }
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.defect {
            Defect::Empty | Defect::NotALog => write!(f, "{}", self.defect),
            _ => write!(
                f,
                "{}, in the event at offset {}; {} events before it are readable",
                self.defect, self.offset, self.readable_events
            ),
        }
    }
}

impl std::error::Error for Malformed {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Clients of the reference server compare these three texts.
            Error::InvalidRequest => write!(f, "Invalid Request"),
            Error::CountPastEnd { .. } => write!(f, "Invalid count exceeds event log length"),
            Error::NoLog { path } => {
                write!(f, "stat {}: no such file or directory", path.display())
            }
            Error::NoContainerLog { path } => write!(
                f,
                "stat {}: no such file or directory; eventlog-nri writes it where containerd or \
                 CRI-O runs: systemctl enable --now ccnp-eventlog-nri.service",
                path.display()
            ),
            Error::Negative { field, value } => {
                write!(f, "{field} is {value}: it must not be negative")
            }
            Error::StartPastEnd { start, events } => {
                write!(f, "start_position {start} is past the last event, {events}")
            }
            Error::NotReadable { path } => {
                write!(f, "{}: permission denied: it is for its owner and group", path.display())
            }
            Error::Read { path, source } => write!(f, "cannot read {}: {source}", path.display()),
            Error::TooLarge { path, limit } => {
                write!(f, "{} is larger than the limit of {limit} bytes", path.display())
            }
            Error::Malformed { path, malformed } => write!(f, "{}: {malformed}", path.display()),
            Error::OutputDir { path, source } => write!(
                f,
                "output directory {}: {source}; the server needs a directory there that it may \
                 write to (systemd-tmpfiles --create makes the usual one)",
                path.display()
            ),
            Error::Foreign { path } => write!(
                f,
                "{} was not published by this server: nothing is overwritten; remove it and ask again",
                path.display()
            ),
            Error::Publish { path, source } => {
                write!(f, "cannot publish into {}: {source}", path.display())
            }
            Error::OutputDirInUse { path, holder } => write!(
                f,
                "{} is in use by another eventlog-server, {holder}: stop it first",
                path.display()
            ),
            Error::Activation(what) => write!(f, "socket activation: {what}"),
            Error::SocketInUse { path } => write!(
                f,
                "{}: another server answers on this socket; stop it or choose another with --socket",
                path.display()
            ),
            Error::NotASocket { path } => write!(
                f,
                "{} exists and is not a socket: it is left alone; choose another path with --socket",
                path.display()
            ),
            Error::Socket { path, source } => {
                write!(f, "cannot listen on {}: {source}", path.display())
            }
            Error::System { call, source } => write!(f, "{call}: {source}"),
            Error::Connect { path, source } => write!(
                f,
                "cannot connect to {}: {source}; is ccnp-eventlog.socket started?",
                path.display()
            ),
            Error::Nri { path, source } => write!(
                f,
                "cannot reach the container runtime at {}: {source}; is NRI enabled in its \
                 configuration? Trying again",
                path.display()
            ),
            Error::Call { status } => {
                // grpcio puts the code's number before its name.
                let code = status.code().to_string();
                let name = code.split_once('-').map_or(code.as_str(), |(_, name)| name);
                write!(f, "{} ({name})", status.message())
            }
            Error::CallFailed(source) => write!(f, "the call failed: {source}"),
            Error::NotServing => write!(f, "the server is not serving"),
            Error::Unreadable { path, reason } => {
                write!(f, "cannot read the slice {}: {reason}", path.display())
            }
            Error::ContainerLog { path, source } => {
                write!(f, "container log {}: {source}", path.display())?;
                match source.kind() {
                    _ if is_no_space(source) => write!(f, "; make room there"),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                        write!(f, "; systemd-tmpfiles --create makes the usual directory")
                    }
                    io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                        write!(f, "; the plugin must be able to write to its directory")
                    }
                    _ => Ok(()),
                }
            }
            Error::ContainerLogInUse { path, holder } => write!(
                f,
                "container log {} is being written by another eventlog-nri, {holder}: stop it first",
                path.display()
            ),
            Error::NotAContainerLog { path } => write!(
                f,
                "{} is not a container log of eventlog-nri: it is left alone; move it away or \
                 choose another path",
                path.display()
            ),
            Error::BatchTooLarge { bytes, limit } => {
                write!(f, "{bytes} bytes of records at once, and {limit} is the most")
            }
            Error::Register { register, path, source } => {
                let tdx = register.starts_with("RTMR");
                let advice = match source.kind() {
                    io::ErrorKind::NotFound if tdx => {
                        "; this takes a TDX guest with Linux 6.16 or later and the tdx_guest driver"
                    }
                    io::ErrorKind::NotFound => {
                        "; this takes a TPM 2.0 with a SHA256 or SHA384 bank, its driver, and \
                         Linux 5.12 or later"
                    }
                    io::ErrorKind::PermissionDenied if tdx => "; only root may extend it",
                    io::ErrorKind::PermissionDenied => {
                        "; the device is for the group tss (SupplementaryGroups=tss in the unit)"
                    }
                    _ => "",
                };
                write!(f, "{register}: {}: {source}{advice}", path.display())
            }
            Error::Tpm { register, code } => write!(
                f,
                "the TPM refuses to extend {register}: response code {code:#05x} \
                 (tpm2_rc_decode {code:#05x} explains it)"
            ),
            Error::Panicked => write!(f, "internal error; the server's log has the details"),
        }
    }
}

impl std::error::Error for Error {}

/// Whether an I/O error says that there is no room: a full disk, a quota.
fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// The status that a client gets. Never UNKNOWN.
impl From<&Error> for grpcio::RpcStatus {
    fn from(error: &Error) -> Self {
        use grpcio::RpcStatusCode as Code;
        let code = match error {
            Error::InvalidRequest | Error::Negative { .. } => Code::INVALID_ARGUMENT,
            Error::StartPastEnd { .. } | Error::CountPastEnd { .. } => Code::OUT_OF_RANGE,
            Error::NoLog { .. } | Error::NoContainerLog { .. } => Code::NOT_FOUND,
            Error::NotReadable { .. } => Code::PERMISSION_DENIED,
            Error::TooLarge { .. } => Code::RESOURCE_EXHAUSTED,
            Error::Malformed { malformed, .. } => match malformed.defect {
                Defect::Empty => Code::NOT_FOUND,
                _ => Code::DATA_LOSS,
            },
            Error::OutputDir { .. } | Error::Foreign { .. } => Code::FAILED_PRECONDITION,
            Error::Publish { source, .. } if is_no_space(source) => Code::RESOURCE_EXHAUSTED,
            Error::Call { status } => status.code(),
            Error::Connect { .. } | Error::Nri { .. } | Error::NotServing => Code::UNAVAILABLE,
            Error::Read { .. }
            | Error::Publish { .. }
            | Error::OutputDirInUse { .. }
            | Error::Activation(_)
            | Error::SocketInUse { .. }
            | Error::NotASocket { .. }
            | Error::Socket { .. }
            | Error::System { .. }
            | Error::CallFailed(_)
            | Error::Unreadable { .. }
            | Error::ContainerLog { .. }
            | Error::ContainerLogInUse { .. }
            | Error::NotAContainerLog { .. }
            | Error::BatchTooLarge { .. }
            | Error::Register { .. }
            | Error::Tpm { .. }
            | Error::Panicked => Code::INTERNAL,
        };
        grpcio::RpcStatus::with_message(code, error.to_string())
    }
}

/// Exit statuses by sysexits(3), which systemd prints by name.
pub mod exit {
    pub const USAGE: u8 = 64;
    pub const DATAERR: u8 = 65;
    pub const NOINPUT: u8 = 66;
    pub const UNAVAILABLE: u8 = 69;
    pub const SOFTWARE: u8 = 70;
    pub const OSERR: u8 = 71;
    pub const CANTCREAT: u8 = 73;
    pub const IOERR: u8 = 74;
    pub const NOPERM: u8 = 77;
    pub const CONFIG: u8 = 78;
}

impl From<&Error> for u8 {
    fn from(error: &Error) -> Self {
        match error {
            Error::InvalidRequest
            | Error::Negative { .. }
            | Error::StartPastEnd { .. }
            | Error::CountPastEnd { .. } => exit::USAGE,
            Error::Malformed { malformed, .. } => match malformed.defect {
                Defect::Empty => exit::NOINPUT,
                _ => exit::DATAERR,
            },
            Error::TooLarge { .. } | Error::Unreadable { .. } => exit::DATAERR,
            Error::NoLog { .. } | Error::NoContainerLog { .. } => exit::NOINPUT,
            Error::NotReadable { .. } => exit::NOPERM,
            Error::OutputDir { .. }
            | Error::Foreign { .. }
            | Error::Publish { .. }
            | Error::ContainerLog { .. }
            | Error::NotAContainerLog { .. } => exit::CANTCREAT,
            Error::Register { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => exit::NOINPUT,
                io::ErrorKind::PermissionDenied => exit::NOPERM,
                _ => exit::IOERR,
            },
            Error::Read { .. } | Error::Socket { .. } | Error::Tpm { .. } => exit::IOERR,
            Error::System { .. } => exit::OSERR,
            Error::OutputDirInUse { .. }
            | Error::ContainerLogInUse { .. }
            | Error::SocketInUse { .. }
            | Error::Connect { .. }
            | Error::Nri { .. }
            | Error::NotServing
            | Error::CallFailed(_) => exit::UNAVAILABLE,
            Error::Call { status } => match status.code() {
                grpcio::RpcStatusCode::INVALID_ARGUMENT | grpcio::RpcStatusCode::OUT_OF_RANGE => {
                    exit::USAGE
                }
                grpcio::RpcStatusCode::NOT_FOUND => exit::NOINPUT,
                grpcio::RpcStatusCode::PERMISSION_DENIED => exit::NOPERM,
                grpcio::RpcStatusCode::DATA_LOSS => exit::DATAERR,
                _ => exit::UNAVAILABLE,
            },
            Error::Activation(_) | Error::NotASocket { .. } => exit::CONFIG,
            Error::BatchTooLarge { .. } | Error::Panicked => exit::SOFTWARE,
        }
    }
}
