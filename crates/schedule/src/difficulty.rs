//! Rows in the order of their difficulty: `difficulty:` of a stage.
//!
//! Rows are ranked inside each pool, because slots are divided among pools first. The competence is
//! that of Platanias et al. 2019, *Competence-based curriculum learning for neural machine
//! translation*, section 3: at step t of T, `c(t) = min(1, sqrt(t (1 - c0^2) / T + c0^2))`, and a
//! row is drawn uniformly from those whose cumulative share of the pool, sorted by difficulty, is at
//! most `c(t)`.

use std::collections::HashMap;

use serde::Deserialize;
use serde::Serialize;

use crate::draw::Pick;
use crate::draw::Pool;
use maqam_base::seed::Key;

/// Competence at the first step if a recipe gives none, as in the paper.
const START: f64 = 0.01;

/// Tolerance of comparisons between a share and a competence, for rounding of either.
const ROUNDING: f64 = 1e-12;

/// `difficulty:` of a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difficulty {
    /// Measure of a row's difficulty.
    pub by: Measure,
    /// Order in which rows are drawn.
    #[serde(default)]
    pub order: DifficultyOrder,
    /// Competence at the first step, in `(0, 1]`; 0.01 by default. Only with `order: competence`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<f64>,
    /// Steps until the competence is 1; by default those of the stage. Only with
    /// `order: competence`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
}

/// Measure of the difficulty of a row; a larger value is harder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Measure {
    /// Seconds of audio.
    Duration,
    /// Words of the row's `text` per second of audio.
    WordsPerSecond,
    /// Mean loss of the row's target tokens under the model at the start of the run, in nats.
    BaseLoss,
    /// A column of the manifests with numbers.
    Column(String),
}

impl From<String> for Measure {
    fn from(written: String) -> Self {
        match written.as_str() {
            "duration" => Self::Duration,
            "words_per_second" => Self::WordsPerSecond,
            "base_loss" => Self::BaseLoss,
            _ => Self::Column(written),
        }
    }
}

impl From<Measure> for String {
    fn from(measure: Measure) -> Self {
        match measure {
            Measure::Duration => "duration".to_owned(),
            Measure::WordsPerSecond => "words_per_second".to_owned(),
            Measure::BaseLoss => "base_loss".to_owned(),
            Measure::Column(name) => name,
        }
    }
}

/// Order in which a stage draws rows of different difficulty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DifficultyOrder {
    /// Easy rows first, in every pass over a pool.
    #[default]
    Ascending,
    /// Hard rows first, in every pass over a pool.
    Descending,
    /// Uniform draws from the rows that the competence of the step allows.
    Competence,
}

impl DifficultyOrder {
    /// Name in a recipe.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ascending => "ascending",
            Self::Descending => "descending",
            Self::Competence => "competence",
        }
    }
}

impl Difficulty {
    /// Competence at a step of a stage of `steps` planned steps: the share of the rows, from the
    /// easiest, that may be drawn.
    pub fn competence(&self, step: u64, steps: u64) -> f64 {
        let start = self.start.unwrap_or(START);
        let length = self.length.unwrap_or(steps).max(1) as f64;
        let squared = start * start;
        (step as f64 * (1.0 - squared) / length + squared)
            .sqrt()
            .min(1.0)
    }
}

/// The pools of a stage with their rows by difficulty.
#[derive(Debug, Default)]
pub(super) struct Ranking {
    pools: HashMap<usize, RankedPool>,
    /// Difficulty of each row of those pools.
    values: HashMap<u32, f64>,
}

/// The rows of a pool by difficulty.
#[derive(Debug)]
struct RankedPool {
    /// Rows from easy to hard; equally difficult ones in a seeded order.
    rows: Vec<u32>,
    /// Share of the pool's rows that are at most as difficult as each.
    shares: Vec<f64>,
}

/// A draw from a pool.
pub(super) struct Draw {
    /// The pool's number.
    pub(super) pool: usize,
    /// Draws from the pool before this stage.
    pub(super) before: u64,
    /// Draws from the pool in this stage so far.
    pub(super) in_stage: u64,
    /// Key of the stage's random draws.
    pub(super) key: Key,
}

impl RankedPool {
    fn new(pool: &Pool, values: &HashMap<u32, f64>, key: Key) -> Self {
        let value = |row: &u32| values.get(row).copied().unwrap_or(f64::NAN);
        let mut rows = pool.rows().to_vec();
        rows.sort_by(|a, b| {
            let ties = |row: &u32| (key.bits(u64::from(*row)), *row);
            value(a).total_cmp(&value(b)).then(ties(a).cmp(&ties(b)))
        });

        let mut shares = vec![1.0; rows.len()];
        for place in (0..rows.len().saturating_sub(1)).rev() {
            shares[place] = match value(&rows[place]) == value(&rows[place + 1]) {
                true => shares[place + 1],
                false => (place + 1) as f64 / rows.len() as f64,
            };
        }
        Self { rows, shares }
    }

    /// Number of rows, from the easiest, that a competence allows. It is never below that of the
    /// easiest rows.
    fn num_allowed(&self, competence: f64) -> usize {
        let up_to = |most: f64| {
            self.shares
                .partition_point(|share| *share <= most + ROUNDING)
        };
        up_to(competence.max(self.shares[0]))
    }
}

impl Ranking {
    /// Ranks the rows of these pools.
    pub(super) fn new(
        numbers: &[usize],
        pools: &[Pool],
        values: HashMap<u32, f64>,
        seed: u64,
    ) -> Self {
        let key = Key::new(seed, "equal difficulty");
        let ranked = numbers
            .iter()
            .map(|&pool| (pool, RankedPool::new(&pools[pool], &values, key)))
            .collect();
        Self {
            pools: ranked,
            values,
        }
    }

    /// Difficulty of a row.
    pub(super) fn value(&self, row: u32) -> Option<f64> {
        self.values.get(&row).copied()
    }

    /// The row of a draw. `competence` is that of the step.
    ///
    /// A pick has a number of its own as its epoch under `order: competence`, so that wording and
    /// augmentation of a row that is drawn again differ.
    pub(super) fn pick(
        &self,
        order: DifficultyOrder,
        competence: f64,
        draw: &Draw,
    ) -> Option<Pick> {
        let pool = self.pools.get(&draw.pool)?;
        let len = pool.rows.len() as u64;
        let place = (draw.in_stage % len) as usize;
        let pass = draw.before.div_ceil(len) + draw.in_stage / len;
        let (place, epoch) = match order {
            DifficultyOrder::Ascending => (place, pass),
            DifficultyOrder::Descending => (pool.rows.len() - 1 - place, pass),
            DifficultyOrder::Competence => {
                let key = draw.key.with(u64::from(pool.rows[0])).with(len);
                let allowed = pool.num_allowed(competence);
                let position = draw.before + draw.in_stage;
                (key.below(draw.in_stage, allowed), position)
            }
        };
        Some(Pick {
            row: pool.rows[place],
            epoch: u32::try_from(epoch).unwrap_or(u32::MAX),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn competence(start: f64, length: u64) -> Difficulty {
        Difficulty {
            by: Measure::Duration,
            order: DifficultyOrder::Competence,
            start: Some(start),
            length: Some(length),
        }
    }

    /// Values of the formula by hand: with c0 = 0.1 and T = 100, c(0)^2 = 0.01,
    /// c(36)^2 = 0.36 * 0.99 + 0.01 = 0.3664, c(50)^2 = 0.505, c(100)^2 = 1.
    #[test]
    fn competences_are_those_of_the_formula() {
        let found = competence(0.1, 100);
        for (step, squared) in [
            (0, 0.01),
            (36, 0.3664),
            (50, 0.505),
            (100, 1.0),
            (1000, 1.0),
        ] {
            let expected = f64::sqrt(squared);
            assert!(
                (found.competence(step, 7) - expected).abs() < 1e-12,
                "{step}"
            );
        }
        let without = Difficulty {
            start: None,
            length: None,
            ..found
        };
        assert!((without.competence(0, 80) - 0.01).abs() < 1e-12);
        assert!((without.competence(80, 80) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn equal_rows_are_allowed_together() {
        // Difficulties 1, 2, 2, 3: cumulative shares 1/4, 3/4, 3/4, 1.
        let ranked = RankedPool {
            rows: vec![4, 7, 5, 6],
            shares: vec![0.25, 0.75, 0.75, 1.0],
        };
        for (competence, allowed) in [
            (0.01, 1),
            (0.25, 1),
            (0.5, 1),
            (0.749, 1),
            (0.75, 3),
            (0.99, 3),
            (1.0, 4),
        ] {
            assert_eq!(ranked.num_allowed(competence), allowed, "{competence}");
        }
    }

    #[test]
    fn measures_read_by_name_and_columns_are_the_rest() {
        for (text, measure) in [
            ("duration", Measure::Duration),
            ("words_per_second", Measure::WordsPerSecond),
            ("base_loss", Measure::BaseLoss),
            ("snr", Measure::Column("snr".into())),
        ] {
            assert_eq!(Measure::from(text.to_owned()), measure);
            assert_eq!(String::from(measure), text);
        }
    }
}
