//! What a run's folder says, shown: charts, tables, one page that opens offline; runs side by side.
//!
//! The line: a folder is read ([`maqam_records::run_folder`]), [`sections`] say one thing each
//! about a run, [`several`] about several runs, a [`page::Page`] holds them. Callers with something
//! of their own to show build [`chart::figure::Figure`], [`page::table::Table`] and
//! [`page::Section`] themselves; a figure is written as a file by [`chart::figure::Figure::file`].

#![deny(clippy::unwrap_used, clippy::expect_used)]

pub mod beside;
pub mod chart;
pub mod clips;
pub mod compare;
pub mod data_set;
pub mod evaluation;
pub mod experiment;
pub mod metric;
pub mod page;
pub mod plan;
pub mod resampled;
pub mod rescore;
pub mod run_page;
pub mod sections;
pub mod several;
pub mod standing;
pub mod uncertainty;
pub mod written;

pub use clips::AudioOf;
pub use run_page::page;
