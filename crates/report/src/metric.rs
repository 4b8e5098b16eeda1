//! What the name of a score says: its set, its metric, whether higher is better, and how the number
//! is written.

use crate::chart::number::Unit;
use crate::page::escape::isolated;
use maqam_metrics::Better;
use maqam_metrics::Definition;
use maqam_metrics::Family;
use maqam_metrics::ScoreName;
use maqam_metrics::better;
use maqam_metrics::range;
use maqam_stats::significance::Interval;

/// A score's name taken apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// The whole name, `<set>.<metric>@<normaliser>`.
    pub full: String,
    /// Name of the set; `None` for scores over all sets.
    pub set: Option<String>,
    /// Name of the metric.
    pub name: String,
    /// Name of the normaliser, where the score says one.
    pub normaliser: Option<String>,
    /// Which way it should move.
    pub better: Better,
    /// How it is written.
    pub unit: Unit,
    /// What it compares.
    pub family: Family,
}

impl Metric {
    /// Reads a score's name. A name that is not known is higher better and written as it is.
    pub fn of(full: &str) -> Self {
        let name = ScoreName::parse(full);
        let known = name.definition();
        Self {
            full: full.to_owned(),
            set: name.set.map(str::to_owned),
            name: name.metric.to_owned(),
            normaliser: name.variant.map(str::to_owned),
            better: better(full),
            unit: known.map_or(Unit::Plain, |known| Unit::of(known.scale)),
            family: known.map_or(Family::Other, |known| known.family),
        }
    }

    /// The metric as people write it, with its normaliser: `WER (arabic-leaderboard)`.
    pub fn title(&self) -> String {
        let name = Definition::find(&self.name).map_or(self.name.as_str(), |known| known.title);
        match &self.normaliser {
            Some(normaliser) => format!("{name} ({normaliser})"),
            None => name.to_owned(),
        }
    }

    /// The title with its unit and the way it should move: `WER % ↓`.
    pub fn heading(&self) -> String {
        let parts = [
            self.title(),
            self.unit.sign().to_owned(),
            self.arrow().to_owned(),
        ];
        parts
            .iter()
            .filter(|part| !part.is_empty())
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Set and title: `words · WER`.
    pub fn name_in_full(&self) -> String {
        match &self.set {
            Some(set) => format!("{} · {}", isolated(set), self.title()),
            None => self.title(),
        }
    }

    /// Set and heading: `words · WER % ↓`.
    pub fn heading_in_full(&self) -> String {
        match &self.set {
            Some(set) => format!("{} · {}", isolated(set), self.heading()),
            None => self.heading(),
        }
    }

    /// The sign of the way it should move.
    pub fn arrow(&self) -> &'static str {
        match self.better {
            Better::Higher => "↑",
            Better::Lower => "↓",
            Better::NearOne => "→ 1",
        }
    }

    /// An interval without what no such score can be.
    pub fn possible(&self, interval: Interval) -> Interval {
        let (low, high) = range(&self.full);
        Interval {
            low: interval.low.clamp(low, high),
            high: interval.high.clamp(low, high),
        }
    }

    /// Whether a change from one score to another is for the better; `None` where it is neither.
    pub fn improves(&self, from: f64, to: f64) -> Option<bool> {
        let from = self.better.rank(from);
        let to = self.better.rank(to);
        (from != to).then_some(to > from)
    }

    /// The place in `values` of the best of them; `None` where no value is better than another.
    pub fn best(&self, values: &[Option<f64>]) -> Option<usize> {
        let known = || {
            values.iter().enumerate().filter_map(|(i, value)| {
                value
                    .filter(|value| value.is_finite())
                    .map(|value| (i, value))
            })
        };
        let (best, value) =
            known().max_by(|a, b| self.better.rank(a.1).total_cmp(&self.better.rank(b.1)))?;
        known().any(|(_, other)| other != value).then_some(best)
    }
}

/// Sorts scores set by set in the order in which the sets come first, within a set the metric of
/// its task first; scores over all sets come last. The order of the others stays.
pub fn own_first<T>(
    scores: &mut [T],
    metric: impl Fn(&T) -> &Metric,
    is_own: impl Fn(&Metric) -> bool,
) {
    let sets: Vec<Option<String>> = scores
        .iter()
        .map(|score| metric(score).set.clone())
        .collect();
    scores.sort_by_key(|score| {
        let metric = metric(score);
        let place = sets.iter().position(|set| *set == metric.set);
        (metric.set.is_none(), place, !is_own(metric))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let metric = Metric::of("dev.words.wer@arabic-leaderboard");
        assert_eq!(
            (
                metric.set.as_deref(),
                metric.name.as_str(),
                metric.normaliser.as_deref()
            ),
            (Some("dev.words"), "wer", Some("arabic-leaderboard"))
        );
        assert_eq!(metric.heading(), "WER (arabic-leaderboard) % ↓");
        let mean = Metric::of("mean");
        assert_eq!(
            (mean.set.as_deref(), mean.name_in_full().as_str()),
            (None, "mean")
        );
        let own = Metric::of("gist.my_score");
        assert_eq!(
            (own.better, own.unit, own.heading().as_str()),
            (Better::Higher, Unit::Plain, "my_score ↑")
        );
    }

    #[test]
    fn an_interval_ends_where_scores_do() {
        let interval = Interval {
            low: -0.1,
            high: 1.2,
        };
        assert_eq!(
            Metric::of("a.uar").possible(interval),
            Interval {
                low: 0.0,
                high: 1.0
            }
        );
        assert_eq!(
            Metric::of("a.wer").possible(interval),
            Interval {
                low: 0.0,
                high: 1.2
            }
        );
        assert_eq!(
            Metric::of("a.loss").possible(interval),
            Interval {
                low: 0.0,
                high: 1.2
            }
        );
        assert_eq!(Metric::of("gist.my_score").possible(interval), interval);
    }

    #[test]
    fn the_best_is_the_best_in_its_direction() {
        assert_eq!(
            Metric::of("a.wer").best(&[Some(0.3), Some(0.1), None, Some(f64::NAN)]),
            Some(1)
        );
        assert_eq!(Metric::of("a.uar").best(&[Some(0.3), Some(0.1)]), Some(0));
        assert_eq!(
            Metric::of("a.uar").best(&[Some(0.3), Some(0.3)]),
            None,
            "nothing is best among equals"
        );
        assert_eq!(
            Metric::of("a.length_ratio").best(&[Some(0.3), Some(1.1), Some(2.0)]),
            Some(1)
        );
        assert_eq!(
            (
                Metric::of("a.wer").improves(0.3, 0.1),
                Metric::of("a.uar").improves(0.3, 0.1)
            ),
            (Some(true), Some(false))
        );
        assert_eq!(
            Metric::of("a.length_ratio").improves(0.5, 2.0),
            None,
            "as far from 1 on either side"
        );
    }
}
