//! `split:` of a recipe.

use serde::Deserialize;
use serde::Serialize;

use crate::build::keys::in_range;
use crate::error::Error;
use crate::error::Result;

/// Sizes of the splits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Share of documents in dev.
    pub dev: f64,
    /// Share of documents in test.
    pub test: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            dev: 0.1,
            test: 0.1,
        }
    }
}

impl Settings {
    /// Checks the settings.
    ///
    /// # Errors
    /// The key that is wrong.
    pub fn check(&self) -> Result<()> {
        in_range("dev", self.dev, 0.0, 1.0)?;
        in_range("test", self.test, 0.0, 1.0)?;
        if self.dev + self.test > 1.0 {
            return Err(Error::input("`dev` and `test` are more than 1 together")
                .hint("leave a share for train"));
        }
        Ok(())
    }

    /// Documents of dev and of test, of so many.
    pub fn counts(&self, of: usize) -> [usize; 2] {
        let test = (self.test * of as f64).round() as usize;
        let dev = (self.dev * of as f64).round() as usize;
        [dev.min(of - test.min(of)), test.min(of)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_counts() {
        let counts = |dev, test, of| Settings { dev, test }.counts(of);
        assert_eq!(counts(0.2, 0.2, 100), [20, 20]);
        assert_eq!(counts(0.1, 0.1, 7), [1, 1]);
        assert_eq!(counts(1.0, 0.0, 3), [3, 0]);
        assert_eq!(counts(0.5, 0.5, 3), [1, 2]);
    }
}
