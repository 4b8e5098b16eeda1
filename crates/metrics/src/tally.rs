//! A metric as sums: what each utterance adds, and the score as a function of the sum.

use std::fmt;
use std::ops::Range;

use crate::average::Average;
use crate::overlap;
use crate::score_name::ScoreName;

/// Which way a score is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Errors, failures.
    Lower,
    /// Likenesses, shares of what is right.
    Higher,
    /// Nearest to 1: a ratio to what was asked for.
    NearOne,
}

impl Better {
    /// A score as a number that is higher the better it is.
    pub fn rank(self, score: f64) -> f64 {
        match self {
            Self::Lower => -score,
            Self::Higher => score,
            Self::NearOne => score.min(1.0 / score.max(f64::MIN_POSITIVE)),
        }
    }
}

/// One metric of a corpus, the utterances kept apart.
///
/// A corpus metric is a function of sums over utterances, never a mean of rates. Whoever resamples,
/// pairs or clusters utterances adds up their vectors and calls [`Tally::score`]: no text is looked
/// at again.
#[derive(Clone, Debug, PartialEq)]
pub struct Tally {
    /// The name in scores: `wer`, `chrf`; under a normaliser `wer@arabic-leaderboard`.
    pub name: String,
    /// How it was computed, `key:value|key:value`, in the manner of sacreBLEU.
    pub signature: String,
    /// What each utterance adds, in the order of the corpus, all of one length.
    pub units: Vec<Vec<f64>>,
    formula: Formula,
}

/// How a score follows from a sum.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Formula {
    /// `[substitutions, deletions, insertions, hits]`: those of a range over the reference's
    /// tokens, at least 1.
    Errors(Range<usize>),
    /// `[numerator, denominator]`; 0 where there is nothing to divide by.
    Share,
    /// `[numerator, denominator]`, the denominator at least 1.
    Rate,
    /// For each order `[in the prediction, in the reference, in both]`; see `chrf`.
    ChrF,
    /// `[length, reference length, hits of each order, n-grams of each order]`; see `bleu`.
    Bleu,
    /// For each label references, for each predictions, for each hits; see `classify`.
    Labels(Average),
}

impl Tally {
    pub(crate) fn new(
        name: impl Into<String>,
        signature: Signature,
        units: Vec<Vec<f64>>,
        formula: Formula,
    ) -> Self {
        Self {
            name: name.into(),
            signature: signature.to_string(),
            units,
            formula,
        }
    }

    /// The score of the utterances whose vectors add up to `sum`. Rates, shares and F1 are
    /// fractions; chrF and BLEU run from 0 to 100, as in sacreBLEU. A sum of nothing scores as the
    /// metric scores no utterances.
    pub fn score(&self, sum: &[f64]) -> f64 {
        let at = |i: usize| sum.get(i).copied().unwrap_or(0.0);
        match &self.formula {
            Formula::Errors(kinds) => {
                kinds.clone().map(at).sum::<f64>() / (at(0) + at(1) + at(3)).max(1.0)
            }
            Formula::Share if at(1) == 0.0 => 0.0,
            Formula::Share => at(0) / at(1),
            Formula::Rate => at(0) / at(1).max(1.0),
            Formula::ChrF => overlap::chrf(sum),
            Formula::Bleu => overlap::bleu(sum),
            Formula::Labels(average) => average.of(sum),
        }
    }

    /// The metric without its normaliser: `wer` of `wer@arabic-leaderboard`.
    pub fn metric(&self) -> &str {
        ScoreName::parse(&self.name).metric
    }

    /// The sum over all utterances.
    pub fn sum(&self) -> Vec<f64> {
        let mut sum = vec![0.0; self.units.first().map_or(0, Vec::len)];
        for unit in &self.units {
            sum.iter_mut()
                .zip(unit)
                .for_each(|(sum, value)| *sum += value);
        }
        sum
    }

    /// The score of the whole corpus.
    pub fn corpus(&self) -> f64 {
        self.score(&self.sum())
    }

    /// The score of one utterance alone.
    pub fn utterance(&self, index: usize) -> f64 {
        self.units.get(index).map_or(0.0, |unit| self.score(unit))
    }
}

/// What a signature says, in its order; the version of the program stands last.
#[derive(Clone, Debug, Default)]
pub struct Signature(Vec<(&'static str, String)>);

impl Signature {
    /// One more entry.
    pub(crate) fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.0.push((key, value.to_string()));
        self
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, value) in &self.0 {
            write!(f, "{key}:{value}|")?;
        }
        write!(f, "version:maqam-{}", env!("CARGO_PKG_VERSION"))
    }
}
