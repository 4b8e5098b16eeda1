//! Damaged inputs for everything that maqam reads: targets, and an engine that looks for inputs
//! that reach new code.
//!
//! `fuzz/README.md` says how to run it.

#![deny(clippy::unwrap_used, clippy::expect_used)]

pub mod audio;
pub mod coverage;
pub mod engine;
pub mod formats;
pub mod memory;
pub mod mutate;
pub mod target;
pub mod text;

use crate::target::Target;

/// All targets.
pub fn targets() -> Vec<Target> {
    [audio::targets(), text::targets(), formats::targets()].concat()
}
