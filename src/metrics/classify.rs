//! Labels against labels: accuracy, F1 and recall, each class as heavy as its share or all as heavy as each other.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::error::Result;

/// Scores of a classification task, each in `[0, 1]`, higher better; without any answer, and wherever a division by zero
/// would come up, 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Classification {
    /// Share of answers that are right.
    pub accuracy: f64,
    /// Mean over labels of F1, the harmonic mean of precision and recall.
    pub macro_f1: f64,
    /// Mean over labels of F1, each as heavy as it is frequent in the references.
    pub weighted_f1: f64,
    /// Unweighted average recall: mean over the labels in the references of the share found.
    pub uar: f64,
}

/// Compares pairs of a reference label and the predicted label, which is `None` where the answer names no label.
///
/// With an `inventory` F1 and recall average over its labels that the references hold; a prediction outside the inventory
/// is a miss and never a class. Without one F1 averages over the labels seen in references or predictions, recall over
/// those in the references. Equal to scikit-learn's `f1_score` with `labels` and `zero_division=0`, and to
/// `balanced_accuracy_score`.
///
/// # Errors
/// A reference label that the inventory lacks.
pub fn classify<'a>(pairs: impl IntoIterator<Item = (&'a str, Option<&'a str>)>, inventory: Option<&[&str]>) -> Result<Classification> {
    let mut labels: BTreeMap<&str, Tally> = BTreeMap::new();
    let (mut answers, mut right) = (0u64, 0u64);
    for (reference, predicted) in pairs {
        if let Some(inventory) = inventory.filter(|inventory| !inventory.contains(&reference)) {
            let found = Error::input(format!("the reference label `{reference}` is not in the inventory"));
            return Err(found.hint(format!("it has: {}", inventory.join(", "))));
        }
        answers += 1;
        labels.entry(reference).or_default().references += 1;
        if let Some(predicted) = predicted {
            labels.entry(predicted).or_default().predictions += 1;
        }
        if predicted == Some(reference) {
            right += 1;
            labels.entry(reference).or_default().hits += 1;
        }
    }
    let present = || labels.values().filter(|label| label.references > 0);
    let averaged: Vec<f64> = if inventory.is_some() { present().map(Tally::f1).collect() } else { labels.values().map(Tally::f1).collect() };
    Ok(Classification {
        accuracy: ratio(right as f64, answers),
        macro_f1: ratio(averaged.iter().sum(), averaged.len() as u64),
        weighted_f1: ratio(present().map(|label| label.f1() * label.references as f64).sum(), answers),
        uar: ratio(present().map(Tally::recall).sum(), present().count() as u64),
    })
}

/// How often a label stands in the references, in the predictions, and in both at once.
#[derive(Clone, Copy, Default)]
struct Tally {
    references: u64,
    predictions: u64,
    hits: u64,
}

impl Tally {
    fn f1(&self) -> f64 {
        ratio(2.0 * self.hits as f64, self.references + self.predictions)
    }

    fn recall(&self) -> f64 {
        ratio(self.hits as f64, self.references)
    }
}

/// A quotient, 0 where the divisor is.
fn ratio(sum: f64, count: u64) -> f64 {
    if count == 0 { 0.0 } else { sum / count as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Golden {
        inventory: Option<Vec<String>>,
        references: Vec<String>,
        predictions: Vec<Option<String>>,
        accuracy: f64,
        macro_f1: f64,
        weighted_f1: f64,
        uar: f64,
    }

    #[test]
    fn scores_are_those_of_scikit_learn() {
        let goldens: Vec<Golden> = serde_json::from_str(include_str!("../../tests/fixtures/metrics/classify.json")).unwrap();
        assert!(
            goldens.iter().filter(|golden| golden.inventory.is_some()).count() >= 30
                && goldens.iter().filter(|golden| golden.inventory.is_none()).count() >= 30
        );
        for golden in &goldens {
            let pairs = golden.references.iter().map(String::as_str).zip(golden.predictions.iter().map(Option::as_deref));
            let inventory: Option<Vec<&str>> = golden.inventory.as_ref().map(|labels| labels.iter().map(String::as_str).collect());
            let scores = classify(pairs, inventory.as_deref()).unwrap();
            let theirs = Classification { accuracy: golden.accuracy, macro_f1: golden.macro_f1, weighted_f1: golden.weighted_f1, uar: golden.uar };
            let near = |a: f64, b: f64| (a - b).abs() < 1e-12;
            assert!(
                near(scores.accuracy, theirs.accuracy)
                    && near(scores.macro_f1, theirs.macro_f1)
                    && near(scores.weighted_f1, theirs.weighted_f1)
                    && near(scores.uar, theirs.uar),
                "{scores:?} is not {theirs:?}: {:?} {:?}",
                golden.references,
                golden.predictions
            );
        }
    }

    #[test]
    fn an_unparsed_answer_is_a_miss_and_never_a_class() {
        let pairs = [("angry", Some("angry")), ("angry", None), ("sad", Some("a bit of both"))];
        let scores = classify(pairs, Some(&["angry", "happy", "sad"])).unwrap();
        // By hand: F1 of angry 2*1/(2+1), of sad 0; happy is in no reference; recalls 1/2 and 0.
        assert_eq!(scores, Classification { accuracy: 1.0 / 3.0, macro_f1: 1.0 / 3.0, weighted_f1: 2.0 * (2.0 / 3.0) / 3.0, uar: 0.25 });
        let as_they_are = classify(pairs, None).unwrap();
        assert_eq!(as_they_are.macro_f1, (2.0 / 3.0) / 3.0, "the odd answer is a third label");
    }

    #[test]
    fn nothing_scores_nothing_and_a_strange_reference_is_refused() {
        assert_eq!(classify([], None).unwrap(), Classification::default());
        let error = classify([("bored", Some("sad"))], Some(&["angry", "sad"])).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("`bored`") && error.to_string().contains("it has: angry, sad"), "{error}");
    }
}
