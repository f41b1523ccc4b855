//! The event logs of a confidential machine, from the kernel's files to whoever
//! asks for them.
//!
//! A TDX guest or a machine with a TPM measures its boot into registers and keeps
//! an event log that explains them. `eventlog-server` serves slices of these logs
//! over gRPC on a unix socket; `eventlogctl` is for people and probes. `eventlog-nri`
//! writes one more such log, of what plugins adjust in containers.
//!
//! ```text
//!  kernel files                                                       clients
//!  CCEL, binary_bios_measurements ─ source ─ log ─ json ─ publish ─ server ─ path
//!                                   read     parse  say    rename    reply
//!  container.log ─────────────────┘ once     slice
//!        └─ container_log ─ record ─ nri ─ container runtime
//! ```
//!
//! The modules below stand in that order, and each uses only those above it
//! (`tests/layers.rs` checks it). Bytes are believed only after `log`, which is
//! pure: no I/O, no unsafe.

#![deny(unsafe_op_in_unsafe_fn)]
#![warn(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

/// Every way to fail, its wording, its gRPC status and its exit status.
pub mod error;

/// TCG event logs: bytes in, events and slices out.
pub mod log;

/// What the container log says: one record per adjustment of a container.
pub mod record;

/// A slice as the JSON that CCNP's clients read.
pub mod json;

/// Where logs come from: a file, read once.
pub mod source;

/// One writer at a time.
pub mod lock;

/// A slice → files under names that their content decides.
pub mod publish;

/// The protobuf messages.
pub mod messages;

/// The gRPC methods.
pub mod rpc;

/// systemd: descriptors, notifications, watchdog, journal.
pub mod systemd;

/// Live registers: what the hardware holds, and extending one.
pub mod live;

/// Records → `container.log`.
pub mod container_log;

/// The plugin that audits what the plugins of a container runtime do.
pub mod nri;

/// gRPC over a unix socket: connections, limits, services, drain.
pub mod server;

/// A client of the server, for `eventlogctl`.
pub mod client;

/// What a service does around its work.
pub mod program;
