//! Word errors apart for each script of code-switched speech.

use rayon::prelude::*;

use crate::Counts;
use crate::alignment::Aligned;
use crate::alignment::align_pair;
use crate::edit::Unit;
use crate::edit::signature;
use crate::script::WordScript;
use crate::tally::Formula;
use crate::tally::Tally;
use crate::texts::Texts;

/// The word error rate apart for each script that occurs: `wer_arabic`, `wer_latin`, `wer_digits`,
/// `wer_other`.
///
/// A reference word counts, with its error, for the script it is written in; an inserted word,
/// which no reference word stands for, counts for its own. The vectors are those of the word error
/// rate and add up to them over the scripts.
pub fn tallies(texts: &Texts) -> Vec<Tally> {
    let by_script: Vec<[Counts; 4]> = texts
        .pairs()
        .par_iter()
        .map(|pair| counts(&align_pair(pair)))
        .collect();
    let signature = signature(texts, Unit::Words)
        .with("script", "most-letters")
        .with("inserted", "own-script");
    let mut tallies = Vec::new();
    for script in WordScript::ALL {
        let units = by_script
            .iter()
            .map(|counts| counts[script as usize].unit());
        let units: Vec<Vec<f64>> = units.collect();
        if units.iter().flatten().any(|&count| count > 0.0) {
            let name = texts.normaliser.named(&format!("wer_{}", script.name()));
            let formula = Formula::Errors(0..3);
            tallies.push(Tally::new(name, signature.clone(), units, formula));
        }
    }
    tallies
}

/// Errors by script, in the order of [`WordScript::ALL`].
fn counts(alignment: &[Aligned]) -> [Counts; 4] {
    let mut counts = [Counts::default(); 4];
    for aligned in alignment {
        let word = aligned
            .reference()
            .or(aligned.prediction())
            .unwrap_or_default();
        counts[WordScript::of(word) as usize].count(aligned.step());
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Normaliser;
    use crate::Pair;
    use crate::edit;

    #[test]
    fn errors_fall_to_the_script_of_the_reference_word() {
        let pairs = vec![
            Pair::new(
                "عندي meeting الساعة 10 غدا",
                "عندي ميتنج الساعة عشرة يا man غدا",
            ),
            Pair::new("ok", "ok ok"),
        ];
        let found = tallies(&Texts::new(pairs.clone(), Normaliser::None));
        let of = |name: &str| found.iter().find(|tally| tally.name == name).unwrap().sum();
        // Right: three Arabic words and one `ok`. `meeting` became `ميتنج` and `10` `man`; `عشرة`,
        // `يا` and one `ok` came in.
        assert_eq!(of("wer_arabic"), [0.0, 0.0, 2.0, 3.0]);
        assert_eq!(of("wer_latin"), [1.0, 0.0, 1.0, 1.0]);
        assert_eq!(of("wer_digits"), [1.0, 0.0, 0.0, 0.0]);
        assert_eq!(found.len(), 3, "nothing is written in another script");
        let whole = edit::tallies(&Texts::new(pairs, Normaliser::None), Unit::Words)[0].sum();
        let added = (0..4)
            .map(|i| found.iter().map(|tally| tally.sum()[i]).sum::<f64>())
            .collect::<Vec<_>>();
        assert_eq!(added, whole);
        assert!(
            found[0]
                .signature
                .contains("|script:most-letters|inserted:own-script|")
        );
    }
}
