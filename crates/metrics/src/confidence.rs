//! Which of an estimate's intervals and p-values are claimed, and from when on.

use maqam_stats::significance::Difference;
use maqam_stats::significance::Estimate;
use maqam_stats::significance::Interval;
use maqam_stats::significance::Note;

/// Adjusted p-values up to this one resolve a difference.
pub const ALPHA: f64 = 0.05;

/// Fewest rows of a slice or kind for which an interval is given. With fewer than twenty, one
/// answer is worth more than five points of a share and its 95 % interval is wider than forty
/// points: it says that nothing is known, with digits that look like knowledge.
pub const FEWEST_ROWS: usize = 20;

/// The interval of an estimate to go by: the percentile one, or where clusters are few Student's,
/// which is right there.
pub fn interval(estimate: &Estimate) -> Interval {
    if is_of_few(estimate) {
        estimate.student_interval
    } else {
        estimate.interval
    }
}

/// The p-value of a difference to go by: that of the resamples, or where clusters are few
/// Student's. It is never below `2 / 2^n`, the smallest value that n clusters support.
pub fn claimed_p(difference: &Difference) -> f64 {
    if is_of_few(&difference.estimate) {
        difference.supported_student_p()
    } else {
        difference.supported_p()
    }
}

fn is_of_few(estimate: &Estimate) -> bool {
    estimate
        .notes
        .iter()
        .any(|note| matches!(note, Note::Few { .. }))
}
