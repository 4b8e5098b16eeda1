//! What the name of a score says: its set, its metric, whether higher is better, and how the number is written.

use crate::report::number::Unit;

/// Which way a score should move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Up.
    Higher,
    /// Down.
    Lower,
    /// Neither: a description, such as a ratio of lengths.
    Neither,
}

/// What a metric compares; it decides which details a report can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Words against words, aligned.
    Transcription,
    /// Overlap with a reference text.
    Overlap,
    /// Labels against labels.
    Classification,
    /// How generation went wrong.
    Failure,
    /// Anything else: losses, means, judgements.
    Other,
}

/// A score's name taken apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// The whole name, `<set>.<metric>@<normaliser>`.
    pub full: String,
    /// Name of the set; `None` for scores over all sets.
    pub set: Option<String>,
    /// Name of the metric.
    pub name: String,
    /// Name of the normaliser, where the score says one.
    pub normaliser: Option<String>,
    /// Which way it should move.
    pub better: Better,
    /// How it is written.
    pub unit: Unit,
    /// What it compares.
    pub family: Family,
}

/// Name, how people write it, direction, unit, family.
type Known = (&'static str, &'static str, Better, Unit, Family);

const KNOWN: [Known; 23] = [
    ("loss", "loss", Better::Lower, Unit::Plain, Family::Other),
    ("wer", "WER", Better::Lower, Unit::Percent, Family::Transcription),
    ("cer", "CER", Better::Lower, Unit::Percent, Family::Transcription),
    ("rouge1", "ROUGE-1", Better::Higher, Unit::Percent, Family::Overlap),
    ("rouge2", "ROUGE-2", Better::Higher, Unit::Percent, Family::Overlap),
    ("rougeL", "ROUGE-L", Better::Higher, Unit::Percent, Family::Overlap),
    ("rougeLsum", "ROUGE-Lsum", Better::Higher, Unit::Percent, Family::Overlap),
    ("chrf", "chrF", Better::Higher, Unit::Points, Family::Overlap),
    ("chrf++", "chrF++", Better::Higher, Unit::Points, Family::Overlap),
    ("bleu", "BLEU", Better::Higher, Unit::Points, Family::Overlap),
    ("accuracy", "accuracy", Better::Higher, Unit::Percent, Family::Classification),
    ("macro_f1", "macro F1", Better::Higher, Unit::Percent, Family::Classification),
    ("weighted_f1", "weighted F1", Better::Higher, Unit::Percent, Family::Classification),
    ("uar", "UAR", Better::Higher, Unit::Percent, Family::Classification),
    ("mean", "mean", Better::Higher, Unit::Percent, Family::Other),
    ("hit_limit", "hit the limit", Better::Lower, Unit::Percent, Family::Failure),
    ("repeated", "repeats itself", Better::Lower, Unit::Percent, Family::Failure),
    ("wrong_script", "wrong script", Better::Lower, Unit::Percent, Family::Failure),
    ("unparsed", "unparsed", Better::Lower, Unit::Percent, Family::Failure),
    ("empty", "empty", Better::Lower, Unit::Percent, Family::Failure),
    ("length_ratio", "length ratio", Better::Neither, Unit::Plain, Family::Failure),
    ("strict", "strict", Better::Higher, Unit::Percent, Family::Other),
    ("loose", "loose", Better::Higher, Unit::Percent, Family::Other),
];

impl Metric {
    /// Reads a score's name. A name that is not known is higher better and written as it is.
    pub fn of(full: &str) -> Self {
        let (stem, normaliser) = match full.split_once('@') {
            Some((stem, normaliser)) => (stem, Some(normaliser.to_owned())),
            None => (full, None),
        };
        let (set, name) = match stem.rsplit_once('.') {
            Some((set, name)) => (Some(set.to_owned()), name),
            None => (None, stem),
        };
        let (better, unit, family) = match known(name) {
            Some(&(_, _, better, unit, family)) => (better, unit, family),
            None => (Better::Higher, Unit::Plain, Family::Other),
        };
        Self { full: full.to_owned(), set, name: name.to_owned(), normaliser, better, unit, family }
    }

    /// The metric as people write it, with its normaliser: `WER (arabic-leaderboard)`.
    pub fn title(&self) -> String {
        let name = known(&self.name).map_or(self.name.as_str(), |(_, title, ..)| title);
        match &self.normaliser {
            Some(normaliser) => format!("{name} ({normaliser})"),
            None => name.to_owned(),
        }
    }

    /// The title with its unit and the way it should move: `WER % ↓`.
    pub fn heading(&self) -> String {
        let parts = [self.title(), self.unit.sign().to_owned(), self.arrow().to_owned()];
        parts.iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join(" ")
    }

    /// Set and title: `words WER`.
    pub fn name_in_full(&self) -> String {
        match &self.set {
            Some(set) => format!("{set} {}", self.title()),
            None => self.title(),
        }
    }

    fn arrow(&self) -> &'static str {
        match self.better {
            Better::Higher => "↑",
            Better::Lower => "↓",
            Better::Neither => "",
        }
    }

    /// The place in `values` of the best of them; `None` where no value is better than another.
    pub fn best(&self, values: &[Option<f64>]) -> Option<usize> {
        let known = || values.iter().enumerate().filter_map(|(i, value)| value.filter(|value| value.is_finite()).map(|value| (i, value)));
        let sign = match self.better {
            Better::Higher => 1.0,
            Better::Lower => -1.0,
            Better::Neither => return None,
        };
        let (best, value) = known().max_by(|a, b| (sign * a.1).total_cmp(&(sign * b.1)))?;
        known().any(|(_, other)| other != value).then_some(best)
    }
}

fn known(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|(known, ..)| *known == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let metric = Metric::of("dev.words.wer@arabic-leaderboard");
        assert_eq!((metric.set.as_deref(), metric.name.as_str(), metric.normaliser.as_deref()), (Some("dev.words"), "wer", Some("arabic-leaderboard")));
        assert_eq!(metric.heading(), "WER (arabic-leaderboard) % ↓");
        let mean = Metric::of("mean");
        assert_eq!((mean.set.as_deref(), mean.name_in_full().as_str()), (None, "mean"));
        let own = Metric::of("gist.my_score");
        assert_eq!((own.better, own.unit, own.heading().as_str()), (Better::Higher, Unit::Plain, "my_score ↑"));
    }

    #[test]
    fn the_best_is_the_best_in_its_direction() {
        assert_eq!(Metric::of("a.wer").best(&[Some(0.3), Some(0.1), None, Some(f64::NAN)]), Some(1));
        assert_eq!(Metric::of("a.uar").best(&[Some(0.3), Some(0.1)]), Some(0));
        assert_eq!(Metric::of("a.uar").best(&[Some(0.3), Some(0.3)]), None, "nothing is best among equals");
        assert_eq!(Metric::of("a.length_ratio").best(&[Some(0.3), Some(0.1)]), None);
    }
}
