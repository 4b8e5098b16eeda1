//! The end of memory as an error: a failed allocation prints one line and ends the process with the
//! exit code of a resource.

use std::alloc::GlobalAlloc;
use std::alloc::Layout;
use std::alloc::System;

/// The system's allocator. Where it has nothing left the process ends with exit code 4, without the
/// abort that Rust would end with.
pub struct Allocator;

/// Exit code of [`crate::error::Kind::Resource`]; the process may be past making an error.
const EXIT_CODE: i32 = 4;

/// The standard library's source of a thread's signal stack.
const SIGNAL_STACKS: &str = "sys/pal/unix/stack_overflow.rs";

// SAFETY: every call goes to the system's allocator as it came; a failed one does not return.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is passed on.
        had(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is passed on.
        had(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise is passed on.
        had(unsafe { System.realloc(pointer, layout, size) }, size)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Lets a thread that finds no memory for its signal stack end the process like a failed
/// allocation.
///
/// The standard library panics there before the thread can unwind, which aborts the process.
pub fn watch_threads() {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info
            .location()
            .is_some_and(|at| at.file().ends_with(SIGNAL_STACKS))
        {
            write_error(b"error: out of memory: a thread could not begin; give the process more\n");
            end();
        }
        previous(info);
    }));
}

#[inline]
fn had(pointer: *mut u8, size: usize) -> *mut u8 {
    if pointer.is_null() {
        out_of_memory(size);
    }
    pointer
}

/// Prints one line and ends the process; nothing here allocates.
#[cold]
fn out_of_memory(size: usize) -> ! {
    let mut digits = [0u8; 20];
    let number = decimal(size, &mut digits);
    for part in [
        b"error: out of memory: ".as_slice(),
        number,
        b" more bytes could not be had; lower `memory.pack_tokens` or the batch, or give the process more\n",
    ] {
        write_error(part);
    }
    end()
}

/// The decimal digits of a number, written to the end of a buffer.
fn decimal(mut number: usize, buffer: &mut [u8; 20]) -> &[u8] {
    let mut start = buffer.len();
    loop {
        start -= 1;
        buffer[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &buffer[start..];
        }
    }
}

#[cfg(unix)]
fn write_error(text: &[u8]) {
    // SAFETY: the text lives through the call, and a standard error that is closed only fails it.
    unsafe {
        libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len());
    }
}

#[cfg(not(unix))]
fn write_error(_: &[u8]) {}

#[cfg(unix)]
fn end() -> ! {
    // SAFETY: ends the process at once; what runs at an ordinary exit might allocate again.
    unsafe { libc::_exit(EXIT_CODE) }
}

#[cfg(not(unix))]
fn end() -> ! {
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_without_memory() {
        for number in [0, 7, 10, 65536, usize::MAX] {
            let mut buffer = [0; 20];
            assert_eq!(decimal(number, &mut buffer), number.to_string().as_bytes());
        }
    }
}
