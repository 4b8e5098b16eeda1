//! How sure scores are: intervals of what one system scores, whole and by slice, and paired differences from another system.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::error::Result;
use crate::eval::measure::Measured;
use crate::eval::measure::measure;
use crate::eval::slices;
use crate::eval::suite::Set;
use crate::metrics;
use crate::metrics::Better;
use crate::metrics::Tally;
use crate::metrics::confidence;
use crate::metrics::confidence::ALPHA;
use crate::metrics::confidence::FEWEST_ROWS;
use crate::records::prediction::Prediction;
use crate::records::scores::MEAN;
use crate::records::scores::Scores;
use crate::stats::significance::Clusters;
use crate::stats::significance::Difference;
use crate::stats::significance::Estimate;
use crate::stats::significance::Interval;
use crate::stats::significance::Resampling;
use crate::stats::significance::Verdict;
use crate::stats::significance::bootstrap;
use crate::stats::significance::holm;
use crate::stats::significance::paired_bootstrap;

/// What a system said to the sets of a suite, measured.
pub struct System<'a> {
    /// The sets in the order of the suite.
    pub sets: Vec<Answered<'a>>,
    /// Whether these are all sets of the suite; without some there is no `mean`.
    pub is_whole: bool,
}

/// A set with what was said to it.
pub struct Answered<'a> {
    /// The set.
    pub set: &'a Set,
    /// A prediction for each example.
    pub said: Vec<Prediction>,
    /// Their tallies.
    pub measured: Measured,
}

/// A score with what resampling says of it.
#[derive(Clone, Debug)]
pub struct Confident {
    /// `<set>.<metric>`, or `mean`.
    pub name: String,
    /// The score.
    pub value: f64,
    /// Which way it is good.
    pub better: Better,
    /// How it was computed.
    pub signature: String,
    /// Number of rows.
    pub num_utterances: usize,
    /// Number of clusters of rows.
    pub num_clusters: usize,
    /// What rows were clustered by.
    pub cluster: &'static str,
    /// The resampled score; `None` where there is nothing to draw from.
    pub estimate: Option<Estimate>,
    /// Why there is none.
    pub note: Option<String>,
}

impl Confident {
    /// The interval to go by, without what no such score can be.
    pub fn interval(&self) -> Option<Interval> {
        let (low, high) = metrics::range(&self.name);
        self.estimate
            .as_ref()
            .map(confidence::interval)
            .map(|found| Interval {
                low: found.low.clamp(low, high),
                high: found.high.clamp(low, high),
            })
    }
}

/// A score's difference from that of another system.
#[derive(Clone, Debug)]
pub struct Compared {
    /// The score's name.
    pub name: String,
    /// This system's minus the other's.
    pub difference: Difference,
    /// Its p-value, Student's where clusters are few, adjusted over all scores of the system (Holm).
    pub adjusted_p: f64,
    /// What it resolves to.
    pub verdict: Verdict,
    /// Whether it is for the better; `None` where it is not resolved.
    pub is_better: Option<bool>,
}

/// The scores of a part of a set.
#[derive(Clone, Debug)]
pub struct Slice {
    /// The set's name.
    pub set: String,
    /// What it is sliced by.
    pub by: String,
    /// What these rows have in common.
    pub value: String,
    /// The instruction, where `value` is the name of a wording.
    pub instruction: Option<String>,
    /// Their scores, by metric.
    pub scores: Vec<Confident>,
}

/// What is resampled of a score: a vector for each row, a function of their sum, and which rows go together.
struct Resampled<'a> {
    name: String,
    better: Better,
    signature: String,
    units: Cow<'a, [Vec<f64>]>,
    clusters: Vec<String>,
    by: &'static str,
    score: Box<dyn Fn(&[f64]) -> f64 + Sync + 'a>,
}

impl<'a> System<'a> {
    /// Measures what a system said to sets, in their order.
    ///
    /// # Errors
    /// A reference outside the inventory of its set.
    pub fn new(sets: &[&'a Set], said: Vec<Vec<Prediction>>, is_whole: bool) -> Result<Self> {
        let answered = |(&set, said): (&&'a Set, Vec<Prediction>)| {
            let measured = measure(set, &said).map_err(|e| e.at(format!("set `{}`", set.name)))?;
            Ok(Answered {
                set,
                said,
                measured,
            })
        };
        Ok(Self {
            sets: sets.iter().zip(said).map(answered).collect::<Result<_>>()?,
            is_whole,
        })
    }

    /// The scores as they are.
    pub fn scores(&self) -> Scores {
        let of_set = |answered: &Answered| {
            let named = |tally: &Tally| {
                (
                    format!("{}.{}", answered.set.name, tally.name),
                    tally.corpus(),
                )
            };
            answered
                .measured
                .tallies
                .iter()
                .map(named)
                .collect::<Vec<_>>()
        };
        let mut scores: Vec<(String, f64)> = self.sets.iter().flat_map(of_set).collect();
        if self.is_whole {
            scores.push((
                MEAN.to_owned(),
                mean(self.sets.iter().map(|answered| &answered.measured.headline)),
            ));
        }
        Scores(scores)
    }

    /// The scores with their intervals.
    pub fn confident(&self, resampling: &Resampling) -> Vec<Confident> {
        self.resampled()
            .iter()
            .map(|resampled| resampled.confident(resampling))
            .collect()
    }

    /// The scores of each slice of each set.
    ///
    /// # Errors
    /// A field of a row that names no slice.
    pub fn slices(&self, resampling: &Resampling) -> Result<Vec<Slice>> {
        let mut found = Vec::new();
        for answered in &self.sets {
            let set = answered.set;
            for by in &set.slices {
                for (value, rows) in slices::split(by, &set.examples)? {
                    let of_slice = |tally| {
                        let resampled = of_tally(set, tally, Some(&rows));
                        if rows.len() < FEWEST_ROWS {
                            resampled.without_interval()
                        } else {
                            resampled.confident(resampling)
                        }
                    };
                    let scores = answered.measured.tallies.iter().map(of_slice).collect();
                    let instruction = (by == slices::WORDING)
                        .then(|| set.task.instruction(&value))
                        .flatten();
                    found.push(Slice {
                        set: set.name.clone(),
                        by: by.clone(),
                        value,
                        instruction,
                        scores,
                    });
                }
            }
        }
        Ok(found)
    }

    /// The differences of this system's scores from another's, over those that both have and that can be resampled.
    ///
    /// # Errors
    /// A p-value that is none.
    pub fn against(&self, other: &System, resampling: &Resampling) -> Result<Vec<Compared>> {
        let others: HashMap<String, Resampled> = other
            .resampled()
            .into_iter()
            .map(|resampled| (resampled.name.clone(), resampled))
            .collect();
        let mut found = Vec::new();
        for ours in self.resampled() {
            let Some(theirs) = others.get(&ours.name) else {
                continue;
            };
            // What cannot be resampled has no difference either; the score's own note says why.
            if let Ok(difference) = paired_bootstrap(
                &theirs.units,
                &ours.units,
                &ours.clusters(),
                &*ours.score,
                resampling,
            ) {
                found.push((ours, theirs, difference));
            }
        }
        let adjusted = holm(
            &found
                .iter()
                .map(|(_, _, difference)| confidence::claimed_p(difference))
                .collect::<Vec<_>>(),
        )?;
        let compared = |((ours, theirs, difference), adjusted_p): (
            (Resampled, &Resampled, Difference),
            f64,
        )| {
            let verdict = Verdict::of(difference.estimate.value, adjusted_p, ALPHA);
            let is_better = ours.better.rank(ours.value()) > ours.better.rank(theirs.value());
            Compared {
                name: ours.name,
                difference,
                adjusted_p,
                verdict,
                is_better: (verdict != Verdict::NotResolved).then_some(is_better),
            }
        };
        Ok(found.into_iter().zip(adjusted).map(compared).collect())
    }

    fn resampled<'b>(&'b self) -> Vec<Resampled<'b>> {
        let of_set = |answered: &'b Answered| {
            let named = |tally: &'b Tally| Resampled {
                name: format!("{}.{}", answered.set.name, tally.name),
                ..of_tally(answered.set, tally, None)
            };
            answered
                .measured
                .tallies
                .iter()
                .map(named)
                .collect::<Vec<_>>()
        };
        let mut all: Vec<Resampled> = self.sets.iter().flat_map(of_set).collect();
        all.extend(self.is_whole.then(|| self.resampled_mean()));
        all
    }

    /// The mean over sets: their vectors side by side, each with a count of its rows, and clusters of one name are one in all sets.
    fn resampled_mean(&self) -> Resampled<'_> {
        let headlines: Vec<&Tally> = self
            .sets
            .iter()
            .map(|answered| &answered.measured.headline)
            .collect();
        let widths: Vec<usize> = headlines
            .iter()
            .map(|tally| tally.units.first().map_or(0, Vec::len) + 1)
            .collect();
        let (mut units, mut clusters, mut start) = (Vec::new(), Vec::new(), 0);
        for (answered, width) in self.sets.iter().zip(&widths) {
            for (example, unit) in answered
                .set
                .examples
                .iter()
                .zip(&answered.measured.headline.units)
            {
                let mut beside = vec![0.0; widths.iter().sum()];
                beside[start..start + unit.len()].copy_from_slice(unit);
                beside[start + width - 1] = 1.0;
                units.push(beside);
                clusters.push(slices::cluster(answered.set.cluster, example));
            }
            start += width;
        }
        let by = self
            .sets
            .first()
            .map(|answered| answered.set.cluster)
            .filter(|first| {
                self.sets
                    .iter()
                    .all(|answered| answered.set.cluster == *first)
            });
        let signature = headlines
            .iter()
            .zip(&self.sets)
            .map(|(tally, answered)| format!("{}.{}", answered.set.name, tally.name))
            .collect::<Vec<_>>();
        let score = move |sum: &[f64]| {
            let mut rest = sum;
            let of_set = |(tally, width): (&&Tally, &usize)| {
                let (part, after) = rest.split_at(*width);
                rest = after;
                // A resample without a row of a set says nothing of it.
                if part[width - 1] == 0.0 {
                    f64::NAN
                } else {
                    tally.goodness(tally.score(&part[..width - 1]))
                }
            };
            headlines.iter().zip(&widths).map(of_set).sum::<f64>() / headlines.len() as f64
        };
        let signature = format!("mean-of:{}", signature.join("+"));
        let by = by.map_or("mixed", |by| by.name());
        Resampled {
            name: MEAN.to_owned(),
            better: Better::Higher,
            signature,
            units: units.into(),
            clusters,
            by,
            score: Box::new(score),
        }
    }
}

/// The mean over sets of what stands for each.
pub fn mean<'a>(headlines: impl ExactSizeIterator<Item = &'a Tally>) -> f64 {
    let count = headlines.len().max(1) as f64;
    headlines
        .map(|tally| tally.goodness(tally.corpus()))
        .sum::<f64>()
        / count
}

/// A tally of a set's rows, or of some of them, named by its metric.
fn of_tally<'a>(set: &Set, tally: &'a Tally, rows: Option<&[usize]>) -> Resampled<'a> {
    let cluster = |example| slices::cluster(set.cluster, example);
    let (units, clusters) = match rows {
        None => (
            Cow::Borrowed(tally.units.as_slice()),
            set.examples.iter().map(cluster).collect(),
        ),
        Some(rows) => (
            rows.iter().map(|&i| tally.units[i].clone()).collect(),
            rows.iter().map(|&i| cluster(&set.examples[i])).collect(),
        ),
    };
    let (name, signature) = (tally.name.clone(), tally.signature.clone());
    Resampled {
        name,
        better: tally.better(),
        signature,
        units,
        clusters,
        by: set.cluster.name(),
        score: Box::new(|sum| tally.score(sum)),
    }
}

impl Resampled<'_> {
    fn value(&self) -> f64 {
        let mut sum = vec![0.0; self.units.first().map_or(0, Vec::len)];
        for unit in self.units.iter() {
            sum.iter_mut()
                .zip(unit)
                .for_each(|(sum, value)| *sum += value);
        }
        (self.score)(&sum)
    }

    fn clusters(&self) -> Clusters {
        Clusters::named(&self.clusters)
    }

    fn confident(&self, resampling: &Resampling) -> Confident {
        let clusters = self.clusters();
        match bootstrap(&self.units, &clusters, &*self.score, resampling) {
            Ok(estimate) => self.with(&clusters, Some(estimate), None),
            Err(error) => self.with(&clusters, None, Some(error.message().to_owned())),
        }
    }

    /// The score of too few rows for an interval.
    fn without_interval(&self) -> Confident {
        let note = format!("fewer than {FEWEST_ROWS} rows: no interval");
        self.with(&self.clusters(), None, Some(note))
    }

    fn with(
        &self,
        clusters: &Clusters,
        estimate: Option<Estimate>,
        note: Option<String>,
    ) -> Confident {
        Confident {
            name: self.name.clone(),
            value: self.value(),
            better: self.better,
            signature: self.signature.clone(),
            num_utterances: self.units.len(),
            num_clusters: clusters.num_clusters(),
            cluster: self.by,
            estimate,
            note,
        }
    }
}

#[cfg(test)]
mod tests;
