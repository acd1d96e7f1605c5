//! How a program ends: errors go to stderr, on one line from what failed to why.

use anyhow::Result;
use std::process::ExitCode;

/// The exit code of a program's work.
pub(crate) fn report(work: Result<()>) -> ExitCode {
    match work {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
