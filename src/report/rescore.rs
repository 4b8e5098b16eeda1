//! A metric over any part of a set's rows: for slices, and for choosing what to look at.

use crate::metrics::Counts;
use crate::metrics::Normaliser;
use crate::metrics::char_errors;
use crate::metrics::classify;
use crate::metrics::rouge;
use crate::metrics::word_errors;
use crate::report::metric::Metric;
use crate::report::predictions::Prediction;

/// The score of these rows; `None` for a metric that is not computed from texts and labels alone, or without rows.
pub fn score(metric: &Metric, rows: &[&Prediction]) -> Option<f64> {
    if rows.is_empty() {
        return None;
    }
    match metric.name.as_str() {
        "wer" => errors(metric, rows, word_errors),
        "cer" => errors(metric, rows, char_errors),
        "rouge1" => Some(overlap(rows).rouge1),
        "rouge2" => Some(overlap(rows).rouge2),
        "rougeL" => Some(overlap(rows).rouge_l),
        "accuracy" | "macro_f1" | "weighted_f1" | "uar" => labels(metric, rows),
        _ => None,
    }
}

/// The metric's normaliser; `None` for one that this version does not know.
pub fn normaliser(metric: &Metric) -> Option<Normaliser> {
    metric.normaliser.as_deref().map_or(Some(Normaliser::None), |name| name.parse().ok())
}

fn errors(metric: &Metric, rows: &[&Prediction], count: fn(&str, &str) -> Counts) -> Option<f64> {
    let normaliser = normaliser(metric)?;
    Some(rows.iter().map(|row| count(&normaliser.apply(&row.reference), &normaliser.apply(&row.prediction))).sum::<Counts>().rate())
}

fn overlap(rows: &[&Prediction]) -> rouge::Rouge {
    rouge::mean(rows.iter().map(|row| (row.reference.as_str(), row.prediction.as_str())))
}

fn labels(metric: &Metric, rows: &[&Prediction]) -> Option<f64> {
    // The labels of the part are its inventory: an answer outside them is a miss, as in the suite's score.
    let mut inventory: Vec<&str> = rows.iter().flat_map(|row| std::iter::once(row.label()).chain(row.answer.as_deref())).collect();
    inventory.sort_unstable();
    inventory.dedup();
    let found = classify(rows.iter().map(|row| (row.label(), row.answer.as_deref())), Some(&inventory)).ok()?;
    Some(match metric.name.as_str() {
        "accuracy" => found.accuracy,
        "macro_f1" => found.macro_f1,
        "weighted_f1" => found.weighted_f1,
        _ => found.uar,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(reference: &str, prediction: &str, answer: Option<&str>) -> Prediction {
        Prediction { reference: reference.to_owned(), prediction: prediction.to_owned(), answer: answer.map(str::to_owned), ..Prediction::default() }
    }

    #[test]
    fn parts_are_scored_as_wholes_are() {
        let rows = [row("a b c d", "a x c", None), row("أحمد، نعم", "احمد نعم", None)];
        let rows: Vec<&Prediction> = rows.iter().collect();
        // By hand: one substitution and one deletion of four words, then one substitution of two.
        assert_eq!(score(&Metric::of("s.wer"), &rows), Some(3.0 / 6.0));
        assert_eq!(score(&Metric::of("s.wer@arabic-leaderboard"), &rows), Some(2.0 / 6.0));
        assert_eq!(score(&Metric::of("s.wer@of-tomorrow"), &rows), None);
        assert_eq!(score(&Metric::of("s.loss"), &rows), None);
        let labels = [row("sad", "sad", Some("sad")), row("sad", "?", None), row("angry", "sad", Some("sad")), row("angry", "angry", Some("angry"))];
        let labels: Vec<&Prediction> = labels.iter().collect();
        assert_eq!(score(&Metric::of("s.accuracy"), &labels), Some(0.5));
        assert_eq!(score(&Metric::of("s.uar"), &labels), Some(0.5));
        assert_eq!(score(&Metric::of("s.uar"), &[]), None);
    }
}
