//! Whether a model does as it is told about what it hears: verifiable checks, a suite of them built
//! from any manifest, and scores.
//!
//! A [`check::Check`] is data and a program decides it, strictly and loosely, as in IFEval.
//! [`suite::suite`] builds rows of a plain manifest from clips and tasks; a model answers them like
//! any other rows; [`score`] reads the predictions.

pub mod check;
pub mod clip;
pub mod compared;
pub mod constraint;
pub mod kind;
pub mod language;
mod question;
pub mod row;
pub mod score;
pub mod settings;
pub mod suite;
pub mod table;
pub mod text;
pub mod wordings;
