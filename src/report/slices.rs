//! Scores of parts of a set: by speaker, group, dialect, gender, length and wording.

use std::collections::BTreeMap;

use crate::report::chapter::Chapter;
use crate::report::figure::slug;
use crate::report::metric::Better;
use crate::report::metric::Family;
use crate::report::metric::Metric;
use crate::report::number::Unit;
use crate::report::page::Block;
use crate::report::page::Section;
use crate::report::predictions::Prediction;
use crate::report::rescore;
use crate::report::table::Cell;
use crate::report::table::Column;
use crate::report::table::Table;

/// Most parts of a kind that are shown; of more, the worst.
const MOST_PARTS: usize = 8;
/// Parts with fewer rows say more of chance than of the model.
const FEWEST_ROWS: usize = 5;
/// Parts by length have as many rows each, as far as that goes.
const LENGTH_PARTS: usize = 4;
/// Most metrics of a table.
const MOST_METRICS: usize = 3;

/// The section; empty where nothing is known of the rows.
pub fn section(chapter: &Chapter) -> Section {
    let mut blocks = Vec::new();
    let tables: Vec<Block> = chapter.predictions.iter().filter_map(|(set, rows)| table(chapter, set, rows)).map(Block::Table).collect();
    if !tables.is_empty() {
        let text = format!("Parts of fewer than {FEWEST_ROWS} rows are left out. Of more than {MOST_PARTS} parts of a kind the worst are shown.");
        blocks.push(Block::Prose(text));
        blocks.push(Block::Beside(tables));
    }
    Section::new(chapter.id("slices"), "Slices", blocks)
}

/// The parts of one kind: name and rows.
type Parts<'a> = Vec<(String, Vec<&'a Prediction>)>;

fn table(chapter: &Chapter, set: &str, rows: &[Prediction]) -> Option<Table> {
    let all: Vec<&Prediction> = rows.iter().collect();
    let metrics: Vec<Metric> = chapter.metrics_of(set).into_iter().filter(|metric| rescore::score(metric, &all).is_some()).take(MOST_METRICS).collect();
    let first = metrics.first()?;
    let mut columns = vec![Column::text("by"), Column::text("part"), Column::number("rows")];
    columns.extend(metrics.iter().map(|metric| Column::number(metric.heading())));
    let mut table = Table::new(chapter.id(&format!("slices-{}", slug(set))), set, "", columns);
    for (kind, mut parts) in kinds(rows) {
        // Within a label there is nothing to confuse it with; the confusion matrix has that row.
        if kind == "label" && first.family == Family::Classification {
            continue;
        }
        let is_divided = parts.len() > 1;
        parts.retain(|(_, rows)| rows.len() >= FEWEST_ROWS);
        if is_divided {
            worst_of(&mut parts, first);
            add(&mut table, kind, &parts, &metrics);
        }
    }
    (!table.rows.is_empty()).then_some(table)
}

/// Keeps the worst where there are too many to show.
fn worst_of(parts: &mut Parts, metric: &Metric) {
    if parts.len() > MOST_PARTS {
        let sign = if metric.better == Better::Lower { -1.0 } else { 1.0 };
        let goodness = |rows: &[&Prediction]| rescore::score(metric, rows).map_or(f64::INFINITY, |value| sign * value);
        parts.sort_by(|a, b| goodness(&a.1).total_cmp(&goodness(&b.1)).then_with(|| a.0.cmp(&b.0)));
        parts.truncate(MOST_PARTS);
    }
}

fn add(table: &mut Table, kind: &str, parts: &Parts, metrics: &[Metric]) {
    for (i, (part, rows)) in parts.iter().enumerate() {
        let mut row = vec![Cell::text(if i == 0 { kind } else { "" }), Cell::text(part), Cell::number(rows.len() as f64, Unit::Count)];
        row.extend(metrics.iter().map(|metric| rescore::score(metric, rows).map_or(Cell::Empty, |value| Cell::number(value, metric.unit))));
        table.row(i == 0, row);
    }
}

type Field = (&'static str, fn(&Prediction) -> Option<String>);

const FIELDS: [Field; 7] = [
    ("speaker", |row| row.meta.speaker.clone()),
    ("group", |row| row.meta.group.clone()),
    ("dialect", |row| row.meta.dialect.clone()),
    ("gender", |row| row.meta.gender.clone()),
    ("language", |row| row.meta.language.clone()),
    ("label", |row| row.meta.label.clone()),
    ("wording", |row| row.meta.wording.as_ref().map(|wording| wording.as_str().map_or_else(|| wording.to_string(), str::to_owned))),
];

/// The parts of every kind; rows of which nothing is known are in none.
fn kinds(rows: &[Prediction]) -> Vec<(&'static str, Parts<'_>)> {
    let mut found: Vec<(&'static str, Parts)> = Vec::new();
    for (kind, of) in FIELDS {
        let mut parts: BTreeMap<String, Vec<&Prediction>> = BTreeMap::new();
        for row in rows {
            if let Some(part) = of(row) {
                parts.entry(part).or_default().push(row);
            }
        }
        found.push((kind, parts.into_iter().collect()));
    }
    found.push(("length", by_length(rows)));
    found
}

/// Parts of about as many rows each, from the shortest audio to the longest; equal lengths stay together.
fn by_length(rows: &[Prediction]) -> Parts<'_> {
    let mut timed: Vec<(f64, &Prediction)> = rows.iter().filter_map(|row| Some((row.meta.seconds.filter(|s| s.is_finite())?, row))).collect();
    timed.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut parts: Parts = Vec::new();
    let mut start = 0;
    for part in 0..LENGTH_PARTS {
        let mut end = timed.len() * (part + 1) / LENGTH_PARTS;
        while end > start && end < timed.len() && timed[end].0 == timed[end - 1].0 {
            end += 1;
        }
        if end > start {
            let (shortest, longest) = (timed[start].0, timed[end - 1].0);
            parts.push((format!("{shortest:.1}–{longest:.1} s"), timed[start..end].iter().map(|(_, row)| *row).collect()));
            start = end;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::predictions::Meta;

    #[test]
    fn lengths_are_divided_evenly_and_every_row_counts_once() {
        let row = |seconds: f64| Prediction { meta: Meta { seconds: Some(seconds), ..Meta::default() }, ..Prediction::default() };
        let rows: Vec<Prediction> = [5.0, 1.0, 2.0, 2.0, 2.0, 3.0, 4.0, f64::NAN].map(row).into();
        let parts: Vec<(String, usize)> = by_length(&rows).into_iter().map(|(name, rows)| (name, rows.len())).collect();
        assert_eq!(parts, [("1.0–1.0 s".to_owned(), 1), ("2.0–2.0 s".to_owned(), 3), ("3.0–3.0 s".to_owned(), 1), ("4.0–5.0 s".to_owned(), 2)]);
    }

    #[test]
    fn of_many_parts_the_worst_are_kept() {
        let row = |prediction: &str| Prediction { reference: "a b c d".to_owned(), prediction: prediction.to_owned(), ..Prediction::default() };
        let rows = [row("a b c d"), row("a b c"), row("a")];
        let mut parts: Parts = (0..12).map(|i| (format!("p{i:02}"), vec![&rows[if i == 7 { 2 } else { i % 2 }]])).collect();
        worst_of(&mut parts, &Metric::of("words.wer"));
        let names: Vec<&str> = parts.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["p07", "p01", "p03", "p05", "p09", "p11", "p00", "p02"]);
    }
}
