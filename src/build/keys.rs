//! What the settings of all steps have in common: lists that may be one value, numbers in a range.

use serde::Deserialize;
use serde::Deserializer;

use crate::error::Error;
use crate::error::Result;

/// Reads a list, or one value in place of a list of one.
pub(crate) fn one_or_many<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> std::result::Result<Vec<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written<T> {
        Many(Vec<T>),
        One(T),
    }
    Ok(match Written::deserialize(deserializer)? {
        Written::Many(list) => list,
        Written::One(one) => vec![one],
    })
}

/// Checks that a number lies in a range.
pub(crate) fn in_range(key: &str, value: f64, low: f64, high: f64) -> Result<()> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(Error::input(format!("`{key}` is {value}"))
        .hint(format!("give a number from {low} to {high}")))
}
