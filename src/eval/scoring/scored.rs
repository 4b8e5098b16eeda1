//! What was worked out of a file of predictions.

use crate::metrics::Classification;
use crate::metrics::Confusion;
use crate::metrics::Definition;
use crate::metrics::Normaliser;
use crate::metrics::Place;
use crate::metrics::Tally;
use crate::metrics::TaskKind;

/// Everything that was worked out.
pub struct Scored {
    /// The metrics of texts under each normaliser.
    pub texts: Vec<(Normaliser, Vec<Tally>)>,
    /// How generation went wrong.
    pub failures: Vec<Tally>,
    /// Answers as labels: read strictly and leniently by an inventory, or as they are.
    pub readings: Vec<Reading>,
}

/// Scores of answers that were turned into labels in one way.
pub struct Reading {
    /// How labels were read.
    pub parse: &'static str,
    /// The four scores.
    pub scores: Classification,
    /// Without an inventory there is none where the labels are too many.
    pub confusion: Option<Confusion>,
    /// What the scores were computed with.
    pub signature: String,
}

/// What a table shows of a task; JSON has everything.
pub fn is_shown(kind: TaskKind, metric: &Definition) -> bool {
    let is_of_kind = kind != TaskKind::Classify && metric.kinds.contains(&kind);
    is_of_kind && metric.is_normalised() && metric.place != Place::Detail
}

/// As [`is_shown`], of the metric of a tally.
pub fn is_tally_shown(kind: TaskKind, tally: &Tally) -> bool {
    Definition::find(tally.metric()).is_some_and(|metric| is_shown(kind, metric))
}
