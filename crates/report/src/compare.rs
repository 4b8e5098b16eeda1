//! The comparison of runs on the same rows: differences from the first, tested pair by pair, as a
//! page, as tables and as pictures.

use std::collections::HashMap;
use std::path::Path;

use crate::beside::beside;
use crate::page::Block;
use crate::page::Page;
use crate::page::Section;
use crate::sections::header;
use crate::several;
use crate::several::Line;
use crate::uncertainty::Uncertainty;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_records::prediction::Prediction;
use maqam_records::run_folder::Run;
use maqam_stats::significance::holm;

/// Predictions of a run's last evaluation, by set.
type Sets = Vec<(String, Vec<Prediction>)>;

/// The page that compares runs; with `is_tested` each score is tested against the first run's.
///
/// # Errors
/// Fewer than two runs; runs without predictions; evaluation sets that do not hold the same rows;
/// broken files.
pub fn page(runs: &[Run], uncertainty: &dyn Uncertainty, is_tested: bool) -> Result<Page> {
    if runs.len() < 2 {
        return Err(
            Error::input(format!("{} run, and a comparison needs two", runs.len()))
                .hint("name the runs, the one to compare with first"),
        );
    }
    let names = several::names(runs);
    let mut sets: Vec<Sets> = runs.iter().map(predictions).collect::<Result<_>>()?;
    let (first, others) = sets
        .split_first_mut()
        .ok_or_else(|| Error::bug("no run to compare with"))?;
    for (i, other) in others.iter_mut().enumerate() {
        // A baseline answers the sets that it fits, and is compared on these.
        let is_baseline = runs[i + 1].is_baseline();
        let first_of: Sets = first
            .iter()
            .filter(|(name, _)| !is_baseline || other.iter().any(|(known, _)| known == name))
            .cloned()
            .collect();
        expect_same_rows((&names[0], &first_of), (&names[i + 1], other))?;
        align(first, other);
    }
    let mut lines = several::lines(runs);
    for line in &mut lines {
        judge(line, runs, &sets, uncertainty, is_tested)
            .map_err(|e| e.at(format!("score `{}`", line.metric.full)))?;
    }
    let tests = correct(&mut lines)?;
    let mut method = uncertainty.method();
    if tests > 0 {
        method = Some(
            format!(
                "{} p-values are of paired differences, corrected over all {tests} tests (Holm).",
                method.unwrap_or_default()
            )
            .trim_start()
            .to_owned(),
        );
    }
    let mut page = Page {
        kind: "Comparison".to_owned(),
        title: several::title(&names),
        subtitle: subtitle(&sets[0]),
        ..Page::default()
    };
    page.sections = sections(runs, &names, &lines, method.as_deref())?;
    Ok(page)
}

/// The sections that show runs side by side.
pub fn sections(
    runs: &[Run],
    names: &[String],
    lines: &[Line],
    method: Option<&str>,
) -> Result<Vec<Section>> {
    let mut scores = Vec::new();
    if !lines.is_empty() {
        scores.extend(several::bars(lines, names).map(Block::Figure));
        scores.push(Block::Table(several::table(lines, names, method)));
        scores.extend(beside(runs, names, lines)?.map(Block::Table));
    }
    let curves = several::scores_by_step(runs, names, lines)
        .into_iter()
        .chain(several::training_loss(runs, names));
    let mut recipes = vec![Block::Table(header::table_of_runs(runs, names))];
    recipes.extend(several::recipe_differences(runs, names));
    Ok(vec![
        Section::new("scores-section", "Scores", scores),
        Section::new(
            "curves",
            "Learning curves",
            curves.map(Block::Figure).collect(),
        ),
        Section::new("recipes-section", "Runs and recipes", recipes),
    ])
}

/// Writes the page with its tables as Markdown and LaTeX and its figures as SVG; returns the page's
/// file.
///
/// # Errors
/// The disk's.
pub fn write(page: &Page, folder: &Path) -> Result<std::path::PathBuf> {
    let html = folder.join("report.html");
    files::write_atomic(&html, page.html().as_bytes())?;
    for table in page.tables() {
        let markdown = format!(
            "**{}.** {}\n\n{}",
            crate::page::escape::markdown(&table.title),
            crate::page::escape::markdown(&table.caption),
            table.markdown()
        );
        files::write_atomic(
            &folder.join(format!("{}.md", table.id)),
            markdown.as_bytes(),
        )?;
        files::write_atomic(
            &folder.join(format!("{}.tex", table.id)),
            table.latex().as_bytes(),
        )?;
    }
    for figure in page.figures() {
        files::write_atomic(
            &folder.join(format!("{}.svg", figure.id)),
            figure.file().as_bytes(),
        )?;
    }
    Ok(html)
}

fn predictions(run: &Run) -> Result<Sets> {
    let last = run.last().ok_or_else(|| {
        Error::input("no evaluation to compare")
            .at_path(&run.folder)
            .hint("give its recipe an `evaluate` section, or judge it with `maqam eval`")
    })?;
    let sets = last.predictions()?;
    if sets.is_empty() {
        let found = Error::input(format!(
            "the evaluation after {} steps has scores but no predictions",
            last.step
        ))
        .at_path(&run.folder);
        return Err(found.hint("runs are compared row by row; put its folder back under eval/"));
    }
    Ok(sets)
}

/// Both runs answered the same rows of the same sets.
fn expect_same_rows(
    (first_name, first): (&str, &Sets),
    (other_name, other): (&str, &Sets),
) -> Result<()> {
    let missing = |from: &Sets, sets: &Sets| {
        from.iter()
            .map(|(name, _)| name.clone())
            .find(|name| !sets.iter().any(|(known, _)| known == name))
    };
    for (has, lacks, set) in [
        (first_name, other_name, missing(first, other)),
        (other_name, first_name, missing(other, first)),
    ] {
        if let Some(set) = set {
            let found = Error::input(format!(
                "the set `{set}` was judged in {has} and not in {lacks}"
            ));
            return Err(found.hint("runs are compared on the same sets; judge both with one suite"));
        }
    }
    for (set, rows) in first {
        let others = other
            .iter()
            .find(|(name, _)| name == set)
            .map(|(_, rows)| rows.as_slice())
            .unwrap_or_default();
        let of_first: HashMap<&str, &Prediction> =
            rows.iter().map(|row| (row.id.as_str(), row)).collect();
        let of_other: HashMap<&str, &Prediction> =
            others.iter().map(|row| (row.id.as_str(), row)).collect();
        let only = |rows: &[Prediction], other: &HashMap<&str, &Prediction>| {
            rows.iter()
                .find(|row| !other.contains_key(row.id.as_str()))
                .map(|row| row.id.clone())
        };
        for (has, lacks, id) in [
            (first_name, other_name, only(rows, &of_other)),
            (other_name, first_name, only(others, &of_first)),
        ] {
            if let Some(id) = id {
                let counts = format!(
                    "{} rows in {first_name}, {} in {other_name}",
                    rows.len(),
                    others.len()
                );
                let found = Error::input(format!(
                    "set `{set}`: the row `{id}` is in {has} and not in {lacks} ({counts})"
                ));
                return Err(found.hint("runs are compared on the same rows; judge both with one suite and one manifest"));
            }
        }
        if let Some(row) = rows
            .iter()
            .find(|row| of_other[row.id.as_str()].reference != row.reference)
        {
            let found = Error::input(format!(
                "set `{set}`: the row `{}` has another reference in {other_name} than in {first_name}",
                row.id
            ));
            return Err(found.hint("a manifest changed between the evaluations; judge both again"));
        }
    }
    Ok(())
}

/// Puts the rows of the second into the order of the first.
fn align(first: &Sets, other: &mut Sets) {
    for (set, rows) in first {
        if let Some((_, others)) = other.iter_mut().find(|(name, _)| name == set) {
            let places: HashMap<&str, usize> = rows
                .iter()
                .enumerate()
                .map(|(i, row)| (row.id.as_str(), i))
                .collect();
            others.sort_by_key(|row| places.get(row.id.as_str()).copied());
        }
    }
}

/// Fills in the intervals of a score, and the differences from the first run's.
fn judge(
    line: &mut Line,
    runs: &[Run],
    sets: &[Sets],
    uncertainty: &dyn Uncertainty,
    is_tested: bool,
) -> Result<()> {
    let set = line.metric.set.clone();
    let rows = |run: usize| {
        sets[run]
            .iter()
            .find(|(name, _)| Some(name) == set.as_ref())
            .map(|(_, rows)| rows.as_slice())
    };
    let first = line.values[0].map(|(value, _)| value);
    for (run, read) in runs.iter().enumerate() {
        let Some((value, interval)) = &mut line.values[run] else {
            continue;
        };
        *interval = read
            .last()
            .and_then(|last| last.interval(&line.metric.full))
            .map(|interval| line.metric.possible(interval));
        let (Some(of_first), Some(of_run)) = (rows(0), rows(run)) else {
            continue;
        };
        if interval.is_none() {
            *interval = uncertainty.interval(&line.metric, *value, of_run)?;
        }
        *interval = interval.map(|interval| line.metric.possible(interval));
        if let Some(first) = first.filter(|_| is_tested && run > 0) {
            line.differences[run] =
                uncertainty.difference(&line.metric, [first, *value], of_first, of_run)?;
        }
    }
    Ok(())
}

/// Corrects the p-values of all tests together; returns how many there are.
fn correct(lines: &mut [Line]) -> Result<usize> {
    let tested = || {
        lines
            .iter()
            .flat_map(|line| line.differences.iter().flatten())
            .filter_map(|difference| difference.p)
    };
    let adjusted = holm(&tested().collect::<Vec<_>>())?;
    let count = adjusted.len();
    let differences = lines
        .iter_mut()
        .flat_map(|line| line.differences.iter_mut().flatten())
        .filter(|difference| difference.p.is_some());
    for (difference, p) in differences.zip(adjusted) {
        difference.p = Some(p);
    }
    Ok(count)
}

fn subtitle(sets: &Sets) -> String {
    let rows: usize = sets.iter().map(|(_, rows)| rows.len()).sum();
    format!(
        "{} answers each, on {}",
        crate::chart::number::count(rows as f64),
        sets.iter()
            .map(|(name, _)| name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    )
}
