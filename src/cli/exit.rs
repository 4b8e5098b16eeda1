//! How a process ends: what is printed, and its exit code.

use std::process::ExitCode;

use crate::cli::print;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;

/// Prints a help text, or what is wrong with the arguments.
pub fn usage(error: &clap::Error) -> ExitCode {
    let printed = error.print();
    if error.use_stderr() {
        return ExitCode::from(Kind::Input.exit_code());
    }
    // A help text is a result, and the last of it may be in a buffer still.
    outcome(|| match printed {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            let found = format!("standard output: cannot print the help: {e}");
            Err(Error::resource(found).caused_by(e))
        }
        _ => print::result(""),
    })
}

/// Runs a command, and prints what went wrong.
pub fn outcome(work: impl FnOnce() -> Result<()>) -> ExitCode {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
        .unwrap_or_else(|payload| Err(of_panic(payload.as_ref())));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print::error(format_args!("error: {error}"));
            ExitCode::from(error.exit_code())
        }
    }
}

/// The error that a panic stands for; the panic itself has printed where it was.
fn of_panic(payload: &(dyn std::any::Any + Send)) -> Error {
    let text = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or_default();
    // The standard library and rayon panic where the system gives no more threads.
    if text.contains("failed to spawn thread") || text.contains("ThreadPoolBuildError") {
        return Error::resource("the system gives this process no more threads")
            .hint("raise the limit of processes or of memory (`ulimit -u`, `ulimit -v`)");
    }
    Error::bug("maqam stopped at a fault of its own")
}
