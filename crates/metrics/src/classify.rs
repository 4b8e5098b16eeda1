//! Labels against labels: accuracy, F1 and recall, each class as heavy as its share or all as heavy
//! as each other.

use std::collections::BTreeMap;

pub use crate::average::Seen;

use crate::average::Average;
use crate::share::share;
use crate::tally::Formula;
use crate::tally::Signature;
use crate::tally::Tally;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Name of the share of answers that name no label, and of these answers in a table of confusions.
pub const UNPARSED: &str = "unparsed";

/// Scores of a classification task, each in `[0, 1]`, higher better; without any answer, and
/// wherever a division by zero would come up, 0.
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

impl Classification {
    /// The four scores by name.
    pub fn named(self) -> [(&'static str, f64); 4] {
        let Self {
            accuracy,
            macro_f1,
            weighted_f1,
            uar,
        } = self;
        let mut scores = [accuracy, macro_f1, weighted_f1, uar].into_iter();
        averages(None).map(|(name, _)| (name, scores.next().unwrap_or_default()))
    }
}

/// Compares pairs of a reference label and the predicted label, which is `None` where the answer
/// names no label.
///
/// With an `inventory` F1 and recall average over its labels that the references hold; a prediction
/// outside the inventory is a miss and never a class. Without one F1 averages over the labels seen
/// in references or predictions, recall over those in the references. Equal to scikit-learn's
/// `f1_score` with `labels` and `zero_division=0`, and to `balanced_accuracy_score`.
///
/// # Errors
/// A reference label that the inventory lacks.
pub fn classify<'a>(
    pairs: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
    inventory: Option<&[&str]>,
) -> Result<Classification> {
    let mut labels: BTreeMap<&str, Seen> = BTreeMap::new();
    for (reference, predicted) in pairs {
        expect_in(inventory, reference)?;
        labels.entry(reference).or_default().references += 1.0;
        if let Some(predicted) = predicted {
            labels.entry(predicted).or_default().predictions += 1.0;
        }
        if predicted == Some(reference) {
            labels.entry(reference).or_default().hits += 1.0;
        }
    }
    let labels: Vec<Seen> = labels.into_values().collect();
    let [accuracy, macro_f1, weighted_f1, uar] =
        averages(inventory).map(|(_, average)| average.of_labels(&labels));
    Ok(Classification {
        accuracy,
        macro_f1,
        weighted_f1,
        uar,
    })
}

/// An error where an inventory lacks a reference label.
pub(crate) fn expect_in(inventory: Option<&[&str]>, reference: &str) -> Result<()> {
    match inventory.filter(|inventory| !inventory.contains(&reference)) {
        None => Ok(()),
        Some(inventory) => {
            let found = Error::input(format!(
                "the reference label `{reference}` is not in the inventory"
            ));
            Err(found.hint(format!("it has: {}", inventory.join(", "))))
        }
    }
}

/// The tallies `accuracy, macro_f1, weighted_f1, uar` of the same pairs; `parse` says in the
/// signature how answers became labels.
///
/// An utterance adds 1 for its reference label, 1 for its predicted label, 1 for its hit: three
/// blocks of as many numbers as there are labels, so this is for inventories, not for open answers.
/// Which labels the averages run over is decided by the sum that is scored.
///
/// # Errors
/// As [`classify`].
pub fn tallies(
    pairs: &[(&str, Option<&str>)],
    inventory: Option<&[&str]>,
    parse: &str,
) -> Result<[Tally; 4]> {
    let mut labels: Vec<&str> = match inventory {
        Some(inventory) => inventory.to_vec(),
        None => pairs
            .iter()
            .flat_map(|(reference, predicted)| [Some(*reference), *predicted])
            .flatten()
            .collect(),
    };
    labels.sort_unstable();
    labels.dedup();
    let mut units = Vec::with_capacity(pairs.len());
    for (reference, predicted) in pairs {
        expect_in(inventory, reference)?;
        let mut unit = vec![0.0; 3 * labels.len()];
        let place = |label: &str| labels.binary_search(&label).ok();
        let due = place(reference);
        let said = predicted.and_then(place);
        due.into_iter().for_each(|i| unit[i] = 1.0);
        said.into_iter().for_each(|i| unit[labels.len() + i] = 1.0);
        due.filter(|_| due == said)
            .into_iter()
            .for_each(|i| unit[2 * labels.len() + i] = 1.0);
        units.push(unit);
    }
    let signature = signature(inventory, parse);
    Ok(averages(inventory).map(|(name, average)| {
        Tally::new(
            name,
            signature.clone(),
            units.clone(),
            Formula::Labels(average),
        )
    }))
}

/// The tallies of [`tallies`] where labels were chosen by likelihood.
pub fn by_likelihood(mut tallies: [Tally; 4]) -> [Tally; 4] {
    for (tally, name) in tallies.iter_mut().zip(BY_LIKELIHOOD) {
        name.clone_into(&mut tally.name);
    }
    tallies
}

/// The tally `unparsed`: share of the answers that name no label.
pub fn unparsed(labels: &[Option<String>], parse: &str) -> Tally {
    let units = labels
        .iter()
        .map(|label| [f64::from(u8::from(label.is_none())), 1.0]);
    share(UNPARSED, &[("parse", parse)], units)
}

/// How classification is scored.
pub fn signature(inventory: Option<&[&str]>, parse: &str) -> Signature {
    let signature = Signature::default().with("parse", parse);
    match inventory {
        Some(inventory) => signature
            .with("labels", inventory.len())
            .with("over", "references")
            .with("unparsed", "miss")
            .with("zero", 0),
        None => signature
            .with("labels", "seen")
            .with("over", "references+predictions")
            .with("zero", 0),
    }
}

/// The four scores of labels that were chosen by likelihood, in the order of [`averages`].
const BY_LIKELIHOOD: [&str; 4] = [
    "likelihood_accuracy",
    "likelihood_macro_f1",
    "likelihood_weighted_f1",
    "likelihood_uar",
];

/// The four scores by name.
fn averages(inventory: Option<&[&str]>) -> [(&'static str, Average); 4] {
    let macro_f1 = if inventory.is_some() {
        Average::MacroF1
    } else {
        Average::MacroF1OfSeen
    };
    [
        ("accuracy", Average::Accuracy),
        ("macro_f1", macro_f1),
        ("weighted_f1", Average::WeightedF1),
        ("uar", Average::Uar),
    ]
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
        let goldens: Vec<Golden> = serde_json::from_str(include_str!(
            "../../../tests/fixtures/metrics/classify.json"
        ))
        .unwrap();
        assert!(
            goldens
                .iter()
                .filter(|golden| golden.inventory.is_some())
                .count()
                >= 30
                && goldens
                    .iter()
                    .filter(|golden| golden.inventory.is_none())
                    .count()
                    >= 30
        );
        for golden in &goldens {
            let pairs = golden
                .references
                .iter()
                .map(String::as_str)
                .zip(golden.predictions.iter().map(Option::as_deref));
            let inventory: Option<Vec<&str>> = golden
                .inventory
                .as_ref()
                .map(|labels| labels.iter().map(String::as_str).collect());
            let pairs: Vec<(&str, Option<&str>)> = pairs.collect();
            let scores = classify(pairs.iter().copied(), inventory.as_deref()).unwrap();
            let [accuracy, macro_f1, weighted_f1, uar] =
                tallies(&pairs, inventory.as_deref(), "lenient")
                    .unwrap()
                    .map(|tally| tally.corpus());
            assert_eq!(
                scores,
                Classification {
                    accuracy,
                    macro_f1,
                    weighted_f1,
                    uar
                },
                "the sums say the same"
            );
            let theirs = Classification {
                accuracy: golden.accuracy,
                macro_f1: golden.macro_f1,
                weighted_f1: golden.weighted_f1,
                uar: golden.uar,
            };
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
        let pairs = [
            ("angry", Some("angry")),
            ("angry", None),
            ("sad", Some("a bit of both")),
        ];
        let scores = classify(pairs, Some(&["angry", "happy", "sad"])).unwrap();
        // By hand: F1 of angry 2*1/(2+1), of sad 0; happy is in no reference; recalls 1/2 and 0.
        assert_eq!(
            scores,
            Classification {
                accuracy: 1.0 / 3.0,
                macro_f1: 1.0 / 3.0,
                weighted_f1: 2.0 * (2.0 / 3.0) / 3.0,
                uar: 0.25
            }
        );
        let as_they_are = classify(pairs, None).unwrap();
        let [accuracy, macro_f1, weighted_f1, uar] =
            tallies(&pairs, Some(&["angry", "happy", "sad"]), "lenient")
                .unwrap()
                .map(|tally| tally.corpus());
        assert_eq!(
            scores,
            Classification {
                accuracy,
                macro_f1,
                weighted_f1,
                uar
            }
        );
        assert_eq!(
            as_they_are.macro_f1,
            (2.0 / 3.0) / 3.0,
            "the odd answer is a third label"
        );
    }

    #[test]
    fn nothing_scores_nothing_and_a_strange_reference_is_refused() {
        assert_eq!(classify([], None).unwrap(), Classification::default());
        let error = classify([("bored", Some("sad"))], Some(&["angry", "sad"])).unwrap_err();
        assert!(
            error.exit_code() == 2
                && error.to_string().contains("`bored`")
                && error.to_string().contains("it has: angry, sad"),
            "{error}"
        );
    }
}
