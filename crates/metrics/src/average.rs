//! Counts of labels, and the averages that are made of them.

/// How labels become one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Average {
    /// Hits over answers.
    Accuracy,
    /// F1 over the labels in the references.
    MacroF1,
    /// F1 over the labels in references or predictions.
    MacroF1OfSeen,
    /// F1, each label as often as it is in the references.
    WeightedF1,
    /// Recall over the labels in the references.
    Uar,
}

impl Average {
    /// From a sum of vectors as [`crate::classify::tallies`] makes them.
    pub(crate) fn of(self, sum: &[f64]) -> f64 {
        let num_labels = sum.len() / 3;
        let label = |i: usize| Seen {
            references: sum[i],
            predictions: sum[num_labels + i],
            hits: sum[2 * num_labels + i],
        };
        self.of_labels(&(0..num_labels).map(label).collect::<Vec<_>>())
    }

    /// From how often each label stands where.
    pub(crate) fn of_labels(self, labels: &[Seen]) -> f64 {
        let present = || labels.iter().filter(|label| label.references > 0.0);
        let seen = || {
            labels
                .iter()
                .filter(|label| label.references + label.predictions > 0.0)
        };
        let answers = || labels.iter().map(|label| label.references).sum();
        match self {
            Self::Accuracy => ratio(labels.iter().map(|label| label.hits).sum(), answers()),
            Self::MacroF1 => ratio(present().map(Seen::f1).sum(), present().count() as f64),
            Self::MacroF1OfSeen => ratio(seen().map(Seen::f1).sum(), seen().count() as f64),
            Self::WeightedF1 => ratio(
                present().map(|label| label.f1() * label.references).sum(),
                answers(),
            ),
            Self::Uar => ratio(present().map(Seen::recall).sum(), present().count() as f64),
        }
    }
}

/// How often a label stands in the references, in the predictions, and in both at once.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// In the references.
    pub references: f64,
    /// In the predictions.
    pub predictions: f64,
    /// In both at once.
    pub hits: f64,
}

impl Seen {
    /// Share of the predictions of this label that are right; 0 without any.
    pub fn precision(&self) -> f64 {
        ratio(self.hits, self.predictions)
    }

    /// Share of the references of this label that were found; 0 without any.
    pub fn recall(&self) -> f64 {
        ratio(self.hits, self.references)
    }

    /// Harmonic mean of the two, 0 where both are.
    pub fn f1(&self) -> f64 {
        ratio(2.0 * self.hits, self.references + self.predictions)
    }
}

/// A quotient, 0 where the divisor is.
fn ratio(sum: f64, count: f64) -> f64 {
    if count == 0.0 { 0.0 } else { sum / count }
}
