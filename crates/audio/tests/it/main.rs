//! Tests of the crate from outside, in one program: it is linked once.

mod containers;
mod damaged;
