//! What Ctrl-C, a termination and a hang-up do to the work.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::cli::print;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::files::Waiting;

/// Time between two looks at whether the work waits for somebody outside.
const LOOK_UP: Duration = Duration::from_millis(50);

/// The first signal asks the work to stop at a whole step, by setting `stop`; the second ends the process.
///
/// Work that waits for somebody outside (a pipe, a download) cannot see `stop` and has nothing to lose: the first signal ends it.
/// A hang-up that is ignored when the program starts, as under `nohup`, stays ignored.
pub fn watch(stop: Arc<AtomicBool>) -> Result<()> {
    let handler = move || {
        if stop.swap(true, Ordering::Relaxed) {
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
    };
    let ignores_hangup = ignores_hangup();
    ctrlc::set_handler(handler)
        .map_err(|e| Error::resource(format!("cannot watch for Ctrl-C: {e}")))?;
    if ignores_hangup {
        ignore(libc::SIGHUP);
    }
    // A file that grows beyond a limit is then an error of its write, as a full disk is, and no end without a word.
    ignore(libc::SIGXFSZ);
    Ok(())
}

fn end_waiting() {
    print::message("\nerror: stopped while waiting for input or output");
    end();
}

fn end() {
    std::process::exit(i32::from(Error::new(Kind::Interrupted, "").exit_code()));
}

fn ignores_hangup() -> bool {
    // SAFETY: an action of zeros is a valid one, and `sigaction` without a new action only writes the old one to it.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGHUP, std::ptr::null(), &raw mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}

fn ignore(signal: libc::c_int) {
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe {
        libc::signal(signal, libc::SIG_IGN);
    }
}
