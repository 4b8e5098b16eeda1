//! Several runs side by side: their scores with what separates them, their curves laid over each
//! other, where their recipes differ.

use std::collections::BTreeSet;

use crate::chart::bars::Bar;
use crate::chart::bars::BarChart;
use crate::chart::bars::Group;
use crate::chart::figure::Chart;
use crate::chart::figure::Figure;
use crate::chart::lines::LineChart;
use crate::chart::lines::Series;
use crate::chart::number::Unit;
use crate::chart::scale::Axis;
use crate::metric;
use crate::metric::Metric;
use crate::page::Block;
use crate::page::escape::isolated;
use crate::page::table::Cell;
use crate::page::table::Column;
use crate::page::table::Score;
use crate::page::table::Table;
use crate::sections::chapter::steps_axis;
use crate::sections::curves::loss_axis;
use crate::sections::curves::said_of_axis;
use crate::sections::curves::steps;
use crate::standing;
use crate::uncertainty::Difference;
use crate::uncertainty::MARKS;
use maqam_records::curves::Log;
use maqam_records::recipe_keys::RecipeKeys;
use maqam_records::run_folder::Run;
use maqam_records::track::window;
use maqam_stats::significance::Interval;

/// One score of several runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The score.
    pub metric: Metric,
    /// Each run's, with its interval.
    pub values: Vec<Option<(f64, Option<Interval>)>>,
    /// Each run's difference from the first; `None` where it was not tested.
    pub differences: Vec<Option<Difference>>,
}

impl Line {
    /// The line of some of its runs, in the order given.
    pub fn of_runs(&self, runs: &[usize]) -> Self {
        Self {
            metric: self.metric.clone(),
            values: runs.iter().map(|run| self.values[*run]).collect(),
            differences: runs.iter().map(|run| self.differences[*run]).collect(),
        }
    }
}

/// With more runs than this the runs are the rows of the table of scores, and the scores its
/// columns.
const MOST_COLUMNS: usize = 4;

/// The scores of the runs' last evaluations, in the order in which the first names them, without
/// intervals and tests.
pub fn lines(runs: &[Run]) -> Vec<Line> {
    let mut names: Vec<&String> = Vec::new();
    for (name, _) in runs
        .iter()
        .filter_map(Run::last)
        .flat_map(|last| last.scores.iter())
    {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let mut lines = Vec::with_capacity(names.len());
    for name in names {
        let value = |run: &Run| Some((run.last()?.score(name)?, None));
        lines.push(Line {
            metric: Metric::of(name),
            values: runs.iter().map(value).collect(),
            differences: vec![None; runs.len()],
        });
    }
    // Scores that only a later run has stand with the others of their set.
    let is_own = |metric: &Metric| runs.iter().any(|run| standing::is_own(run, metric));
    metric::own_first(&mut lines, |line| &line.metric, is_own);
    lines
}

/// The table of scores; the runs after the first show their difference from it.
pub fn table(lines: &[Line], names: &[String], method: Option<&str>) -> Table {
    let is_tested = lines
        .iter()
        .any(|line| line.differences.iter().any(Option::is_some));
    let mut caption = format!(
        "Best in bold, and the difference from {}; arrows say which way is better.",
        names.first().map_or("", String::as_str)
    );
    if is_tested {
        caption += &format!(" {MARKS}.");
    }
    if let Some(method) = method {
        caption += &format!(" {method}");
    }
    let cells: Vec<Vec<Cell>> = lines.iter().map(cells).collect();
    if names.len() <= MOST_COLUMNS {
        let mut columns = vec![Column::text("set"), Column::text("metric")];
        columns.extend(names.iter().map(Column::number));
        let mut table = Table::new("scores", "Scores", caption, columns);
        let mut before: Option<&Option<String>> = None;
        for (line, cells) in lines.iter().zip(cells) {
            let is_new = before != Some(&line.metric.set);
            let mut row = vec![
                Cell::text(if is_new {
                    line.metric.set.as_deref().unwrap_or("all")
                } else {
                    ""
                }),
                Cell::text(line.metric.heading()),
            ];
            row.extend(cells);
            table.row(is_new, row);
            before = Some(&line.metric.set);
        }
        return table;
    }
    let mut columns = vec![Column::text("run")];
    columns.extend(
        lines
            .iter()
            .map(|line| Column::number(line.metric.heading_in_full())),
    );
    let mut table = Table::new("scores", "Scores", caption, columns);
    for (i, name) in names.iter().enumerate() {
        table.row(
            false,
            std::iter::once(Cell::text(name))
                .chain(cells.iter().map(|line| line[i].clone()))
                .collect(),
        );
    }
    table
}

/// One cell for each run.
pub fn cells(line: &Line) -> Vec<Cell> {
    let values: Vec<Option<f64>> = line
        .values
        .iter()
        .map(|value| value.map(|(value, _)| value))
        .collect();
    let best = line.metric.best(&values);
    let first = values.first().copied().flatten();
    let mut cells = Vec::with_capacity(line.values.len());
    for (i, value) in line.values.iter().enumerate() {
        let Some((value, interval)) = *value else {
            cells.push(Cell::Empty);
            continue;
        };
        let first = first.filter(|_| i > 0);
        let marks = line.differences[i].map_or("", |difference| difference.marks());
        cells.push(Cell::Score(Score {
            value,
            unit: line.metric.unit,
            interval,
            difference: first.map(|first| value - first),
            is_better: first.and_then(|first| line.metric.improves(first, value)),
            marks: marks.to_owned(),
            is_best: best == Some(i),
        }));
    }
    cells
}

/// The scores that stand for the sets: of each the first, which is the metric of its task, and
/// those over all sets.
pub fn headlines(lines: &[Line]) -> Vec<&Line> {
    let mut found: Vec<&Line> = Vec::new();
    for line in lines.iter().filter(|line| line.metric.family.is_quality()) {
        if !found
            .iter()
            .any(|known| known.metric.set == line.metric.set)
        {
            found.push(line);
        }
    }
    found
}

/// One bar for each run.
fn bars_of(line: &Line) -> Vec<Option<Bar>> {
    let mut bars = Vec::with_capacity(line.values.len());
    for (value, difference) in line.values.iter().zip(&line.differences) {
        let marks = difference.map_or("", |difference| difference.marks());
        bars.push(value.map(|(value, interval)| Bar {
            value,
            interval,
            marks: marks.to_owned(),
            ..Bar::default()
        }));
    }
    bars
}

/// The first score of each set as bars: of few runs side by side, of many one panel a score.
pub fn bars(lines: &[Line], names: &[String]) -> Option<Figure> {
    let shown: Vec<&Line> = headlines(lines)
        .into_iter()
        .filter(|line| line.metric.unit == Unit::Percent)
        .collect();
    let mut caption = "The metric of each set's task; arrows say which way is better.".to_owned();
    if lines
        .iter()
        .any(|line| line.differences.iter().any(Option::is_some))
    {
        caption += &format!(
            " Marks against {}: {MARKS}.",
            names.first().map_or("", String::as_str)
        );
    }
    if shown.is_empty() {
        return None;
    }
    if names.len() <= MOST_COLUMNS {
        let groups = shown
            .iter()
            .map(|line| Group {
                name: bars_title(line),
                bars: bars_of(line),
            })
            .collect();
        let chart = BarChart {
            axis: Axis::new("").unit(Unit::Percent),
            series: names.to_vec(),
            groups,
            ..BarChart::default()
        };
        return Some(Figure::new(
            "scores-bars",
            "Scores side by side",
            caption,
            Chart::Bars(chart),
        ));
    }
    let panels = shown
        .iter()
        .map(|line| (bars_title(line), Chart::Bars(bars_panel(line, names))));
    Some(Figure::of_panels(
        "scores-bars",
        "Scores side by side",
        caption,
        panels.collect(),
    ))
}

/// Name of a score above or beside its bars.
fn bars_title(line: &Line) -> String {
    line.metric.heading_in_full().replace(" %", "")
}

/// One score as bars, one for each run that has it.
fn bars_panel(line: &Line, names: &[String]) -> BarChart {
    let mut groups = Vec::new();
    for (name, bar) in names.iter().zip(bars_of(line)) {
        if bar.is_some() {
            groups.push(Group {
                name: name.clone(),
                bars: vec![bar],
            });
        }
    }
    BarChart {
        axis: Axis::new("").unit(Unit::Percent),
        groups,
        ..BarChart::default()
    }
}

/// Training loss of every run, smoothed.
pub fn training_loss(runs: &[Run], names: &[String]) -> Option<Figure> {
    let longest = runs
        .iter()
        .filter_map(|run| run.log.as_ref())
        .map(|log: &Log| log.steps)
        .max()?;
    let window = window(longest);
    let mut series = Vec::new();
    for (i, (run, name)) in runs.iter().zip(names).enumerate() {
        let Some(log) = &run.log else { continue };
        let curve = Series::new(name, log.loss.smooth(window), i);
        if !curve.points.is_empty() {
            series.push(curve);
        }
    }
    if series.is_empty() {
        return None;
    }
    let chart = LineChart {
        x: steps_axis(),
        y: loss_axis(&series),
        series,
        ..LineChart::default()
    };
    let caption = format!(
        "Mean over target tokens in a window of {}. Runs that see other tasks have losses of other things.{}",
        steps(window),
        said_of_axis(&chart.y)
    );
    Some(Figure::new(
        "training-loss",
        "Training loss",
        caption,
        Chart::Lines(chart),
    ))
}

/// The first score of each set by step, one panel a score, the runs laid over each other.
pub fn scores_by_step(runs: &[Run], names: &[String], lines: &[Line]) -> Option<Figure> {
    let panels: Vec<(String, Chart)> = headlines(lines)
        .into_iter()
        .filter_map(|line| course_panel(line, runs, names))
        .collect();
    (!panels.is_empty()).then(|| {
        Figure::of_panels(
            "scores-by-step",
            "Scores by step",
            "At every evaluation; arrows say which way is better.",
            panels,
        )
    })
}

/// A score by step, a curve for each run; `None` where no run has two evaluations.
fn course_panel(line: &Line, runs: &[Run], names: &[String]) -> Option<(String, Chart)> {
    let mut series = Vec::new();
    for (i, (run, name)) in runs.iter().zip(names).enumerate() {
        let course = Series::new(name, run.course(&line.metric.full), i).marked();
        if !course.points.is_empty() {
            series.push(course);
        }
    }
    if series.iter().all(|series| series.points.len() < 2) {
        return None;
    }
    let title = line.metric.set.as_deref().unwrap_or("all sets");
    let y = Axis::new(line.metric.heading())
        .unit(line.metric.unit)
        .from_zero();
    let chart = LineChart {
        x: steps_axis(),
        y,
        series,
        ..LineChart::default()
    };
    Some((title.to_owned(), Chart::Lines(chart)))
}

/// Where the recipes differ, or that they do not; `None` where a run has none.
pub fn recipe_differences(runs: &[Run], names: &[String]) -> Option<Block> {
    let recipes: Vec<&RecipeKeys> = runs
        .iter()
        .map(|run| run.recipe.as_ref())
        .collect::<Option<_>>()?;
    let differences = RecipeKeys::differences(&recipes);
    if differences.is_empty() {
        return Some(Block::Prose(
            "The recipes say the same but for their names.".to_owned(),
        ));
    }
    let is_turned = names.len() > MOST_COLUMNS && differences.len() < names.len();
    let heads: Vec<&String> = if is_turned {
        differences.iter().map(|(key, _)| key).collect()
    } else {
        names.iter().collect()
    };
    let columns = std::iter::once(Column::text(if is_turned { "run" } else { "key" }))
        .chain(heads.into_iter().map(Column::text))
        .collect();
    let mut table = Table::new(
        "recipes",
        "Where the recipes differ",
        "Keys at which all say the same are left out.",
        columns,
    );
    let cell = |value: &Option<String>| value.clone().map_or(Cell::Empty, Cell::Code);
    if is_turned {
        for (i, name) in names.iter().enumerate() {
            table.row(
                false,
                std::iter::once(Cell::text(name))
                    .chain(differences.iter().map(|(_, values)| cell(&values[i])))
                    .collect(),
            );
        }
    } else {
        for (key, values) in &differences {
            table.row(
                false,
                std::iter::once(Cell::Code(key.clone()))
                    .chain(values.iter().map(cell))
                    .collect(),
            );
        }
    }
    Some(Block::Table(table))
}

/// The title of a page about several runs: their names, or their number where the names are many.
pub fn title(names: &[String]) -> String {
    const LONGEST: usize = 60;
    let names: Vec<String> = names.iter().map(|name| isolated(name)).collect();
    let joined = names.join(" · ");
    if joined.chars().count() <= LONGEST {
        joined
    } else {
        format!("{} runs", names.len())
    }
}

/// Names of runs: their folders', with as much of what is above as tells them apart.
pub fn names(runs: &[Run]) -> Vec<String> {
    let paths: Vec<Vec<String>> = runs.iter().map(parts_of_path).collect();
    let deepest = paths.iter().map(Vec::len).max().unwrap_or(1);
    for count in 1..=deepest {
        let names: Vec<String> = paths.iter().map(|path| end_of(path, count)).collect();
        if names.iter().collect::<BTreeSet<_>>().len() == names.len() {
            return names;
        }
    }
    paths.iter().map(|path| end_of(path, 1)).collect()
}

/// Names of the folders on the way to a run, its own last.
fn parts_of_path(run: &Run) -> Vec<String> {
    let path = run.folder.canonicalize();
    let path = path.unwrap_or_else(|_| run.folder.clone());
    path.components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect()
}

/// The last parts of a path, at most `count` of them.
fn end_of(path: &[String], count: usize) -> String {
    path[path.len().saturating_sub(count)..].join("/")
}
