//! Who watches a build, and what it came to.

use crate::error::Result;

/// Whoever watches a build.
pub trait Observer {
    /// `done` of `total` rows of a step are done.
    ///
    /// # Errors
    /// The user asked to stop.
    fn tell(&mut self, step: &'static str, done: usize, total: usize) -> Result<()>;

    /// A line for the user.
    fn line(&mut self, text: &str);
}

/// What a build came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Rows that were collected.
    pub collected: usize,
    /// Rows that were published; none before `publish`.
    pub published: Option<usize>,
    /// Rows that were rejected so far.
    pub rejected: usize,
    /// Rows that are on their way.
    pub pending: usize,
    /// Things that the user should know.
    pub notes: Vec<String>,
}
