//! Tails of the normal and of Student's t distribution, and the quantile of the latter.

/// Two-sided p-value of a standard normal deviate.
pub(super) fn normal_p(z: f64) -> f64 {
    libm::erfc(z.abs() * std::f64::consts::FRAC_1_SQRT_2)
}

/// Two-sided p-value of Student's t: `I_x(df/2, 1/2)` at `x = df / (df + t^2)` (DLMF 8.17;
/// Abramowitz and Stegun 26.7.1).
pub(super) fn student_p(t: f64, degrees_of_freedom: f64) -> f64 {
    if t.is_infinite() {
        return 0.0;
    }
    let square = t * t;
    let x = degrees_of_freedom / (degrees_of_freedom + square);
    // 1 - x, without the loss of digits near t = 0.
    incomplete_beta(
        degrees_of_freedom / 2.0,
        0.5,
        x,
        square / (degrees_of_freedom + square),
    )
}

/// The t that Student's distribution exceeds in absolute value with probability `p`, in `(0, 1)`.
pub(super) fn student_quantile(p: f64, degrees_of_freedom: f64) -> f64 {
    let mut high = 1.0;
    while student_p(high, degrees_of_freedom) > p && high < f64::MAX / 2.0 {
        high *= 2.0;
    }
    let mut low = 0.0;
    // Halved until neighbouring numbers are met; the p-value falls in t.
    loop {
        let middle = f64::midpoint(low, high);
        if middle <= low || middle >= high {
            return middle;
        }
        if student_p(middle, degrees_of_freedom) > p {
            low = middle;
        } else {
            high = middle;
        }
    }
}

/// The regularised incomplete beta function `I_x(a, b)`, given `x` and `1 - x`.
fn incomplete_beta(a: f64, b: f64, x: f64, rest: f64) -> f64 {
    if x <= 0.0 || rest <= 0.0 {
        return if x <= 0.0 { 0.0 } else { 1.0 };
    }
    let front =
        (libm::lgamma(a + b) - libm::lgamma(a) - libm::lgamma(b) + a * x.ln() + b * rest.ln())
            .exp();
    // The fraction converges fast below the mean; above it the symmetry I_x(a, b) = 1 - I_{1-x}(b,
    // a) leads there.
    if x < (a + 1.0) / (a + b + 2.0) {
        front * beta_fraction(a, b, x) / a
    } else {
        1.0 - front * beta_fraction(b, a, rest) / b
    }
}

/// The value, or a tiny one in place of zero, which nothing can be divided by.
fn away_from_zero(value: f64) -> f64 {
    if value.abs() < f64::MIN_POSITIVE {
        f64::MIN_POSITIVE
    } else {
        value
    }
}

/// The continued fraction of the incomplete beta function (DLMF 8.17.22), by the modified method of
/// Lentz.
fn beta_fraction(a: f64, b: f64, x: f64) -> f64 {
    const MAX_TERMS: usize = 10_000;
    let mut c = 1.0;
    let mut d = 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0));
    let mut fraction = d;
    for term in 1..MAX_TERMS {
        let m = term as f64;
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let before = fraction;
        for coefficient in [even, odd] {
            d = 1.0 / away_from_zero(1.0 + coefficient * d);
            c = away_from_zero(1.0 + coefficient / c);
            fraction *= c * d;
        }
        if (fraction - before).abs() <= f64::EPSILON * fraction.abs() {
            break;
        }
    }
    fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goldens(name: &str) -> Vec<Vec<f64>> {
        let all: serde_json::Value = serde_json::from_str(include_str!(
            "../../../../tests/fixtures/significance/closed_forms.json"
        ))
        .unwrap();
        serde_json::from_value(all[name].clone()).unwrap()
    }

    /// Two logarithms of gamma functions, each of the order of the degrees of freedom times their
    /// logarithm, cancel in the exponent.
    fn tolerance(degrees_of_freedom: f64) -> f64 {
        1e-14 * (10.0 + degrees_of_freedom)
    }

    #[test]
    fn tails_are_those_of_scipy_and_mpmath() {
        for row in goldens("normal") {
            assert!(
                (normal_p(row[0]) / row[1] - 1.0).abs() < 1e-13,
                "{row:?}: rounding of two implementations"
            );
        }
        for row in goldens("student") {
            let t = row[0];
            let df = row[1];
            let p = row[2];
            assert!(
                (student_p(t, df) / p - 1.0).abs() < tolerance(df),
                "{row:?}, {}",
                student_p(t, df)
            );
        }
    }

    #[test]
    fn quantiles_are_those_of_mpmath() {
        for row in goldens("student_quantile") {
            let p = row[0];
            let df = row[1];
            let t = row[2];
            assert!(
                (student_quantile(p, df) / t - 1.0).abs() < 2.0 * tolerance(df),
                "{row:?}, {}",
                student_quantile(p, df)
            );
        }
    }

    #[test]
    fn the_ends_are_exact() {
        assert_eq!((normal_p(0.0), student_p(0.0, 3.0)), (1.0, 1.0));
        assert_eq!(
            (normal_p(f64::INFINITY), student_p(f64::INFINITY, 3.0)),
            (0.0, 0.0)
        );
    }
}
