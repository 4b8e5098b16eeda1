//! How sure scores are: intervals of what one system scores, whole and by slice, and paired
//! differences from another system.

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
    /// Its p-value, Student's where clusters are few, adjusted over all scores of the system
    /// (Holm).
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

/// What is resampled of a score: a vector for each row, a function of their sum, and which rows go
/// together.
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
        let mut answered = Vec::with_capacity(sets.len());
        for (&set, said) in sets.iter().zip(said) {
            let measured = measure(set, &said).map_err(|e| e.at(format!("set `{}`", set.name)))?;
            answered.push(Answered {
                set,
                said,
                measured,
            });
        }
        Ok(Self {
            sets: answered,
            is_whole,
        })
    }

    /// The scores as they are.
    pub fn scores(&self) -> Scores {
        let mut scores: Vec<(String, f64)> = Vec::new();
        for answered in &self.sets {
            for tally in &answered.measured.tallies {
                scores.push((answered.score_name(tally), tally.corpus()));
            }
        }
        if self.is_whole {
            let headlines = self.sets.iter().map(|answered| &answered.measured.headline);
            scores.push((MEAN.to_owned(), mean(headlines)));
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
                    let mut scores = Vec::new();
                    for tally in &answered.measured.tallies {
                        let resampled = of_tally(set, tally, Some(&rows));
                        scores.push(match rows.len() < FEWEST_ROWS {
                            true => resampled.without_interval(),
                            false => resampled.confident(resampling),
                        });
                    }
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

    /// The differences of this system's scores from another's, over those that both have and that
    /// can be resampled.
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

        let p_values: Vec<f64> = found
            .iter()
            .map(|(_, _, difference)| confidence::claimed_p(difference))
            .collect();
        let mut compared = Vec::with_capacity(found.len());
        for ((ours, theirs, difference), adjusted_p) in found.into_iter().zip(holm(&p_values)?) {
            let verdict = Verdict::of(difference.estimate.value, adjusted_p, ALPHA);
            let is_better = ours.better.rank(ours.value()) > ours.better.rank(theirs.value());
            compared.push(Compared {
                name: ours.name,
                difference,
                adjusted_p,
                verdict,
                is_better: (verdict != Verdict::NotResolved).then_some(is_better),
            });
        }
        Ok(compared)
    }

    fn resampled<'b>(&'b self) -> Vec<Resampled<'b>> {
        let mut all = Vec::new();
        for answered in &self.sets {
            for tally in &answered.measured.tallies {
                all.push(Resampled {
                    name: answered.score_name(tally),
                    ..of_tally(answered.set, tally, None)
                });
            }
        }
        all.extend(self.is_whole.then(|| self.resampled_mean()));
        all
    }

    /// The mean over sets: their vectors side by side, each with a count of its rows, and clusters
    /// of one name are one in all sets.
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

        let mut units = Vec::new();
        let mut clusters = Vec::new();
        let mut start = 0;
        for (answered, width) in self.sets.iter().zip(&widths) {
            let examples = answered.set.examples.iter();
            for (example, unit) in examples.zip(&answered.measured.headline.units) {
                let mut beside = vec![0.0; widths.iter().sum()];
                beside[start..start + unit.len()].copy_from_slice(unit);
                beside[start + width - 1] = 1.0;
                units.push(beside);
                clusters.push(slices::cluster(answered.set.cluster, example));
            }
            start += width;
        }

        let mut by = self.sets.iter().map(|answered| answered.set.cluster);
        let first = by.next();
        let by = first.filter(|first| by.all(|other| other == *first));
        let names: Vec<String> = self
            .sets
            .iter()
            .map(|answered| answered.score_name(&answered.measured.headline))
            .collect();

        Resampled {
            name: MEAN.to_owned(),
            better: Better::Higher,
            signature: format!("mean-of:{}", names.join("+")),
            units: units.into(),
            clusters,
            by: by.map_or("mixed", |by| by.name()),
            score: Box::new(move |sum| mean_of_parts(sum, &headlines, &widths)),
        }
    }
}

impl Answered<'_> {
    /// Name of a score of the set.
    fn score_name(&self, tally: &Tally) -> String {
        format!("{}.{}", self.set.name, tally.name)
    }
}

/// The mean over sets of their scores, from their summed vectors side by side. The last value of
/// each is the number of its rows.
fn mean_of_parts(sum: &[f64], headlines: &[&Tally], widths: &[usize]) -> f64 {
    let mut rest = sum;
    let mut total = 0.0;
    for (tally, width) in headlines.iter().zip(widths) {
        let (part, after) = rest.split_at(*width);
        rest = after;
        // A resample without a row of a set says nothing of it.
        total += match part[width - 1] == 0.0 {
            true => f64::NAN,
            false => tally.goodness(tally.score(&part[..width - 1])),
        };
    }
    total / headlines.len() as f64
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
    Resampled {
        name: tally.name.clone(),
        better: tally.better(),
        signature: tally.signature.clone(),
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
