//! `power:` of an experiment: the chance to find a difference, and the origin of variances.

use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::error::Error;
use crate::error::Result;
use crate::stats::significance::power::Components;

/// `power:` of an experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Chance that a true difference of the reported size is found.
    pub chance: f64,
    /// Experiment whose finished runs tell the variances; by default this one's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pilot: Option<PathBuf>,
    /// Stated standard deviations, which take the place of a pilot for their score.
    pub deviations: Vec<Deviations>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            chance: 0.8,
            pilot: None,
            deviations: Vec::new(),
        }
    }
}

/// Standard deviations of the difference between two recipes in a score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deviations {
    /// The score.
    pub score: String,
    /// Between seeds, over all speakers.
    #[serde(default)]
    pub seeds: f64,
    /// Between speakers or groups, over all seeds.
    #[serde(default)]
    pub clusters: f64,
    /// Between pairs of a seed and a speaker, beyond both.
    #[serde(default)]
    pub interaction: f64,
    /// Between rows of a speaker, over all seeds.
    #[serde(default)]
    pub rows: f64,
    /// Between rows with one seed, beyond all others.
    #[serde(default)]
    pub residual: f64,
}

impl Deviations {
    fn named(&self) -> [(&'static str, f64); 5] {
        [
            ("seeds", self.seeds),
            ("clusters", self.clusters),
            ("interaction", self.interaction),
            ("rows", self.rows),
            ("residual", self.residual),
        ]
    }

    fn check(&self) -> Result<()> {
        let named = self.named();
        let score = &self.score;
        if let Some((key, value)) = named
            .iter()
            .find(|(_, value)| !value.is_finite() || *value < 0.0)
        {
            return Err(Error::input(format!(
                "`power.deviations` of `{score}`: `{key}` is {value}, expected 0 or more"
            )));
        }
        if named.iter().all(|(_, value)| *value == 0.0) {
            return Err(Error::input(format!(
                "`power.deviations` of `{score}` names no deviation"
            ))
            .hint("state at least `seeds` and `clusters`, in the unit of the score"));
        }
        Ok(())
    }

    /// The squares of the deviations.
    pub fn components(&self) -> Components {
        Components {
            seeds: self.seeds * self.seeds,
            clusters: self.clusters * self.clusters,
            interaction: self.interaction * self.interaction,
            rows: self.rows * self.rows,
            residual: self.residual * self.residual,
        }
    }
}

impl Settings {
    /// Checks the settings; the message names the key.
    ///
    /// # Errors
    /// A chance outside (0, 1); deviations below 0, or none.
    pub fn check(&self) -> Result<()> {
        if !(self.chance > 0.0 && self.chance < 1.0) {
            return Err(Error::input(format!(
                "`power.chance` is {}, expected a share in (0, 1), such as 0.8",
                self.chance
            )));
        }
        self.deviations.iter().try_for_each(Deviations::check)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_outside_their_range_are_refused() {
        let stated = |seeds: f64| Settings {
            deviations: vec![Deviations {
                score: "mean".to_owned(),
                seeds,
                clusters: 0.0,
                interaction: 0.0,
                rows: 0.0,
                residual: 0.0,
            }],
            ..Settings::default()
        };
        assert!(stated(0.1).check().is_ok());
        let certain = Settings {
            chance: 1.0,
            ..Settings::default()
        };
        for (settings, found) in [
            (certain, "`power.chance` is 1"),
            (stated(-1.0), "`seeds` is -1"),
            (stated(f64::NAN), "`seeds` is NaN"),
            (stated(0.0), "names no deviation"),
        ] {
            let error = settings.check().unwrap_err().to_string();
            assert!(error.contains(found), "{error}");
        }
    }
}
