//! The `maqam` command.

use std::process::ExitCode;

/// Element-wise passes allocate and free large buffers all the time: an allocator that keeps their pages spares the system
/// clearing them anew, which was a quarter of a training step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    keep_freed_pages();
    maqam::cli::main()
}

/// Asks the allocator for large pages and never to give freed ones back; memory stays at its peak.
fn keep_freed_pages() {
    /// Position of `mi_option_purge_delay` in mimalloc's list of options.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: setting an option is an atomic store, allowed at any time.
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, -1);
        libmimalloc_sys::mi_option_set(libmimalloc_sys::mi_option_large_os_pages, 1);
    }
}
