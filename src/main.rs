//! The `maqam` command.

fn main() {}
