//! `eventlogctl`: asks the server, for people and probes.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use ccnp_eventlog::client::call;
use ccnp_eventlog::error::{exit, Error, Result};
use ccnp_eventlog::log::payload::{printable, printable_line};
use ccnp_eventlog::rpc::eventlog::{GetEventlogRequest, CATEGORY, LEVEL};
use ccnp_eventlog::rpc::health::health_check_response::ServingStatus;
use ccnp_eventlog::rpc::health::HealthCheckRequest;
use ccnp_eventlog::rpc::{GET_EVENTLOG, HEALTH_CHECK};
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Reads event logs through eventlog-server.
#[derive(Debug, Parser)]
#[command(name = "eventlogctl", version)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ask the server for a slice of a log; print its path and its events
    Get(Get),
    /// Ask the server whether it serves: exit status 0 yes, 1 wrong arguments,
    /// 2 cannot connect, 3 the call failed, 4 no
    Health(Server),
}

#[derive(Debug, Args)]
struct Server {
    /// The server's socket
    #[arg(
        long,
        value_name = "PATH",
        env = "CCNP_EVENTLOG_SOCKET",
        default_value = "/run/ccnp/uds/eventlog.sock"
    )]
    socket: PathBuf,

    /// How long to wait for the answer
    #[arg(long, value_name = "SECONDS", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..))]
    timeout: u32,
}

impl Server {
    fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout.into())
    }
}

#[derive(Debug, Args)]
struct Get {
    /// Which log
    log: Kind,

    /// The first event, counted from 1
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        hide_default_value = true,
        allow_negative_numbers = true
    )]
    start: i32,

    /// How many events [default: all]
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        hide_default_value = true,
        allow_negative_numbers = true
    )]
    count: i32,

    /// For the container log: which registers to name
    #[arg(long = "as", value_name = "REGISTERS", default_value = "tdx")]
    registers: Registers,

    /// Print nothing but the path
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    server: Server,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Tdx,
    Tpm,
    Container,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Registers {
    Tdx,
    Tpm,
}

/// Exit statuses of gRPC's own health probe, which scripts know.
const WRONG_ARGUMENTS: u8 = 1;
const CANNOT_CONNECT: u8 = 2;
const CALL_FAILED: u8 = 3;
const NOT_SERVING: u8 = 4;

fn main() -> ExitCode {
    match Options::try_parse().map(|options| options.command) {
        Ok(Command::Get(get)) => match run_get(&get) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error, u8::from(&error)),
        },
        Ok(Command::Health(server)) => match run_health(&server) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let status = match &error {
                    Error::Connect { .. } => CANNOT_CONNECT,
                    Error::NotServing => NOT_SERVING,
                    _ => CALL_FAILED,
                };
                fail(&error, status)
            }
        },
        Err(error) => {
            let _ = error.print();
            let is_health = std::env::args().nth(1).is_some_and(|command| command == "health");
            match (error.use_stderr(), is_health) {
                (false, _) => ExitCode::SUCCESS,
                (true, true) => WRONG_ARGUMENTS.into(),
                (true, false) => exit::USAGE.into(),
            }
        }
    }
}

fn fail(error: &Error, status: u8) -> ExitCode {
    eprintln!("eventlogctl: {}", printable(&error.to_string()));
    status.into()
}

fn run_health(server: &Server) -> Result<()> {
    let reply = call(&server.socket, &HEALTH_CHECK, &HealthCheckRequest::new(), server.timeout())?;
    match reply.status.enum_value() {
        Ok(ServingStatus::SERVING) => Ok(()),
        _ => Err(Error::NotServing),
    }
}

fn run_get(get: &Get) -> Result<()> {
    let (level, category) = match (get.log, get.registers) {
        (Kind::Tdx, _) => (LEVEL::PAAS, CATEGORY::TDX_EVENTLOG),
        (Kind::Tpm, _) => (LEVEL::PAAS, CATEGORY::TPM_EVENTLOG),
        (Kind::Container, Registers::Tdx) => (LEVEL::SAAS, CATEGORY::TDX_EVENTLOG),
        (Kind::Container, Registers::Tpm) => (LEVEL::SAAS, CATEGORY::TPM_EVENTLOG),
    };
    let request = GetEventlogRequest {
        eventlog_level: level.into(),
        eventlog_category: category.into(),
        start_position: get.start,
        count: get.count,
        ..Default::default()
    };
    let reply = call(&get.server.socket, &GET_EVENTLOG, &request, get.server.timeout())?;
    let path = Path::new(&reply.eventlog_data_loc);
    // Nobody is left to tell where standard output is closed.
    let _ = writeln!(io::stdout(), "{}", printable(&reply.eventlog_data_loc));
    if !get.quiet {
        let _ = write!(io::stdout(), "{}", table(path)?);
    }
    Ok(())
}

/// The published events, one a line.
fn table(path: &Path) -> Result<String> {
    let unreadable = |reason| Error::Unreadable { path: path.to_owned(), reason };
    let json = std::fs::read(path).map_err(|error| Error::reading(path, error))?;
    let slice: serde_json::Value =
        serde_json::from_slice(&json).map_err(|error| unreadable(error.to_string()))?;
    let events = slice.get("EventLogs").and_then(serde_json::Value::as_array);
    let mut rows = vec![["#", "REGISTER", "EVENT TYPE", "DESCRIPTION"].map(str::to_owned)];
    for event in events.ok_or_else(|| unreadable("it has no EventLogs".to_owned()))? {
        rows.push(["Position", "Register", "EventType", "Description"].map(|key| {
            match event.get(key) {
                Some(serde_json::Value::String(text)) => printable_line(text),
                Some(value) => printable_line(&value.to_string()),
                None => String::new(),
            }
        }));
    }
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let (position, register, event_type) = (width(0), width(1), width(2));
    let lines = rows.iter().map(|[p, r, t, description]| {
        let line = format!("{p:>position$}  {r:register$}  {t:event_type$}  {description}");
        format!("{}\n", line.trim_end())
    });
    Ok(lines.collect())
}
