//! Numbers of JSON. It writes one that is not finite as `null`, which is read as not a number.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Deserializer;

/// Stands for a number that is missing or was not finite when it was written.
pub(crate) fn nan() -> f64 {
    f64::NAN
}

/// Reads a number.
pub(crate) fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(nan))
}

/// Reads a list of numbers.
pub(crate) fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    let found = Vec::<Option<f64>>::deserialize(deserializer)?;
    Ok(found
        .into_iter()
        .map(|value| value.unwrap_or_else(nan))
        .collect())
}

/// Reads numbers by name.
pub(crate) fn by_name<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, f64>, D::Error> {
    let found = BTreeMap::<String, Option<f64>>::deserialize(deserializer)?;
    Ok(found
        .into_iter()
        .map(|(name, value)| (name, value.unwrap_or_else(nan)))
        .collect())
}
