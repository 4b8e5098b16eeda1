//! What a model answered: confusions between labels, generation that failed, instructions followed.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::report::chapter::Chapter;
use crate::report::chapter::steps_axis;
use crate::report::figure::Chart;
use crate::report::figure::Figure;
use crate::report::heat::HeatMap;
use crate::report::lines::LineChart;
use crate::report::lines::Series;
use crate::report::metric::Family;
use crate::report::metric::Metric;
use crate::report::number::Unit;
use crate::report::page::Block;
use crate::report::page::Section;
use crate::report::predictions;
use crate::report::predictions::Prediction;
use crate::report::read::Followed;
use crate::report::scale::Axis;
use crate::report::table::Cell;
use crate::report::table::Column;
use crate::report::table::Table;

/// The section; empty where no predictions are there.
///
/// # Errors
/// Broken files, with file and line.
pub fn section(chapter: &Chapter) -> Result<Section> {
    let mut blocks = Vec::new();
    blocks.extend(confusions(chapter).map(Block::Figure));
    blocks.extend(failures(chapter)?.map(Block::Figure));
    blocks.extend(instructions(chapter)?.map(Block::Table));
    Ok(Section::new(chapter.id("answers"), "Answers", blocks))
}

/// More labels than this make no matrix that can be read.
const MOST_LABELS: usize = 40;

fn confusions(chapter: &Chapter) -> Option<Figure> {
    let is_labelled = |set: &str| chapter.metrics_of(set).iter().any(|metric| metric.family == Family::Classification);
    let of_set = |(set, rows): &(String, Vec<Prediction>)| confusion(rows).filter(|_| is_labelled(set)).map(|map| (set.clone(), Chart::Heat(map)));
    let panels: Vec<(String, Chart)> = chapter.predictions.iter().filter_map(of_set).collect();
    let caption = "Counts, and below them shares of the row. Answers that name no label stand apart.";
    (!panels.is_empty()).then(|| Figure::of_panels(chapter.id("confusions"), "Which label was taken for which", caption, panels))
}

/// The confusion matrix of a set's labels; `None` without rows, or with more labels than can be read.
pub fn confusion(rows: &[Prediction]) -> Option<HeatMap> {
    let labels: BTreeSet<&str> = rows.iter().flat_map(|row| std::iter::once(row.label()).chain(row.answer.as_deref())).collect();
    let labels: Vec<String> = labels.into_iter().map(str::to_owned).collect();
    if labels.is_empty() || labels.len() > MOST_LABELS {
        return None;
    }
    let place = |label: &str| labels.iter().position(|known| known == label);
    let mut counts = vec![vec![0; labels.len()]; labels.len()];
    let mut unparsed = vec![0; labels.len()];
    for row in rows {
        let Some(reference) = place(row.label()) else { continue };
        match row.answer.as_deref().and_then(place) {
            Some(answer) => counts[reference][answer] += 1,
            None => unparsed[reference] += 1,
        }
    }
    Some(HeatMap::confusion(&labels, &counts, &unparsed))
}

/// What went wrong in a set at one step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Failures {
    rows: f64,
    hit_limit: f64,
    unparsed: f64,
    empty: f64,
    words: f64,
    reference_words: f64,
}

impl Failures {
    fn add(&mut self, row: &Prediction, is_label: bool) {
        let words = |text: &str| text.split_whitespace().count() as f64;
        self.rows += 1.0;
        self.hit_limit += f64::from(u8::from(row.meta.hit_limit));
        self.unparsed += f64::from(u8::from(is_label && row.answer.is_none()));
        self.empty += f64::from(u8::from(row.prediction.trim().is_empty()));
        self.words += words(&row.prediction);
        self.reference_words += words(&row.reference);
    }
}

/// Each kind of failure with its name, its unit, and the number it has in one step's answers.
type FailureKind = (&'static str, Unit, fn(&Failures) -> f64);

const KINDS: [FailureKind; 4] = [
    ("hit the limit of tokens", Unit::Percent, |f| f.hit_limit / f.rows),
    ("named no label", Unit::Percent, |f| f.unparsed / f.rows),
    ("said nothing", Unit::Percent, |f| f.empty / f.rows),
    ("words said / words of the reference", Unit::Plain, |f| f.words / f.reference_words),
];

/// Failures by step, counted in the predictions of every evaluation, and those that the scores name.
fn failures(chapter: &Chapter) -> Result<Option<Figure>> {
    let mut by_set: Vec<(String, Vec<(f64, Failures)>)> = Vec::new();
    for evaluation in &chapter.run.evaluations {
        for (set, path) in evaluation.sets()? {
            let is_label = chapter.metrics_of(&set).iter().any(|metric| metric.family == Family::Classification);
            let mut found = Failures::default();
            predictions::each(&path, |_, row| {
                found.add(&row, is_label);
                Ok(())
            })?;
            let place = by_set.iter().position(|(known, _)| *known == set).unwrap_or_else(|| {
                by_set.push((set.clone(), Vec::new()));
                by_set.len() - 1
            });
            by_set[place].1.push((evaluation.step as f64, found));
        }
    }
    let panel = |(name, unit, of): &FailureKind| {
        let series = by_set.iter().enumerate().map(|(i, (set, steps))| {
            let points: Vec<(f64, f64)> = steps.iter().map(|(step, found)| (*step, of(found))).collect();
            Series::new(set, points, i).marked()
        });
        // A label is one word, whatever is said: its length is no failure of generation.
        let is_shown = |series: &Series| match unit {
            Unit::Percent => series.points.iter().any(|point| point.1 > 0.0),
            _ => {
                !chapter.metrics_of(&series.name).iter().any(|metric| metric.family == Family::Classification)
                    && series.points.iter().any(|point| point.1.is_finite())
            }
        };
        failure_panel(chapter, name, *unit, series.filter(is_shown).collect())
    };
    let mut panels: Vec<(String, Chart)> = KINDS.iter().filter_map(panel).collect();
    panels.extend(scored_failures(chapter));
    let caption = "Share of each set's answers; what never happened is left out.";
    Ok((!panels.is_empty()).then(|| Figure::of_panels(chapter.id("failures"), "How generation failed, by step", caption, panels)))
}

fn failure_panel(chapter: &Chapter, name: &str, unit: Unit, series: Vec<Series>) -> Option<(String, Chart)> {
    if series.is_empty() {
        return None;
    }
    let y = Axis::new("").unit(unit).from_zero();
    let chart = LineChart { x: steps_axis(), y, series, boundaries: chapter.boundaries(), levels: Vec::new() };
    Some((name.to_owned(), Chart::Lines(chart)))
}

/// The failures that the scores name and the predictions do not show.
fn scored_failures(chapter: &Chapter) -> Vec<(String, Chart)> {
    let counted = ["hit_limit", "unparsed", "empty", "length_ratio"];
    let metrics: Vec<Metric> =
        chapter.metrics().into_iter().filter(|metric| metric.family == Family::Failure && !counted.contains(&metric.name.as_str())).collect();
    let names: BTreeSet<String> = metrics.iter().map(Metric::title).collect();
    let panel = |name: &String| {
        let of_kind = metrics.iter().filter(|metric| metric.title() == *name).enumerate();
        let series = of_kind.map(|(i, metric)| Series::new(metric.set.clone().unwrap_or_default(), chapter.run.course(&metric.full), i).marked());
        let series: Vec<Series> = series.filter(|series| series.points.iter().any(|point| point.1 > 0.0)).collect();
        failure_panel(chapter, name, Unit::Percent, series)
    };
    names.iter().filter_map(panel).collect()
}

fn instructions(chapter: &Chapter) -> Result<Option<Table>> {
    let Some(rows) = chapter.run.last().map(|last| last.instructions()).transpose()?.flatten().filter(|rows| !rows.is_empty()) else { return Ok(None) };
    let has_base = rows.iter().any(|row| row.base.is_some());
    let mut columns = vec![Column::text("instruction"), Column::number("checked"), Column::number("strict %"), Column::number("loose %")];
    if has_base {
        columns.extend(["base, strict %", "base, loose %"].map(Column::number));
    }
    let caption = "Share of answers of which every check holds. Loose: or holds without the first line, the last line or asterisks.";
    let mut table = Table::new(chapter.id("instructions"), "Instructions followed", caption, columns);
    for row in rows {
        let cells = |followed: Option<Followed>| match followed {
            Some(followed) => [Cell::number(followed.strict, Unit::Percent), Cell::number(followed.loose, Unit::Percent)],
            None => [Cell::Empty, Cell::Empty],
        };
        let mut line = vec![Cell::text(row.kind), row.count.map_or(Cell::Empty, |count| Cell::number(count as f64, Unit::Count))];
        line.extend(cells(Some(row.model)));
        if has_base {
            line.extend(cells(row.base));
        }
        table.row(false, line);
    }
    Ok(Some(table))
}
