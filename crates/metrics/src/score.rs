//! The scorer: the tallies of answers by whatever metrics are wanted. What belongs together is
//! computed once.

use crate::classify;
use crate::failures;
use crate::normalise::Normaliser;
use crate::registry;
use crate::registry::Definition;
use crate::registry::GROUPS;
use crate::registry::Settings;
use crate::registry::Source;
use crate::share::share;
use crate::tally::Tally;
use crate::texts::Pair;
use crate::texts::Texts;
use maqam_base::error::Result;

/// Answers beside what they should be: every list has an entry for each row, in one order. What is
/// unknown of a row is unknown of all.
#[derive(Clone, Debug, Default)]
pub struct Answers<'a> {
    /// Answers and their references as texts.
    pub pairs: Vec<Pair<'a>>,
    /// Answers as labels.
    pub labels: Option<Labels<'a>>,
    /// Whether an answer stopped at the limit of new tokens.
    pub stopped: Option<Vec<bool>>,
    /// Negative log-likelihood of the target's tokens, in nats, and their number.
    pub losses: Option<Vec<[f64; 2]>>,
}

/// Answers as labels of an inventory.
#[derive(Clone, Debug, Default)]
pub struct Labels<'a> {
    /// The inventory.
    pub inventory: Vec<&'a str>,
    /// The label that each answer should name.
    pub due: Vec<&'a str>,
    /// The ways in which answers were read.
    pub readings: Vec<Reading>,
    /// The label whose answer is the likeliest.
    pub likeliest: Option<Vec<Option<String>>>,
}

/// Labels that were read from answers in one way.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The way, as signatures name it.
    pub parse: &'static str,
    /// What names of scores say of it after `@`.
    pub variant: Option<&'static str>,
    /// The label that an answer names.
    pub labels: Vec<Option<String>>,
}

impl Answers<'_> {
    /// The tallies of the wanted metrics, as far as what they need is known: the loss; texts under
    /// each normaliser; labels under each reading, then by likelihood; texts as written; limits.
    ///
    /// # Errors
    /// A label that should be named and that the inventory lacks.
    pub fn tallies(
        &self,
        normalisers: &[Normaliser],
        settings: Settings,
        wanted: &dyn Fn(&Definition) -> bool,
    ) -> Result<Vec<Tally>> {
        let mut found = Vec::new();
        if let Some(losses) = &self.losses {
            let over = [("unit", "nats"), ("over", "target-tokens")];
            let tally = |known: &Definition| share(known.name, &over, losses.iter().copied());
            found.extend(
                of(Source::is_losses)
                    .filter(|known| wanted(known))
                    .map(tally),
            );
        }

        let normalised = |known: &Definition| known.is_normalised() && wanted(known);
        if registry::all().any(normalised) {
            for &normaliser in normalisers {
                let texts = Texts::new(self.pairs.clone(), normaliser);
                found.extend(of_texts(&texts, settings, normalised));
            }
        }

        if let Some(labels) = &self.labels {
            found.extend(labels.tallies(wanted)?);
        }

        let written =
            |known: &Definition| known.is_of_texts() && !known.is_normalised() && wanted(known);
        if registry::all().any(written) {
            let texts = Texts::new(self.pairs.clone(), Normaliser::None);
            found.extend(of_texts(&texts, settings, written));
        }

        if let Some(stopped) = &self.stopped {
            let limits = of(Source::is_limits).filter(|known| wanted(known));
            found.extend(limits.map(|_| failures::hit_limit(stopped)));
        }
        Ok(found)
    }
}

impl Labels<'_> {
    fn tallies(&self, wanted: &dyn Fn(&Definition) -> bool) -> Result<Vec<Tally>> {
        let is_wanted = |tally: &Tally| Definition::find(tally.metric()).is_some_and(wanted);
        let mut found = Vec::new();
        if of(Source::is_of_labels).any(wanted) {
            for reading in &self.readings {
                let mut tallies = self.scored(&reading.labels, reading.parse)?.to_vec();
                tallies.push(classify::unparsed(&reading.labels, reading.parse));
                tallies.retain(is_wanted);
                if let Some(variant) = reading.variant {
                    let named = |tally: &mut Tally| tally.name += &format!("@{variant}");
                    tallies.iter_mut().for_each(named);
                }
                found.extend(tallies);
            }
        }

        if let Some(likeliest) = &self.likeliest
            && of(Source::is_likelihood).any(wanted)
        {
            let scored = self.scored(likeliest, "likelihood-per-token")?;
            let mut tallies = classify::by_likelihood(scored).to_vec();
            tallies.retain(is_wanted);
            found.extend(tallies);
        }
        Ok(found)
    }

    fn scored(&self, labels: &[Option<String>], parse: &str) -> Result<[Tally; 4]> {
        let named = labels.iter().map(Option::as_deref);
        let pairs: Vec<(&str, Option<&str>)> = self.due.iter().copied().zip(named).collect();
        classify::tallies(&pairs, Some(&self.inventory), parse)
    }
}

/// The metrics of one source.
fn of(is_source: fn(Source) -> bool) -> impl Iterator<Item = &'static Definition> {
    let groups = GROUPS.iter().filter(move |group| is_source(group.source));
    groups.flat_map(|group| group.metrics)
}

/// The tallies of texts by the wanted metrics, in the order of the registry.
pub fn of_texts(
    texts: &Texts,
    settings: Settings,
    wanted: impl Fn(&Definition) -> bool,
) -> Vec<Tally> {
    let mut found = Vec::new();
    for group in GROUPS {
        let (Source::Normalised(compute) | Source::Written(compute)) = group.source else {
            continue;
        };
        if group.metrics.iter().any(&wanted) {
            found.extend(compute(texts, settings));
        }
    }
    found.retain(|tally| Definition::find(tally.metric()).is_some_and(&wanted));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::better;
    use crate::registry::range;
    use crate::tally::Better;

    #[test]
    fn what_is_wanted_comes_once_and_in_order() {
        let texts = Texts::new(
            vec![Pair::new("كتاب a 1", "كتاب b 2")],
            Normaliser::ArabicLeaderboard,
        );
        let names = |wanted: &dyn Fn(&str) -> bool| {
            of_texts(&texts, Settings::default(), |known| wanted(known.name))
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
        let labels = classify::tallies(&[("a", Some("a"))], None, "as-is").unwrap();
        let unparsed = classify::unparsed(&[None], "lenient");
        let likeliest = classify::by_likelihood(labels.clone());
        for tally in of_texts(&texts, Settings::default(), |_| true)
            .iter()
            .chain(&labels)
            .chain(&likeliest)
            .chain([&unparsed, &failures::hit_limit(&[true])])
        {
            let known = Definition::find(tally.metric()).unwrap();
            let (low, high) = range(&tally.name);
            assert!(
                low == 0.0 && (low..=high).contains(&tally.corpus()),
                "{}",
                tally.name
            );
            assert_eq!(
                known.is_normalised(),
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
            [
                "loss",
                "mean",
                "words.cer@none",
                "length_ratio",
                "unparsed@strict",
                "judged"
            ]
            .map(better),
            [
                Better::Lower,
                Better::Higher,
                Better::Lower,
                Better::NearOne,
                Better::Lower,
                Better::Higher
            ]
        );
    }
}
