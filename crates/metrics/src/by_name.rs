//! The tallies of texts by the names that suites and commands use; what belongs together is worked out once.

use crate::bleu;
use crate::by_script;
use crate::chrf;
use crate::edit;
use crate::failures;
use crate::rouge;
use crate::tally::Better;
use crate::tally::Tally;
use crate::texts::Texts;

/// What metrics leave open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// What ROUGE folds.
    pub fold: rouge::Fold,
    /// How BLEU cuts.
    pub tokeniser: bleu::Tokeniser,
}

/// The tallies whose metric (the name without `@normaliser`) is `wanted`, in a fixed order: errors of words, whole and by script, errors
/// of characters, ROUGE, chrF, chrF++, BLEU, failures. `hit_limit` is not among them: it is no matter of texts.
pub fn of_texts(texts: &Texts, settings: Settings, wanted: impl Fn(&str) -> bool) -> Vec<Tally> {
    let any = |names: &[&str]| names.iter().any(|name| wanted(name));
    let mut found = Vec::new();
    if any(&["wer", "substitutions", "deletions", "insertions"]) {
        found.extend(edit::tallies(texts, edit::Unit::Words));
    }
    if any(&["wer_arabic", "wer_latin", "wer_digits", "wer_other"]) {
        found.extend(by_script::tallies(texts));
    }
    if any(&[
        "cer",
        "char_substitutions",
        "char_deletions",
        "char_insertions",
    ]) {
        found.extend(edit::tallies(texts, edit::Unit::Characters));
    }
    if any(&rouge::NAMES) {
        found.extend(rouge::tallies(texts, settings.fold));
    }
    for (name, variant) in [
        ("chrf", chrf::Variant::ChrF),
        ("chrfpp", chrf::Variant::ChrFPlusPlus),
    ] {
        if wanted(name) {
            found.push(chrf::tally(texts, variant));
        }
    }
    if wanted("bleu") {
        found.push(bleu::tally(texts, settings.tokeniser));
    }
    if any(&failures::NAMES) {
        found.extend(failures::tallies(texts));
    }
    found.retain(|tally| wanted(tally.metric()));
    found
}

/// Whether a metric looks at normalised texts, so that its scores are named with `@normaliser`.
pub fn is_normalised(metric: &str) -> bool {
    !failures::NAMES.contains(&metric)
        && metric != "hit_limit"
        && !matches!(metric, "accuracy" | "macro_f1" | "weighted_f1" | "uar")
}

/// Which way a metric is good, by its name with or without `@normaliser`; what is not known is better high.
pub fn better(name: &str) -> Better {
    let metric = name.split('@').next().unwrap_or(name);
    let is_error = ["wer", "cer", "substitutions", "deletions", "insertions"].contains(&metric)
        || metric.starts_with("wer_")
        || metric.starts_with("char_");
    match metric {
        "length_ratio" => Better::NearOne,
        "hit_limit" | "repetition" | "seq_rep_4" | "wrong_script" | "insertion_share"
        | "unparsed" | "loss" => Better::Lower,
        _ if is_error => Better::Lower,
        _ => Better::Higher,
    }
}

/// The least and the largest value that a metric can have, by its name with or without set and `@normaliser`; unbounded where it is not known.
pub fn range(name: &str) -> (f64, f64) {
    let metric = name.split('@').next().unwrap_or(name);
    let metric = metric
        .rsplit('.')
        .next()
        .unwrap_or(metric)
        .trim_start_matches("likelihood_");
    match metric {
        "bleu" | "chrf" | "chrfpp" => (0.0, 100.0),
        "length_ratio" | "loss" => (0.0, f64::INFINITY),
        // An answer can be wrong more often than it has words.
        "wer" | "cer" | "substitutions" | "deletions" | "insertions" => (0.0, f64::INFINITY),
        _ if metric.starts_with("wer_") || metric.starts_with("char_") => (0.0, f64::INFINITY),
        "accuracy" | "macro_f1" | "weighted_f1" | "uar" | "mean" | "hit_limit" | "unparsed" => {
            (0.0, 1.0)
        }
        _ if rouge::NAMES.contains(&metric) || failures::NAMES.contains(&metric) => (0.0, 1.0),
        _ => (f64::NEG_INFINITY, f64::INFINITY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Normaliser;
    use crate::Pair;

    #[test]
    fn what_is_wanted_comes_once_and_in_order() {
        let texts = Texts::new(
            vec![Pair::new("كتاب a 1", "كتاب b 2")],
            Normaliser::ArabicLeaderboard,
        );
        let names = |wanted: &dyn Fn(&str) -> bool| {
            of_texts(&texts, Settings::default(), wanted)
                .into_iter()
                .map(|tally| tally.name)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            names(&|name| ["cer", "wer", "bleu", "hit_limit"].contains(&name)),
            ["wer", "cer", "bleu"].map(|name| format!("{name}@arabic-leaderboard"))
        );
        let all = names(&|_| true);
        assert_eq!(all.len(), 4 + 3 + 4 + 4 + 2 + 1 + 5);
        assert!(
            all.contains(&"wer_digits@arabic-leaderboard".to_owned())
                && all.contains(&"repetition".to_owned()),
            "{all:?}"
        );
    }

    #[test]
    fn names_say_what_tallies_say() {
        let texts = Texts::new(
            vec![Pair::new("كتاب a 1 -", "كتاب b 2")],
            Normaliser::ArabicLeaderboard,
        );
        let labels = crate::classify::tallies(&[("a", Some("a"))], None, "as-is").unwrap();
        for tally in of_texts(&texts, Settings::default(), |_| true)
            .iter()
            .chain(&labels)
            .chain([&failures::hit_limit(&[true])])
        {
            assert_eq!(better(&tally.name), tally.better, "{}", tally.name);
            let (low, high) = range(&tally.name);
            assert!(
                low == 0.0 && (low..=high).contains(&tally.corpus()),
                "{}",
                tally.name
            );
            assert_eq!(
                is_normalised(tally.metric()),
                tally.name.contains('@'),
                "{}",
                tally.name
            );
        }
        assert_eq!(
            (
                range("moods.likelihood_uar"),
                range("set.rougeL@none").1,
                range("judged")
            ),
            ((0.0, 1.0), 1.0, (f64::NEG_INFINITY, f64::INFINITY))
        );
        assert_eq!(
            (better("loss"), better("mean")),
            (Better::Lower, Better::Higher)
        );
    }
}
