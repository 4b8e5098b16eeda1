//! The GPU that tests compute on.
#![allow(missing_docs, reason = "of tests alone")]

use std::io::Write;
use std::sync::LazyLock;

use candle_core::Device;
use maqam::ops::device;
use maqam::ops::device::Choice;

/// The GPU. Without one, every test prints a note outside its captured output and checks nothing.
pub static GPU: LazyLock<Option<Device>> = LazyLock::new(|| {
    let hint = "build the emulated driver with tests/cuda/driver/build.sh, or run this where there is a GPU";
    device::open(Choice::Cuda)
        .map_err(|error| say(&format!("ON A GPU: {error}\n{hint}")))
        .ok()
});

/// Prints a note on tests that do not run.
pub fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "\nNOT TESTED {what}\n");
}
