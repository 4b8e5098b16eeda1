//! How sure a score is: intervals and differences as the report shows them, whoever computes them.

use crate::metric::Metric;
use maqam_base::error::Result;
use maqam_records::prediction::Prediction;
use maqam_stats::significance::Interval;

/// What a test says of a score against another run's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Interval of the difference, this score minus the other.
    pub interval: Option<Interval>,
    /// Probability of a difference at least as large were there none.
    pub p: Option<f64>,
}

/// Levels below which a p-value earns one, two and three marks.
const LEVELS: [f64; 3] = [0.05, 0.01, 0.001];

/// What the marks mean, for captions.
pub const MARKS: &str = "* p < 0.05, ** p < 0.01, *** p < 0.001";

impl Difference {
    /// `***`, `**`, `*` or nothing.
    pub fn marks(&self) -> &'static str {
        let earned = self
            .p
            .map_or(0, |p| LEVELS.iter().filter(|level| p < **level).count());
        &"***"[..earned]
    }
}

/// Something that computes intervals and differences from predictions.
pub trait Uncertainty {
    /// One sentence that says how the intervals (and the tests) were made, for captions; `None`
    /// where there are none.
    fn method(&self) -> Option<String>;

    /// The interval of a score whose value over these rows is `value`; `None` where nothing can be
    /// said of it.
    ///
    /// # Errors
    /// Rows that the metric cannot take.
    fn interval(
        &self,
        metric: &Metric,
        value: f64,
        rows: &[Prediction],
    ) -> Result<Option<Interval>>;

    /// The paired difference of a score, second minus first, over the same rows in the same order;
    /// `values` are both scores.
    ///
    /// # Errors
    /// Rows that the metric cannot take.
    fn difference(
        &self,
        metric: &Metric,
        values: [f64; 2],
        first: &[Prediction],
        second: &[Prediction],
    ) -> Result<Option<Difference>>;
}

/// Scores as they are, with neither intervals nor tests.
pub struct Unknown;

impl Uncertainty for Unknown {
    fn method(&self) -> Option<String> {
        None
    }

    fn interval(&self, _: &Metric, _: f64, _: &[Prediction]) -> Result<Option<Interval>> {
        Ok(None)
    }

    fn difference(
        &self,
        _: &Metric,
        _: [f64; 2],
        _: &[Prediction],
        _: &[Prediction],
    ) -> Result<Option<Difference>> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_follow_the_levels() {
        let marks = |p| Difference { interval: None, p }.marks();
        assert_eq!(
            [
                marks(None),
                marks(Some(0.05)),
                marks(Some(0.049)),
                marks(Some(0.0099)),
                marks(Some(0.0))
            ],
            ["", "", "*", "**", "***"]
        );
        assert_eq!(marks(Some(f64::NAN)), "");
    }

    #[test]
    fn an_interval_is_finite_and_in_order() {
        assert_eq!(
            Interval::new(2.0, 1.0),
            Some(Interval {
                low: 1.0,
                high: 2.0
            })
        );
        assert_eq!(Interval::new(f64::NAN, 1.0), None);
    }
}
