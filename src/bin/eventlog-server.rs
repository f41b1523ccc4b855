//! `eventlog-server`: serves slices of this machine's event logs over gRPC.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use ccnp_eventlog::error::Result;
use ccnp_eventlog::program;
use ccnp_eventlog::publish::Publisher;
use ccnp_eventlog::server::connections::Limits;
use ccnp_eventlog::server::listener::Listener;
use ccnp_eventlog::server::service::{Eventlog, Sources};
use ccnp_eventlog::server::{Server, Settings};
use ccnp_eventlog::source::Source;
use ccnp_eventlog::systemd;
use clap::Parser;

/// Serves slices of this machine's event logs over gRPC on a unix socket.
///
/// systemd passes the socket in; without systemd the server binds it itself.
#[derive(Debug, Parser)]
#[command(name = "eventlog-server", version)]
struct Options {
    /// The TDX log [default: /run/firmware/acpi/tables/data/CCEL, else the same
    /// under /sys]
    #[arg(long, value_name = "FILE", env = "CCNP_EVENTLOG_CCEL")]
    ccel: Option<PathBuf>,

    /// The TPM log [default: /sys/kernel/security/tpm0/binary_bios_measurements,
    /// else the same under tpm1]
    #[arg(long, value_name = "FILE", env = "CCNP_EVENTLOG_TPM_LOG")]
    tpm_log: Option<PathBuf>,

    /// The container log
    #[arg(
        long,
        value_name = "FILE",
        env = "CCNP_EVENTLOG_CONTAINER_LOG",
        default_value = "/var/lib/ccnp-eventlog/container.log"
    )]
    container_log: PathBuf,

    /// The socket to bind where systemd passes none in
    #[arg(
        long,
        value_name = "PATH",
        env = "CCNP_EVENTLOG_SOCKET",
        default_value = "/run/ccnp/uds/eventlog.sock"
    )]
    socket: PathBuf,

    /// Where slices are published
    #[arg(
        long,
        value_name = "DIR",
        env = "CCNP_EVENTLOG_OUTPUT_DIR",
        default_value = "/run/ccnp-eventlog"
    )]
    output_dir: PathBuf,

    /// How many published slices are kept; the one served longest ago goes first
    #[arg(long, value_name = "N", env = "CCNP_EVENTLOG_KEEP", default_value_t = 1024,
          value_parser = clap::value_parser!(u32).range(1..))]
    keep: u32,

    /// Threads that answer calls
    #[arg(long, value_name = "N", env = "CCNP_EVENTLOG_THREADS", default_value_t = 2,
          value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,

    /// Connections at once; more wait
    #[arg(long, value_name = "N", env = "CCNP_EVENTLOG_MAX_CONNECTIONS", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: u32,

    /// Connections at once of one user; more are refused
    #[arg(long, value_name = "N", env = "CCNP_EVENTLOG_MAX_CONNECTIONS_PER_UID",
          default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    max_connections_per_uid: u32,

    /// Exit after so long without a connection; 0: never
    #[arg(long, value_name = "SECONDS", env = "CCNP_EVENTLOG_IDLE_EXIT", default_value_t = 0)]
    idle_exit: u32,

    /// What is logged: error, warn, info, debug, or env_logger's finer filters
    #[arg(
        long,
        value_name = "FILTER",
        env = "CCNP_EVENTLOG_LOG",
        default_value = "info,grpcio=error"
    )]
    log: String,
}

fn main() -> ExitCode {
    program::run(systemd::log_to_stderr, |options: &Options| &options.log, run)
}

fn run(options: Options) -> Result<()> {
    let signals = systemd::take_signals()?;
    let activated = systemd::listening_socket()?;
    let publisher = Publisher::open(&options.output_dir, options.keep as usize)?;
    let listener = match activated {
        Some(descriptor) => Listener::adopt(descriptor)?,
        None => Listener::bind(&options.socket)?,
    };
    let sources = Sources {
        ccel: options.ccel.map_or_else(Source::ccel, Source::file),
        tpm: options.tpm_log.map_or_else(Source::tpm, Source::file),
        container: Source::file(options.container_log),
    };
    let settings = Settings {
        threads: options.threads as usize,
        limits: Limits {
            connections: options.max_connections as usize,
            connections_per_uid: options.max_connections_per_uid as usize,
        },
        idle_exit: (options.idle_exit > 0).then(|| Duration::from_secs(options.idle_exit.into())),
    };
    let eventlog = Eventlog::new(sources, publisher);
    eventlog.read_logs();
    let server = Server::start(eventlog, settings)?;
    let status = server.status();
    log::info!("{status}");
    systemd::ready(&status);
    server.serve(listener, &signals)
}
