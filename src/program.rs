//! What a service does around its work: flags, log, exit status.

use std::process::ExitCode;

use clap::Parser;

use crate::error::{exit, Result};
use crate::systemd;

/// Runs a service; `filter` is the option that says what is logged.
pub fn run<Options: Parser>(
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
    systemd::log_to_stderr(filter(&options));
    match work(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            u8::from(&error).into()
        }
    }
}
