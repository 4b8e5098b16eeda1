//! A set's score computed again from its predictions, row by row: for slices, for intervals, for
//! choosing what to look at.

use crate::metric::Metric;
use maqam_metrics::Answers;
use maqam_metrics::Definition;
use maqam_metrics::Labels;
use maqam_metrics::Normaliser;
use maqam_metrics::Reading;
use maqam_metrics::Settings;
use maqam_metrics::Tally;
use maqam_records::prediction;
use maqam_records::prediction::Prediction;

/// Largest difference from the score of the evaluation, relative: sums in another order differ in
/// their last digits.
const TOLERANCE: f64 = 1e-9;

/// The tally of a score over these rows; `None` without rows, and for a metric that predictions
/// alone do not give.
pub fn tally(metric: &Metric, rows: &[Prediction]) -> Option<Tally> {
    if rows.is_empty() {
        return None;
    }
    let known = Definition::find(&metric.name)?;
    // How strictly labels were read is not among what predictions say.
    if metric.normaliser.is_some() && !known.is_of_texts() {
        return None;
    }
    let answers = Answers {
        labels: known.is_of_labels().then(|| labels(rows)),
        ..prediction::answers(rows)
    };
    let wanted = |other: &Definition| other.name == known.name;
    let scored = answers.tallies(&[normaliser(metric)?], Settings::default(), &wanted);
    scored.ok()?.into_iter().next()
}

/// The answers of predictions as labels. The labels seen are the inventory: a label in no reference
/// changes no average, and an answer that names it is a miss either way.
fn labels(rows: &[Prediction]) -> Labels<'_> {
    let due: Vec<&str> = rows.iter().map(Prediction::label).collect();
    let named = rows.iter().filter_map(|row| row.answer.as_deref());
    let mut inventory: Vec<&str> = due.iter().copied().chain(named).collect();
    inventory.sort_unstable();
    inventory.dedup();
    let reading = Reading {
        parse: "as-written",
        variant: None,
        labels: rows.iter().map(|row| row.answer.clone()).collect(),
    };
    Labels {
        inventory,
        due,
        readings: vec![reading],
        likeliest: None,
    }
}

/// As [`tally`], where it gives `value` again. Settings that predictions do not say (what ROUGE
/// folds, how BLEU cuts, strict labels, answers in JSON) may have made it, and then nothing is said
/// of it.
pub fn tally_of(metric: &Metric, value: f64, rows: &[Prediction]) -> Option<Tally> {
    tally(metric, rows).filter(|tally| is_same(tally.corpus(), value))
}

/// The tally of two systems' rows, the first's before the second's, where it gives both scores
/// again: so both count the same labels.
pub fn tally_of_both(
    metric: &Metric,
    values: [f64; 2],
    first: &[Prediction],
    second: &[Prediction],
) -> Option<Tally> {
    let both = tally(metric, &[first, second].concat())?;
    let (of_first, of_second): (Vec<usize>, Vec<usize>) =
        (0..both.units.len()).partition(|place| *place < first.len());
    (is_same(score_of(&both, &of_first), values[0])
        && is_same(score_of(&both, &of_second), values[1]))
    .then_some(both)
}

fn is_same(score: f64, value: f64) -> bool {
    (score - value).abs() <= TOLERANCE * value.abs().max(1.0)
}

/// The score of some of a tally's rows.
pub fn score_of(tally: &Tally, places: &[usize]) -> f64 {
    let mut sum = vec![0.0; tally.units.first().map_or(0, Vec::len)];
    for unit in places.iter().filter_map(|&place| tally.units.get(place)) {
        sum.iter_mut()
            .zip(unit)
            .for_each(|(sum, value)| *sum += value);
    }
    tally.score(&sum)
}

/// The metric's normaliser; `None` for one that this version does not know.
pub fn normaliser(metric: &Metric) -> Option<Normaliser> {
    metric
        .normaliser
        .as_deref()
        .map_or(Some(Normaliser::None), |name| name.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(reference: &str, prediction: &str, answer: Option<&str>) -> Prediction {
        Prediction {
            reference: reference.to_owned(),
            prediction: prediction.to_owned(),
            answer: answer.map(str::to_owned),
            ..Prediction::default()
        }
    }

    fn score(metric: &str, rows: &[Prediction]) -> Option<f64> {
        tally(&Metric::of(metric), rows).map(|tally| tally.corpus())
    }

    #[test]
    fn scores_and_parts_of_them_come_again() {
        let rows = [
            row("a b c d", "a x c", None),
            row("أحمد، نعم", "احمد نعم", None),
        ];
        // By hand: one substitution and one deletion of four words, then one substitution of two.
        assert_eq!(score("s.wer", &rows), Some(3.0 / 6.0));
        let tally = tally(&Metric::of("s.wer"), &rows).unwrap();
        assert_eq!(
            [
                score_of(&tally, &[0]),
                score_of(&tally, &[1]),
                score_of(&tally, &[0, 1])
            ],
            [0.5, 0.5, 0.5]
        );
        assert_eq!(score("s.wer@arabic-leaderboard", &rows), Some(2.0 / 6.0));
        assert_eq!(score("s.wer@of-tomorrow", &rows), None);
        let labels = [
            row("sad", "sad", Some("sad")),
            row("sad", "?", None),
            row("angry", "sad", Some("sad")),
            row("angry", "angry", Some("angry")),
        ];
        assert_eq!(
            (
                score("s.accuracy", &labels),
                score("s.uar", &labels),
                score("s.unparsed", &labels)
            ),
            (Some(0.5), Some(0.5), Some(0.25))
        );
        assert_eq!(
            (
                score("s.uar", &[]),
                score("s.uar@strict", &labels),
                score("s.loss", &labels)
            ),
            (None, None, None)
        );
    }

    #[test]
    fn a_loss_is_a_mean_over_tokens() {
        let row = |loss, tokens| Prediction {
            loss: Some(loss),
            target_tokens: Some(tokens),
            ..Prediction::default()
        };
        assert_eq!(
            score("s.loss", &[row(1.0, 3), row(2.0, 1)]),
            Some(5.0 / 4.0)
        );
    }

    #[test]
    fn what_was_scored_otherwise_is_left_alone() {
        let rows = [row("a b", "a", None)];
        let metric = Metric::of("s.wer");
        assert!(
            tally_of(&metric, 0.5, &rows).is_some()
                && tally_of(&metric, 0.5 + 1e-12, &rows).is_some()
        );
        assert!(tally_of(&metric, 0.6, &rows).is_none());
    }
}
