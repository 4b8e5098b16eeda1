//! Scores of several systems side by side, to read: intervals, and marks where a difference is
//! resolved.

use crate::eval::confidence::Compared;
use crate::eval::confidence::Confident;
use crate::eval::confidence::Slice;
use crate::eval::table::shown;
use crate::text_table::TextTable;

/// Widest line of a table; further systems go below.
const MAX_WIDTH: usize = 150;

/// One system of a table.
pub struct Column<'a> {
    /// Its name.
    pub title: String,
    /// Its scores.
    pub scores: &'a [Confident],
    /// Their differences from the base.
    pub compared: &'a [Compared],
}

/// A line for each score that any system has, in order of first appearance; a column for each
/// system.
pub fn table(columns: &[Column]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for score in columns.iter().flat_map(|column| column.scores) {
        if !names.contains(&score.name.as_str()) {
            names.push(&score.name);
        }
    }
    // A score that only some systems have would stand after `mean` otherwise.
    names.sort_by_key(|name| *name == crate::records::scores::MEAN);
    let rows: Vec<Vec<String>> = names
        .iter()
        .map(|name| columns.iter().map(|column| cell(column, name)).collect())
        .collect();
    laid_out(
        "",
        &names,
        &columns
            .iter()
            .map(|column| column.title.as_str())
            .collect::<Vec<_>>(),
        &rows,
    )
}

/// One table for each set and what it is sliced by: the score of `metric_of` the set in each slice,
/// for each system.
pub fn slice_tables(
    columns: &[(&str, &[Slice])],
    metric_of: impl Fn(&str) -> Option<String>,
) -> String {
    let mut text = String::new();
    let Some((_, first)) = columns.first() else {
        return text;
    };
    for slices in first.chunk_by(|a, b| (&a.set, &a.by) == (&b.set, &b.by)) {
        let set = &slices[0].set;
        let by = &slices[0].by;
        let Some(metric) = metric_of(set) else {
            continue;
        };
        let mut rows = Vec::with_capacity(slices.len());
        for slice in slices {
            let first = slice.scores.first();
            let mut row = vec![first.map_or(0, |score| score.num_utterances).to_string()];
            for (_, of_system) in columns {
                row.push(slice_cell(of_system, slice, &metric));
            }
            rows.push(row);
        }
        let titles: Vec<&str> = std::iter::once("rows")
            .chain(columns.iter().map(|(title, _)| *title))
            .collect();
        // A wording is known by what it says.
        let values: Vec<&str> = slices
            .iter()
            .map(|slice| slice.instruction.as_ref().unwrap_or(&slice.value).as_str())
            .collect();
        text += &format!(
            "\n{}",
            laid_out(&format!("{set}.{metric} by {by}"), &values, &titles, &rows)
        );
    }
    text
}

fn cell(column: &Column, name: &str) -> String {
    let Some(score) = column.scores.iter().find(|score| score.name == name) else {
        return "-".to_owned();
    };
    let mark = match column
        .compared
        .iter()
        .find(|compared| compared.name == name)
        .and_then(|compared| compared.is_better)
    {
        Some(true) => " +",
        Some(false) => " -",
        None => "  ",
    };
    written(name, score) + mark
}

/// The score of a metric in a system's counterpart of a slice.
fn slice_cell(of_system: &[Slice], slice: &Slice, metric: &str) -> String {
    let is_same = |other: &&Slice| {
        other.set == slice.set && other.by == slice.by && other.value == slice.value
    };
    let same = of_system.iter().find(is_same);
    let score = same.and_then(|slice| slice.scores.iter().find(|score| score.name == metric));
    score.map_or_else(|| "-".to_owned(), |score| written(metric, score))
}

fn written(name: &str, score: &Confident) -> String {
    let number = |value| shown(name, value);
    match score.interval() {
        Some(interval) => format!(
            "{} [{}, {}]",
            number(score.value),
            number(interval.low),
            number(interval.high)
        ),
        None => number(score.value),
    }
}

/// Names to the left, cells to the right below their titles; as many columns beside each other as
/// the width allows.
fn laid_out(corner: &str, names: &[&str], titles: &[&str], rows: &[Vec<String>]) -> String {
    let head = std::iter::once(&corner).chain(titles);
    let mut lines = vec![head.map(|cell| (*cell).to_owned()).collect::<Vec<_>>()];
    for (name, row) in names.iter().zip(rows) {
        lines.push([&[(*name).to_owned()], row.as_slice()].concat());
    }
    TextTable::new(1, lines).text_within(MAX_WIDTH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Better;

    fn score(name: &str, value: f64) -> Confident {
        let better = Better::Higher;
        let signature = String::new();
        let cluster = "none";
        Confident {
            name: name.to_owned(),
            value,
            better,
            signature,
            num_utterances: 4,
            num_clusters: 1,
            cluster,
            estimate: None,
            note: None,
        }
    }

    #[test]
    fn systems_stand_beside_each_other_and_the_mean_comes_last() {
        let base = [score("gist.rouge1", 0.5), score("mean", 0.25)];
        let lead = [score("gist.rouge1", 1.0), score("gist.chrf", 41.26)];
        let columns = [
            Column {
                title: "base".to_owned(),
                scores: &base,
                compared: &[],
            },
            Column {
                title: "الأساس".to_owned(),
                scores: &lead,
                compared: &[],
            },
        ];
        let expected = "\
                base   الأساس
gist.rouge1   50.0    100.0
gist.chrf         -   41.3
mean          25.0         -
";
        let trimmed = |text: &str| {
            text.lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect::<Vec<_>>()
        };
        assert_eq!(trimmed(&table(&columns)), trimmed(expected));
    }

    #[test]
    fn what_is_too_wide_goes_below() {
        let scores = [score("gist.rouge1", 0.5)];
        let columns: Vec<Column> = (0..40)
            .map(|i| Column {
                title: format!("system {i}"),
                scores: &scores,
                compared: &[],
            })
            .collect();
        let text = table(&columns);
        assert!(
            text.lines().all(|line| line.chars().count() <= MAX_WIDTH)
                && text.split("\n\n").count() > 1,
            "{text}"
        );
        assert_eq!(text.matches("50.0").count(), 40);
    }

    #[test]
    fn slices_of_a_set_are_a_table() {
        let slice = |value: &str, uar: f64| Slice {
            set: "moods".to_owned(),
            by: "gender".to_owned(),
            value: value.to_owned(),
            instruction: None,
            scores: vec![score("uar", uar)],
        };
        let base = [slice("f", 0.5), slice("m", 0.25)];
        let tuned = [slice("f", 0.75), slice("m", 1.0)];
        let text = slice_tables(&[("base", &base), ("tuned", &tuned)], |_| {
            Some("uar".to_owned())
        });
        let expected = "\nmoods.uar by gender  rows  base  tuned\nf                       4  50.0   75.0\nm                       4  25.0  100.0\n";
        assert_eq!(text, expected);
    }
}
