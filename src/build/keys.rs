//! What the settings of all steps have in common: numbers in a range.

use crate::error::Error;
use crate::error::Result;

/// Checks that a number lies in a range.
pub(crate) fn in_range(key: &str, value: f64, low: f64, high: f64) -> Result<()> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(Error::input(format!("`{key}` is {value}"))
        .hint(format!("give a number from {low} to {high}")))
}
