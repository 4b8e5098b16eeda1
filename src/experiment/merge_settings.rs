//! `merge:` of an entry of an experiment: adapters of other entries, merged into one.

use serde::Deserialize;
use serde::Serialize;

use crate::error::Error;
use crate::error::Result;
use crate::merge;
use crate::merge::Method;
use crate::merge::Rank;
use crate::parts::Part;
use crate::parts::TokenTraining;
use crate::parts::Training;
use crate::recipe::EncoderSettings;
use crate::recipe::Recipe;
use crate::recipe::WeightsSource;

/// Adapters of other entries of the experiment, merged seed by seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MergeSettings {
    /// Names of the entries, at least two.
    pub of: Vec<String>,
    /// Rule of the merge.
    #[serde(default)]
    pub method: Method,
    /// Weight of each entry, in their order; the method's own by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<Vec<f64>>,
    /// Share of the values of each matrix that `method: ties` keeps.
    #[serde(default = "default_density")]
    pub density: f64,
    /// Rank of the merged adapter; by default the sum of the ranks.
    #[serde(default, skip_serializing_if = "Rank::is_sum")]
    pub rank: Rank,
}

fn default_density() -> f64 {
    merge::DEFAULT_DENSITY
}

impl MergeSettings {
    /// Settings of the merge.
    pub fn settings(&self) -> merge::Settings {
        merge::Settings {
            method: self.method,
            weights: self.weights.clone(),
            density: self.density,
            rank: self.rank,
        }
    }

    /// Refuses an entry that is named twice, and settings that fit no merge.
    ///
    /// # Errors
    /// As [`merge::Settings::check`].
    pub fn check(&self) -> Result<()> {
        let repeated = (1..self.of.len()).find(|&i| self.of[..i].contains(&self.of[i]));
        if let Some(i) = repeated {
            return Err(
                Error::input(format!("`merge.of` names `{}` twice", self.of[i]))
                    .hint("name each entry once; `weights` says how much it counts"),
            );
        }
        self.settings()
            .check(self.of.len())
            .map(drop)
            .map_err(|e| e.at("`merge`"))
    }
}

/// Refuses a recipe whose runs leave more than an adapter of a checkpoint.
///
/// # Errors
/// The key that makes it so.
pub(super) fn check_mergeable(name: &str, recipe: &Recipe) -> Result<()> {
    let parts = recipe.train.parts();
    let in_full = Part::ALL
        .into_iter()
        .find(|&part| parts.of(part) == Training::Full);
    let what = match in_full {
        Some(part) => Some(format!("`train.{}: full`", part.name())),
        None if recipe.train.audio_tokens != TokenTraining::default() => {
            Some("`train.audio_tokens`".to_owned())
        }
        None if recipe.model.weights != WeightsSource::Checkpoint => {
            Some("`model.weights`".to_owned())
        }
        None if recipe.audio_encoder != EncoderSettings::default() => {
            Some("`audio_encoder`".to_owned())
        }
        None => None,
    };
    match what {
        Some(what) => Err(Error::input(format!(
            "`merge.of` names `{name}`, whose recipe has {what}"
        ))
        .hint("merge recipes that train adapters of one checkpoint and nothing else")),
        None => Ok(()),
    }
}
