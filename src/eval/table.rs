//! What training changed, as a table: every score before and after, at its best, and under the controls.

use std::path::Path;

use serde_json::Value;

use crate::error::Error;
use crate::error::Result;
use crate::error::brief;
use crate::files;
use crate::json;
use crate::records::run_folder;
use crate::records::scores::CONTROLS_FILE;
use crate::records::scores::SCORES_FILE;
use crate::records::scores::Scores;

/// The table of a run whose last evaluation was after `last` steps and whose best was after `best`; `None` before there is one.
///
/// # Errors
/// Files of scores that cannot be read.
pub fn of_run(run: &Path, last: u64, best: Option<u64>) -> Result<Option<String>> {
    let scores_at = |step: u64| {
        let path = run_folder::evaluation(run, step).join(SCORES_FILE);
        path.is_file()
            .then(|| Ok::<_, Error>(scores(&read(&path)?)))
            .transpose()
    };
    let Some(after) = scores_at(last)? else {
        return Ok(None);
    };
    let mut columns = Vec::new();
    if last > 0
        && let Some(before) = scores_at(0)?
    {
        columns.push(("before".to_owned(), before));
    }
    columns.push((format!("after {last}"), after.clone()));
    if let Some(step) = best.filter(|&step| step != last)
        && let Some(found) = scores_at(step)?
    {
        columns.push((format!("best {step}"), found));
    }
    let controls = run_folder::evaluation(run, last).join(CONTROLS_FILE);
    if controls.is_file()
        && let Value::Object(by_control) = read(&controls)?
    {
        columns.extend(
            by_control
                .iter()
                .map(|(name, value)| (name.clone(), scores(value))),
        );
    }
    Ok(Some(table(&after, &columns)))
}

fn read(path: &Path) -> Result<Value> {
    json::parse(&files::read_text(path)?).map_err(|e| e.at_path(path))
}

fn scores(value: &Value) -> Scores {
    let entries = value.as_object().into_iter().flatten();
    Scores(
        entries
            .filter_map(|(name, value)| Some((name.clone(), value.as_f64()?)))
            .collect(),
    )
}

/// The metric of a score's name, without its set and normaliser.
fn metric(name: &str) -> &str {
    let name = name.split('@').next().unwrap_or(name);
    name.rsplit('.').next().unwrap_or(name)
}

/// Whether a score is a fraction that is read in percent.
fn is_share(name: &str) -> bool {
    !matches!(
        metric(name),
        "loss" | "length_ratio" | "chrf" | "chrfpp" | "bleu"
    )
}

/// A score as a number to read: fractions in percent, losses and ratios as they are, and so what runs to 100 by itself.
pub fn shown(name: &str, value: f64) -> String {
    match metric(name) {
        "loss" | "length_ratio" => format!("{value:.3}"),
        _ if is_share(name) => format!("{:.1}", 100.0 * value),
        _ => format!("{value:.1}"),
    }
}

/// One line for each score of `rows`, one column for each of `columns`; shares in percent, everything else as it is.
fn table(rows: &Scores, columns: &[(String, Scores)]) -> String {
    let first = rows
        .0
        .iter()
        .map(|(name, _)| brief(name).chars().count())
        .max()
        .unwrap_or(0);
    let widths: Vec<usize> = columns
        .iter()
        .map(|(title, _)| brief(title).chars().count().max(8))
        .collect();
    let line = |name: &str, cells: Vec<String>| {
        let cells = cells
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("  {:>width$}", brief(cell)))
            .collect::<String>();
        let name = brief(name);
        format!("{name:<first$}{cells}\n")
    };
    let mut text = line("", columns.iter().map(|(title, _)| title.clone()).collect());
    for (name, _) in &rows.0 {
        let cell = |scores: &Scores| match scores.get(name) {
            Some(value) if is_share(name) => format!("{} %", shown(name, value)),
            Some(value) => shown(name, value),
            None => "-".to_owned(),
        };
        text += &line(
            name,
            columns.iter().map(|(_, scores)| cell(scores)).collect(),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_what_is_missing_is_a_dash() {
        let scores = |values: &[(&str, f64)]| {
            Scores(
                values
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), *value))
                    .collect(),
            )
        };
        let before = scores(&[
            ("words.wer", 1.024),
            ("words.loss", 4.0),
            ("gist.chrf", 41.26),
            ("mean", 0.1),
        ]);
        let after = scores(&[
            ("words.wer", 0.0825),
            ("words.loss", 0.5),
            ("gist.chrf", 5.0),
            ("mean", 0.95),
        ]);
        let control = scores(&[("words.wer", 0.99)]);
        let columns = [
            ("before".to_owned(), before),
            ("after 400".to_owned(), after.clone()),
            ("no-audio".to_owned(), control),
        ];
        let expected = [
            "              before  after 400  no-audio",
            "words.wer    102.4 %      8.2 %    99.0 %",
            "words.loss     4.000      0.500         -",
            "gist.chrf       41.3        5.0         -",
            "mean          10.0 %     95.0 %         -",
            "",
        ];
        assert_eq!(table(&after, &columns), expected.join("\n"));
    }
}
