//! What a service does around its work: flags, log, exit status.

use std::process::ExitCode;

use clap::Parser;

use crate::error::{exit, Result};
use crate::systemd;

/// Runs a service; `log` is how it logs, and `filter` the option that says what.
pub fn run<Options: Parser>(
    log: fn(&str),
    filter: impl FnOnce(&Options) -> &str,
    work: impl FnOnce(Options) -> Result<()>,
) -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { exit::USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    log(filter(&options));
    let outcome = work(options).inspect_err(|error| log::error!("{error}"));
    systemd::flush_log();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => u8::from(&error).into(),
    }
}
