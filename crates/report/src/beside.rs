//! What stands beside compared runs: their scores under controls, and baselines.

use std::path::Path;

use crate::evaluation;
use crate::evaluation::Evaluation;
use crate::page::escape::isolated;
use crate::page::table::Cell;
use crate::page::table::Column;
use crate::page::table::Table;
use crate::several::Line;
use maqam_base::error::Result;
use maqam_records::run_folder::Run;
use maqam_records::scores::Scores;
use maqam_records::scores::TRAINING_ROWS;

/// Scores of a run under a control, or of a baseline, with a name for a column.
type Beside = (String, Scores);

/// What the runs score without audio or with the wrong audio, and what the baselines of their
/// evaluation score; `None` where there are neither.
///
/// # Errors
/// Baselines beside a run that cannot be read.
pub fn beside(runs: &[Run], names: &[String], lines: &[Line]) -> Result<Option<Table>> {
    let mut columns: Vec<Beside> = Vec::new();
    for (run, name) in runs.iter().zip(names) {
        columns.extend(run.last().into_iter().flat_map(|last| &last.controls).map(
            |(control, scores)| {
                (
                    format!("{}, {}", isolated(name), control.replace('-', " ")),
                    scores.clone(),
                )
            },
        ));
    }
    let mut folders = Vec::new();
    for folder in runs.iter().filter_map(|run| run.folder.parent()) {
        let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        if evaluation::is_one(folder) && !folders.contains(&whole) {
            columns.extend(baselines(folder, runs)?);
            folders.push(whole);
        }
    }
    if columns.is_empty() {
        return Ok(None);
    }
    let mut heads = vec![Column::text("set"), Column::text("metric")];
    heads.extend(columns.iter().map(|(name, _)| Column::number(name)));
    let mut caption = "Controls ask a run without audio or with another row's audio; baselines answer without a model.".to_owned();
    let controls = runs
        .iter()
        .filter_map(Run::last)
        .flat_map(|last| &last.controls);
    if controls.into_iter().any(|(name, _)| name == TRAINING_ROWS) {
        caption += " Training rows are asked like those of dev.";
    }
    let mut table = Table::new("controls", "Controls and baselines", caption, heads);
    let mut before: Option<&Option<String>> = None;
    for line in lines {
        let value = |(_, scores): &Beside| scores.get(&line.metric.full);
        let cells: Vec<Cell> = columns
            .iter()
            .map(|column| {
                value(column).map_or(Cell::Empty, |value| Cell::number(value, line.metric.unit))
            })
            .collect();
        if cells.iter().all(|cell| *cell == Cell::Empty) {
            continue;
        }
        let is_new = before != Some(&line.metric.set);
        let set = line.metric.set.as_deref().unwrap_or("all");
        let words = [
            if is_new { set } else { "" }.to_owned(),
            line.metric.heading(),
        ]
        .map(Cell::text);
        table.row(is_new, words.into_iter().chain(cells).collect());
        before = Some(&line.metric.set);
    }
    Ok(Some(table))
}

/// The baselines in the folder of an evaluation that are not among the runs.
fn baselines(folder: &Path, runs: &[Run]) -> Result<Vec<Beside>> {
    let found = Evaluation::read(folder)?;
    let is_run = |other: &Run| {
        runs.iter()
            .any(|run| run.folder.canonicalize().ok() == other.folder.canonicalize().ok())
    };
    let baselines = found
        .entries
        .into_iter()
        .filter(|entry| entry.kind == evaluation::SystemKind::Baseline && !is_run(&entry.run));
    Ok(baselines
        .map(|entry| {
            let scores = entry.run.last().map(|last| last.scores.clone());
            (entry.name, scores.unwrap_or_default())
        })
        .collect())
}
