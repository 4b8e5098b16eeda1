//! The utterances that went worst, to be read and heard.

use crate::error::Result;
use crate::report::alignment;
use crate::report::chapter::Chapter;
use crate::report::metric::Family;
use crate::report::metric::Metric;
use crate::report::number;
use crate::report::number::Unit;
use crate::report::page::Block;
use crate::report::page::Section;
use crate::report::predictions::Prediction;
use crate::report::rescore;
use crate::report::utterance::Utterance;

/// How many utterances of a set are shown, and how many of them at once.
const SHOWN: usize = 12;
const AT_ONCE: usize = 4;

/// The section; empty where nothing went wrong.
///
/// # Errors
/// Audio that cannot be read.
pub fn section(chapter: &Chapter) -> Result<Section> {
    let mut blocks = Vec::new();
    for (set, rows) in &chapter.predictions {
        let Some(metric) = metric_to_judge_by(chapter, set) else { continue };
        let worst = worst(&metric, rows);
        if worst.is_empty() {
            continue;
        }
        blocks.push(Block::Heading(set.clone()));
        blocks.push(Block::Prose(explain(&metric, rows.len(), worst.len())));
        let mut shown = Vec::new();
        for (badness, row) in &worst {
            shown.push(utterance(chapter, set, &metric, *badness, row)?);
        }
        let rest = shown.split_off(shown.len().min(AT_ONCE));
        blocks.push(Block::Utterances(shown));
        if !rest.is_empty() {
            blocks.push(Block::Folded(format!("{} more of {set}", rest.len()), vec![Block::Utterances(rest)]));
        }
    }
    if blocks.iter().any(links_audio) {
        blocks.insert(0, Block::Prose("Audio is linked from where it lies; with --audio short clips are put into the page.".to_owned()));
    }
    Ok(Section::new(chapter.id("utterances"), "Worst utterances", blocks))
}

fn links_audio(block: &Block) -> bool {
    let is_link = |utterance: &Utterance| utterance.audio.as_ref().is_some_and(|audio| !audio.starts_with("data:"));
    matches!(block, Block::Utterances(utterances) if utterances.iter().any(is_link))
}

/// The metric whose worst rows are shown; for texts that are no transcripts one of those that a single row can be scored by.
fn metric_to_judge_by(chapter: &Chapter, set: &str) -> Option<Metric> {
    let metrics = chapter.metrics_of(set);
    let found = metrics.iter().find(|metric| matches!(metric.family, Family::Transcription | Family::Classification | Family::Overlap))?;
    if found.family != Family::Overlap {
        return Some(found.clone());
    }
    let is_of_rows = |metric: &&Metric| metric.family == Family::Overlap && metric.name.starts_with("rouge");
    Some(metrics.iter().find(is_of_rows).cloned().unwrap_or_else(|| Metric::of(&format!("{set}.rougeL"))))
}

fn explain(metric: &Metric, rows: usize, shown: usize) -> String {
    let rows = number::count(rows as f64);
    match metric.family {
        Family::Transcription => format!("The {shown} of {rows} with the most wrong words. Above, what was said; below, what was written."),
        Family::Classification => format!("{shown} of {rows}: first those without a label, then the most frequent confusions."),
        _ => format!("The {shown} of {rows} that share the least with their reference."),
    }
}

/// The worst rows of a set, each with how bad it is by its metric, the worst first; rows without fault are in none.
fn worst<'a>(metric: &Metric, rows: &'a [Prediction]) -> Vec<(f64, &'a Prediction)> {
    let mut found: Vec<(f64, f64, &Prediction)> = match metric.family {
        Family::Transcription => {
            let normaliser = rescore::normaliser(metric).unwrap_or_default();
            let errors = |row: &Prediction| crate::metrics::word_errors(&normaliser.apply(&row.reference), &normaliser.apply(&row.prediction));
            rows.iter()
                .map(|row| (errors(row), row))
                .map(|(counts, row)| (counts.errors() as f64, counts.rate(), row))
                .filter(|(errors, ..)| *errors > 0.0)
                .collect()
        }
        Family::Classification => {
            let mut confusions: std::collections::HashMap<(&str, Option<&str>), f64> = std::collections::HashMap::new();
            rows.iter().for_each(|row| *confusions.entry((row.label(), row.answer.as_deref())).or_default() += 1.0);
            let wrong = rows.iter().filter(|row| row.answer.as_deref() != Some(row.label()));
            wrong.map(|row| (if row.answer.is_none() { f64::MAX } else { confusions[&(row.label(), row.answer.as_deref())] }, 1.0, row)).collect()
        }
        _ => {
            let score = |row: &Prediction| rescore::score(metric, &[row]).unwrap_or(0.0);
            rows.iter().map(|row| (1.0 - score(row), score(row), row)).filter(|(badness, ..)| *badness > 0.0).collect()
        }
    };
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1)).then_with(|| a.2.id.cmp(&b.2.id)));
    found.into_iter().take(SHOWN).map(|(_, shown, row)| (shown, row)).collect()
}

fn utterance(chapter: &Chapter, set: &str, metric: &Metric, badness: f64, row: &Prediction) -> Result<Utterance> {
    let mut notes = Vec::new();
    match metric.family {
        Family::Transcription => notes.push(format!("WER {} %", Unit::Percent.format(badness))),
        Family::Classification => notes.push(format!("{} → {}", row.label(), row.answer.as_deref().unwrap_or("no label"))),
        _ => notes.push(format!("{} {} %", metric.title(), Unit::Percent.format(badness))),
    }
    let known = [&row.meta.speaker, &row.meta.dialect, &row.meta.gender];
    notes.extend(known.into_iter().flatten().cloned());
    notes.extend(row.meta.seconds.map(number::duration));
    if row.meta.hit_limit {
        notes.push("hit the limit of tokens".to_owned());
    }
    let aligned = if metric.family == Family::Transcription { alignment::align(&row.reference, &row.prediction) } else { None };
    Ok(Utterance {
        id: row.id.clone(),
        notes,
        reference: row.reference.clone(),
        answer: row.prediction.clone(),
        alignment: aligned,
        audio: (chapter.audio)(set, &row.id)?,
    })
}
