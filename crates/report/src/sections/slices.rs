//! Scores of parts of a set: by speaker, group, dialect, gender, length and wording.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::chart::figure::slug;
use crate::chart::number::Unit;
use crate::metric::Metric;
use crate::page::Block;
use crate::page::Section;
use crate::page::table::Cell;
use crate::page::table::Column;
use crate::page::table::Table;
use crate::rescore;
use crate::sections::chapter::Chapter;
use maqam_metrics::Family;
use maqam_metrics::Tally;
use maqam_records::prediction::Prediction;
use maqam_records::prediction::SECONDS;

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
    let tables: Vec<Block> = chapter
        .predictions
        .iter()
        .filter_map(|(set, rows)| table(chapter, set, rows))
        .map(Block::Table)
        .collect();
    if !tables.is_empty() {
        let text = format!(
            "The metric of the set's task comes first. Parts of fewer than {FEWEST_ROWS} rows are left out. Of more than {MOST_PARTS} parts of a kind the worst are shown."
        );
        blocks.push(Block::Prose(text));
        blocks.extend(tables);
    }
    Section::new(chapter.id("slices"), "Slices", blocks)
}

/// The parts of one kind: name and places of the rows.
type Parts = Vec<(String, Vec<usize>)>;

fn table(chapter: &Chapter, set: &str, rows: &[Prediction]) -> Option<Table> {
    let scored = chapter
        .metrics_of(set)
        .into_iter()
        .filter(|metric| metric.family != Family::Failure);
    let scored = scored.filter_map(|metric| Some((chapter.tally(&metric)?, metric)));
    let scored: Vec<(Tally, Metric)> = scored.take(MOST_METRICS).collect();
    let (first, metric) = scored.first()?;
    let mut columns = vec![
        Column::text("by"),
        Column::text("part"),
        Column::number("rows"),
    ];
    columns.extend(
        scored
            .iter()
            .map(|(_, metric)| Column::number(metric.heading())),
    );
    let mut table = Table::new(
        chapter.id(&format!("slices-{}", slug(set))),
        set,
        "",
        columns,
    );
    for (kind, mut parts) in kinds(rows) {
        if kind == "wording" {
            let asked = |name: &String| chapter.run.tasks.instruction(name);
            parts
                .iter_mut()
                .for_each(|(name, _)| *name = asked(name).unwrap_or_else(|| name.clone()));
        }
        // Within a label there is nothing to confuse it with; the confusion matrix has that row.
        if kind == "label" && metric.family == Family::Classification {
            continue;
        }
        let is_divided = parts.len() > 1;
        parts.retain(|(_, rows)| rows.len() >= FEWEST_ROWS);
        if is_divided {
            worst_of(&mut parts, first);
            add(&mut table, &kind, &parts, &scored);
        }
    }
    (!table.rows.is_empty()).then_some(table)
}

/// Keeps the worst where there are too many to show.
fn worst_of(parts: &mut Parts, tally: &Tally) {
    if parts.len() > MOST_PARTS {
        let goodness = |rows: &[usize]| tally.better().rank(rescore::score_of(tally, rows));
        parts.sort_by(|a, b| {
            goodness(&a.1)
                .total_cmp(&goodness(&b.1))
                .then_with(|| a.0.cmp(&b.0))
        });
        parts.truncate(MOST_PARTS);
    }
}

fn add(table: &mut Table, kind: &str, parts: &Parts, scored: &[(Tally, Metric)]) {
    for (i, (part, rows)) in parts.iter().enumerate() {
        let mut row = vec![
            Cell::text(if i == 0 { kind } else { "" }),
            Cell::text(part),
            Cell::number(rows.len() as f64, Unit::Count),
        ];
        row.extend(
            scored
                .iter()
                .map(|(tally, metric)| Cell::number(rescore::score_of(tally, rows), metric.unit)),
        );
        table.row(i == 0, row);
    }
}

/// What rows are known by, in the order in which it is shown; what else a suite asked for comes
/// after.
const FIRST: [&str; 7] = [
    "speaker", "group", "dialect", "gender", "language", "label", "wording",
];

/// The parts of every kind; rows of which nothing is known are in none.
fn kinds(rows: &[Prediction]) -> Vec<(String, Parts)> {
    let others: BTreeSet<&String> = rows
        .iter()
        .flat_map(|row| row.meta.keys())
        .filter(|name| *name != SECONDS && !FIRST.contains(&name.as_str()))
        .collect();
    let mut found: Vec<(String, Parts)> = Vec::new();
    for kind in FIRST
        .into_iter()
        .chain(others.into_iter().map(String::as_str))
    {
        let mut parts: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (i, row) in rows.iter().enumerate() {
            if let Some(part) = row.known(kind) {
                parts.entry(part).or_default().push(i);
            }
        }
        found.push((kind.to_owned(), parts.into_iter().collect()));
    }
    // A suite may have divided by lengths of its own.
    if !found.iter().any(|(kind, _)| kind == "length") {
        found.push(("length".to_owned(), by_length(rows)));
    }
    found
}

/// Parts of about as many rows each, from the shortest audio to the longest; equal lengths stay
/// together.
fn by_length(rows: &[Prediction]) -> Parts {
    let mut timed: Vec<(f64, usize)> = rows
        .iter()
        .enumerate()
        .filter_map(|(i, row)| Some((row.seconds()?, i)))
        .collect();
    timed.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut parts: Parts = Vec::new();
    let mut start = 0;
    for part in 0..LENGTH_PARTS {
        let mut end = timed.len() * (part + 1) / LENGTH_PARTS;
        while end > start && end < timed.len() && timed[end].0 == timed[end - 1].0 {
            end += 1;
        }
        if end > start {
            let shortest = timed[start].0;
            let longest = timed[end - 1].0;
            parts.push((
                format!("{shortest:.1}–{longest:.1} s"),
                timed[start..end].iter().map(|(_, row)| *row).collect(),
            ));
            start = end;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_divided_evenly_and_every_row_counts_once() {
        let row = |seconds: f64| Prediction {
            meta: serde_json::from_value(serde_json::json!({"seconds": seconds})).unwrap(),
            ..Prediction::default()
        };
        let rows: Vec<Prediction> = [5.0, 1.0, 2.0, 2.0, 2.0, 3.0, 4.0, f64::NAN]
            .map(row)
            .into();
        let parts = by_length(&rows);
        let expected = [
            ("1.0–1.0 s", vec![1]),
            ("2.0–2.0 s", vec![2, 3, 4]),
            ("3.0–3.0 s", vec![5]),
            ("4.0–5.0 s", vec![6, 0]),
        ];
        assert_eq!(
            parts
                .iter()
                .map(|(name, rows)| (name.as_str(), rows.clone()))
                .collect::<Vec<_>>(),
            expected
        );
    }

    #[test]
    fn of_many_parts_the_worst_are_kept() {
        let row = |prediction: &str| Prediction {
            reference: "a b c d".to_owned(),
            prediction: prediction.to_owned(),
            ..Prediction::default()
        };
        let rows = [row("a b c d"), row("a b c"), row("a")];
        let tally = rescore::tally(&Metric::of("words.wer"), &rows).unwrap();
        let mut parts: Parts = (0..12)
            .map(|i| (format!("p{i:02}"), vec![if i == 7 { 2 } else { i % 2 }]))
            .collect();
        worst_of(&mut parts, &tally);
        let names: Vec<&str> = parts.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            ["p07", "p01", "p03", "p05", "p09", "p11", "p00", "p02"]
        );
    }

    #[test]
    fn what_a_suite_asked_for_is_a_kind_too() {
        let row = |age: u32| {
            serde_json::from_value(serde_json::json!({"id": "a", "prediction": "", "reference": "", "meta": {"age": age, "seconds": 1.0}})).unwrap()
        };
        let kinds = kinds(&[row(20), row(40), row(20)]);
        let names: Vec<&str> = kinds
            .iter()
            .filter(|(_, parts)| !parts.is_empty())
            .map(|(kind, _)| kind.as_str())
            .collect();
        assert_eq!(names, ["age", "length"]);
        assert!(kinds.iter().any(
            |(_, parts)| *parts == [("20".to_owned(), vec![0, 2]), ("40".to_owned(), vec![1])]
        ));
    }
}
