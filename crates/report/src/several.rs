//! Several runs side by side: their scores with what separates them, their curves laid over each other, where their recipes differ.

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

/// With more runs than this the runs are the rows of the table of scores, and the scores its columns.
const MOST_COLUMNS: usize = 4;

/// The scores of the runs' last evaluations, in the order in which the first names them, without intervals and tests.
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
    let line = |name: &String| Line {
        metric: Metric::of(name),
        values: runs
            .iter()
            .map(|run| run.last()?.score(name).map(|value| (value, None)))
            .collect(),
        differences: vec![None; runs.len()],
    };
    let mut lines: Vec<Line> = names.into_iter().map(line).collect();
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
    let cell = |(i, value): (usize, &Option<(f64, Option<Interval>)>)| {
        let Some((value, interval)) = *value else {
            return Cell::Empty;
        };
        let difference = first.filter(|_| i > 0).map(|first| value - first);
        let is_better = first
            .filter(|_| i > 0)
            .and_then(|first| line.metric.improves(first, value));
        Cell::Score(Score {
            value,
            unit: line.metric.unit,
            interval,
            difference,
            is_better,
            marks: line.differences[i]
                .map_or("", |difference| difference.marks())
                .to_owned(),
            is_best: best == Some(i),
        })
    };
    line.values.iter().enumerate().map(cell).collect()
}

/// The scores that stand for the sets: of each the first, which is the metric of its task, and those over all sets.
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
    let bar = |(value, difference): (&Option<(f64, Option<Interval>)>, &Option<Difference>)| {
        let marks = difference
            .map_or("", |difference| difference.marks())
            .to_owned();
        value.map(|(value, interval)| Bar {
            value,
            interval,
            marks,
            ..Bar::default()
        })
    };
    line.values.iter().zip(&line.differences).map(bar).collect()
}

/// The first score of each set as bars: of few runs side by side, of many one panel a score.
pub fn bars(lines: &[Line], names: &[String]) -> Option<Figure> {
    let shown: Vec<&Line> = headlines(lines)
        .into_iter()
        .filter(|line| line.metric.unit == Unit::Percent)
        .collect();
    let name = |line: &Line| line.metric.heading_in_full().replace(" %", "");
    let axis = || Axis::new("").unit(Unit::Percent);
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
                name: name(line),
                bars: bars_of(line),
            })
            .collect();
        let chart = BarChart {
            axis: axis(),
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
    let panel = |line: &&Line| {
        let groups = names
            .iter()
            .zip(bars_of(line))
            .filter(|(_, bar)| bar.is_some())
            .map(|(name, bar)| Group {
                name: name.clone(),
                bars: vec![bar],
            })
            .collect();
        (
            name(line),
            Chart::Bars(BarChart {
                axis: axis(),
                groups,
                ..BarChart::default()
            }),
        )
    };
    Some(Figure::of_panels(
        "scores-bars",
        "Scores side by side",
        caption,
        shown.iter().map(panel).collect(),
    ))
}

/// Training loss of every run, smoothed.
pub fn training_loss(runs: &[Run], names: &[String]) -> Option<Figure> {
    let longest = runs
        .iter()
        .filter_map(|run| run.log.as_ref())
        .map(|log: &Log| log.steps)
        .max()?;
    let window = window(longest);
    let curve = |(i, run): (usize, &Run)| {
        Some(Series::new(
            &names[i],
            run.log.as_ref()?.loss.smooth(window),
            i,
        ))
    };
    let series: Vec<Series> = runs
        .iter()
        .enumerate()
        .filter_map(curve)
        .filter(|series| !series.points.is_empty())
        .collect();
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
    let panel = |line: &&Line| {
        let course = |(i, run): (usize, &Run)| {
            Series::new(&names[i], run.course(&line.metric.full), i).marked()
        };
        let series: Vec<Series> = runs
            .iter()
            .enumerate()
            .map(course)
            .filter(|series| !series.points.is_empty())
            .collect();
        if series.iter().all(|series| series.points.len() < 2) {
            return None;
        }
        let title = line
            .metric
            .set
            .clone()
            .unwrap_or_else(|| "all sets".to_owned());
        let y = Axis::new(line.metric.heading())
            .unit(line.metric.unit)
            .from_zero();
        Some((
            title,
            Chart::Lines(LineChart {
                x: steps_axis(),
                y,
                series,
                ..LineChart::default()
            }),
        ))
    };
    let panels: Vec<(String, Chart)> = headlines(lines).iter().filter_map(panel).collect();
    (!panels.is_empty()).then(|| {
        Figure::of_panels(
            "scores-by-step",
            "Scores by step",
            "At every evaluation; arrows say which way is better.",
            panels,
        )
    })
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
    let parts = |run: &Run| {
        run.folder
            .canonicalize()
            .unwrap_or_else(|_| run.folder.clone())
    };
    let last = |run: &Run, count: usize| {
        let path = parts(run);
        let parts: Vec<String> = path
            .components()
            .map(|part| part.as_os_str().to_string_lossy().into_owned())
            .collect();
        parts[parts.len().saturating_sub(count)..].join("/")
    };
    let deepest = runs
        .iter()
        .map(|run| parts(run).components().count())
        .max()
        .unwrap_or(1);
    let tells_apart = |count: &usize| {
        let names: std::collections::BTreeSet<String> =
            runs.iter().map(|run| last(run, *count)).collect();
        names.len() == runs.len()
    };
    let count = (1..=deepest).find(tells_apart).unwrap_or(1);
    runs.iter().map(|run| last(run, count)).collect()
}
