//! The utterances that went worst, to be read and heard.

use std::collections::HashMap;

use crate::chart::number;
use crate::chart::number::Unit;
use crate::metric::Metric;
use crate::page::Block;
use crate::page::Section;
use crate::page::escape::isolated;
use crate::rescore;
use crate::sections::chapter::Chapter;
use crate::sections::utterance::Utterance;
use maqam_base::error::Result;
use maqam_metrics::Family;
use maqam_metrics::TaskKind;
use maqam_records::prediction::Prediction;

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
        let Some(metric) = metric_to_judge_by(chapter, set) else {
            continue;
        };
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
            blocks.push(Block::Folded(
                format!("{} more of {}", rest.len(), isolated(set)),
                vec![Block::Utterances(rest)],
            ));
        }
    }
    if blocks.iter().any(links_audio) {
        blocks.insert(0, Block::Prose("Audio is linked from where it lies; with --audio short clips are put into the page.".to_owned()));
    }
    Ok(Section::new(
        chapter.id("utterances"),
        "Worst utterances",
        blocks,
    ))
}

fn links_audio(block: &Block) -> bool {
    let is_link = |utterance: &Utterance| {
        utterance
            .audio
            .as_ref()
            .is_some_and(|audio| !audio.starts_with("data:"))
    };
    matches!(block, Block::Utterances(utterances) if utterances.iter().any(is_link))
}

/// The metric whose worst rows are shown; for transcripts their word errors, for other texts one
/// that a single row can be scored by.
fn metric_to_judge_by(chapter: &Chapter, set: &str) -> Option<Metric> {
    let metrics = chapter.metrics_of(set);
    let found = metrics.iter().find(|metric| {
        matches!(
            metric.family,
            Family::Transcription | Family::Classification | Family::Overlap
        )
    })?;
    match found.family {
        Family::Transcription => {
            let words = TaskKind::Transcribe.headline();
            return Some(
                metrics
                    .iter()
                    .find(|metric| metric.name == words)
                    .cloned()
                    .unwrap_or_else(|| Metric::of(&format!("{set}.{words}"))),
            );
        }
        Family::Overlap => {}
        _ => return Some(found.clone()),
    }
    let is_of_rows =
        |metric: &&Metric| metric.family == Family::Overlap && metric.unit == Unit::Percent;
    Some(
        metrics
            .iter()
            .find(is_of_rows)
            .cloned()
            .unwrap_or_else(|| Metric::of(&format!("{set}.{}", TaskKind::Generate.headline()))),
    )
}

fn explain(metric: &Metric, rows: usize, shown: usize) -> String {
    let rows = number::count(rows as f64);
    match metric.family {
        Family::Transcription => {
            let how = metric
                .normaliser
                .as_ref()
                .map_or(String::new(), |normaliser| {
                    format!(", both under the normaliser {normaliser}")
                });
            format!(
                "The {shown} of {rows} with the most wrong words. Above, what was said; below, what was written{how}."
            )
        }
        Family::Classification => format!(
            "{shown} of {rows}: first those without a label, then the most frequent confusions."
        ),
        _ => format!("The {shown} of {rows} that share the least with their reference."),
    }
}

/// The worst rows of a set, each with its own score, the worst first; rows without fault are in
/// none.
fn worst<'a>(metric: &Metric, rows: &'a [Prediction]) -> Vec<(f64, &'a Prediction)> {
    let Some(tally) = rescore::tally(metric, rows) else {
        return Vec::new();
    };
    // What they are sorted by, their score, and the row.
    let mut found: Vec<(f64, f64, &Prediction)> = match metric.family {
        Family::Transcription => {
            // The first three of what an utterance adds are substitutions, deletions and
            // insertions.
            let errors = |unit: &[f64]| unit.iter().take(3).sum();
            rows.iter()
                .enumerate()
                .map(|(i, row)| (errors(&tally.units[i]), tally.utterance(i), row))
                .filter(|(errors, ..)| *errors > 0.0)
                .collect()
        }
        Family::Classification => {
            let mut confusions: HashMap<(&str, Option<&str>), f64> = HashMap::new();
            rows.iter().for_each(|row| {
                *confusions
                    .entry((row.label(), row.answer.as_deref()))
                    .or_default() += 1.0
            });
            let wrong = rows
                .iter()
                .filter(|row| row.answer.as_deref() != Some(row.label()));
            wrong
                .map(|row| {
                    (
                        if row.answer.is_none() {
                            f64::MAX
                        } else {
                            confusions[&(row.label(), row.answer.as_deref())]
                        },
                        0.0,
                        row,
                    )
                })
                .collect()
        }
        _ => rows
            .iter()
            .enumerate()
            .map(|(i, row)| (-tally.utterance(i), tally.utterance(i), row))
            .filter(|(_, score, _)| *score < 1.0)
            .collect(),
    };
    found.sort_by(|a, b| {
        b.0.total_cmp(&a.0)
            .then(b.1.total_cmp(&a.1))
            .then_with(|| a.2.id.cmp(&b.2.id))
    });
    found
        .into_iter()
        .take(SHOWN)
        .map(|(_, score, row)| (score, row))
        .collect()
}

/// What is known of a row that is shown with it.
const SHOWN_FIELDS: [&str; 3] = ["speaker", "dialect", "gender"];

fn utterance(
    chapter: &Chapter,
    set: &str,
    metric: &Metric,
    score: f64,
    row: &Prediction,
) -> Result<Utterance> {
    let first = match metric.family {
        Family::Classification => format!(
            "{} → {}",
            isolated(row.label()),
            isolated(row.answer.as_deref().unwrap_or("no label"))
        ),
        _ => format!("{} {} %", metric.title(), Unit::Percent.format(score)),
    };
    let fields = SHOWN_FIELDS.iter().filter_map(|field| row.known(field));
    let length = row.seconds().map(number::duration);
    let limit = row.hit_limit.then(|| "hit the limit of tokens".to_owned());
    let is_aligned = metric.family == Family::Transcription;
    // What is aligned is what was compared.
    let text = |text: &str| {
        if is_aligned {
            rescore::normaliser(metric).unwrap_or_default().apply(text)
        } else {
            text.to_owned()
        }
    };
    Ok(Utterance {
        id: row.id.clone(),
        notes: std::iter::once(first)
            .chain(fields)
            .chain(length)
            .chain(limit)
            .collect(),
        reference: text(&row.reference),
        answer: text(&row.prediction),
        is_aligned,
        audio: (chapter.audio)(set, &row.id)?,
    })
}
