//! Recipes times seeds over one data set and one budget: trained one after the other, judged once, compared in the end.

mod file;
pub mod runner;

pub use file::Contrast;
pub use file::Entry;
pub use file::Experiment;
pub use file::Planned;
pub use file::Seed;
