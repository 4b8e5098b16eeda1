//! What was worked out of a file of predictions.

use crate::metrics::Classification;
use crate::metrics::Confusion;
use crate::metrics::Kind;
use crate::metrics::Normaliser;
use crate::metrics::Tally;

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
pub fn is_shown(kind: Kind, metric: &str) -> bool {
    let is_error = metric.ends_with("ions") || metric.starts_with("wer") || metric == "cer";
    match kind {
        Kind::Transcribe => is_error && !metric.starts_with("char_"),
        Kind::Generate => {
            metric.starts_with("rouge") || metric.starts_with("chrf") || metric == "bleu"
        }
        Kind::Classify => false,
    }
}

/// The four scores by name.
pub fn named(scores: Classification) -> [(&'static str, f64); 4] {
    [
        ("accuracy", scores.accuracy),
        ("macro_f1", scores.macro_f1),
        ("weighted_f1", scores.weighted_f1),
        ("uar", scores.uar),
    ]
}
