//! Every metric, one row each: how it is named, written and judged, what it is computed from, and
//! which tasks have it.
//!
//! A new metric is one file that computes it and one row here. Suites, tables, charts and tests of
//! significance read the row.

use self::Family as F;
use self::Place::Detail;
use self::Place::Main;
use self::Place::Part;
use self::Scale::Plain;
use self::Scale::Points;
use self::Scale::Share;
use self::Source::Elsewhere;
use self::Source::Labels;
use self::Source::Likelihood;
use self::Source::Limits;
use self::Source::Losses;
use self::Source::Normalised;
use self::Source::Readings;
use self::Source::Written;
use self::Standing::Default;
use self::Standing::Headline;
use self::Standing::Listed;
use crate::TaskKind;
use crate::TaskKind::Classify;
use crate::TaskKind::Generate;
use crate::TaskKind::Transcribe;
use crate::bleu;
use crate::by_script;
use crate::chrf;
use crate::edit;
use crate::failures;
use crate::rouge;
use crate::score_name::ScoreName;
use crate::tally::Better;
use crate::tally::Better::Higher;
use crate::tally::Better::Lower;
use crate::tally::Better::NearOne;
use crate::tally::Tally;
use crate::texts::Texts;

/// How a score is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// A fraction, shown times 100: a share, a rate, F1.
    Share,
    /// Points from 0 to 100, as BLEU and chrF are given.
    Points,
    /// A number as it is: a loss, a ratio.
    Plain,
}

/// What a metric compares; it decides which details a report can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// The loss of the targets, which is no score of answers.
    Loss,
    /// Words against words, aligned.
    Transcription,
    /// Overlap with a reference text.
    Overlap,
    /// Labels against labels.
    Classification,
    /// How generation went wrong.
    Failure,
    /// Anything else: means, judgements.
    Other,
}

impl Family {
    /// Whether the metric says how good answers are: no loss, and no way in which generation fails.
    pub fn is_quality(self) -> bool {
        !matches!(self, Self::Loss | Self::Failure)
    }
}

/// When a set of a suite has the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Where the set lists no metrics. A task that names no metric stands by this one.
    Headline,
    /// Where the set lists no metrics.
    Default,
    /// Where the set lists it.
    Listed,
}

/// Where tables and figures that choose for themselves show the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On a line of its own.
    Main,
    /// Indented below the rate that it is a part of.
    Part,
    /// Nowhere: it is a detail for those who ask for it by name.
    Detail,
}

/// What metrics leave open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// What ROUGE folds.
    pub fold: rouge::Fold,
    /// How BLEU cuts.
    pub tokeniser: bleu::Tokeniser,
}

/// Computes the tallies of a group from a corpus of texts.
pub(crate) type OfTexts = fn(&Texts, Settings) -> Vec<Tally>;

/// What a group of metrics is computed from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source {
    /// Texts under a normaliser, which the score's name says after `@`.
    Normalised(OfTexts),
    /// Texts as they were written.
    Written(OfTexts),
    /// Labels that were read from answers.
    Labels,
    /// Whether an answer names a label at all.
    Readings,
    /// Labels that were chosen by the likelihood of their answers.
    Likelihood,
    /// Whether an answer stopped at the limit of new tokens.
    Limits,
    /// Negative log-likelihoods of the targets.
    Losses,
    /// Other scores, or checks of instructions.
    Elsewhere,
}

impl Source {
    pub(crate) fn is_losses(self) -> bool {
        matches!(self, Self::Losses)
    }

    pub(crate) fn is_limits(self) -> bool {
        matches!(self, Self::Limits)
    }

    pub(crate) fn is_of_labels(self) -> bool {
        matches!(self, Self::Labels | Self::Readings)
    }

    pub(crate) fn is_likelihood(self) -> bool {
        matches!(self, Self::Likelihood)
    }
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    /// Name in suites, scores and tallies.
    pub name: &'static str,
    /// Name as people write it.
    pub title: &'static str,
    /// How its scores are written.
    pub scale: Scale,
    /// Least and largest score that it can have.
    pub range: (f64, f64),
    /// Which way it is good.
    pub better: Better,
    /// What it compares.
    pub family: Family,
    /// Kinds of tasks that may list it.
    pub kinds: &'static [TaskKind],
    /// When a set has it.
    pub standing: Standing,
    /// Where tables show it.
    pub place: Place,
}

/// Metrics that are computed together.
pub(crate) struct Group {
    pub(crate) source: Source,
    pub(crate) metrics: &'static [Definition],
}

/// Where a share ends.
const UNIT: (f64, f64) = (0.0, 1.0);
/// Where a score in points ends.
const HUNDRED: (f64, f64) = (0.0, 100.0);
/// Where a rate, a ratio or a loss ends: an answer can be wrong more often than its reference has
/// words.
const POSITIVE: (f64, f64) = (0.0, f64::INFINITY);
/// Where a score ends of which nothing is known.
const ANY: (f64, f64) = (f64::NEG_INFINITY, f64::INFINITY);

/// Kinds of tasks: all, those whose answers are texts, one each, none.
const ALL: &[TaskKind] = &[Transcribe, Generate, Classify];
const TEXTS: &[TaskKind] = &[Transcribe, Generate];
const SPEECH: &[TaskKind] = &[Transcribe];
const WRITING: &[TaskKind] = &[Generate];
const LABELS: &[TaskKind] = &[Classify];
const NONE: &[TaskKind] = &[];

/// The table. Scores of texts come in its order; groups that are computed together stand together.
// One row a line can be compared with its neighbours; rustfmt would take nine lines for each.
#[rustfmt::skip]
pub(crate) static GROUPS: &[Group] = &[
    group(Losses, &[
        row("loss", "loss", Plain, POSITIVE, Lower, F::Loss, ALL, Default, Main),
    ]),
    group(Normalised(|texts, _| edit::tallies(texts, edit::Unit::Words)), &[
        row("wer", "WER", Share, POSITIVE, Lower, F::Transcription, SPEECH, Headline, Main),
        row("substitutions", "substitutions", Share, POSITIVE, Lower, F::Transcription, SPEECH, Listed, Part),
        row("deletions", "deletions", Share, POSITIVE, Lower, F::Transcription, SPEECH, Listed, Part),
        row("insertions", "insertions", Share, POSITIVE, Lower, F::Transcription, SPEECH, Listed, Part),
    ]),
    group(Normalised(|texts, _| by_script::tallies(texts)), &[
        row("wer_arabic", "WER, Arabic", Share, POSITIVE, Lower, F::Transcription, SPEECH, Listed, Main),
        row("wer_latin", "WER, Latin", Share, POSITIVE, Lower, F::Transcription, SPEECH, Listed, Main),
        row("wer_digits", "WER, digits", Share, POSITIVE, Lower, F::Transcription, SPEECH, Listed, Main),
        row("wer_other", "WER, other scripts", Share, POSITIVE, Lower, F::Transcription, SPEECH, Listed, Main),
    ]),
    group(Normalised(|texts, _| edit::tallies(texts, edit::Unit::Characters)), &[
        row("cer", "CER", Share, POSITIVE, Lower, F::Transcription, SPEECH, Default, Main),
        row("char_substitutions", "character substitutions", Share, POSITIVE, Lower, F::Transcription, SPEECH, Listed, Detail),
        row("char_deletions", "character deletions", Share, POSITIVE, Lower, F::Transcription, SPEECH, Listed, Detail),
        row("char_insertions", "character insertions", Share, POSITIVE, Lower, F::Transcription, SPEECH, Listed, Detail),
    ]),
    group(Normalised(|texts, settings| rouge::tallies(texts, settings.fold).into()), &[
        row("rouge1", "ROUGE-1", Share, UNIT, Higher, F::Overlap, WRITING, Default, Main),
        row("rouge2", "ROUGE-2", Share, UNIT, Higher, F::Overlap, WRITING, Default, Main),
        row("rougeL", "ROUGE-L", Share, UNIT, Higher, F::Overlap, WRITING, Headline, Main),
        row("rougeLsum", "ROUGE-Lsum", Share, UNIT, Higher, F::Overlap, WRITING, Listed, Main),
    ]),
    group(Normalised(|texts, _| vec![chrf::tally(texts, chrf::Variant::ChrF)]), &[
        row("chrf", "chrF", Points, HUNDRED, Higher, F::Overlap, WRITING, Listed, Main),
    ]),
    group(Normalised(|texts, _| vec![chrf::tally(texts, chrf::Variant::ChrFPlusPlus)]), &[
        row("chrfpp", "chrF++", Points, HUNDRED, Higher, F::Overlap, WRITING, Listed, Main),
    ]),
    group(Normalised(|texts, settings| vec![bleu::tally(texts, settings.tokeniser)]), &[
        row("bleu", "BLEU", Points, HUNDRED, Higher, F::Overlap, WRITING, Listed, Main),
    ]),
    group(Labels, &[
        row("accuracy", "accuracy", Share, UNIT, Higher, F::Classification, LABELS, Default, Main),
        row("macro_f1", "macro F1", Share, UNIT, Higher, F::Classification, LABELS, Default, Main),
        row("weighted_f1", "weighted F1", Share, UNIT, Higher, F::Classification, LABELS, Default, Main),
        row("uar", "UAR", Share, UNIT, Higher, F::Classification, LABELS, Headline, Main),
    ]),
    group(Limits, &[
        row("hit_limit", "stopped at the token limit", Share, UNIT, Lower, F::Failure, ALL, Listed, Main),
    ]),
    group(Written(|texts, _| failures::tallies(texts).into()), &[
        row("repetition", "answer repeats itself", Share, UNIT, Lower, F::Failure, ALL, Listed, Main),
        row("seq_rep_4", "repeated 4-grams", Share, UNIT, Lower, F::Failure, ALL, Listed, Detail),
        row("wrong_script", "letters of another script", Share, UNIT, Lower, F::Failure, TEXTS, Listed, Main),
        row("insertion_share", "inserted words", Share, UNIT, Lower, F::Failure, TEXTS, Listed, Main),
        row("length_ratio", "length of answer / reference", Plain, POSITIVE, NearOne, F::Failure, TEXTS, Listed, Main),
    ]),
    group(Readings, &[
        row("unparsed", "named no label", Share, UNIT, Lower, F::Failure, LABELS, Listed, Main),
    ]),
    group(Likelihood, &[
        row("likelihood_accuracy", "accuracy by likelihood", Share, UNIT, Higher, F::Other, LABELS, Default, Main),
        row("likelihood_macro_f1", "macro F1 by likelihood", Share, UNIT, Higher, F::Other, LABELS, Default, Main),
        row("likelihood_weighted_f1", "weighted F1 by likelihood", Share, UNIT, Higher, F::Other, LABELS, Default, Main),
        row("likelihood_uar", "UAR by likelihood", Share, UNIT, Higher, F::Other, LABELS, Default, Main),
    ]),
    group(Elsewhere, &[
        row("mean", "mean", Share, UNIT, Higher, F::Other, NONE, Listed, Main),
        row("strict", "strict", Share, ANY, Higher, F::Other, NONE, Listed, Main),
        row("loose", "loose", Share, ANY, Higher, F::Other, NONE, Listed, Main),
        row("prompt_strict", "rows, strict", Share, ANY, Higher, F::Other, NONE, Listed, Main),
        row("prompt_loose", "rows, loose", Share, ANY, Higher, F::Other, NONE, Listed, Main),
        row("instruction_strict", "instructions, strict", Share, ANY, Higher, F::Other, NONE, Listed, Main),
        row("instruction_loose", "instructions, loose", Share, ANY, Higher, F::Other, NONE, Listed, Main),
    ]),
];

const fn group(source: Source, metrics: &'static [Definition]) -> Group {
    Group { source, metrics }
}

const fn row(
    name: &'static str,
    title: &'static str,
    scale: Scale,
    range: (f64, f64),
    better: Better,
    family: Family,
    kinds: &'static [TaskKind],
    standing: Standing,
    place: Place,
) -> Definition {
    Definition {
        name,
        title,
        scale,
        range,
        better,
        family,
        kinds,
        standing,
        place,
    }
}

impl Definition {
    /// The metric of that name, without set and `@normaliser`.
    pub fn find(metric: &str) -> Option<&'static Self> {
        all().find(|known| known.name == metric)
    }

    /// Whether the metric looks at normalised texts, so that its scores are named with
    /// `@normaliser`.
    pub fn is_normalised(&self) -> bool {
        matches!(self.source(), Source::Normalised(_))
    }

    /// Whether the metric looks at the texts of answers, and so says nothing of an answer that is
    /// read as a label.
    pub fn is_of_texts(&self) -> bool {
        matches!(self.source(), Source::Normalised(_) | Source::Written(_))
    }

    /// Whether the metric looks at the labels that were read from answers.
    pub fn is_of_labels(&self) -> bool {
        self.source().is_of_labels()
    }

    /// Whether the metric takes a pass over every label of every row.
    pub fn is_by_likelihood(&self) -> bool {
        self.source().is_likelihood()
    }

    /// Whether the metric is the loss of the targets, a pass of its own.
    pub fn is_loss(&self) -> bool {
        self.source().is_losses()
    }

    /// Whether a task of this kind may stand by the metric: what is computed of its answers alone.
    pub fn is_of_answers(&self) -> bool {
        matches!(
            self.source(),
            Source::Normalised(_) | Source::Written(_) | Source::Labels | Source::Limits
        )
    }

    fn source(&self) -> Source {
        let own = GROUPS
            .iter()
            .find(|group| group.metrics.iter().any(|known| known.name == self.name));
        own.map_or(Source::Elsewhere, |group| group.source)
    }
}

impl ScoreName<'_> {
    /// The row of the metric; `None` for a metric that maqam does not compute.
    pub fn definition(&self) -> Option<&'static Definition> {
        Definition::find(self.metric)
    }
}

impl Tally {
    /// Which way the metric is good.
    pub fn better(&self) -> Better {
        better(&self.name)
    }

    /// A score as a number in `[0, 1]`, higher better, for a mean over unlike metrics: 1 -
    /// min(rate, 1) for errors, a hundredth of a score that runs to 100, and for a ratio its
    /// distance from 1 on either side.
    pub fn goodness(&self, score: f64) -> f64 {
        let scale = Definition::find(self.metric()).map(|known| known.scale);
        match (self.better(), scale) {
            (Better::Lower, _) => 1.0 - score.min(1.0),
            (Better::Higher, Some(Scale::Points)) => score / 100.0,
            (Better::Higher, _) => score,
            (Better::NearOne, _) => self.better().rank(score),
        }
    }
}

impl TaskKind {
    /// Names of the metrics of the kind's answers, in the order of the table: what tasks stand by.
    pub fn metrics(self) -> Vec<&'static str> {
        let own = self.definitions().filter(|known| known.is_of_answers());
        own.map(|known| known.name).collect()
    }

    /// Everything that a set of such a task may list, in the order of the table.
    pub fn definitions(self) -> impl Iterator<Item = &'static Definition> {
        all().filter(move |known| known.kinds.contains(&self))
    }

    /// The metric of a task that names none.
    pub fn headline(self) -> &'static str {
        let mut own = self.definitions();
        own.find(|known| known.standing == Standing::Headline)
            .map_or("", |known| known.name)
    }
}

/// Every metric, in the order of the table.
pub fn all() -> impl Iterator<Item = &'static Definition> {
    GROUPS.iter().flat_map(|group| group.metrics)
}

/// Which way a score is good, by its name with or without set and `@normaliser`; what is not known
/// is better high.
pub fn better(score: &str) -> Better {
    ScoreName::parse(score)
        .definition()
        .map_or(Better::Higher, |known| known.better)
}

/// The least and the largest value that a score can have, by its name with or without set and
/// `@normaliser`; unbounded where it is not known.
pub fn range(score: &str) -> (f64, f64) {
    ScoreName::parse(score)
        .definition()
        .map_or(ANY, |known| known.range)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_and_titles_are_unique() {
        let names: BTreeSet<&str> = all().map(|known| known.name).collect();
        let titles: BTreeSet<&str> = all().map(|known| known.title).collect();
        assert_eq!([names.len(), titles.len()], [all().count(); 2]);
    }

    #[test]
    fn every_kind_has_one_headline() {
        let headlines = ALL.iter().map(|kind| {
            let own = kind.definitions();
            let own = own.filter(|known| known.standing == Standing::Headline);
            own.map(|known| known.name).collect::<Vec<_>>()
        });
        assert_eq!(
            headlines.collect::<Vec<_>>(),
            [["wer"], ["rougeL"], ["uar"]]
        );
        assert_eq!(TaskKind::Classify.headline(), "uar");
    }
}
