//! Tallies of what is counted elsewhere: a numerator and a denominator for each utterance.

use crate::tally::Formula;
use crate::tally::Signature;
use crate::tally::Tally;

/// The tally of a share: the sum of the numerators over that of the denominators, 0 where there is
/// nothing to divide by. `settings` are what its signature says.
pub(crate) fn share(
    name: &str,
    settings: &[(&'static str, &str)],
    units: impl IntoIterator<Item = [f64; 2]>,
) -> Tally {
    let signature = settings
        .iter()
        .fold(Signature::default(), |signature, (key, value)| {
            signature.with(key, value)
        });
    Tally::new(
        name,
        signature,
        units.into_iter().map(Vec::from).collect(),
        Formula::Share,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_that_of_the_sums() {
        let loss = share("loss", &[("log", "e")], [[1.0, 2.0], [5.0, 1.0]]);
        assert_eq!((loss.corpus(), loss.utterance(1)), (2.0, 5.0));
        assert!(
            loss.signature.starts_with("log:e|version:maqam-"),
            "{}",
            loss.signature
        );
        assert_eq!(share("loss", &[], []).corpus(), 0.0);
    }
}
