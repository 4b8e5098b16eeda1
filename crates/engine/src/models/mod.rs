//! Families of models, one folder each.

pub mod hubert;
