//! McNemar's exact test of two systems on the same rows.

/// The two-sided p-value that two systems differ. `first_only` rows are correct only with the
/// first, `second_only` only with the second. It is 1 if both are correct on the same rows.
///
/// If there is no difference, each row on which they differ is equally likely to be correct with
/// either. The p-value is twice the probability of a split at least as uneven on this side, at
/// most 1. The test treats rows of one speaker or clip as independent, which they are not. Read it
/// together with an interval that resamples clusters.
///
/// Source: McNemar 1947, *Note on the sampling error of the difference between correlated
/// proportions*; the exact form is the binomial test with a half.
pub fn mcnemar(first_only: usize, second_only: usize) -> f64 {
    let total = first_only + second_only;
    let fewer = first_only.min(second_only);
    if 2 * fewer == total {
        return 1.0;
    }
    // The logarithm of `total` over i times a half to the power `total`, i from 0: no step of it
    // leaves the range of a double.
    let mut log = -(total as f64) * std::f64::consts::LN_2;
    let mut sum = log.exp();
    for i in 0..fewer {
        log += ((total - i) as f64).ln() - ((i + 1) as f64).ln();
        sum += log.exp();
    }
    (2.0 * sum).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tests/reference/mcnemar.py` ran statsmodels.
    #[test]
    fn p_values_are_those_of_statsmodels() {
        let golden: Vec<(usize, usize, f64)> = serde_json::from_str(include_str!(
            "../../../../tests/fixtures/significance/mcnemar.json"
        ))
        .unwrap();
        assert!(golden.len() > 50);
        for (first, second, expected) in golden {
            let found = mcnemar(first, second);
            // Sums of up to thousands of terms, each with an error of a few units in the last
            // place.
            assert!(
                (found - expected).abs() <= 1e-9 * expected,
                "{first}, {second}: {found}, not {expected}"
            );
        }
    }
}
