//! What Ctrl-C, a termination and a hang-up do to the work.

use std::time::Duration;

use crate::cli::print;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::files::Waiting;
use crate::stop::Stop;

/// Time between two looks at whether the work waits for somebody outside.
const LOOK_UP: Duration = Duration::from_millis(50);

/// The first signal asks the work to stop at a whole step, through `stop`; the second ends the
/// process.
///
/// Work that waits for somebody outside (a pipe, a download) cannot see `stop` and has nothing to
/// lose: the first signal ends it. A hang-up that is ignored when the program starts, as under
/// `nohup`, stays ignored.
pub fn watch(stop: Stop) -> Result<()> {
    let ignored = ignored_signals();
    ctrlc::set_handler(move || stop_or_end(&stop))
        .map_err(|e| Error::resource(format!("cannot watch for Ctrl-C: {e}")).caused_by(e))?;
    for signal in ignored {
        ignore(signal);
    }
    Ok(())
}

/// Asks the work to stop, or ends the process at the second signal and where the work waits for
/// somebody outside.
fn stop_or_end(stop: &Stop) {
    if stop.request() {
        end();
    }
    if Waiting::is_any() {
        end_waiting();
    }
    print::message("\nstopping after what is under way; press Ctrl-C again to stop at once");
    // The work may begin to wait only now.
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(LOOK_UP);
            if Waiting::is_any() {
                end_waiting();
            }
        }
    });
}

fn end_waiting() {
    print::message("\nerror: stopped while waiting for input or output");
    end();
}

fn end() {
    std::process::exit(i32::from(Kind::Interrupted.exit_code()));
}

/// Signals that stay ignored: a hang-up that was when the program started, and the one that a file
/// beyond a limit of size raises. Such a file is then an error of its write, as a full disk is, and
/// no end without a word.
#[cfg(unix)]
fn ignored_signals() -> Vec<i32> {
    // SAFETY: an action of zeros is a valid one, and `sigaction` without a new action only writes
    // the old one to it.
    let ignores_hangup = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGHUP, std::ptr::null(), &raw mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    };
    let hangup = ignores_hangup.then_some(libc::SIGHUP);
    std::iter::once(libc::SIGXFSZ).chain(hangup).collect()
}

#[cfg(not(unix))]
fn ignored_signals() -> Vec<i32> {
    Vec::new()
}

#[cfg(unix)]
fn ignore(signal: i32) {
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe {
        libc::signal(signal, libc::SIG_IGN);
    }
}

#[cfg(not(unix))]
fn ignore(_: i32) {}
