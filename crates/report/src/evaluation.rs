//! An evaluation of `maqam eval` as one page: every system, control and baseline, and the two tests
//! that a reviewer asks for.

use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;

use crate::AudioOf;
use crate::chart::figure::Chart;
use crate::chart::figure::Figure;
use crate::chart::figure::slug;
use crate::chart::number;
use crate::chart::number::Unit;
use crate::metric::Metric;
use crate::page::Block;
use crate::page::Fact;
use crate::page::Page;
use crate::page::Section;
use crate::page::escape::isolated;
use crate::page::table::Cell;
use crate::page::table::Column;
use crate::page::table::Score;
use crate::page::table::Table;
use crate::rescore;
use crate::sections::answers;
use crate::sections::chapter::Chapter;
use crate::sections::worst;
use crate::several;
use crate::several::Line;
use crate::uncertainty::Difference;
use crate::uncertainty::MARKS;
use crate::uncertainty::Uncertainty;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_metrics::Family;
use maqam_metrics::confidence::ALPHA;
use maqam_metrics::confidence::FEWEST_ROWS;
use maqam_records::by_name::ByName;
use maqam_records::details::Details;
use maqam_records::details::SliceScores;
use maqam_records::details::SuiteAbout;
use maqam_records::prediction::Prediction;
use maqam_records::run_folder;
use maqam_records::run_folder::Run;
use maqam_records::scores;
use maqam_records::scores::SCORES_FILE;
use maqam_records::scores::SUITE_FILE;
use maqam_records::scores::ScoresFile;
use maqam_stats::significance::Interval;
use maqam_stats::significance::holm;

pub use maqam_records::details::SystemKind;

/// Scores of parts, by set, by what it is divided by, and by part.
type Slices = ByName<ByName<ByName<SliceScores>>>;

/// A system, a control or a baseline of an evaluation.
pub struct Entry {
    /// Its name in tables: `tuned`, `tuned, no audio`, `majority`.
    pub name: String,
    /// The system that was asked.
    pub system: String,
    /// The control, as suites name it.
    pub control: Option<String>,
    /// What it is.
    pub kind: SystemKind,
    /// Its folder, read.
    pub run: Run,
    /// What `scores.json` says beside the scores.
    details: Details,
}

/// The folder of an evaluation, read.
pub struct Evaluation {
    folder: PathBuf,
    about: SuiteAbout,
    /// Models, the base first; then controls; then baselines.
    pub entries: Vec<Entry>,
    /// Systems that were evaluated on another version of the suite, and are left out.
    pub outdated: Vec<String>,
}

/// Whether a folder is that of an evaluation of several systems.
pub fn is_one(folder: &Path) -> bool {
    folder.join(SUITE_FILE).is_file()
}

impl Evaluation {
    /// Reads the folder of an evaluation.
    ///
    /// # Errors
    /// Broken files; a folder without scores.
    pub fn read(folder: &Path) -> Result<Self> {
        let about = scores::read_suite(folder)?.unwrap_or_default();
        let mut entries = Vec::new();
        let mut outdated = Vec::new();
        for path in scored_below(folder)? {
            let mut paths = vec![path.clone()];
            paths.extend(scored_below(&path)?);
            for path in paths {
                let entry = Entry::read(&path, about.prompts.as_deref())?;
                if entry.details.suite.as_ref() == Some(&about) {
                    entries.push(entry);
                } else {
                    outdated.push(entry.name);
                }
            }
        }
        if entries.is_empty() {
            return Err(Error::input("no scores of this suite are here")
                .at_path(folder)
                .hint("evaluate with `maqam eval`, which writes them"));
        }
        entries.sort_by(|a, b| a.order().cmp(&b.order()));
        Ok(Self {
            folder: folder.to_owned(),
            about,
            entries,
            outdated,
        })
    }

    fn models(&self) -> impl Iterator<Item = &Entry> {
        self.entries
            .iter()
            .filter(|entry| entry.kind == SystemKind::Model)
    }

    /// The folders of its models and baselines, for a comparison.
    pub fn folders(&self) -> Vec<PathBuf> {
        self.entries
            .iter()
            .filter(|entry| entry.kind != SystemKind::Control)
            .map(|entry| entry.run.folder.clone())
            .collect()
    }
}

impl Entry {
    fn read(folder: &Path, prompts: Option<&str>) -> Result<Self> {
        let mut run = Run::read(folder)?;
        run.tasks = run_folder::tasks_of(prompts)?;
        let written = ScoresFile::read(folder)?.unwrap_or_default();
        let details = written.details.unwrap_or_default();
        let about = details.system.clone();
        let system = about.system.unwrap_or_else(|| run.name.clone());
        let control = about.control;
        let kind = about.kind;
        let name = match &control {
            Some(control) => format!("{}, {}", isolated(&system), control.replace('-', " ")),
            None => system.clone(),
        };
        Ok(Self {
            name,
            system,
            control,
            kind,
            run,
            details,
        })
    }

    /// Whether this is the untuned model.
    fn is_base(&self) -> bool {
        self.kind == SystemKind::Model && self.details.system.adapter.is_none()
    }

    fn order(&self) -> (SystemKind, bool, &str, Option<&str>) {
        let is_tuned = self.details.system.adapter.is_some();
        (self.kind, is_tuned, &self.system, self.control.as_deref())
    }

    fn score(&self, name: &str) -> Option<f64> {
        self.run.last()?.score(name)
    }

    /// What the evaluation itself found of a score against the base.
    fn against_base(&self, name: &str) -> Option<Difference> {
        let score = self.details.scores.get(name)?;
        let p = score.against_base.as_ref()?.adjusted_p?;
        Some(Difference {
            interval: None,
            p: Some(p),
        })
    }

    /// What the suite resamples together for a score: `speaker`, `group` or `none`.
    fn cluster(&self, name: &str) -> Option<&str> {
        let score = self.details.scores.get(name)?;
        Some(score.cluster.as_str()).filter(|by| !by.is_empty())
    }

    /// The labels of a set in the inventory's order.
    fn labels(&self, set: &str) -> Vec<&str> {
        let labels = self.details.labels.get(set);
        let labels = labels.into_iter().flat_map(|set| &set.labels);
        labels.map(String::as_str).collect()
    }
}

/// The page of an evaluation.
///
/// # Errors
/// Broken files; intervals and tests that cannot be computed.
pub fn page(found: &Evaluation, uncertainty: &dyn Uncertainty, audio: &AudioOf) -> Result<Page> {
    let lines = lines(found);
    let predictions = found
        .entries
        .iter()
        .map(|entry| {
            entry
                .run
                .last()
                .map_or(Ok(Vec::new()), |last| last.predictions())
        })
        .collect::<Result<Vec<_>>>()?;
    let tests = tests(found, &lines, &predictions, uncertainty)?;
    let passed = tests.iter().filter(|test| test.is_passed()).count();
    let rows = predictions
        .first()
        .map_or(0, |sets| sets.iter().map(|(_, rows)| rows.len()).sum());
    let num_sets = predictions.first().map_or(0, Vec::len);
    let mut facts = vec![
        Fact::new(
            found.models().count().to_string(),
            plural("model", found.models().count()),
        ),
        Fact::new(num_sets.to_string(), plural("set", num_sets)),
        Fact::new(number::count(rows as f64), "rows each"),
    ];
    if !tests.is_empty() {
        facts.push(Fact::new(
            format!("{passed} of {}", tests.len()),
            "tests passed",
        ));
    }
    let sections = vec![
        Section::new(
            "tests-section",
            "Does it beat guessing, and does it listen?",
            tests_blocks(found, &tests),
        ),
        Section::new("scores-section", "Scores", scores(found, &lines)),
        Section::new("slices", "Slices", slices(found)),
        Section::new(
            "answers",
            "Answers",
            confusions(found, &predictions)
                .into_iter()
                .map(Block::Figure)
                .collect(),
        ),
        Section::new(
            "utterances",
            "Worst utterances",
            utterances(found, uncertainty, audio)?,
        ),
        Section::new("about", "About this evaluation", about(found)),
    ];
    Ok(Page {
        kind: "Evaluation".to_owned(),
        title: found.about.name.clone(),
        subtitle: format!("{} · {}", found.about.file, found.folder.display()),
        facts,
        sections,
    })
}

fn plural(word: &str, count: usize) -> String {
    if count == 1 {
        word.to_owned()
    } else {
        format!("{word}s")
    }
}

/// Every score of every entry, with its interval and, where the base was evaluated too, the
/// difference from it.
fn lines(found: &Evaluation) -> Vec<Line> {
    let runs: Vec<Run> = found
        .entries
        .iter()
        .map(|entry| entry.run.clone())
        .collect();
    let mut lines = several::lines(&runs);
    let has_base = found.entries.first().is_some_and(Entry::is_base);
    for line in &mut lines {
        for (i, entry) in found.entries.iter().enumerate() {
            if let Some((_, interval)) = &mut line.values[i] {
                let known = entry
                    .run
                    .last()
                    .and_then(|last| last.interval(&line.metric.full));
                *interval = known.map(|interval| line.metric.possible(interval));
            }
            if has_base && i > 0 {
                line.differences[i] = entry.against_base(&line.metric.full);
            }
        }
    }
    lines
}

/// A question that a reviewer asks of a system's score.
struct Test {
    set: String,
    system: String,
    other: String,
    metric: Metric,
    /// The other's score and the system's.
    values: [f64; 2],
    found: Option<Difference>,
    adjusted_p: Option<f64>,
}

impl Test {
    /// Whether the system is better, beyond chance.
    fn is_passed(&self) -> bool {
        self.verdict() == "yes"
    }

    fn verdict(&self) -> &'static str {
        let is_better = self.metric.improves(self.values[0], self.values[1]);
        match (self.adjusted_p, is_better) {
            (None, _) => "not tested",
            (Some(p), Some(true)) if p <= ALPHA => "yes",
            (Some(p), Some(false)) if p <= ALPHA => "no, it is worse",
            _ => "not significant",
        }
    }
}

/// Predictions of an entry, by set.
type Sets = Vec<(String, Vec<Prediction>)>;

fn rows_of<'a>(sets: &'a Sets, set: &str) -> Option<&'a [Prediction]> {
    let (_, rows) = sets.iter().find(|(name, _)| name == set)?;
    Some(rows)
}

/// For each set and model: better than what takes no model, better than with the wrong audio,
/// better than without audio.
fn tests(
    found: &Evaluation,
    lines: &[Line],
    predictions: &[Sets],
    uncertainty: &dyn Uncertainty,
) -> Result<Vec<Test>> {
    let mut tests = Vec::new();
    for line in several::headlines(lines) {
        let (metric, Some(set)) = (&line.metric, line.metric.set.as_deref()) else {
            continue;
        };
        for (place, entry) in found
            .entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.kind == SystemKind::Model)
        {
            let (Some(value), Some(rows)) =
                (entry.score(&metric.full), rows_of(&predictions[place], set))
            else {
                continue;
            };
            let rows = clustered(rows, entry.cluster(&metric.full));
            let rows = rows.as_slice();
            let mut others = guesses(found, metric, set, rows, predictions);
            others.extend(
                found
                    .entries
                    .iter()
                    .zip(predictions)
                    .filter_map(|(other, sets)| {
                        let control = other
                            .control
                            .as_deref()
                            .filter(|_| other.system == entry.system)?;
                        let name = match control {
                            "shuffled-audio" => "the wrong audio".to_owned(),
                            "no-audio" => "no audio".to_owned(),
                            other => other.to_owned(),
                        };
                        Some((
                            name,
                            other.score(&metric.full)?,
                            rows_of(sets, set)?.to_vec(),
                        ))
                    }),
            );
            for (name, other_value, other_rows) in others {
                let aligned = aligned(rows, other_rows);
                let difference = aligned
                    .map(|others| {
                        uncertainty.difference(metric, [other_value, value], &others, rows)
                    })
                    .transpose()
                    .map_err(|e| e.at(format!("score `{}`", metric.full)))?
                    .flatten();
                tests.push(Test {
                    set: set.to_owned(),
                    system: entry.name.clone(),
                    other: name,
                    metric: metric.clone(),
                    values: [other_value, value],
                    found: difference,
                    adjusted_p: None,
                });
            }
        }
    }
    let tested: Vec<f64> = tests.iter().filter_map(|test| test.found?.p).collect();
    let adjusted = holm(&tested)?;
    let with_p = tests
        .iter_mut()
        .filter(|test| test.found.is_some_and(|found| found.p.is_some()));
    for (test, p) in with_p.zip(adjusted) {
        test.adjusted_p = Some(p);
    }
    Ok(tests)
}

/// The rows with nothing to be resampled together by but what the suite says, where it says
/// something.
fn clustered(rows: &[Prediction], by: Option<&str>) -> Vec<Prediction> {
    let mut rows = rows.to_vec();
    let Some(by) = by else {
        return rows;
    };
    for row in &mut rows {
        for name in ["speaker", "group"].into_iter().filter(|name| *name != by) {
            row.meta.remove(name);
        }
    }
    rows
}

/// Name, score and answers of what takes no model: the suite's baselines, and for labels the
/// commonest of the set where the suite has no such baseline.
fn guesses(
    found: &Evaluation,
    metric: &Metric,
    set: &str,
    rows: &[Prediction],
    predictions: &[Sets],
) -> Vec<(String, f64, Vec<Prediction>)> {
    let of_suite = found
        .entries
        .iter()
        .zip(predictions)
        .filter_map(|(entry, sets)| {
            if entry.kind != SystemKind::Baseline {
                return None;
            }
            let rows = rows_of(sets, set)?;
            let name = match (entry.system.as_str(), rows.first()) {
                ("majority", Some(row)) => format!("the majority answer, “{}”", row.prediction),
                ("lead", _) => "the first sentence".to_owned(),
                ("transcript", _) => "the transcript itself".to_owned(),
                (other, _) => other.to_owned(),
            };
            Some((name, entry.score(&metric.full)?, rows.to_vec()))
        });
    let mut guesses: Vec<_> = of_suite.collect();
    if guesses.is_empty()
        && let Some(answers) = majority(rows)
    {
        let label = answers[0].prediction.clone();
        if let Some(tally) = rescore::tally(metric, &answers) {
            guesses.push((
                format!("the set's commonest label, “{label}”"),
                tally.corpus(),
                answers,
            ));
        }
    }
    guesses
}

/// The rows answered with their commonest label, the first among equals; `None` where rows have no
/// labels.
fn majority(rows: &[Prediction]) -> Option<Vec<Prediction>> {
    let is_labelled = rows.iter().all(|row| row.meta.contains_key("label"));
    if rows.is_empty() || !is_labelled {
        return None;
    }
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for row in rows {
        match counts.iter_mut().find(|(label, _)| *label == row.label()) {
            Some((_, count)) => *count += 1,
            None => counts.push((row.label(), 1)),
        }
    }
    let most = counts.iter().map(|(_, count)| *count).max()?;
    let (label, _) = counts.into_iter().find(|(_, count)| *count == most)?;
    let answer = |row: &Prediction| Prediction {
        prediction: label.to_owned(),
        answer: Some(label.to_owned()),
        ..row.clone()
    };
    Some(rows.iter().map(answer).collect())
}

/// The rows of `others` in the order of `rows`; `None` where they are not the same rows.
fn aligned(rows: &[Prediction], others: Vec<Prediction>) -> Option<Vec<Prediction>> {
    if rows.len() != others.len() {
        return None;
    }
    let mut by_id: HashMap<String, Prediction> = others
        .into_iter()
        .map(|row| (row.id.clone(), row))
        .collect();
    rows.iter().map(|row| by_id.remove(&row.id)).collect()
}

fn tests_blocks(found: &Evaluation, tests: &[Test]) -> Vec<Block> {
    let mut blocks = Vec::new();
    if !tests.is_empty() {
        blocks.push(Block::Table(tests_table(found, tests)));
    }
    let has = |control: &str| {
        found
            .entries
            .iter()
            .any(|entry| entry.control.as_deref() == Some(control))
    };
    if !has("shuffled-audio") {
        blocks.push(Block::Prose("Whether the models listen was not asked: the suite has no control `shuffled-audio`. Add `controls: [shuffled-audio]` and evaluate again; answers that are cached are not asked again.".to_owned()));
    }
    if !found.outdated.is_empty() {
        blocks.push(Block::Prose(format!(
            "Left out, because they were evaluated on another version of the suite: {}.",
            found.outdated.join(", ")
        )));
    }
    blocks
}

fn tests_table(found: &Evaluation, tests: &[Test]) -> Table {
    let num_tests = tests
        .iter()
        .filter(|test| test.adjusted_p.is_some())
        .count();
    let correction = match num_tests {
        0 | 1 => String::new(),
        _ => format!(", corrected over all {num_tests} tests (Holm)"),
    };
    let mut caption = format!(
        "The metric of each set's task. Yes: the difference is for the better with p at most {ALPHA}, paired{correction}."
    );
    let mut clusters: Vec<String> = Vec::new();
    for test in tests {
        let by = found
            .models()
            .find_map(|entry| entry.cluster(&test.metric.full));
        let said = by.map(|by| format!("{} by {by}", test.set));
        clusters.extend(said.filter(|said| !clusters.contains(said)));
    }
    if !clusters.is_empty() {
        caption += &format!(
            " Rows are resampled as the suite says ({}); intervals of 95 %, Student's where what is resampled is few.",
            clusters.join(", ")
        );
    }
    let columns = vec![
        Column::text("set, metric"),
        Column::text("system"),
        Column::text("better than"),
        Column::number("score"),
        Column::number("other"),
        Column::number("difference"),
        Column::number("p"),
        Column::text("answer"),
    ];
    let mut table = Table::new("tests", "Two tests", caption, columns);
    let mut before = None;
    for test in tests {
        let key = (test.set.clone(), test.system.clone());
        let is_new_set = before.as_ref().is_none_or(|(set, _)| *set != test.set);
        let is_new = before.as_ref() != Some(&key);
        let unit = test.metric.unit;
        let [other, own] = test.values;
        let interval = test.found.and_then(|found| found.interval);
        let difference = interval.map_or_else(
            || unit.format_signed(own - other),
            |interval| {
                format!(
                    "{} [{}, {}]",
                    unit.format_signed(own - other),
                    unit.format_signed(interval.low),
                    unit.format_signed(interval.high)
                )
            },
        );
        let p = test
            .adjusted_p
            .map(|p| number::p_value(p).replace("= ", ""));
        table.row(
            is_new,
            vec![
                Cell::text(if is_new_set {
                    test.metric.heading_in_full()
                } else {
                    String::new()
                }),
                Cell::text(if is_new {
                    test.system.clone()
                } else {
                    String::new()
                }),
                Cell::text(&test.other),
                Cell::number(own, unit),
                Cell::number(other, unit),
                Cell::text(difference),
                p.map_or(Cell::Empty, Cell::text),
                Cell::text(test.verdict()),
            ],
        );
        before = Some(key);
    }
    table
}

/// Bars of what stands for each set, and for each set a table: a row for each entry, a column for
/// each score.
fn scores(found: &Evaluation, lines: &[Line]) -> Vec<Block> {
    let names: Vec<String> = found
        .entries
        .iter()
        .map(|entry| entry.name.clone())
        .collect();
    let charted = charted(found);
    let charted_lines: Vec<Line> = lines.iter().map(|line| line.of_runs(&charted)).collect();
    let charted_names: Vec<String> = charted.iter().map(|i| names[*i].clone()).collect();
    let mut blocks: Vec<Block> = several::bars(&charted_lines, &charted_names)
        .into_iter()
        .map(Block::Figure)
        .collect();

    let mut sets: Vec<Option<String>> = Vec::new();
    for line in lines {
        if !sets.contains(&line.metric.set) {
            sets.push(line.metric.set.clone());
        }
    }
    let is_tested = lines
        .iter()
        .any(|line| line.differences.iter().any(Option::is_some));
    let mut text =
        "The best model in bold; arrows say which way is better; intervals of 95 %.".to_owned();
    if let Some(base) = found.entries.first().filter(|_| is_tested) {
        text += &format!(
            " The second number is the difference from {}; {MARKS}, paired, corrected over a system's scores (Holm).",
            base.name
        );
    }
    blocks.push(Block::Prose(text));
    for set in sets {
        let of_set: Vec<&Line> = lines.iter().filter(|line| line.metric.set == set).collect();
        blocks.push(Block::Table(set_table(found, set.as_deref(), &of_set)));
    }
    blocks
}

/// The entries with bars: all, or the models alone where the controls of more than two would hide
/// them.
fn charted(found: &Evaluation) -> Vec<usize> {
    let is_crowded = found.models().count() > 2;
    (0..found.entries.len())
        .filter(|i| !is_crowded || found.entries[*i].kind == SystemKind::Model)
        .collect()
}

/// A line's cells, the best of the models in bold: a control or a baseline is nothing to choose.
fn cells(found: &Evaluation, line: &Line) -> Vec<Cell> {
    let value = |(entry, value): (&Entry, &Option<(f64, Option<Interval>)>)| {
        value
            .filter(|_| entry.kind == SystemKind::Model)
            .map(|(value, _)| value)
    };
    let values: Vec<Option<f64>> = found.entries.iter().zip(&line.values).map(value).collect();
    let best = line.metric.best(&values);
    let mut cells = several::cells(line);
    for (i, cell) in cells.iter_mut().enumerate() {
        if let Cell::Score(score) = cell {
            score.is_best = best == Some(i);
        }
    }
    cells
}

fn set_table(found: &Evaluation, set: Option<&str>, lines: &[&Line]) -> Table {
    let name = set.unwrap_or("all sets");
    let columns = std::iter::once(Column::text("system"))
        .chain(
            lines
                .iter()
                .map(|line| Column::number(line.metric.heading())),
        )
        .collect();
    let title = format!("Every score of {name}");
    let mut table = Table::new(format!("scores-{}", slug(name)), title, "", columns);
    let cells: Vec<Vec<Cell>> = lines.iter().map(|line| cells(found, line)).collect();
    let mut before = None;
    for (i, entry) in found.entries.iter().enumerate() {
        let row: Vec<Cell> = cells.iter().map(|line| line[i].clone()).collect();
        if row.iter().all(|cell| *cell == Cell::Empty) {
            continue;
        }
        let is_new = before.is_some_and(|kind| kind != entry.kind);
        table.row(
            is_new,
            std::iter::once(Cell::text(&entry.name))
                .chain(row)
                .collect(),
        );
        before = Some(entry.kind);
    }
    table
}

/// One table for each set and what it is sliced by: the metric of its task in each part, for each
/// model.
fn slices(found: &Evaluation) -> Vec<Block> {
    let models: Vec<&Entry> = found.models().collect();
    let Some(first) = models.first() else {
        return Vec::new();
    };
    let by_model: Vec<_> = models.iter().map(|entry| &entry.details.slices).collect();
    let mut blocks = Vec::new();
    for (set, by_kind) in by_model[0].iter() {
        for (by, parts) in by_kind.iter() {
            let Some(metric) = slice_metric(first, set, parts) else {
                continue;
            };
            // Within a label there is nothing to confuse it with; the confusion matrix has that
            // row.
            if by == "label" && metric.family == Family::Classification {
                continue;
            }
            let columns = [Column::text(by), Column::number("rows")]
                .into_iter()
                .chain(models.iter().map(|entry| Column::number(&entry.name)))
                .collect();
            let title = format!("{} by {by}: {}", isolated(set), metric.heading());
            let mut table = Table::new(
                format!("slices-{}-{}", slug(set), slug(by)),
                title,
                "",
                columns,
            );
            for (part, value) in parts.iter() {
                let name = value.instruction.as_ref().unwrap_or(part);
                let rows = value.utterances as f64;
                let cell = |slices: &&Slices| {
                    let part = slices.get(set)?.get(by)?.get(part)?;
                    let score = part.scores.get(&metric.full)?;
                    score.score.is_finite().then(|| {
                        Cell::Score(Score {
                            interval: score.interval,
                            ..Score::new(score.score, metric.unit)
                        })
                    })
                };
                let cells = by_model
                    .iter()
                    .map(|slices| cell(slices).unwrap_or(Cell::Empty));
                table.row(
                    false,
                    [Cell::text(name), Cell::number(rows, Unit::Count)]
                        .into_iter()
                        .chain(cells)
                        .collect(),
                );
            }
            blocks.push(Block::Table(table));
        }
    }
    if !blocks.is_empty() {
        let text = format!(
            "Parts of fewer than {FEWEST_ROWS} rows have no interval: one answer is worth more than five points there, and an interval would be wider than forty."
        );
        blocks.insert(0, Block::Prose(text));
    }
    blocks
}

/// The metric of the set's task among the scores of its slices, else the first that is no loss.
fn slice_metric(entry: &Entry, set: &str, parts: &ByName<SliceScores>) -> Option<Metric> {
    let (_, first) = parts.first()?;
    let metrics: Vec<Metric> = first.scores.names().map(Metric::of).collect();
    let own = entry.run.task_of(set).map(|task| task.metric.as_str());
    let found = metrics
        .iter()
        .find(|metric| Some(metric.name.as_str()) == own);
    found
        .or_else(|| metrics.iter().find(|metric| metric.family != Family::Loss))
        .cloned()
}

/// One figure a set of labels, a panel a model.
fn confusions(found: &Evaluation, predictions: &[Sets]) -> Vec<Figure> {
    let models: Vec<(&Entry, &Sets)> = found
        .entries
        .iter()
        .zip(predictions)
        .filter(|(entry, _)| entry.kind == SystemKind::Model)
        .collect();
    let Some((first, _)) = models.first() else {
        return Vec::new();
    };
    let mut figures = Vec::new();
    for set in first.details.labels.names() {
        let mut panels = Vec::new();
        for (entry, sets) in &models {
            if let Some(rows) = rows_of(sets, set) {
                let map = answers::confusion(rows, &entry.labels(set));
                panels.extend(map.map(|map| (entry.name.clone(), Chart::Heat(map))));
            }
        }
        if !panels.is_empty() {
            figures.push(Figure::of_panels(
                format!("confusions-{}", slug(set)),
                format!("{}: which label was taken for which", isolated(set)),
                "Counts, and below them shares of the row, in the order of the inventory. Answers that name no label stand apart.",
                panels,
            ));
        }
    }
    figures
}

/// The worst utterances of each model, folded.
fn utterances(
    found: &Evaluation,
    uncertainty: &dyn Uncertainty,
    audio: &AudioOf,
) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    for entry in found.models() {
        let of_run = |set: &str, id: &str| audio(&entry.run, set, id);
        let prefix = format!("{}-", slug(&entry.name));
        let chapter = Chapter::open(&entry.run, uncertainty, &of_run, &prefix)?;
        let section = worst::section(&chapter)?;
        if !section.blocks.is_empty() {
            blocks.push(Block::Folded(entry.name.clone(), section.blocks));
        }
    }
    Ok(blocks)
}

fn about(found: &Evaluation) -> Vec<Block> {
    let suite = &found.about;
    let entries = [
        ("file", suite.file.clone()),
        ("role", suite.role.clone()),
        ("prompts", suite.prompts.clone().unwrap_or_default()),
        ("hash", suite.hash.clone()),
    ];
    let list = entries
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .filter(|(_, value)| !value.is_empty())
        .collect();
    let columns = ["system", "what it is", "adapter", "hash of the model"]
        .map(Column::text)
        .to_vec();
    let mut table = Table::new("systems", "What answered", "", columns);
    let mut notes = Vec::new();
    for entry in &found.entries {
        let about = &entry.details.system;
        let kind = match entry.kind {
            SystemKind::Model if entry.is_base() => "the untuned model",
            SystemKind::Model => "a tuned model",
            SystemKind::Control => "a control",
            SystemKind::Baseline => "a baseline",
        };
        let code =
            |text: Option<&str>| text.map_or(Cell::Empty, |text| Cell::Code(text.to_owned()));
        let hash = about.model_hash.as_ref();
        let hash = hash.map(|hash| hash.chars().take(16).collect::<String>());
        table.row(
            false,
            vec![
                Cell::text(&entry.name),
                Cell::text(kind),
                code(about.adapter.as_deref()),
                code(hash.as_deref()),
            ],
        );
        notes.extend(about.notes.iter().cloned());
    }
    let mut blocks = vec![Block::Facts(list), Block::Table(table)];
    blocks.extend(notes.into_iter().map(Block::Prose));
    blocks
}

/// The folders below one that hold scores, by name.
fn scored_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = files::list_dir(folder)?;
    found.retain(|path| path.join(SCORES_FILE).is_file());
    Ok(found)
}
