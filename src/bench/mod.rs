//! Speed and memory on work of a stated shape, and primitives checked at the widths of a model.

pub mod check;
pub mod compare;
pub mod data;
pub mod generate;
pub mod measured;
pub mod settings;
pub mod train;
pub mod work;
