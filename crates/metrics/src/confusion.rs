//! Which labels are taken for which: the confusion matrix, and each label's precision, recall and
//! F1.

use crate::average::Seen;
use crate::classify::expect_in;
use maqam_base::error::Result;

/// Counts of reference labels against predicted labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confusion {
    /// The labels, in the order of the inventory.
    pub labels: Vec<String>,
    /// One row a reference label; one column a predicted label and, last, one for answers that name
    /// no label of the inventory.
    pub counts: Vec<Vec<u64>>,
}

impl Confusion {
    /// Counts pairs of a reference label and the predicted label, `None` where the answer names no
    /// label. A prediction outside the inventory counts as unparsed.
    ///
    /// # Errors
    /// A reference label that the inventory lacks.
    pub fn new<'a>(
        pairs: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
        inventory: &[&str],
    ) -> Result<Self> {
        let mut counts = vec![vec![0; inventory.len() + 1]; inventory.len()];
        let place = |label: &str| inventory.iter().position(|known| *known == label);
        for (reference, predicted) in pairs {
            expect_in(Some(inventory), reference)?;
            if let Some(row) = place(reference) {
                counts[row][predicted.and_then(place).unwrap_or(inventory.len())] += 1;
            }
        }
        Ok(Self {
            labels: inventory.iter().map(|&label| label.to_owned()).collect(),
            counts,
        })
    }

    /// How often each label stands in the references, in the predictions and in both, in the order
    /// of `labels`.
    pub fn seen(&self) -> Vec<Seen> {
        let predictions = self.predicted();
        let label = |(i, row): (usize, &Vec<u64>)| Seen {
            references: row.iter().sum::<u64>() as f64,
            predictions: predictions[i] as f64,
            hits: row[i] as f64,
        };
        self.counts.iter().enumerate().map(label).collect()
    }

    /// How often each label was predicted and, last, how often none: the distribution of the
    /// answers.
    pub fn predicted(&self) -> Vec<u64> {
        (0..=self.labels.len())
            .map(|column| self.counts.iter().map(|row| row[column]).sum())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_fall_into_columns() {
        let pairs = [
            ("a", Some("a")),
            ("a", Some("b")),
            ("b", Some("b")),
            ("b", None),
            ("a", Some("z")),
            ("a", Some("a")),
        ];
        let found = Confusion::new(pairs, &["b", "a", "c"]).unwrap();
        assert_eq!(found.labels, ["b", "a", "c"]);
        assert_eq!(found.counts, [[1, 0, 0, 1], [1, 2, 0, 1], [0, 0, 0, 0]]);
        assert_eq!(found.predicted(), [2, 2, 0, 2]);
        let seen = found.seen();
        // By hand: of `a` two of four were found and both predictions are right.
        assert_eq!(
            (seen[1].precision(), seen[1].recall(), seen[1].f1()),
            (1.0, 0.5, 2.0 / 3.0)
        );
        assert_eq!(
            (seen[2].precision(), seen[2].recall(), seen[2].f1()),
            (0.0, 0.0, 0.0)
        );
        assert!(
            Confusion::new([("d", None)], &["a"])
                .unwrap_err()
                .to_string()
                .contains("`d` is not in the inventory")
        );
    }
}
