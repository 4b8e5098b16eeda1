//! Panics of libraries: caught, kept from the terminal, and told from faults of maqam's own code.

use std::any::Any;
use std::cell::Cell;
use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::panic::PanicHookInfo;
use std::path::Path;
use std::sync::Once;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

/// A panic that [`contain`] caught.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Panic {
    /// Message of the panic; empty where it has none.
    pub message: String,
    /// Source file and line of the panic.
    pub place: String,
    /// Whether the panic stands in maqam's own source.
    pub is_ours: bool,
}

/// Number of [`contain_pool`] calls that run now.
static POOLS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Number of [`contain`] calls that this thread is in.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// The panic that is unwinding inside such a call.
    static CAUGHT: RefCell<Option<Panic>> = const { RefCell::new(None) };
}

/// Runs `work` and returns its value, or the panic that ended it. Nothing is printed.
///
/// Only panics of the calling thread are caught and kept from the terminal.
///
/// # Errors
/// The panic.
pub fn contain<T>(work: impl FnOnce() -> T) -> Result<T, Panic> {
    static HOOK: Once = Once::new();

    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if DEPTH.get() > 0 {
                CAUGHT.set(Some(describe(info)));
            } else if POOLS.load(Ordering::SeqCst) == 0 {
                previous(info);
            }
        }));
    });

    DEPTH.set(DEPTH.get() + 1);
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(work));
    DEPTH.set(DEPTH.get() - 1);

    outcome.map_err(|_| CAUGHT.take().unwrap_or_default())
}

/// As [`contain`], for libraries that work in threads of their own: no panic of any thread is
/// printed while `work` runs.
///
/// # Errors
/// The panic that reached the calling thread.
pub fn contain_pool<T>(work: impl FnOnce() -> T) -> Result<T, Panic> {
    POOLS.fetch_add(1, Ordering::SeqCst);
    let outcome = contain(work);
    POOLS.fetch_sub(1, Ordering::SeqCst);
    outcome
}

fn describe(info: &PanicHookInfo<'_>) -> Panic {
    let file = info.location().map_or("", |location| location.file());

    Panic {
        message: text(info.payload()),
        place: info.location().map(ToString::to_string).unwrap_or_default(),
        // The compiler names files of this workspace relative to its root, files of others from the
        // root of the disk.
        is_ours: Path::new(file).is_relative(),
    }
}

fn text(payload: &dyn Any) -> String {
    match payload.downcast_ref::<&str>() {
        Some(text) => (*text).to_owned(),
        None => payload
            .downcast_ref::<String>()
            .cloned()
            .unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_returned_with_its_place() {
        let panic = contain(|| -> u8 { panic!("seven is {}", 7) }).unwrap_err();
        assert_eq!(panic.message, "seven is 7");
        assert!(panic.is_ours && panic.place.contains("src/panics.rs:"));

        let empty: Vec<u8> = Vec::new();
        let at = std::hint::black_box(3);
        assert!(contain(|| empty[at]).unwrap_err().message.contains("index"));
        assert_eq!(contain(|| 5), Ok(5));
    }

    #[test]
    fn a_panic_of_another_thread_is_seen_by_who_joins_it() {
        let found = contain_pool(|| std::thread::spawn(|| panic!("foreign")).join().is_err());
        assert_eq!(found, Ok(true));
    }

    #[test]
    fn a_panic_of_a_library_is_not_ours() {
        let panic = contain(|| (0..2).step_by(std::hint::black_box(0)).count());
        assert!(!panic.unwrap_err().is_ours);
    }
}
