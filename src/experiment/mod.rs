//! Recipes times seeds over one data set and one budget: trained one after the other, evaluated
//! once, compared in the end.
//!
//! - `file`: the experiment as written; [`merge_settings`]: entries that merge others.
//! - [`runner`]: what trains and judges.
//! - [`compare`]: scores, intervals, contrasts; [`budget`] and [`dynamics`]: what was seen and how
//!   it went.
//! - [`mod@write`]: the comparison as Markdown. `report` shows it as a page.
//! - [`power`]: what the plan can resolve, before anything is trained.

pub mod budget;
pub mod compare;
pub mod dynamics;
mod file;
pub mod merge_settings;
pub mod power;
pub mod power_settings;
pub mod prepare;
pub mod runner;
mod test_answers;
pub mod write;

pub use file::Entry;
pub use file::Experiment;
pub use file::MergedRun;
pub use file::Planned;
pub use file::Seed;
