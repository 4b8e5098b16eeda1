//! Intervals and paired tests of scores, by drawing speakers (or groups, or rows) again from the
//! predictions.

use crate::chart::number;
use crate::metric::Metric;
use crate::rescore;
use crate::uncertainty::Difference;
use crate::uncertainty::Uncertainty;
use maqam_base::error::Result;
use maqam_metrics::confidence;
use maqam_records::prediction::Prediction;
use maqam_records::suite_file::ClusterBy;
use maqam_stats::significance::Clusters;
use maqam_stats::significance::Interval;
use maqam_stats::significance::Resampling;
use maqam_stats::significance::bootstrap;
use maqam_stats::significance::paired_bootstrap;

/// Bootstrap over clusters of rows: speakers where every row has one, else groups, else the rows
/// themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Resampled {
    /// How it is drawn.
    pub resampling: Resampling,
}

impl Uncertainty for Resampled {
    fn method(&self) -> Option<String> {
        let Resampling {
            resamples,
            confidence,
            ..
        } = self.resampling;
        let percent = 100.0 * confidence;
        let count = number::count(resamples as f64);
        Some(format!(
            "{percent} % intervals by {count} resamples of speakers where every row has one, else of groups, else of rows; Student's where these are few."
        ))
    }

    fn interval(
        &self,
        metric: &Metric,
        value: f64,
        rows: &[Prediction],
    ) -> Result<Option<Interval>> {
        let Some(tally) = rescore::tally_of(metric, value, rows) else {
            return Ok(None);
        };
        let clusters = clusters(rows);
        if clusters.num_clusters() < 2 {
            return Ok(None);
        }
        // Where resamples have no score (no words, no labels) there is no interval, and that is no
        // reason to give the report up.
        let Ok(estimate) = bootstrap(
            &tally.units,
            &clusters,
            &|sum: &[f64]| tally.score(sum),
            &self.resampling,
        ) else {
            return Ok(None);
        };
        let interval = confidence::interval(&estimate);
        Ok(Interval::new(interval.low, interval.high))
    }

    fn difference(
        &self,
        metric: &Metric,
        values: [f64; 2],
        first: &[Prediction],
        second: &[Prediction],
    ) -> Result<Option<Difference>> {
        let Some(tally) = rescore::tally_of_both(metric, values, first, second) else {
            return Ok(None);
        };
        let clusters = clusters(first);
        if clusters.num_clusters() < 2 {
            return Ok(None);
        }
        let (of_first, of_second) = tally.units.split_at(first.len());
        let score = |sum: &[f64]| tally.score(sum);
        let Ok(found) = paired_bootstrap(of_first, of_second, &clusters, &score, &self.resampling)
        else {
            return Ok(None);
        };
        let interval = confidence::interval(&found.estimate);
        Ok(Some(Difference {
            interval: Interval::new(interval.low, interval.high),
            p: Some(confidence::claimed_p(&found)),
        }))
    }
}

/// What is drawn together.
fn clusters(rows: &[Prediction]) -> Clusters {
    let by = ClusterBy::of(rows, |row, by| row.known(by.name()).is_some());
    match by {
        ClusterBy::None => Clusters::each(rows.len()),
        named => Clusters::named(rows.iter().map(|row| row.known(named.name()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rows(wrong: usize, speakers: usize) -> Vec<Prediction> {
        let row = |i: usize| {
            let row = json!({"id": i.to_string(), "reference": "a b c", "prediction": if i.is_multiple_of(wrong) { "a x c" } else { "a b c" }, "meta": {"speaker": i % speakers}});
            serde_json::from_value(row).unwrap()
        };
        (0..120).map(row).collect()
    }

    #[test]
    fn an_interval_is_around_its_score_and_a_difference_tells() {
        let metric = Metric::of("words.wer");
        let judge = Resampled {
            resampling: Resampling {
                resamples: 2000,
                ..Resampling::default()
            },
        };
        let worse = rows(2, 40);
        let better = rows(12, 40);
        let a = 60.0 / 360.0;
        let b = 10.0 / 360.0;
        let interval = judge.interval(&metric, a, &worse).unwrap().unwrap();
        assert!(
            interval.low < a && a < interval.high && interval.high - interval.low < 0.2,
            "{interval:?}"
        );
        let difference = judge
            .difference(&metric, [a, b], &worse, &better)
            .unwrap()
            .unwrap();
        assert!(
            difference.p.unwrap() < 0.01 && difference.interval.unwrap().high < 0.0,
            "{difference:?}"
        );
        let none = judge
            .difference(&metric, [a, a], &worse, &worse)
            .unwrap()
            .unwrap();
        assert_eq!(none.marks(), "");
    }

    #[test]
    fn both_systems_are_scored_over_the_same_labels() {
        let row = |i: usize, answer: &str| {
            serde_json::from_value::<Prediction>(json!({"id": i.to_string(), "reference": (["a", "b"][i % 2]), "prediction": "", "answer": answer})).unwrap()
        };
        let first: Vec<Prediction> = (0..40).map(|i| row(i, ["a", "b"][i % 2])).collect();
        // The second says a third label that no reference has.
        let second: Vec<Prediction> = (0..40)
            .map(|i| row(i, if i < 20 { "c" } else { ["a", "b"][i % 2] }))
            .collect();
        let found = Resampled::default()
            .difference(&Metric::of("s.uar"), [1.0, 0.5], &first, &second)
            .unwrap()
            .unwrap();
        assert!(
            found.p.unwrap() < 0.001 && found.marks() == "***",
            "{found:?}"
        );
    }

    #[test]
    fn what_cannot_be_drawn_again_has_no_interval() {
        let metric = Metric::of("words.wer");
        let judge = Resampled::default();
        assert_eq!(
            judge.interval(&metric, 60.0 / 360.0, &rows(2, 1)).unwrap(),
            None,
            "one speaker"
        );
        assert_eq!(
            judge.interval(&metric, 0.9, &rows(2, 40)).unwrap(),
            None,
            "another score"
        );
        assert_eq!(
            judge
                .interval(&Metric::of("words.loss"), 1.0, &rows(2, 40))
                .unwrap(),
            None,
            "no losses"
        );
    }
}
