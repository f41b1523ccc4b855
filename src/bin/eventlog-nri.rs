//! `eventlog-nri`: audits what a container runtime's NRI plugins do to containers.

use std::path::PathBuf;
use std::process::ExitCode;

use ccnp_eventlog::container_log::{self, ContainerLog};
use ccnp_eventlog::error::Result;
use ccnp_eventlog::live::Register;
use ccnp_eventlog::log::Registers;
use ccnp_eventlog::nri::adjustment::Detail;
use ccnp_eventlog::nri::audit::Audit;
use ccnp_eventlog::nri::plugin::{self, Plugin, Settings};
use ccnp_eventlog::nri::writer::Writer;
use ccnp_eventlog::program;
use ccnp_eventlog::systemd;
use clap::builder::BoolishValueParser;
use clap::Parser;

/// Audits what a container runtime's NRI plugins do to containers: what each asked
/// for, and what came of it, as the container log.
#[derive(Debug, Parser)]
#[command(name = "eventlog-nri", version)]
struct Options {
    /// The socket on which the container runtime takes plugins
    #[arg(
        long,
        value_name = "PATH",
        env = "CCNP_EVENTLOG_NRI_SOCKET",
        default_value = "/var/run/nri/nri.sock"
    )]
    nri_socket: PathBuf,

    /// Where the container log is kept
    #[arg(
        long,
        value_name = "FILE",
        env = "CCNP_EVENTLOG_CONTAINER_LOG",
        default_value = "/var/lib/ccnp-eventlog/container.log"
    )]
    container_log: PathBuf,

    /// The plugin's name: letters, digits and _.+-
    #[arg(long, env = "CCNP_EVENTLOG_NRI_NAME", default_value = "eventlog", value_parser = name)]
    name: String,

    /// The plugin's index, two digits: where it stands in the order of plugins. A low
    /// one is told of events even where another plugin fails
    #[arg(long, env = "CCNP_EVENTLOG_NRI_INDEX", default_value = "00", value_parser = index)]
    index: String,

    /// How much of the values records show; secrets never
    #[arg(long, value_enum, env = "CCNP_EVENTLOG_NRI_DETAIL", default_value = "full")]
    detail: Detail,

    /// Which register every record is extended into: none, tdx (RTMR3), tpm (PCR13) or
    /// tpm:N (PCR N)
    #[arg(long, env = "CCNP_EVENTLOG_NRI_EXTEND", default_value = "none", value_parser = extend)]
    extend: Extend,

    /// Reject a container rather than let it be created unlogged
    #[arg(long, env = "CCNP_EVENTLOG_NRI_FAIL_CLOSED", value_parser = BoolishValueParser::new())]
    fail_closed: bool,

    /// What is logged: error, warn, info, debug, or env_logger's finer filters
    #[arg(long, value_name = "FILTER", env = "CCNP_EVENTLOG_LOG", default_value = "info")]
    log: String,
}

/// What is extended: nothing, RTMR3 or a PCR.
#[derive(Clone, Copy, Debug)]
enum Extend {
    Nothing,
    Tdx,
    Tpm(u32),
}

fn extend(text: &str) -> std::result::Result<Extend, String> {
    let pcr = |number: &str| number.parse().ok().filter(|pcr| Registers::Pcr.exist(*pcr));
    match text {
        "none" => Ok(Extend::Nothing),
        "tdx" => Ok(Extend::Tdx),
        "tpm" => Ok(Extend::Tpm(container_log::DEFAULT_PCR)),
        _ => text
            .strip_prefix("tpm:")
            .and_then(pcr)
            .map(Extend::Tpm)
            .ok_or_else(|| "none, tdx, tpm or tpm:N, N being a PCR's number".to_owned()),
    }
}

fn name(text: &str) -> std::result::Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.+-".contains(c);
    match !text.is_empty() && text.chars().all(allowed) {
        true => Ok(text.to_owned()),
        false => Err("letters, digits and _.+- only".to_owned()),
    }
}

fn index(text: &str) -> std::result::Result<String, String> {
    match text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => Ok(text.to_owned()),
        false => Err("two digits, as in 00".to_owned()),
    }
}

fn main() -> ExitCode {
    program::run(systemd::log_in_background, |options: &Options| &options.log, run)
}

fn run(options: Options) -> Result<()> {
    // The environments and annotations of all containers pass through this process.
    let _ = nix::sys::prctl::set_dumpable(false);
    let signals = systemd::take_signals()?;
    let launched = plugin::launched_by_runtime()?;
    // A runtime that starts a plugin names it too.
    let given = |variable| std::env::var(variable).ok().filter(|_| launched.is_some());
    let settings = Settings {
        socket: options.nri_socket,
        name: given("NRI_PLUGIN_NAME").unwrap_or(options.name),
        index: given("NRI_PLUGIN_IDX").unwrap_or(options.index),
        fail_closed: options.fail_closed,
    };
    let ourselves = format!("{}-{}", settings.index, settings.name);
    let (register, pcr) = match options.extend {
        Extend::Nothing => (None, container_log::DEFAULT_PCR),
        Extend::Tdx => (Some(Register::rtmr3()), container_log::DEFAULT_PCR),
        Extend::Tpm(pcr) => (Some(Register::pcr(pcr)), pcr),
    };
    let opened = ContainerLog::open(container_log::Settings {
        path: options.container_log,
        register,
        pcr,
        boot_id: container_log::boot_id()?,
    })?;
    let audit = Audit::new(ourselves, options.detail, opened.next_seq, opened.known);
    let writer = Writer::start(opened.log)?;
    let mut plugin = Plugin::new(settings, audit, writer);
    plugin.go_on_from(&opened.unfinished);
    match launched {
        Some(socket) => plugin.serve_launched(socket, &signals),
        None => plugin.serve(&signals),
    }
}
