//! x
pub mod check;
pub mod language;
pub mod text;
pub mod wordings;
