//! What Ctrl-C, a termination and a hang-up do to the work.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;

/// The first signal asks the work to stop at a whole step, by setting `stop`; the second ends the process.
///
/// A hang-up that is ignored when the program starts, as under `nohup`, stays ignored.
pub fn watch(stop: Arc<AtomicBool>) -> Result<()> {
    let handler = move || {
        if stop.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(Error::new(Kind::Interrupted, "").exit_code()));
        }
        // After a hang-up there may be nobody to tell.
        let _ = writeln!(
            std::io::stderr(),
            "\nstopping after what is under way; press Ctrl-C again to stop at once"
        );
    };
    let ignores_hangup = ignores_hangup();
    ctrlc::set_handler(handler)
        .map_err(|e| Error::resource(format!("cannot watch for Ctrl-C: {e}")))?;
    if ignores_hangup {
        ignore_hangup();
    }
    Ok(())
}

#[cfg(unix)]
fn ignores_hangup() -> bool {
    // SAFETY: an action of zeros is a valid one, and `sigaction` without a new action only writes the old one to it.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGHUP, std::ptr::null(), &raw mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(unix)]
fn ignore_hangup() {
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe {
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
    }
}

#[cfg(not(unix))]
fn ignores_hangup() -> bool {
    false
}

#[cfg(not(unix))]
fn ignore_hangup() {}
